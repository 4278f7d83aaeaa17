"""The events of a run: frozen values that `aggregate(..., watch=...)` passes to each watcher.

Times are in seconds, sizes in bytes; `at` is the time of the event (`time.monotonic()`). Do not subclass events.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from poolagg._input.kept_items import opened_when_asked, repr_of, unopened
from poolagg._runtime.exception_text import short_repr

__all__ = [
    "Checkpointed",
    "ChunkDone",
    "FinalMergeStarted",
    "ItemFailed",
    "ParentMeasured",
    "Progressed",
    "RunEnded",
    "RunEvent",
    "RunStarted",
    "StateFlushed",
    "StateMerged",
    "WorkerDied",
    "WorkerRetired",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run began `at`, and its workers took `start_seconds` to start. Nothing has been pulled yet.

    total               how many items there are, None if unknown
    workers             the slots that chunks run in; an external pool has `slots_per_worker` of them for each worker,
                        so that no worker waits for its next call
    done                items that the checkpoint holds already
    in_order            partials meet in input order, so one slow item may hold up all items behind it
    why                 the reason for choosing `strategy`
    """

    total: int | None
    workers: int
    pool: str
    strategy: str
    reducer: str
    done: int = 0
    at: float = 0.0
    start_seconds: float = 0.0
    slots_per_worker: int = 1
    in_order: bool = False
    why: str = ""


class _WithItem:
    """An event with an item; its repr does not unpickle the item."""

    def __repr__(self) -> str:
        values = ", ".join(f"{one.name}={short_repr(unopened(self, one.name))}" for one in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({values})"


@opened_when_asked("slowest_item")
@dataclass(frozen=True, repr=False)
class ChunkDone(_WithItem):
    """A worker ran a chunk, items `start` to `stop` (exclusive); the parent heard of it `at`.

    seconds             the worker's time for the chunk
    reduce_seconds      the part of `seconds` that it folded
    sent                bytes of the state that the worker flushed with the chunk, 0 if none
    pack_seconds        the worker's time to pickle that state, beyond `seconds`
    open_seconds        the parent's time to unpickle it
    began               when the worker began the chunk; 0 if the worker has another clock
    slowest             of the chunk's batches the slowest: its first item, its end (exclusive) and its seconds
    slowest_item        the item of that batch, if it is a single one, took 0.1 s or more and is small, else None;
                        unpickled when you first read it, as in `ItemFailed`

    A batch lasts about two milliseconds, so an item that takes longer has a batch of its own.
    """

    worker: int
    start: int
    stop: int
    seconds: float
    at: float
    reduce_seconds: float = 0.0
    pack_seconds: float = 0.0
    open_seconds: float = 0.0
    sent: int = 0
    began: float = 0.0
    slowest: tuple[int, int, float] = (0, 0, 0.0)
    slowest_item: Any = None


@dataclass(frozen=True, slots=True)
class StateFlushed:
    """A worker flushed its state without a chunk: `nbytes`, with the times to pickle and to unpickle it."""

    worker: int
    nbytes: int
    pack_seconds: float
    open_seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class StateMerged:
    """The parent merged a state of `nbytes` that covers `items` items; it took `seconds` and ended `at`."""

    items: int
    nbytes: int
    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class FinalMergeStarted:
    """All items are done; the workers merge the flushed states, in `parts` partitions of the keys, because of `why`."""

    parts: int
    why: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Progressed:
    """The progress, at most ten times a second: items `done`, in running chunks too, and, beside these, `failed`."""

    done: int
    failed: int
    total: int | None


@opened_when_asked("item")
@dataclass(frozen=True, repr=False)
class ItemFailed(_WithItem):
    """An attempt at one item failed. If `will_retry` is false the run skips the item, or ends with an error.

    The event keeps an item of a class of yours as a pickle and unpickles it when you first read `item`. An
    `UnreadableItem` stands for an item that does not unpickle. `item_repr` unpickles nothing.
    """

    index: int
    item: Any
    error: BaseException
    attempt: int
    will_retry: bool

    @property
    def item_repr(self) -> str:
        """The item's repr, cut to about a line, as the worker that ran the item sent it."""
        return repr_of(self)


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker died.

    `suspect` is the index of the item that it was running, None if that is not a single known item. `reason` is why
    the pool killed it (`item_timeout`, `memory_limit`); it is empty if the pool did not. `stack` is its Python stack
    when it crashed, or when an item exceeded `item_timeout`, as text; else None.
    """

    exitcode: int | None
    signal: str | None
    suspect: int | None
    worker: int = -1
    at: float = 0.0
    reason: str = ""
    stack: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerRetired:
    """A worker is retiring, for `reason`: the pool restarts it when it has run its chunks and flushed its state."""

    worker: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The parent wrote the checkpoint: a state of `nbytes`, in `seconds`, done `at`."""

    seconds: float
    nbytes: int
    at: float


@dataclass(frozen=True, slots=True)
class ParentMeasured:
    """How the parent spent the run, told just before its end. (`StateMerged` has the time for merging.)

    pulling             seconds of pulling the input
    pickling            seconds of pickling items, estimated from the first item of each chunk
    waiting             seconds of waiting for workers
    receiving           seconds of reading and unpickling what workers sent
    memory              peak memory of this process in bytes, since it started
    workers_memory      peak memory of the largest worker that was alive at the end, 0 if the pool does not know
    children_memory     peak memory of the largest child process that has ended
    """

    pulling: float
    pickling: float
    waiting: float
    receiving: float
    memory: int = 0
    workers_memory: int = 0
    children_memory: int = 0


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run ended; `error` is None if it has a result, and `early` is True if it has one without all items."""

    done: int
    failed: int
    elapsed: float
    error: BaseException | None = None
    early: bool = False


RunEvent: TypeAlias = (
    RunStarted
    | ChunkDone
    | StateFlushed
    | StateMerged
    | FinalMergeStarted
    | Progressed
    | ItemFailed
    | WorkerDied
    | WorkerRetired
    | Checkpointed
    | ParentMeasured
    | RunEnded
)
