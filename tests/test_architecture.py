"""The floor plan, held: which rooms there are, which may import which, and what each promises a reader.

A room is a file, or a folder that is entered by its `__init__`. To open a new door between two rooms, write it into
MAY_IMPORT, and say in the change why the door belongs there.
"""

from __future__ import annotations

import ast
import inspect
import io
import subprocess
import sys
import tokenize
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import poolagg

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "poolagg"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a room imports only from rooms above it in this list.
MAY_IMPORT = {
    # floor 0, pure: values and what is made of them
    "_lazily": set(),
    "_texts": set(),
    "_signals": {"_texts"},
    "functions": set(),
    "_sizes": set(),
    "_seconds": set(),
    "_kinds": set(),
    "_aliasing": {"_kinds", "functions"},  # who looks at partials before they are folded, and where `rng` starts anew
    "sources": {"_sizes"},
    "reducers": {"_aliasing", "_kinds", "_lazily"},
    "_interrupts": set(),
    "_chunks": set(),
    "_numbers": set(),
    "_parcels": {"_numbers"},
    "_items": {"_parcels", "_texts"},
    "errors": {"_items", "_texts"},
    "events": {"_items", "_texts"},
    "_stable": {"_numbers"},
    "_pages": {"_chunks", "_numbers", "_parcels", "_stable"},
    # A value's digest is made of its own attributes, of code, and of names where it is a library's or passes.
    "_origin": set(),
    "_transient": set(),
    "_attributes": {"_origin", "errors"},
    "_instructions": {"_stable"},
    "_state": {"_attributes", "_instructions", "_origin", "_stable", "_transient", "errors", "functions"},
    "_fingerprint": {"_state"},
    "_orders": {"_chunks"},
    "_overdue": set(),
    "_rendering": set(),
    # what holds signals back from whoever acquires or releases
    # floor 1, pure: decisions
    "_pace": set(),
    "_ledger": {"_chunks", "_orders"},
    "_blame": {"_chunks", "_ledger", "_orders"},
    "_lanes": {"_chunks", "_orders"},
    "_terms": {"_chunks"},
    "_shipping": {"_lanes", "_ledger", "_orders", "_pace", "_terms"},
    "_stealing": {"_chunks", "_lanes", "_ledger", "_orders"},
    "_plan": {"_blame", "_chunks", "_lanes", "_ledger", "_orders", "_pace", "_shipping", "_stealing", "_terms"},
    "strategies": {"_chunks", "_kinds", "_lazily", "_orders", "reducers"},
    "_limit": set(),
    "_timeline": set(),
    "_tally": {"_items", "_limit", "_texts", "_timeline", "events"},
    "_report_page": {"_limit", "_timeline"},
    "_report": {"_limit", "_report_page", "_sizes", "_tally", "events"},
    # floor 2: effects
    "pools": {
        *("_aliasing", "_chunks", "_interrupts", "_lazily", "_orders", "_overdue", "_parcels", "_seconds"),
        *("_signals", "_sizes", "_texts", "errors", "functions", "reducers", "strategies"),
    },
    "_progress": {"events"},
    "_ownership": {"_interrupts"},
    "_checkpoint": {"_chunks", "_interrupts", "_ownership", "_seconds", "errors"},
    "resources": {"_interrupts", "_ownership", "_seconds", "errors", "reducers"},
    "_entrusted": {"_checkpoint", "_interrupts", "errors", "resources"},
    "_verdicts": {"_orders", "_texts", "errors", "events"},
    # floor 3: the one place that holds a plan and a pool
    "_watching": {"_signals", "_texts", "events"},
    "_settings": {
        *("_checkpoint", "_chunks", "_pages", "_progress", "_seconds", "_terms", "events", "pools"),
        *("reducers", "strategies"),
    },
    "_continuation": {
        *("_checkpoint", "_chunks", "_entrusted", "_fingerprint", "_pages", "_parcels", "_plan"),
        *("_settings", "_terms", "_texts", "_verdicts", "errors", "events", "functions", "strategies"),
    },
    "_run": {
        *("_chunks", "_continuation", "_interrupts", "_items", "_orders", "_pace", "_pages", "_parcels"),
        *("_plan", "_seconds", "_settings", "_texts", "_verdicts", "_watching", "errors", "events"),
        *("functions", "pools", "reducers"),
    },
    "_engine": {"_checkpoint", "_run", "_seconds", "_settings", "events", "pools", "reducers", "strategies"},
    # floor 4: doors to the outside
    "testing": {"_engine", "errors", "pools", "reducers"},
    "__init__": {
        *("_engine", "_progress", "errors", "events", "functions", "pools", "reducers", "sources", "strategies"),
        *("_checkpoint", "_lazily", "_report", "resources", "testing"),
    },
    "__main__": {"__init__", "_checkpoint", "_rendering", "_texts", "errors", "events", "sources", "testing"},
}

