"""RunStatistics: the sums of the events of one run, without a judgement.

Rule: bounded memory, since a run may never end. It keeps numbers for each worker, a few worst cases of everything
else, and a `Timeline`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

from poolagg._input.kept_items import unopened
from poolagg._report.bottleneck import Shares
from poolagg._report.timeline import PARENT, Timeline, TimeSpan
from poolagg._runtime.exception_text import said, short_repr
from poolagg.events import (
    Checkpointed,
    ChunkDone,
    FinalMergeStarted,
    ItemFailed,
    ParentMeasured,
    Progressed,
    RunEnded,
    RunEvent,
    RunStarted,
    StateFlushed,
    StateMerged,
    WorkerDied,
    WorkerRetired,
)

__all__ = ["Death", "RunStatistics", "Slow", "WorkerStatistics"]

FEW = 10
"""Entries kept of each list that could grow."""


UNKNOWN = ParentMeasured(0.0, 0.0, 0.0, 0.0)
"""The parent's times until the engine reports them, at the end of the run."""


@dataclass(slots=True)
class WorkerStatistics:
    """The work of one worker: seconds of each kind, counts, and the time at which it last ended."""

    chunks: int = 0
    items: int = 0
    mapping: float = 0.0
    reducing: float = 0.0
    packing: float = 0.0
    opening: float = 0.0
    nbytes: int = 0
    until: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds in which the worker was not idle."""
        return self.mapping + self.reducing + self.packing


@dataclass(frozen=True, slots=True, order=True)
class Slow:
    """Items `start` to `stop` took `seconds` together."""

    seconds: float
    start: int
    stop: int
    item: str = ""

    def __str__(self) -> str:
        if self.stop - self.start != 1:
            return f"items {self.start:,} to {self.stop - 1:,}"
        return f"item {self.start:,} ({self.item})" if self.item else f"item {self.start:,}"


@dataclass(frozen=True, slots=True)
class Death:
    """The death of a worker, in words, and its Python stack, if known."""

    worker: int
    at: float
    text: str
    stack: str | None = None


class Queue:
    """Finds the chunk that held up an ordered run for longest: how long finished chunks behind it waited.

    >>> queue = Queue()
    >>> for chunk, at in [(1, 1.0), (3, 1.5), (0, 5.0), (2, 6.0)]:
    ...     queue.take(chunk, chunk + 1, at, Slow(0.0, chunk, chunk + 1))
    >>> queue.held_up, str(queue.slow)
    (4.0, 'item 0')
    """

    def __init__(self) -> None:
        self.held_up = 0.0
        self.slow: Slow | None = None
        self._head = 0
        self._since = 0.0
        self._waiting: list[tuple[int, int]] = []

    def take(self, start: int, stop: int, at: float, slow: Slow) -> None:
        """Add a finished chunk and its slowest batch."""
        if start > self._head:
            self._since = self._since if self._waiting else at
            heapq.heappush(self._waiting, (start, stop))
            return
        if self._waiting and at - self._since > self.held_up:
            self.held_up, self.slow = at - self._since, slow
        self._head = max(self._head, stop)
        while self._waiting and self._waiting[0][0] <= self._head:
            self._head = max(self._head, heapq.heappop(self._waiting)[1])
        self._since = at


@dataclass(slots=True)
class RunStatistics:
    """The sums of the events of one run."""

    started: RunStarted
    ended: RunEnded | None = None
    """The last event without its error, whose traceback would keep the run's objects alive."""
    error: str = ""
    """The type of the exception that ended the run; empty if it has a result."""
    parent: ParentMeasured = UNKNOWN
    workers: dict[int, WorkerStatistics] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    first: float = 0.0
    """When the first item started."""
    last: float = 0.0
    """When the last event happened."""
    done: int = 0
    merged: int = 0
    merged_bytes: int = 0
    merging: float = 0.0
    slowest: list[Slow] = field(default_factory=list)
    ending: float = 0.0
    at_the_end: Slow = field(default_factory=lambda: Slow(0.0, 0, 1))
    """The chunk that ended last, at `ending`; or its slowest batch, if that took more than half of its time."""
    retries: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    lost: int = 0
    deaths: list[Death] = field(default_factory=list)
    retired: int = 0
    retirement: str = ""
    """Why the last of them retired."""
    final_merge: FinalMergeStarted | None = None
    checkpoints: int = 0
    checkpointing: float = 0.0
    checkpoint_bytes: int = 0
    queue: Queue = field(default_factory=Queue)

    def take(self, event: RunEvent) -> None:
        """Add one event."""
        match event:
            case ChunkDone():
                self._chunk(event)
            case StateFlushed():
                self._state(event)
            case StateMerged():
                self._merge(event)
            case Progressed():
                self.done = event.done
            case ItemFailed():
                self._failure(event)
            case WorkerDied():
                self._death(event)
            case WorkerRetired():
                self.retired += 1
                self.retirement = event.reason
            case Checkpointed():
                self._checkpoint(event)
            case FinalMergeStarted():
                self.final_merge = event
            case ParentMeasured():
                self.parent = event
            case RunEnded():
                self.ended, self.done = replace(event, error=None), event.done
                self.error = "" if event.error is None else type(event.error).__name__

    # -- events --------------------------------------------------------------------------------------------------------

    def _chunk(self, event: ChunkDone) -> None:
        stats = self.workers.setdefault(event.worker, WorkerStatistics())
        stats.chunks += 1
        stats.items += event.stop - event.start
        stats.mapping += (mapping := max(0.0, event.seconds - event.reduce_seconds))
        stats.reducing += event.reduce_seconds
        arrived = event.at - event.open_seconds
        began = max(self.started.at, event.began or arrived - event.pack_seconds - event.seconds)
        ended = began + event.seconds + event.pack_seconds
        self._flush(event.worker, event, event.sent)
        parts = mapping, event.reduce_seconds, event.pack_seconds
        self.timeline.add(event.worker, TimeSpan(began, ended, parts, event.start, event.stop))
        self.first = min(self.first or began, began)
        self.last = max(self.last, event.at)
        slow = Slow(event.slowest[2], *event.slowest[:2], _text(unopened(event, "slowest_item")))
        if ended >= self.ending:
            self.ending = ended
            most = slow.seconds > 0.5 * event.seconds
            self.at_the_end = slow if most else Slow(event.seconds, event.start, event.stop)
        stats.until = ended
        if slow.seconds:
            (heapq.heappushpop if len(self.slowest) >= FEW else heapq.heappush)(self.slowest, slow)
        if self.started.in_order and not self.started.done:
            self.queue.take(event.start, event.stop, event.at, slow)

    def _state(self, event: StateFlushed) -> None:
        ended = event.at - event.open_seconds
        self._flush(event.worker, event, event.nbytes)
        self.timeline.add(event.worker, TimeSpan(ended - event.pack_seconds, ended, (0.0, 0.0, event.pack_seconds)))
        self.last = max(self.last, event.at)

    def _flush(self, worker: int, event: ChunkDone | StateFlushed, nbytes: int) -> None:
        stats = self.workers.setdefault(worker, WorkerStatistics())
        stats.packing += event.pack_seconds
        stats.opening += event.open_seconds
        stats.nbytes += nbytes
        if event.open_seconds:
            self.timeline.add(PARENT, TimeSpan(event.at - event.open_seconds, event.at, (event.open_seconds, 0.0, 0.0)))

    def _merge(self, event: StateMerged) -> None:
        self.merged += 1
        self.merged_bytes += event.nbytes
        self.merging += event.seconds
        self.last = max(self.last, event.at)
        self.timeline.add(PARENT, TimeSpan(event.at - event.seconds, event.at, (0.0, event.seconds, 0.0)))

    def _failure(self, event: ItemFailed) -> None:
        self.retries += event.will_retry
        self.skipped += not event.will_retry
        if not event.will_retry and len(self.failures) < FEW:
            what = " ".join(said(event.error).split())
            self.failures.append(f"item {event.index:,}, {event.item_repr}: {what[:200]}")

    def _death(self, event: WorkerDied) -> None:
        self.lost += 1
        if len(self.deaths) < FEW:
            code = "cause unknown" if event.exitcode is None else f"exit code {event.exitcode}"
            how = event.reason or event.signal or code
            at_what = "" if event.suspect is None else f", running item {event.suspect:,}"
            text = f"worker {event.worker} died ({how}){at_what}"
            self.deaths.append(Death(event.worker, event.at, text, event.stack))

    def _checkpoint(self, event: Checkpointed) -> None:
        self.checkpoints += 1
        self.checkpointing += event.seconds
        self.checkpoint_bytes = event.nbytes
        self.timeline.add(PARENT, TimeSpan(event.at - event.seconds, event.at, (0.0, 0.0, event.seconds)))

    # -- sums ----------------------------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of the run, so far."""
        return self.ended.elapsed if self.ended else max(0.0, self.last - self.started.at)

    @property
    def window(self) -> float:
        """Seconds from the start of the first item to the last event: the time in which there was work."""
        return max(self.last - self.first, 1e-9) if self.workers else 1e-9

    @property
    def ran(self) -> int:
        """How many items ran, counting each run of an item that ran again."""
        return sum(stats.items for stats in self.workers.values())

    def shares(self) -> Shares:
        """Return the share of the time that each kind of work took."""
        if not self.workers:
            return Shares(self.elapsed)
        starting = max(0.0, self.first - self.started.at)
        capacity = self.window * max(1.0, self.started.workers / self.started.slots_per_worker)
        workers, parent = self.workers.values(), self.parent
        waiting = max(0.0, parent.waiting - max(0.0, starting - self.started.start_seconds))
        measured = parent.pulling + parent.pickling + parent.receiving + self.merging + waiting
        slow = self.at_the_end
        return Shares(
            self.elapsed,
            self.started.workers,
            starting=_share(starting, self.elapsed),
            mapping=_share(sum(stats.mapping for stats in workers), capacity),
            reducing=_share(sum(stats.reducing for stats in workers), capacity),
            packing=_share(sum(stats.packing for stats in workers), capacity),
            pulling=_share(parent.pulling, self.window),
            pickling=_share(parent.pickling, self.window),
            receiving=_share(parent.receiving, self.window),
            merging=_share(self.merging, self.window),
            scheduling=_share(self.window - measured, self.window) if parent is not UNKNOWN else 0.0,
            tail=_share(self._tail(), self.elapsed),
            final_stage=_share(self._final_stage(), self.elapsed),
            slowest=slow.seconds,
            slowest_name=str(slow),
        )

    def _tail(self) -> float:
        """Return the seconds at the end in which half of the workers or more were idle."""
        idle = [self.first] * (self.started.workers - len(self.workers))
        ends = sorted([*idle, *(max(stats.until, self.first) for stats in self.workers.values())])
        return ends[-1] - ends[(len(ends) - 1) // 2]

    def _final_stage(self) -> float:
        return self.started.at + self.elapsed - self.final_merge.at if self.final_merge and self.ended else 0.0


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _text(item: object) -> str:
    return "" if item is None else short_repr(item)
