"""The structure, held: which packages may import which, how large files and functions may be, which words are gone."""

from __future__ import annotations

import ast
import inspect
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from graphlib import CycleError, TopologicalSorter

import pytest
from paths import ROOT, TESTS

import poolagg
from tests.architecture import (
    DEFERRED,
    FILES,
    MAY_IMPORT,
    NAMES,
    PACKAGE,
    drawn,
    imports_of,
    imports_of_packages,
    name_of,
    package_of,
)

PURE = {"_scheduler", "strategies", "reducers", "errors", "events"}
"""Packages without clock, process or file."""

PURE_FILES = {
    *("_input.functions", "_input.kept_items", "_input.numbers", "_input.reused_buffers", "_input.source"),
    *("_report.bottleneck", "_report.html_page", "_report.report", "_report.statistics", "_report.timeline"),
}
"""And files of others. (A report writes its page and its trace when it is told to, and nothing else.)"""

EFFECTS = {
    *("multiprocessing", "select", "selectors", "signal", "socket", "subprocess", "tempfile", "threading", "time")
}

LINES, BODY, FOLDER, ENTRIES = 300, 40, 12, 14
"""Limits: lines of code in a file, in a function's body, files in a folder, entries at the root."""

TEST_LINES = 600
"""Limit: all lines of a file of tests."""

GONE = {
    *("lane", "lanes", "Lane", "Plan", "Terms", "Order", "Again", "Tick", "ship", "Ship", "shipped", "Shipped"),
    *("Revoke", "Revoked", "Replace", "Worn", "Wear", "Blame", "Pace", "appetite", "hungry", "Parcel", "Parcels"),
    *("PackedPiece", "PackedPayload", "Intervals", "Gather", "Folding", "carries", "meets"),
    *("drains", "placed", "prepares", "for_lanes", "Errand", "errand", "Partitioned", "Outcome", "Beat", "Crew"),
    *("TemplateLauncher", "Apart", "Beside", "Loan", "Loans", "ForeignPool", "shared_fate", "Continuation"),
    *("Cadence", "Held", "Entrusted", "Pages", "Witness", "kinds", "Tally", "Hand", "Verdict", "Account"),
}
"""Words of the first edition that no identifier is any more: the field's words took their place."""

EXPORTED = {
    *("aggregate", "snapshots", "Snapshot"),
    *("Reducer", "Count", "Sum", "Mean", "Variance", "Std", "Min", "Max", "Top", "Bottom", "First", "Last"),
    *("Frequencies", "MergeCounts", "GroupBy", "Collect", "Unique", "Histogram", "ArraySum", "ArrayReduce", "Sample"),
    *("AnyTrue", "AllTrue"),
    *("ArrayMean", "ArrayStd", "Concat"),
    *("Quantiles", "Distinct", "HeavyHitters"),
    *("Fold", "Reduce", "Into", "Tee"),
    *("star", "with_item", "per_worker", "share", "rng", "worker_index", "advance"),
    *("ProcessPool", "ThreadPool", "SerialPool"),
    *("Progress", "Report", "blocks", "prefetch", "Checkpoint"),
    *("PoolAggError", "TaskError", "WorkerLost", "ReducerError", "CheckpointError", "CheckpointMismatch", "PoolBusy"),
    *("RemoteError", "ResourceError", "SkippedItems"),
    *("errors", "events", "pools", "resources", "strategies", "testing"),
}

NO_EXAMPLE = {"Snapshot", "rng", "worker_index", "advance"}
"""Beside errors and modules: what only a run makes, and what only works inside one."""


def test_every_package_is_on_the_map():
    """No package is missing from the map, and none is left over."""
    assert {package_of(name) for name in NAMES} == set(MAY_IMPORT)


def test_packages_import_only_from_below():
    """Each package of the map may only import from those above it in the list."""
    seen = set()
    for package, others in MAY_IMPORT.items():
        assert others <= seen, package
        seen.add(package)


def test_packages_import_what_the_map_lets_them_and_all_of_it():
    """An import that nobody uses is taken off the map."""
    assert imports_of_packages() == MAY_IMPORT


