"""Keys of groups and of counts: every nan is the same key, in every process.

Two nan are not equal. A dict finds one again only if it is the same object, and pickling makes another. So an
accumulator holds a mark instead of each nan (of float, numpy, Decimal or complex), also inside tuples and frozensets,
and the result holds `math.nan`. A NaT of numpy stays a NaT, and is also one key.

A mark is a single object in every process, also after pickling.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain, islice
from operator import ne
from typing import Any

from poolagg._runtime.plain_values import plain
from poolagg._runtime.value_types import types_of

__all__ = [
    "DROPPED",
    "EMPTY",
    "INSIDE",
    "NAN",
    "NO_DATE",
    "NO_SPAN",
    "SURE",
    "Mark",
    "all_equal_themselves",
    "are_held_as_they_are",
    "as_key",
    "as_result",
    "mark_new",
    "may_hold_marks",
    "without_marks",
]


@plain
class Mark(enum.Enum):
    """Values that stand for others; an enum, whose members pickle and deep-copy to themselves, so `is` works.

    >>> DROPPED, EMPTY, NAN
    (DROPPED, EMPTY, NAN)
    """

    # Python 3.11 pickles a member by its value, so checkpoints keep these texts.
    EMPTY = "an accumulator that has seen nothing yet; None would not do, since a partial may be None"
    DROPPED = "a partial that `where` left out: it keeps its position, so the places of the others stay right"
    NAN = "a key that is not a number: floats that are nan differ from one another, and from themselves in a worker"

    NO_DATE = "a key that is the NaT of numpy's datetime64"
    NO_SPAN = "a key that is the NaT of numpy's timedelta64"
    INSIDE = "a key that says that there are marks inside other keys, such as tuples"

    def __repr__(self) -> str:
        return self.name


Mark.__module__ = "poolagg.reducers"  # states hold marks, and checkpoints keep this name

EMPTY = Mark.EMPTY
DROPPED = Mark.DROPPED
NAN = Mark.NAN
NO_DATE = Mark.NO_DATE
NO_SPAN = Mark.NO_SPAN
INSIDE = Mark.INSIDE


SURE = {int, str, bytes, bool, type(None), Mark}
"""Types whose values equal themselves."""

SCALARS = SURE | {float, complex, Decimal}
"""Types whose values equal themselves, or are nan."""


def as_key(key: Any) -> Any:
    """Return `key` as an accumulator holds it: itself, with a mark for each nan.

    >>> as_key(float("nan")), as_key(("a", math.nan)), as_key(1.5)
    (NAN, ('a', NAN), 1.5)
    """
    kind = type(key)
    if kind in SURE:
        return key
    if isinstance(key, (tuple, frozenset)):
        return _rebuilt(key, as_key)
    if not (isinstance(key, (float, complex, Decimal)) or hasattr(kind, "dtype")) or key == key:
        return key
    return {"M": NO_DATE, "m": NO_SPAN}.get(getattr(getattr(key, "dtype", None), "kind", "f"), NAN)


def as_result(key: Any) -> Any:
    """Return the key that `as_key` was given; `math.nan` for any nan.

    >>> as_result((NAN, 1)), as_result("a")
    ((nan, 1), 'a')
    """
    if key is NAN:
        return math.nan
    if key is NO_DATE or key is NO_SPAN:
        import numpy as np

        return np.datetime64("NaT", "s") if key is NO_DATE else np.timedelta64("NaT", "s")
    return _rebuilt(key, as_result) if isinstance(key, (tuple, frozenset)) else key


def all_equal_themselves(keys: Sequence[Any]) -> bool:
    """Tell whether a check at C speed finds no nan among the keys, nor inside them if they are tuples."""
    found = types_of(keys)
    if found <= SURE:
        return True
    if found == {tuple}:
        return all_equal_themselves(list(chain.from_iterable(keys)))
    return found <= SCALARS and not any(map(ne, keys, keys))


def are_held_as_they_are(keys: Sequence[Any]) -> bool:
    """Tell whether an accumulator holds each of the keys as it is: none is nan, nor has one inside."""
    return all_equal_themselves(keys) or all(as_key(key) is key for key in keys)


def may_hold_marks(keys: Iterable[Any]) -> bool:
    """Tell whether a key of an accumulator may be a mark, or hold one."""
    found = set(map(type, keys))
    if found == {tuple}:
        return may_hold_marks(list(chain.from_iterable(keys)))
    return any(kind is Mark or issubclass(kind, (tuple, frozenset)) for kind in found)


def mark_new(counts: dict[Any, Any], before: int) -> None:
    """Replace nan by marks in the keys of a dict of counts, from the one at index `before` on.

    The key `INSIDE`, with a count of 0, says that other keys hold marks.
    """
    if _are_texts(islice(reversed(counts), len(counts) - before)):
        return
    fresh = list(islice(reversed(counts), len(counts) - before))
    if all_equal_themselves(fresh):
        return
    marked = list(map(as_key, fresh))
    if all(key is mark for key, mark in zip(fresh, marked, strict=True)):
        return
    values = [counts.pop(key) for key in fresh]
    for mark, value in zip(reversed(marked), reversed(values), strict=True):  # in the order of arrival
        counts[mark] = counts[mark] + value if mark in counts else value
    if any(type(mark) is not Mark and key is not mark for key, mark in zip(fresh, marked, strict=True)):
        counts.setdefault(INSIDE, 0)


def without_marks(counts: dict[Any, Any]) -> list[tuple[Any, Any]] | None:
    """Return the entries of a dict of counts with nan instead of each mark; None if it has no marks."""
    if not any(mark in counts for mark in Mark):
        return None
    return [(as_result(key), count) for key, count in counts.items() if key is not INSIDE]


def _are_texts(keys: Iterable[Any]) -> bool:
    """Tell whether all keys are strings. Joining some at a time is the fastest check."""
    remaining = iter(keys)
    try:
        while some := list(islice(remaining, 1024)):
            "".join(some)
    except TypeError:
        return False
    return True


def _rebuilt(key: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a tuple or frozenset with its elements converted; itself if that changes none."""
    if SURE.issuperset(map(type, key)) and Mark not in map(type, key):
        return key
    elements = list(map(convert, key))
    if all(old is new for old, new in zip(key, elements, strict=True)):
        return key
    if hasattr(key, "_make"):
        return key._make(elements)
    return tuple(elements) if isinstance(key, tuple) else frozenset(elements)
