"""Type checkers see the types that the API promises, in this tree and in an installed package."""

from __future__ import annotations

import ast
import importlib
import json
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import extras
import pytest
from paths import ROOT

import poolagg

API, PROGRAM = ROOT / "tests" / "typing" / "api.py", ROOT / "tests" / "typing" / "program.py"
PACKAGES = ["poolagg", "poolagg.pools", "poolagg.reducers", "poolagg.strategies"]
NEEDED = {"external.dask": "distributed", "external.ray": "ray"}
"""Modules that import a package which poolagg does not require, and which may not be there for the newest Python."""

pytestmark = pytest.mark.timeout(300)  # a checker without a cache reads numpy, too


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def checker(request: pytest.FixtureRequest) -> str:
    """Each type checker, if it is installed."""
    if find_spec(request.param) is None:
        extras.missing(request.param)
    return str(request.param)


def reports(checker: str, file: Path, folder: Path, python: Path) -> str:
    """Return the errors that a checker finds in a file or a folder; `folder` holds the configuration."""
    options = {
        "mypy": ["--python-executable", python, "--no-error-summary", "--cache-dir", folder / ".mypy_cache"],
        "pyright": ["--pythonpath", python],
    }
    command = [sys.executable, "-m", checker, *options[checker], file]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout if ran.returncode else ""


def public_names() -> list[str]:
    """Return every public name with its package before it."""
    return [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]


@pytest.fixture(scope="module")
def complaints(checker: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the errors that a checker finds in all files of a user, a line each; the environment holds poolagg alone.

    One start checks all files: most of its time goes into the package itself.
    """
    folder = tmp_path_factory.mktemp("user")
    environment, code = folder / "venv", folder / "code"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    shutil.copytree(ROOT / "poolagg", packages / "poolagg", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    code.mkdir()
    shutil.copy(PROGRAM, code)
    names, imports = public_names(), [f"import {package}" for package in PACKAGES]
    (code / "names.py").write_text("\n".join([*imports, *names]))
    bare = sorted({name.rpartition(".")[2] for name in names})
    (code / "star.py").write_text("\n".join([*(f"from {package} import *" for package in PACKAGES), *bare]))
    (code / "typos.py").write_text("\n".join([*imports, *(f"{name}x" for name in names)]))
    found = reports(checker, code, folder, environment / "bin" / "python").splitlines()
    return [line for line in found if "error: " in line]  # pyright warns, too, when there are errors


def test_the_api_has_the_types_it_promises(checker):
    """`assert_type` for results, and lines that must be errors, for both checkers."""
    assert reports(checker, API, ROOT, Path(sys.executable)) == ""


def test_a_program_of_a_user_has_no_errors(complaints):
    """With the package installed, and a reducer of the user's own whose parameters have other names."""
    assert [line for line in complaints if PROGRAM.name in line] == []


def test_checkers_see_every_public_name_and_no_other(complaints):
    """Of every package, though names are loaded at their first use."""
    names = public_names()
    assert [line for line in complaints if "names.py" in line] == []
    assert [line for line in complaints if "star.py" in line] == []
    wrong = [line for line in complaints if "typos.py" in line]
    assert [name for name in names if not any(f'"{name.rpartition(".")[2]}x"' in line for line in wrong)] == []
    assert [line for line in complaints if line not in wrong] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_checkers_and_the_interpreter_load_a_name_from_the_same_module(package):
    """The imports under TYPE_CHECKING are the table of the names that are loaded at their first use."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    imported = {
        (node.module.removeprefix(package).lstrip("."), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("typing", "poolagg._runtime.lazy_imports")
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func) == "lazily"]
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    given |= given.pop(None, {})
    table = {home: names.split() for home, names in given.items()}
    unlisted, modules = table.pop("unlisted", []), table.pop("modules", [])
    assert imported == {(home, name) for home, names in table.items() for name in names} | {("", m) for m in modules}
    there = {name for home, name in imported if home not in NEEDED or find_spec(NEEDED[home])}
    assert all(getattr(module, name) is not None for name in there)
    assert module.__all__ == sorted({name for _, name in imported} - set(unlisted))
    assert set(module.__all__) <= set(dir(module))


def test_public_names_exist():
    """And a name that does not is an AttributeError."""
    with pytest.raises(AttributeError, match=r"module 'poolagg' has no attribute 'Som'"):
        poolagg.Som
