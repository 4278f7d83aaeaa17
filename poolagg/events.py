"""What happens in a run, as frozen values given to each watcher of `aggregate(..., watch=...)`.

Times are seconds, sizes bytes. Don't subclass these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "ChunkDone",
    "ItemFailed",
    "Progressed",
    "RunEnded",
    "RunEvent",
    "RunStarted",
    "StateMerged",
    "WorkerDied",
]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins: nothing has been pulled yet. `done` items stand in a checkpoint already."""

    total: int | None
    workers: int
    pool: str
    strategy: str
    reducer: str
    done: int = 0


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """A worker ran items `start` to `stop` (exclusive): `seconds` of work, finished `at` (`time.monotonic()`).

    `reduce_seconds` of them it folded. If it shipped its state with it, it took `pack_seconds` more to pack that, and
    the parent `open_seconds` to open it.
    """

    lane: int
    start: int
    stop: int
    seconds: float
    at: float
    reduce_seconds: float = 0.0
    pack_seconds: float = 0.0
    open_seconds: float = 0.0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class StateMerged:
    """The parent committed a state covering `items` items: `nbytes` shipped, merged in `seconds`, by `at`."""

    items: int
    nbytes: int
    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class Partitioned:
    """All items are done, and the workers merge what they shipped, in `parts` parts of its keys; `why` says why."""

    parts: int
    why: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """At most ten times a second: `done` items are merged, held, or done in running chunks; `failed` come on top."""

    done: int
    failed: int
    total: int | None


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """An attempt at one item failed. With `will_retry` false it is final: skipped, or about to be raised."""

    index: int
    item: Any
    error: BaseException
    attempt: int
    will_retry: bool


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker is gone: `suspect` is the item index it was running, if one item can be named."""

    exitcode: int | None
    signal: str | None
    suspect: int | None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over: `error` is None when it has a result."""

    done: int
    failed: int
    elapsed: float
    error: BaseException | None = None


RunEvent: TypeAlias = (
    RunStarted | ChunkDone | StateMerged | Partitioned | Progressed | ItemFailed | WorkerDied | RunEnded
)
