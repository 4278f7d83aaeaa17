"""What happens in a run, as frozen values given to each watcher of `aggregate(..., watch=...)`.

Times are seconds, sizes bytes, and `at` is when it happened (`time.monotonic()`). Don't subclass these.
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
    """The run began, `at`, and starting its workers took `start_seconds`: nothing has been pulled yet.

    `done` items stand in a checkpoint already.

    `workers` counts workers: other people's pools have several for each worker (`slots_per_worker`), so that none waits
    for its next call. `in_order`: partials meet in input order, so that one item may hold up all those behind it. `why`
    says why the strategy was chosen.
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
    """An event with an item, which its repr does not open."""

    def __repr__(self) -> str:
        values = ", ".join(f"{one.name}={short_repr(unopened(self, one.name))}" for one in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({values})"


@opened_when_asked("slowest_item")
@dataclass(frozen=True, repr=False)
class ChunkDone(_WithItem):
    """A worker ran items `start` to `stop` (exclusive): `seconds` of work; the parent heard of it `at`.

    `reduce_seconds` of them it folded. If it flushed its state with it, `sent` bytes, it took `pack_seconds` more to
    pack that, and the parent `open_seconds` to open it. `began` is when the worker began it, 0 if its clock is another.
    Of the batches that the chunk ran in, the slowest had items `slowest[0]` to `slowest[1]` and took `slowest[2]`. A
    batch lasts about a millisecond, so an item that takes longer is alone in its own; `slowest_item` is that item, if
    it took a tenth of a second and is small; it is opened when it is asked for, as in `ItemFailed`.
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
    """A worker flushed its state by itself, and not with a chunk: `nbytes`, packed and opened in so many seconds."""

    worker: int
    nbytes: int
    pack_seconds: float
    open_seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class StateMerged:
    """The parent committed a state covering `items` items: `nbytes` flushed, merged in `seconds`, by `at`."""

    items: int
    nbytes: int
    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class FinalMergeStarted:
    """All items are done, and the workers merge what they flushed, in `parts` parts of its keys; `why` says why."""

    parts: int
    why: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Progressed:
    """At most ten times a second: `done` items are merged, held, or done in running chunks; `failed` come on top."""

    done: int
    failed: int
    total: int | None


@opened_when_asked("item")
@dataclass(frozen=True, repr=False)
class ItemFailed(_WithItem):
    """An attempt at one item failed. With `will_retry` false it is final: skipped, or about to be raised.

    An item of a class of yours is kept as its pickle, and opened when you first ask for `item`: if it does not
    unpickle, an `UnreadableItem` stands for it. `item_repr` is its repr in a line, and opens nothing.
    """

    index: int
    item: Any
    error: BaseException
    attempt: int
    will_retry: bool

    @property
    def item_repr(self) -> str:
        """The item's repr, cut to about a line, as the worker that ran it said it."""
        return repr_of(self)


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker is gone: `suspect` is the item index it was running, if one item can be named.

    `reason`: why its pool has killed it (`item_timeout`, `memory_limit`); empty if it died by itself, or by others.
    """

    exitcode: int | None
    signal: str | None
    suspect: int | None
    worker: int = -1
    at: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkerRetired:
    """A worker has had its day, for `reason`, and is replaced once it has run what it was given and has flushed it."""

    worker: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """The checkpoint was written: `nbytes`, in `seconds`, by `at`."""

    seconds: float
    nbytes: int
    at: float


@dataclass(frozen=True, slots=True)
class ParentMeasured:
    """How the parent spent the run, told just before its end. (What it took to merge, `StateMerged` tells.)

    Seconds of pulling the input, pickling its items (estimated from the first item of each chunk), waiting for workers,
    and receiving what they sent, opening it included. Bytes of `memory`: the most that this process has ever had; the
    largest worker that was there at the end, 0 if the pool does not know; and the largest child that has ended.
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
    """The run is over: `error` is None when it has a result."""

    done: int
    failed: int
    elapsed: float
    error: BaseException | None = None


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
