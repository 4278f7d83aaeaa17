"""The instructions and events that the scheduler, the engine and the pools exchange, as values.

A slot is a place where chunks run one after another: a worker process, a thread, a task of an external executor.
Instructions go from the scheduler through the engine to a pool; events come back. They are named tuples, because
creating a dataclass takes ten times as long. Their annotations are not texts, since a NamedTuple compiles each text
at the import. A worker process imports `worker_messages` and not this file.
"""

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

# -- instructions to a worker ------------------------------------------------------------------------------------------


class Flush(NamedTuple):
    """Send the worker's state to the parent, after the chunks that it was given before."""

    slot: int


class Cancel(NamedTuple):
    """Take back a chunk that waits behind another; the pool replies with `Cancelled`."""

    slot: int
    chunk: int


class Yield(NamedTuple):
    """End a running chunk early, because another worker is idle; the pool replies with `Yielded`."""

    slot: int
    chunk: int


class RestartWorker(NamedTuple):
    """Start a new worker in an empty slot, because the old one is lost or retiring.

    `reason`: why, where only the scheduler knows it.
    """

    slot: int
    reason: str = ""


# -- events from a worker ----------------------------------------------------------------------------------------------


class Flushed(NamedTuple):
    """The worker has sent its state, in reply to `Flush`."""

    slot: int
    states: tuple[PartialState, ...]
    pack_seconds: float = 0.0
    open_seconds: float = 0.0


class Cancelled(NamedTuple):
    """The pool has taken a chunk back (`ok`), or the worker had begun it."""

    slot: int
    chunk: int
    ok: bool


class Yielded(NamedTuple):
    """The worker will run no item of a chunk from `reached` on, except to complete a leaf; None: unknown."""

    slot: int
    chunk: int
    reached: int | None


class Lost(NamedTuple):
    """The slot's worker is gone, with all it held; it was running the items of `suspect`, None if unknown.

    `reason`: why the pool killed the worker; empty if it did not. `certain`: no other worker's item can be at fault,
    even where workers share a failure domain. `silent`: the worker died outside of any item, so that `suspect` is the
    chunk it had begun, if any, and the items it held may be at fault as well. `packing`: the worker died while it
    pickled its state, so that all held items are suspects as well as `suspect`.
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
    """The worker asks for a restart as soon as it is empty; `reason`: it has run all its items, for example."""

    slot: int
    reason: str = ""


class Broken(NamedTuple):
    """The reducer failed in the worker, or the worker cannot run any item: the run cannot continue."""

    slot: int
    error: BaseException


# -- events from the engine --------------------------------------------------------------------------------------------


class Pulled(NamedTuple):
    """The engine has pulled items `start` to `stop` from the source, `nbytes` in all.

    `kept_bytes`: the size of all input batches kept for re-runs; a batch is kept as long as any of its items is needed.
    """

    start: int
    stop: int
    nbytes: int
    kept_bytes: int = 0


class SourceEnded(NamedTuple):
    """The source has no more items."""


class Merged(NamedTuple):
    """The parent has folded a partial state in `seconds`.

    `enough`: if the pulled items bring nothing new, the result is known, so that no more should be pulled yet.
    """

    seconds: float
    enough: bool = False


class ItemsRun(NamedTuple):
    """The workers have already run items in earlier runs: their number, by slot."""

    items: Mapping[int, int]


class Late(NamedTuple):
    """The worker has spent long on one batch of its running chunk."""

    slot: int
    chunk: int


class FlushAll(NamedTuple):
    """The engine needs all states, for a snapshot or a commit."""


# -- instructions to the engine ----------------------------------------------------------------------------------------


class Commit(NamedTuple):
    """Fold this partial state into the result; then all items before `settled` are in it, or have failed."""

    state: PartialState
    settled: int


class ChunkRan(NamedTuple):
    """Tell the watchers that a chunk, from item `start` on, has run."""

    start: int
    finished: ChunkResult


class Release(NamedTuple):
    """Drop these items of an input batch: they failed in an earlier run and do not run again."""

    start: int
    stop: int


class Retry(NamedTuple):
    """Report that an item failed for the `attempt`-th time and runs again."""

    failure: Failure
    attempt: int


class Skip(NamedTuple):
    """Leave out an item that failed for good; all items before `settled` are in the result, or have failed."""

    failure: Failure
    attempt: int
    settled: int


class LeaveOut(NamedTuple):
    """Leave out a leaf whose items all failed for good: no state of it will arrive."""

    leaf: int


class Fail(NamedTuple):
    """End the run with an error; `index`: the item that failed for good, None if no item is at fault."""

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
    """Return the size of some partial states."""
    return sum(state.nbytes for state in states)


class Instructions:
    """The instructions that follow from one event, collected from the parts of the scheduler.

    `stopped`: the run has ended early, and nothing more may begin.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._next: list[Instruction] = []

    def add(self, instruction: Instruction) -> None:
        """Append an instruction."""
        self._next.append(instruction)

    def fail(self, instruction: Fail) -> None:
        """End the run; only the first reason is reported."""
        if not self.stopped:
            self.stopped = True
            self._next.append(instruction)

    def take(self) -> list[Instruction]:
        """Return the instructions added since the last call."""
        taken, self._next = self._next, []
        return taken
