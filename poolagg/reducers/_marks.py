"""Two marks that stand where a value would: each is one object in every process, also after pickling."""

from __future__ import annotations

import enum

__all__ = ["DROPPED", "EMPTY"]


class Mark(enum.Enum):
    """An enum because its members pickle and deep-copy to themselves, so `is` works everywhere.

    >>> DROPPED, EMPTY
    (DROPPED, EMPTY)
    """

    EMPTY = "an accumulator that has seen nothing yet; None would not do, since a partial may be None"
    DROPPED = "a partial that `where` left out: it keeps its position, so the places of the others stay right"

    def __repr__(self) -> str:
        return self.name


EMPTY = Mark.EMPTY
DROPPED = Mark.DROPPED
