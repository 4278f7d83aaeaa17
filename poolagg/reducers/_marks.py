"""Marks that stand where a value would: each is one object in every process, also after pickling."""

from __future__ import annotations

import enum

from poolagg._plain import plain

__all__ = ["DROPPED", "EMPTY", "INSIDE", "NAN", "NO_DATE", "NO_SPAN", "Mark"]


@plain
class Mark(enum.Enum):
    """An enum because its members pickle and deep-copy to themselves, so `is` works everywhere.

    >>> DROPPED, EMPTY, NAN
    (DROPPED, EMPTY, NAN)
    """

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
