"""What the scheduler tells workers and what workers answer, as values: the one vocabulary of plan, engine and pools.

A worker is a place where chunks run one after another: a worker process, a thread, a slot of somebody's executor.
Orders go from the scheduler through the engine to a pool, answers come back. Nothing here does anything. They are named
tuples, for dataclasses take ten times as long to make. A worker process imports `_worker_messages` and not this file.

The instructions that follow from an event, as the parts of the scheduler collect them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from poolagg._scheduler.ranges import Interval
from poolagg._scheduler.worker_messages import (
    NONE_YET,
    Cause,
    ChunkResult,
    Failure,
    PartialState,
    Pickled,
    RunChunk,
    Slowest,
)

__all__ = [
    "NONE_YET",
    "Broken",
    "Cancel",
    "Cancelled",
    "Cause",
    "ChunkRan",
    "ChunkResult",
    "Commit",
    "Event",
    "Fail",
    "Failure",
    "Flush",
    "FlushAll",
    "Flushed",
    "Instruction",
    "Instructions",
    "ItemsRun",
    "Late",
    "LeaveOut",
    "Lost",
    "Merged",
    "PartialState",
    "Pickled",
    "PoolEvent",
    "Pulled",
    "Release",
    "RestartWorker",
    "Retiring",
    "Retry",
    "RunChunk",
    "Skip",
    "Slowest",
    "SourceEnded",
    "Yield",
    "Yielded",
    "nbytes_of",
]

# -- orders ------------------------------------------------------------------------------------------------------------


class Flush(NamedTuple):
    """Ship the worker's state, after the chunks it was given before."""

    slot: int


class Cancel(NamedTuple):
    """Take back a chunk that waits behind another; answered by `Cancelled`."""

    slot: int
    chunk: int


class Yield(NamedTuple):
    """End a running chunk early, for another worker has nothing to do; answered by `Yielded`."""

    slot: int
    chunk: int


class RestartWorker(NamedTuple):
    """The worker is empty and is to have a new worker: its old one is lost, or worn out; `reason`: what only the
    scheduler knows of that."""

    slot: int
    reason: str = ""


# -- answers -----------------------------------------------------------------------------------------------------------


class Flushed(NamedTuple):
    """The worker's state, as ordered by `Flush`."""

    slot: int
    states: tuple[PartialState, ...]
    pack_seconds: float = 0.0
    open_seconds: float = 0.0


class Cancelled(NamedTuple):
    """Whether a chunk was taken back (`ok`) or had been started."""

    slot: int
    chunk: int
    ok: bool


class Yielded(NamedTuple):
    """The worker will run no item of a chunk from `reached` on, but to end a leaf; None: nobody knows."""

    slot: int
    chunk: int
    reached: int | None


class Lost(NamedTuple):
    """The worker's worker is gone, with all it held; it was running the items of `suspect`, or none that is known.

    `reason`: why its pool has killed it; empty if it has not. `certain`: it is this worker's own loss, and no other
    item can be to blame, even where workers share their fate. `silent`: the worker was in no item, so that `suspect` is
    the chunk it had begun, if any; what it held may be to blame as well. `packing`: it died while it packed its state,
    so that all that the worker held is suspect, beside `suspect`.
    """

    slot: int
    suspect: Interval | None
    cause: Cause
    error: BaseException
    reason: str = ""
    certain: bool = False
    silent: bool = False
    packing: bool = False


class Retiring(NamedTuple):
    """The worker asks to be replaced when that costs nothing, for a reason: it has run its items, say."""

    slot: int
    reason: str = ""


class Broken(NamedTuple):
    """The reducer failed in the worker, or the worker cannot work at all: the run cannot go on."""

    slot: int
    error: BaseException


# -- what the engine tells the scheduler, beside the answers of workers ------------------------------------------------


class Pulled(NamedTuple):
    """Items `start` to `stop` were pulled from the source, `nbytes` in all.

    `kept_bytes`: the size of all input batches that are kept for re-runs by now; an input batch is kept whole for any
    of its items.
    """

    start: int
    stop: int
    nbytes: int
    kept_bytes: int = 0


class SourceEnded(NamedTuple):
    """There is nothing more to pull."""


class Merged(NamedTuple):
    """A piece took the parent `seconds` to fold."""

    seconds: float


class ItemsRun(NamedTuple):
    """Workers, by their workers, have run so many items in earlier runs."""

    items: Mapping[int, int]


class Late(NamedTuple):
    """The worker's running chunk has been at one batch for long."""

    slot: int
    chunk: int


class FlushAll(NamedTuple):
    """States are wanted, for a snapshot or a commit."""


# -- what the scheduler tells the engine, beside orders to workers -----------------------------------------------------


class Commit(NamedTuple):
    """Fold this piece into the result."""

    state: PartialState


class ChunkRan(NamedTuple):
    """A chunk that began with item `start` has run; the engine tells its watchers."""

    start: int
    finished: ChunkResult


class Release(NamedTuple):
    """Forget these items of an input batch: they failed in an earlier run, and are not run."""

    start: int
    stop: int


class Retry(NamedTuple):
    """The item failed for the `attempt`-th time, and runs again."""

    failure: Failure
    attempt: int


class Skip(NamedTuple):
    """The item failed for good, and is left out."""

    failure: Failure
    attempt: int


class LeaveOut(NamedTuple):
    """All items of a leaf failed for good: there will be no state of it."""

    leaf: int


class Fail(NamedTuple):
    """The run cannot go on: `index` is the item that failed for good, None if no item is to blame."""

    index: int | None  # type: ignore[assignment]
    error: BaseException
    attempt: int = 0
    cause: Cause = "raised"
    item: str = ""


PoolEvent: TypeAlias = ChunkResult | Flushed | Cancelled | Yielded | Lost | Retiring | Broken
Event: TypeAlias = PoolEvent | Pulled | SourceEnded | Merged | ItemsRun | Late | FlushAll
Instruction: TypeAlias = (
    RunChunk | Flush | Cancel | Yield | RestartWorker | Commit | ChunkRan | Release | Retry | Skip | LeaveOut | Fail
)


def nbytes_of(states: Iterable[PartialState]) -> int:
    """How much was flushed."""
    return sum(state.nbytes for state in states)


class Instructions:
    """What is to be handed out next; `stopped` says that the run has ended early, and nothing more is to be begun."""

    def __init__(self) -> None:
        self.stopped = False
        self._next: list[Instruction] = []

    def add(self, instruction: Instruction) -> None:
        """Hand this out after what was added before."""
        self._next.append(instruction)

    def fail(self, instruction: Fail) -> None:
        """End the run; the first reason is the one that is told."""
        if not self.stopped:
            self.stopped = True
            self._next.append(instruction)

    def take(self) -> list[Instruction]:
        """Return what was added since the last call."""
        taken, self._next = self._next, []
        return taken
