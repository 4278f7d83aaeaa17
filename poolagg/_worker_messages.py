"""The messages that a worker process handles itself, and what they consist of; `_orders` has the others.

Every worker makes these classes when it starts. Each takes 0.1 ms, so the other messages are not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from poolagg._chunks import Interval

__all__ = ["NONE_YET", "Cause", "Failure", "Finished", "Pickled", "Piece", "Run", "Slowest"]

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
    pickle: bytes | None = None
    """The error as it travels, empty if it does not pickle; `error` stands for it until it is opened."""


class Pickled(NamedTuple):
    """One pickle of a piece: `count` partials (0: it is a state), and the large buffers that it was made without."""

    count: int  # type: ignore[assignment]
    pickle: bytes
    buffers: Sequence[Any] = ()


class Piece(NamedTuple):
    """What was gathered of the items that it covers. With `error` it could not be packed or unpacked.

    `pickles`: the data as it travels, or the error; None where it goes by reference, or is opened.
    """

    covers: tuple[Interval, ...]
    data: Any = None
    nbytes: int = 0
    error: BaseException | None = None
    pickles: list[Pickled] | None = None

    @property
    def items(self) -> int:
        """How many items it covers."""
        return sum(stop - start for start, stop in self.covers)


class Finished(NamedTuple):
    """A chunk ran up to `stop` in `seconds`; the pieces are what it shipped, None if the lane holds on to them.

    A lane makes it. If the lane is in another process, it packs failures and pieces, and the parent opens them.
    """

    lane: int
    chunk: int
    stop: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    pieces: tuple[Piece, ...] | None = None
    reduce_seconds: float = 0.0
    pack_seconds: float = 0.0
    """What the lane took to pack the pieces."""
    open_seconds: float = 0.0
    """What the parent took to open them."""
    began: float = 0.0
    """When the lane began it (`time.monotonic()`); 0 if its clock may be another's."""
    slowest: Slowest = NONE_YET

    def with_pieces(self, pieces: tuple[Piece, ...] | None, pack_seconds: float) -> Finished:
        """Give the same with pieces. (`_replace` takes three times as long.)"""
        lane, chunk, stop, seconds, failures, _, reducing, _, opening, began, slowest = self
        return Finished(lane, chunk, stop, seconds, failures, pieces, reducing, pack_seconds, opening, began, slowest)
