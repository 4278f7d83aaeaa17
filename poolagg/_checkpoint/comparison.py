"""Compare a call with the run that made its checkpoint: what differs, in words, and whether only func differs.

Rule: func includes the globals that it refers to. A global that the reducer refers to as well is the reducer's, because
the state depends on the reducer.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, NamedTuple

from poolagg._checkpoint.fingerprint import PYTHON, differences

__all__ = ["Difference", "compared"]


class Difference(NamedTuple):
    """The difference, in words; `only_func` tells that all of it belongs to func."""

    words: str
    only_func: bool


def compared(before: dict[str, Any], now: dict[str, Any], of_reducer: Callable[[], Set[str]]) -> Difference | None:
    """Compare the facts of two runs; return None if they count as the same.

    `of_reducer` returns the names of the parts that the reducer consists of; it is called only if func differs.
    """
    if not (names := _causes(differences(before["parts"], now["parts"]))):
        return None
    maybe = all(name == PYTHON or name.startswith(("func", "the global ")) for name in names)
    reducers = of_reducer() if maybe else set[str]()
    described = [
        _described(name, before, now) + (", and the reducer refers to it" if name in reducers else "") for name in names
    ]
    return Difference("; ".join(described), maybe and reducers.isdisjoint(names))


def _causes(names: list[str]) -> list[str]:
    """Keep the difference that the others follow from, if there is one."""
    for name in ("the key", "the strategy"):
        if name in names:
            return [name]
    return names


def _described(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe a difference, with both values if they can be shown."""
    shown = ("the key", "the strategy", "the chunksize", PYTHON)
    old, new = (facts["parts"].get(name) for facts in (before, now))
    if name == "the reducer":
        old, new = before["reducer"], now["reducer"]
    elif name not in shown:
        old, new = ("there" if part else "not there" for part in (old, new))
    return f"{name} differs" if old == new else f"{name} was {old or 'not there'} and is {new or 'not there'}"