def test_the_map_can_be_printed():
    """`python -m tests.architecture` prints one package a line, for CONTRIBUTING.md and for whoever asks."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.architecture"], capture_output=True, text=True, cwd=ROOT, timeout=50
    )
    assert ran.stdout.strip() == drawn()
    assert len(ran.stdout.splitlines()) == len(MAY_IMPORT)


def test_files_do_not_import_in_circles():
    """But for what is imported when a method is called, each time written down here."""
    graph = {name_of(path): imports_of(path) for path in FILES}
    for importer, imported in DEFERRED:
        assert imported not in imports_of(PACKAGE / f"{importer.replace('.', '/')}.py", top_level_only=True)
        graph[importer].remove(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(
    "path", [path for path in FILES if package_of(name_of(path)) in PURE or name_of(path) in PURE_FILES], ids=name_of
)
def test_pure_modules_have_no_effects(path):
    """No clock, process, socket or thread."""
    assert not _modules_of(path) & EFFECTS


def _modules_of(path):
    """The top-level names of other packages that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


def test_importing_the_package_is_cheap():
    """Neither numpy nor tqdm nor cloudpickle is imported before it is needed, nor anything of a server."""
    program = "import sys; from poolagg import ProcessPool, Sum, aggregate; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert not {"numpy", "tqdm", "cloudpickle", "asyncio", "http"} & set(ran.stdout.split())
    assert "poolagg" in ran.stdout.split()


def test_what_is_exported():
    """The names of the design, those that exist, and no other."""
    assert set(poolagg.__all__) == EXPORTED
    assert poolagg.__all__ == sorted(poolagg.__all__)


@pytest.mark.parametrize("name", poolagg.__all__)
def test_what_is_exported_is_documented(name):
    """By a docstring of its own, with an example where one can be run."""
    thing = getattr(poolagg, name)
    assert thing.__doc__
    errors = isinstance(thing, type) and issubclass(thing, BaseException)
    if not (inspect.ismodule(thing) or errors or name in NO_EXAMPLE):
        assert ">>>" in thing.__doc__


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_says_what_it_is(path):
    """In the docstring at its head."""
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_and_no_function_is_long(path):
    """Comments, docstrings and blank lines are free."""
    source = path.read_text("utf-8")
    lines = _lines_of_code(source)
    assert len(lines) <= LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert len(lines & set(range(node.body[0].lineno, node.end_lineno + 1))) <= BODY, node.name


def _lines_of_code(source):
    """The lines that hold code."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def test_no_file_of_tests_is_long():
    """A file of tests is about one claim; what several files share is in tests/support."""
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in TESTS.rglob("*.py")}
    assert not {str(path.relative_to(TESTS)): n for path, n in lines.items() if n > TEST_LINES}


def test_no_folder_is_crowded():
    """Beside `__init__` and `__main__`: a few entries at the root, a few files in each folder."""
    folders = {path.parent for path in FILES}
    for folder in folders - {PACKAGE}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= FOLDER, folder.name
    assert len(set(MAY_IMPORT) - {"__init__", "__main__"}) <= ENTRIES


def test_modules_of_packages_have_no_underscore():
    """A package that is private says so by its name; what is in it does not say it again."""
    inner = {part for name in NAMES for part in name.split(".")[1:]}
    assert not {part for part in inner if part.startswith("_")}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_words_that_are_gone_stay_gone(path):
    """No identifier is one of them."""
    names = {token.string for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)}
    assert not names & GONE


def test_every_module_is_named_for_what_it_holds():
    """A module for everything holds nothing."""
    everything = {"util", "utils", "helper", "helpers", "common", "base", "types", "typing", "config", "misc", "core"}
    assert not {part.strip("_") for name in NAMES for part in name.split(".")} & everything


def test_module_paths_in_strings_resolve():
    """A path that stands as a string does not go stale when a module moves."""
    for path in FILES:
        for dotted in re.findall(r"[\"'`](poolagg(?:\.\w+)+)[\"'`]", path.read_text("utf-8")):
            name = dotted.removeprefix("poolagg.")
            while "." in name and name not in NAMES:
                name = name.rpartition(".")[0]
            assert name in NAMES or hasattr(poolagg, name.split(".")[0]), f"{path.name}: {dotted}"


def test_the_package_is_typed_and_has_one_version():
    """Type checkers of users see its annotations; pyproject.toml and the package say the same version."""
    assert (PACKAGE / "py.typed").exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == poolagg.__version__
    assert f"## [{poolagg.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
