"""The messages that a worker process handles itself, and what they consist of; `_orders` has the others.

Every worker makes these classes when it starts. Each takes 0.1 ms, so the other messages are not among them.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

from poolagg._chunks import Interval

__all__ = ["NONE_YET", "Cause", "Failure", "Piece", "Run", "Slowest"]

Cause: TypeAlias = Literal["raised", "died", "timeout"]

Slowest: TypeAlias = tuple[int, int, float]
"""Of the batches that a chunk ran in, the one that took longest: its first item, its end, its seconds."""

NONE_YET: Slowest = (0, 0, 0.0)


class Run(NamedTuple):
    """Run items `start` to `stop`, leaving out those in `without`; then ship the lane's state if `ship`.

    `alone`: in batches of one, so that a death names its item. After `budget` seconds a lane may stop at the next
    boundary and give the rest back.
    """

    lane: int
    chunk: int
    start: int
    stop: int
    ship: bool
    alone: bool = False
    budget: float = float("inf")
    without: tuple[int, ...] = ()

    def items(self, reached: int | None = None) -> int:
        """How many items there are to run; with `reached`, how many of them lie before that."""
        stop = self.stop if reached is None else reached
        left_out = sum(index < stop for index in self.without) if self.without else 0
        return stop - self.start - left_out


class Failure(NamedTuple):
    """One attempt at one item failed."""

    index: int  # type: ignore[assignment]  # of an item: nobody looks for a field in here
    cause: Cause
    error: BaseException
    item: str = ""
    """The item's repr, as its lane said it; empty where the parent has the item itself."""


class Piece(NamedTuple):
    """A payload, and the intervals it covers. With `error` it could not be packed or unpacked, and `data` is None."""

    covers: tuple[Interval, ...]
    data: Any = None
    nbytes: int = 0
    error: BaseException | None = None

    @property
    def items(self) -> int:
        """How many items it covers."""
        return sum(stop - start for start, stop in self.covers)
