"""A package whose names are loaded at their first use (PEP 562): a worker process needs few of its modules.

A package states its names twice: as imports under TYPE_CHECKING, for type checkers and editors, and as the table here.
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

    names      the public names, by the module that defines them: `_engine="aggregate snapshots"`
    modules    the modules that are public themselves
    unlisted   those of the names that only the other packages of poolagg import
    """
    homes = {name: module for module, defined in names.items() for name in defined.split()}
    public = sorted({*homes, *modules.split()} - {*unlisted.split()})

    def load(name: str) -> Any:
        if name in modules.split():
            return importlib.import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(importlib.import_module(package), name, value)
        return value

    def listed() -> list[str]:
        dunders = [name for name in vars(importlib.import_module(package)) if name.startswith("__")]
        return sorted({*public, *dunders})

    return load, listed, public
