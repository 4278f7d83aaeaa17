"""Find the origin of a module, function or class: Python, an installed package, or the user's own files.

The user's own code counts by its contents. Code of Python and of installed packages counts by its name if the name
leads to it; a wrapper or a class that a package creates at run time has no such name.
"""

from __future__ import annotations

import os
import sys
import types
from types import FunctionType, ModuleType
from typing import Any

__all__ = ["counted_as", "is_imported", "is_own", "is_reached", "is_reached_anywhere", "name_of_type"]

PACKAGE = __name__.partition(".")[0]

# The embeddable Python has its library in a zip, and `os`, which is frozen, names a folder all the same.
_STDLIB = tuple({os.path.dirname(str(module.__file__)) + os.sep for module in (os, types)})


def is_own(module: Any) -> bool:
    """Return whether a module's code is the user's own and not a library's, judging by its name and file."""
    root = module.partition(".")[0] if isinstance(module, str) else ""
    if root == "__main__":
        return True
    file = _file(module, root)
    if "site-packages" in file or "dist-packages" in file or root == PACKAGE:
        return False
    # A user's file may have the name of a module of Python, such as test.py or code.py.
    return not (root in sys.stdlib_module_names and (not file or file.startswith(_STDLIB)))


def _file(module: Any, root: str) -> str:
    for name in (module, root):
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str):
            return file
    return ""


def counted_as(module: Any) -> str:
    """Return the name that a library's module counts as: for poolagg only the package, because its files may move.

    >>> counted_as("poolagg.reducers.moments"), counted_as("collections.abc")
    ('poolagg', 'collections.abc')
    """
    return PACKAGE if _is_poolagg(module) else str(module)


def _is_poolagg(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == PACKAGE


def name_of_type(kind: type) -> tuple[str, str]:
    """Return the module that a type counts as, and its qualified name."""
    return counted_as(kind.__module__), kind.__qualname__


def is_reached(thing: Any, module: Any, name: Any) -> bool:
    """Return whether a module holds `thing` under a dotted name; run no attribute hook but poolagg's lazy imports."""
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    for part in str(name).split("."):
        if not isinstance(found, (ModuleType, type)):
            return False
        names = vars(found)
        lazy = part not in names and isinstance(found, ModuleType) and _is_poolagg(found.__name__)
        found = getattr(found, part, None) if lazy else names.get(part)
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
    return found is thing


def is_imported(function: FunctionType) -> bool:
    """Return whether a function belongs to a library and its name leads to it."""
    module = function.__module__
    return not (is_own(module) or is_own(function.__globals__.get("__name__"))) and is_reached(
        function, module, function.__qualname__
    )


def is_reached_anywhere(thing: Any, name: str) -> bool:
    """Return whether any module holds `thing` under a name."""
    return any(is_reached(thing, module, name) for module in list(sys.modules))
