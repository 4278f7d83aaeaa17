"""The messages that a worker process handles itself, and what they consist of; `_instructions` has the others.

Every worker makes these classes when it starts. Each takes 0.1 ms, so the other messages are not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from poolagg._scheduler.ranges import Interval

__all__ = ["NONE_YET", "Cause", "ChunkResult", "Failure", "PartialState", "Pickled", "RunChunk", "Slowest"]

Cause: TypeAlias = Literal["raised", "died", "timeout"]

Slowest: TypeAlias = tuple[int, int, float]
"""Of the batches that a chunk ran in, the one that took longest: its first item, its end, its seconds."""

NONE_YET: Slowest = (0, 0, 0.0)


class RunChunk(NamedTuple):
    """Run items `start` to `stop`, leaving out those in `without`; then flush the worker's state if `flush`.

    `alone`: in batches of one, so that a death names its item. After `budget` seconds a worker may stop at the next
    boundary and give the rest back.
    """

    slot: int
    chunk: int
    start: int
    stop: int
    flush: bool
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
    """The item's repr, as its worker said it; empty where the parent has the item itself."""
    pickle: bytes | None = None
    """The error as it travels, empty if it does not pickle; `error` stands for it until it is opened."""


class Pickled(NamedTuple):
    """One pickle of a piece: `count` partials (0: it is a state), and the large buffers that it was made without."""

    count: int  # type: ignore[assignment]
    pickle: bytes
    buffers: Sequence[Any] = ()


class PartialState(NamedTuple):
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


class ChunkResult(NamedTuple):
    """A chunk ran up to `stop` in `seconds`; the pieces are what it flushed, None if the worker holds on to them.

    A worker makes it. If the worker is in another process, it packs failures and pieces, and the parent opens them.
    """

    slot: int
    chunk: int
    stop: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    states: tuple[PartialState, ...] | None = None
    reduce_seconds: float = 0.0
    pack_seconds: float = 0.0
    """What the worker took to pack the pieces."""
    open_seconds: float = 0.0
    """What the parent took to open them."""
    began: float = 0.0
    """When the worker began it (`time.monotonic()`); 0 if its clock may be another's."""
    slowest: Slowest = NONE_YET

    def with_states(self, states: tuple[PartialState, ...] | None, pack_seconds: float) -> ChunkResult:
        """Give the same with pieces. (`_replace` takes three times as long.)"""
        slot, chunk, stop, seconds, failures, _, reducing, _, opening, began, slowest = self
        return ChunkResult(
            slot, chunk, stop, seconds, failures, states, reducing, pack_seconds, opening, began, slowest
        )
