"""Evaluate names and expressions of the command line, such as FILE:FUNC."""

from __future__ import annotations

import difflib
import importlib
import math
import operator
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import poolagg
from poolagg._cli.inputs import neighbour
from poolagg._cli.output import CommandError
from poolagg.errors import short_repr

__all__ = ["function", "module", "place_and_expression", "value"]


def function(typed: str) -> tuple[Any, dict[str, Any]]:
    """Return the function that FILE:FUNC or MODULE:FUNC names, and the other names of its file."""
    if (found := place_and_expression(typed)) is None:
        place = typed if typed.endswith(".py") else "FILE.py"
        raise CommandError(f"{typed!r} names no function: write {place}:FUNC or MODULE:FUNC")
    place, name = found
    names = vars(module(place))
    func = _evaluated(name, names)
    if not callable(func):
        raise CommandError(f"{typed!r} is {short_repr(func)}, not a function: name a function of one item")
    return func, names


def value(typed: str, names: dict[str, Any]) -> Any:
    """Evaluate an expression in `names`, or, written FILE:EXPRESSION, in the names of a file or module."""
    public = {name: getattr(poolagg, name) for name in dir(poolagg) if not name.startswith("_")}
    place, expression = place_and_expression(typed) or ("", typed)
    names = vars(module(place)) if place else names
    return _evaluated(expression, {**public, "math": math, "operator": operator, **names})


def place_and_expression(typed: str) -> tuple[str, str] | None:
    """Split FILE:EXPRESSION; None if `typed` names no file or module."""
    found = re.fullmatch(r"(.+?\.py|[\w.]+):(.+)", typed)
    return (found[1], found[2]) if found else None


def _evaluated(expression: str, names: dict[str, Any]) -> Any:
    try:
        # The user typed the expression, on the command line of a program that runs the user's code anyway.
        return eval(expression, dict(names))
    except NameError as error:
        raise CommandError(f"there is no {error.name!r}{_meant(error.name, names)}") from error
    except AttributeError as error:
        kind = type(error.obj).__name__
        raise CommandError(f"{kind} has no {error.name!r}{_meant(error.name, dir(error.obj))}") from error
    except Exception as error:
        raise CommandError(f"{expression!r} cannot be evaluated: {type(error).__name__}: {error}") from error


def _meant(name: str | None, names: Iterable[str]) -> str:
    public = [known for known in names if not known.startswith("_")]
    close = difflib.get_close_matches(name or "", public, 3)
    return f": did you mean {' or '.join(close)}?" if close else f": there are {', '.join(sorted(public))}"


def module(place: str) -> ModuleType:
    """Import a file, or a module by its name."""
    if not place.endswith(".py"):
        return _imported(place, os.getcwd())
    path = Path(os.path.abspath(place))
    if not path.is_file():
        raise CommandError(f"there is no file {place!r}{neighbour(place)}")
    loaded = getattr(sys.modules.get(path.stem), "__file__", str(path))
    if path.stem in sys.stdlib_module_names or "." in path.stem or loaded != str(path):
        raise CommandError(
            f"{place!r} cannot be imported by the name {path.stem!r}: rename the file, for example to my_{path.name}"
        )
    return _imported(path.stem, str(path.parent))


def _imported(name: str, folder: str) -> ModuleType:
    """Import a module from `folder`, in a way that workers can repeat.

    Put the folder at the front of sys.path, as `python FILE` does. So the module can import its siblings, and its
    functions and classes are pickled by name, both ways and with any start method. Pickled by value, a class would be
    another one in each worker.
    """
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise CommandError(f"there is no module {name!r}: for a file write {name}.py, with its suffix") from error
        raise