PURE = {
    *("errors", "events", "functions", "reducers", "_chunks", "_numbers", "_parcels", "_orders", "_stable"),
    *("_origin", "_transient", "_attributes", "_instructions", "_state", "_seconds"),
    *(
        "_pages",
        "_fingerprint",
        "_kinds",
        "_sizes",
        "_pace",
        "_lanes",
        "_ledger",
        "_blame",
        "_terms",
        "_plan",
        "strategies",
    ),
    *("_items", "_overdue", "_shipping", "_stealing", "_texts"),
    *("_aliasing", "_limit", "_timeline", "_tally", "_report_page", "_report"),
}
"""Rooms without clock, process or file. (`sources` makes files into items, `_rendering` results into text; a report
writes its page and its trace when it is told to, and nothing else.)"""

EFFECTS = {
    *("multiprocessing", "select", "selectors", "signal", "socket", "subprocess", "tempfile", "threading", "time")
}

# A reducer's derived forms are reducers, and `Reducer` has methods that make them: imported when they are called.
DEFERRED = {("reducers._reducer", "reducers._derived"), ("reducers._reducer", "reducers._grouping")}

EXPORTED = {
    *("aggregate", "snapshots", "Snapshot"),
    *("Reducer", "Count", "Sum", "Mean", "Variance", "Std", "Min", "Max", "Top", "Bottom", "First", "Last"),
    *("Frequencies", "MergeCounts", "GroupBy", "Collect", "Unique", "Histogram", "ArraySum", "ArrayReduce", "Sample"),
    *("Fold", "Reduce", "Into", "Tee"),
    *("star", "with_item", "per_worker", "share", "rng"),
    *("ProcessPool", "ThreadPool", "SerialPool"),
    *("Progress", "Report", "blocks", "prefetch", "Checkpoint"),
    *("PoolAggError", "TaskError", "WorkerLost", "ReducerError", "CheckpointError", "CheckpointMismatch", "PoolBusy"),
    *("RemoteError", "ResourceError", "SkippedItems"),
    *("errors", "events", "pools", "resources", "strategies", "testing"),
}

NO_EXAMPLE = {"Snapshot", "rng"}
"""Beside errors and modules: what only a run makes, and what only works inside one."""


def name_of(path):
    """`reducers._tee` for poolagg/reducers/_tee.py, `reducers` for its __init__, `__init__` for the package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


def imports_of(path, top_level_only=False):
    """The files of the package that a file imports, those imported inside its functions too."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = [*_at_import(tree)] if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively: name the room"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {_file(name) for name in names if name.split(".")[0] == "poolagg"}
    return found - {name_of(path)}


def _at_import(node):
    """The nodes that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_import(child)


def _file(dotted):
    """The file that `poolagg.a.b` is in."""
    name = dotted.removeprefix("poolagg").removeprefix(".")
    while name and name not in NAMES:
        name = name.rpartition(".")[0]
    return name or "__init__"


def modules_of(path):
    """The top-level names of other packages that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


def room_of(name):
    """The room that a file is in."""
    return name.split(".")[0]


def test_every_room_is_on_the_plan():
    """No room is missing from the map, and none is left over."""
    assert {room_of(name) for name in NAMES} == set(MAY_IMPORT)


def test_rooms_import_only_from_below():
    """Each room of the map may only import from those above it in the list."""
    seen = set()
    for room, others in MAY_IMPORT.items():
        assert others <= seen, room
        seen.add(room)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_what_the_plan_lets_it(path):
    """And enters another room by its door."""
    room = room_of(name_of(path))
    others = {name for name in imports_of(path) if room_of(name) != room}
    assert {room_of(name) for name in others} <= MAY_IMPORT[room]
    assert not {name for name in others if "." in name}, "import from the room, not from a file inside it"


def test_every_door_is_used():
    """A door that nobody uses is closed."""
    used = {room: set() for room in MAY_IMPORT}
    for path in FILES:
        used[room_of(name_of(path))] |= {room_of(name) for name in imports_of(path)}
    for room, others in MAY_IMPORT.items():
        assert others == used[room] - {room}, room


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


@pytest.mark.parametrize("path", [path for path in FILES if room_of(name_of(path)) in PURE], ids=name_of)
def test_pure_rooms_have_no_effects(path):
    """No clock, process, socket or thread. (`per_worker` locks what it makes.)"""
    allowed = {"threading"} if path.name == "functions.py" else set()
    assert not modules_of(path) & EFFECTS - allowed


def test_importing_the_package_is_cheap():
    """Neither numpy nor tqdm nor cloudpickle is imported before it is needed, nor anything of a server."""
    program = "import sys, poolagg; print(*sys.modules)"
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
def test_no_file_is_long(path):
    """At most 400 lines of code; comments, docstrings and blank lines are free."""
    assert lines_of_code(path.read_text("utf-8")) <= 400


def lines_of_code(source):
    """How many lines hold code."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_every_room_is_named_for_what_it_holds():
    """A room for everything holds nothing."""
    everything = {"util", "utils", "helper", "helpers", "common", "base", "types", "typing", "config", "misc", "core"}
    assert not {part.strip("_") for name in NAMES for part in name.split(".")} & everything


def test_the_package_is_typed_and_has_one_version():
    """Type checkers of users see its annotations; pyproject.toml and the package say the same version."""
    assert (PACKAGE / "py.typed").exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == poolagg.__version__
    assert f"## [{poolagg.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
