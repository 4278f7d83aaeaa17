"""Fingerprint a function and a reducer, so that a run recognizes whether the same code made a checkpoint.

A function's fingerprint has digests of its instructions with their constants, of its defaults, its attributes, the
values in its closure, and the globals of its own module that it refers to, functions included. So comments, docstrings,
moved lines and file names do not count, and a changed constant counts. `values.py` describes other values. Rule:
imported objects count by name alone. Another version of Python compiles to other instructions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from poolagg._checkpoint.fingerprint.values import State

__all__ = ["PYTHON", "differences", "fingerprint", "parts_of_reducer"]

PYTHON = "the version of Python"


def fingerprint(func: Callable[[Any], Any], reducer: Any) -> dict[str, str]:
    """Return the digests of the parts of func and reducer, by the names of the parts.

    >>> a, b = fingerprint(lambda x: x + 1, None), fingerprint(lambda x: x + 2, None)
    >>> [name for name in a if a[name] != b[name]]
    ["func's code"]
    """
    walk = State()
    try:
        return _parts(walk, func, reducer)
    except Exception as error:
        if walk.refused:
            raise
        deep = isinstance(error, RecursionError)
        why = "it is nested too deep" if deep else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"a checkpoint cannot tell whether func and reducer are the same in another run: {why}, at "
            f"{walk.path[:200]}. Pass Checkpoint(path, key=...): runs with the same key count as the same"
        ) from error


def _parts(walk: State, func: Any, reducer: Any) -> dict[str, str]:
    parts = {PYTHON: f"{sys.version_info.major}.{sys.version_info.minor}"}
    if walk.has_parts(func):
        walk.note_globals(func)
        for name, part in walk.parts_of(func):
            parts[f"func's {name}"] = walk.digest(part, f"func's {name}")
    else:
        parts["func"] = walk.digest(func, "func")
    return parts | _parts_from_reducer(walk, reducer)


def _parts_from_reducer(walk: State, reducer: Any) -> dict[str, str]:
    """Return the digests of the reducer and of all globals that the walk comes upon."""
    digest = walk.digest(reducer, "the reducer")
    found: dict[str, str] = {}
    while missing := sorted(walk.referred.keys() - found.keys()):
        for name in missing:
            found[name] = walk.digest(walk.referred[name], f"the global {name!r}")
    return {"the reducer": digest} | {f"the global {name!r}": found[name] for name in sorted(found)}


def parts_of_reducer(func: Callable[[Any], Any], reducer: Any) -> set[str]:
    """Return the names of those parts of the fingerprint that the reducer consists of and refers to.

    >>> sorted(parts_of_reducer(abs, lambda a, b: fingerprint))
    ['the reducer']
    """
    walk = State()
    _parts(walk, func, reducer)  # names the globals as the fingerprint does
    walk.referred.clear()
    return {*_parts_from_reducer(walk, reducer)}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the parts that differ, in order; a new Python version alone does not count."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [] if names == [PYTHON] else names
