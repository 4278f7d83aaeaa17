"""The messages that a worker process handles itself, and their parts; `messages` has the others.

Each worker creates these classes when it starts. Each class takes 0.1 ms, so the other messages are not here.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from poolagg._scheduler.ranges import Interval

__all__ = ["NONE_YET", "Cause", "ChunkResult", "Failure", "PartialState", "Pickled", "RunChunk", "Slowest"]

Cause: TypeAlias = Literal["raised", "died", "timeout"]

Slowest: TypeAlias = tuple[int, int, float]
"""The slowest batch of a chunk: its first item, its end, its seconds."""

NONE_YET: Slowest = (0, 0, 0.0)


class RunChunk(NamedTuple):
    """Run items `start` to `stop` except those in `without`; then flush the worker's state if `flush`.

    `alone`: in batches of one, so that a death names its item. After `budget` seconds the worker may stop at the next
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
        """Return how many items are to run; with `reached`, how many of them lie before it."""
        stop = self.stop if reached is None else reached
        left_out = sum(index < stop for index in self.without) if self.without else 0
        return stop - self.start - left_out


class Failure(NamedTuple):
    """One attempt at one item failed."""

    index: int  # type: ignore[assignment]  # of the item; it hides tuple.index, which has no use here
    cause: Cause
    error: BaseException
    item: str = ""
    """The item's repr from its worker; empty where the parent has the item itself."""
    pickle: bytes | None = None
    """The pickled error, empty if it does not pickle; `error` is a stand-in until the parent unpickles it."""


class Pickled(NamedTuple):
    """One pickle of a partial state: `count` partials (0: one state), and its out-of-band buffers."""

    count: int  # type: ignore[assignment]
    pickle: bytes
    buffers: Sequence[Any] = ()


class PartialState(NamedTuple):
    """The folded or prepared partials of the items that it covers. With `error` it could not be pickled or unpickled.

    `pickles`: the pickled data, or the pickled error; None where the data is passed by reference, or is unpickled.
    """

    covers: tuple[Interval, ...]
    data: Any = None
    nbytes: int = 0
    error: BaseException | None = None
    pickles: list[Pickled] | None = None

    @property
    def items(self) -> int:
        """The number of items that it covers."""
        return sum(stop - start for start, stop in self.covers)


class ChunkResult(NamedTuple):
    """A chunk has run up to `stop` in `seconds`; `states` is what the worker flushed, None if it holds its state.

    The worker creates it. A worker in another process pickles failures and states, and the parent unpickles them.
    """

    slot: int
    chunk: int
    stop: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    states: tuple[PartialState, ...] | None = None
    reduce_seconds: float = 0.0
    pack_seconds: float = 0.0
    """Seconds that the worker took to pickle the states."""
    open_seconds: float = 0.0
    """Seconds that the parent took to unpickle them."""
    began: float = 0.0
    """The time at which the worker began it (`time.monotonic()`); 0 if its clock may be another machine's."""
    slowest: Slowest = NONE_YET
    units: int = 0
    """The units by which its items have advanced the progress bar."""

    def with_states(self, states: tuple[PartialState, ...] | None, pack_seconds: float) -> "ChunkResult":
        """Return a copy with states. (`_replace` takes three times as long.)"""
        slot, chunk, stop, seconds, failures, _, reducing, _, opening, began, slowest, units = self
        times = reducing, pack_seconds, opening, began
        return ChunkResult(slot, chunk, stop, seconds, failures, states, *times, slowest, units)
