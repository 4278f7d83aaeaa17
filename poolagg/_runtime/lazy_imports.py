"""Load the names of a package at their first use (PEP 562), since a worker process needs few of its modules.

A package states its names twice: as imports under TYPE_CHECKING, for type checkers and editors, and as arguments of
`lazily`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, /, modules: str = "", unlisted: str = "", **names: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return the `__getattr__`, `__dir__` and `__all__` of a package.

    names      the names, by the module that defines them: `_engine="aggregate snapshots"`
    modules    the public modules of the package
    unlisted   names that are not public: only other packages of poolagg import them
    """
    homes = {name: module for module, defined in names.items() for name in defined.split()}
    public = sorted({*homes, *modules.split()} - {*unlisted.split()})

    def load(name: str) -> Any:
        """Import a name of the package at its first use."""
        if name in modules.split():
            return importlib.import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(importlib.import_module(package), name, value)
        return value

    def listed() -> list[str]:
        """List the public names of the package."""
        dunders = [name for name in vars(importlib.import_module(package)) if name.startswith("__")]
        return sorted({*public, *dunders})

    return load, listed, public
