"""The map of packages: which there are, from the ground up, and which may import which.

Each package imports only from those above it in `MAY_IMPORT`, so no two import each other. To let one package import
another, add it here and give the reason in the change. `python -m tests.architecture` prints the map.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "poolagg"
FILES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "_runtime": set(),
    "_input": {"_runtime"},
    "errors": {"_runtime", "_input"},
    "events": {"_runtime", "_input"},
    "reducers": {"_runtime", "_input"},
    "_scheduler": set(),
    "strategies": {"_runtime", "_scheduler", "reducers"},
    "_report": {"_runtime", "_input", "events"},
    "pools": {"_runtime", "_input", "errors", "reducers", "_scheduler", "strategies"},
    "resources": {"_runtime", "errors", "reducers"},
    "_checkpoint": {"_runtime", "_input", "errors", "_scheduler", "resources"},
    "_engine": {
        *("_runtime", "_input", "errors", "events", "reducers", "_scheduler", "strategies", "_report", "pools"),
        "_checkpoint",
    },
    "testing": {"errors", "reducers", "_engine"},
    "__init__": {
        *("_runtime", "_input", "errors", "events", "reducers", "strategies", "_report", "pools", "resources"),
        *("_checkpoint", "_engine", "testing"),
    },
    "_cli": {"_runtime", "_input", "errors", "events", "_checkpoint", "testing", "__init__"},
    "__main__": {"_cli"},
}


def name_of(path: Path) -> str:
    """`reducers.tee` for poolagg/reducers/tee.py, `reducers` for its __init__, `__init__` for the package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


DEFERRED = {
    # A reducer's derived forms are reducers, and `Reducer` has methods that make them.
    ("reducers.reducer", "reducers.derived"),
    ("reducers.reducer", "reducers.grouping"),
    # `map` and its kin are functions of the engine, which drives pools.
    ("pools.pool", "_engine.mapping"),
}
"""What a method imports when it is called, against the map: importer and imported."""

NAMES = {name_of(path) for path in FILES}


def package_of(name: str) -> str:
    """The entry of the map that a file belongs to."""
    return name.split(".")[0]


def imports_of(path: Path, top_level_only: bool = False) -> set[str]:
    """The files of the package that a file imports, those imported inside its functions too."""
    tree = ast.parse(path.read_text("utf-8"))
    found = set()
    for node in _at_import(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively: name the module"
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


def _file(dotted: str) -> str:
    """The file that `poolagg.a.b` is in."""
    name = dotted.removeprefix("poolagg").removeprefix(".")
    while name and name not in NAMES:
        name = name.rpartition(".")[0]
    return name or "__init__"


def imports_of_packages() -> dict[str, set[str]]:
    """What each package imports from others."""
    found: dict[str, set[str]] = {package: set() for package in MAY_IMPORT}
    for path in FILES:
        package = package_of(name_of(path))
        others = {name for name in imports_of(path) if (name_of(path), name) not in DEFERRED}
        found[package] |= {package_of(name) for name in others} - {package}
    return found


def drawn() -> str:
    """The map, one package a line, from the top to the ground."""
    width = max(map(len, MAY_IMPORT))
    order = list(MAY_IMPORT)
    return "\n".join(
        f"{package:<{width}}  {' '.join(sorted(MAY_IMPORT[package], key=order.index)) or '-'}"
        for package in reversed(order)
    )


if __name__ == "__main__":
    print(drawn())
