"""What the events of one run add up to: a bookkeeper who hears everything, keeps little, and judges nothing.

Rule of the room: bounded memory. A run may go on for ever: there is a number for each lane, a list of a few worst cases
for everything that could be many, and a `Timeline`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

from poolagg._items import unopened
from poolagg._limit import Shares
from poolagg._texts import said, short_repr
from poolagg._timeline import PARENT, Span, Timeline
from poolagg.events import (
    Accounted,
    Checkpointed,
    ChunkDone,
    ItemFailed,
    Partitioned,
    Progressed,
    RunEnded,
    RunEvent,
    RunStarted,
    StateMerged,
    StateShipped,
    WorkerDied,
    WorkerRetired,
)

__all__ = ["Death", "Hand", "Slow", "Tally"]

FEW = 10
"""Of what could be many, so many are kept."""


UNKNOWN = Accounted(0.0, 0.0, 0.0, 0.0)
"""The account until it is told, at the end."""


@dataclass(slots=True)
class Hand:
    """What one lane did: seconds of each, counts, and until when."""

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
        """Seconds in which it was not idle."""
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
    """A worker's end, as people are told it."""

    lane: int
    at: float
    text: str


class Queue:
    """Which chunk held up an ordered run for longest: how long others behind it waited that were done.

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
        """A chunk was done, and it is known what took longest in it."""
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
class Tally:
    """One run."""

    started: RunStarted
    ended: RunEnded | None = None
    """Without its error, whose traceback would keep all that the run had."""
    error: str = ""
    """The type of the exception that the run ended with, empty if it has a result."""
    account: Accounted = UNKNOWN
    hands: dict[int, Hand] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    first: float = 0.0
    """When the first item was begun."""
    last: float = 0.0
    """When the last thing happened."""
    done: int = 0
    merged: int = 0
    merged_bytes: int = 0
    merging: float = 0.0
    slowest: list[Slow] = field(default_factory=list)
    ending: float = 0.0
    at_the_end: Slow = field(default_factory=lambda: Slow(0.0, 0, 1))
    """The chunk that ended last, at `ending`; or what it mostly consisted of."""
    retries: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    lost: int = 0
    deaths: list[Death] = field(default_factory=list)
    retired: int = 0
    retirement: str = ""
    """Why the last of them was."""
    partitioned: Partitioned | None = None
    checkpoints: int = 0
    checkpointing: float = 0.0
    checkpoint_bytes: int = 0
    queue: Queue = field(default_factory=Queue)

    def take(self, event: RunEvent) -> None:
        """Hear of one more event."""
        match event:
            case ChunkDone():
                self._chunk(event)
            case StateShipped():
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
            case Partitioned():
                self.partitioned = event
            case Accounted():
                self.account = event
            case RunEnded():
                self.ended, self.done = replace(event, error=None), event.done
                self.error = "" if event.error is None else type(event.error).__name__

    # -- what happened -----------------------------------------------------------------------------------------

    def _chunk(self, event: ChunkDone) -> None:
        hand = self.hands.setdefault(event.lane, Hand())
        hand.chunks += 1
        hand.items += event.stop - event.start
        hand.mapping += (mapping := max(0.0, event.seconds - event.reduce_seconds))
        hand.reducing += event.reduce_seconds
        arrived = event.at - event.open_seconds
        began = max(self.started.at, event.began or arrived - event.pack_seconds - event.seconds)
        ended = began + event.seconds + event.pack_seconds
        self._ship(event.lane, event, event.sent)
        parts = mapping, event.reduce_seconds, event.pack_seconds
        self.timeline.add(event.lane, Span(began, ended, parts, event.start, event.stop))
        self.first = min(self.first or began, began)
        self.last = max(self.last, event.at)
        slow = Slow(event.slowest[2], *event.slowest[:2], _text(unopened(event, "slowest_item")))
        if ended >= self.ending:
            self.ending = ended
            most = slow.seconds > 0.5 * event.seconds
            self.at_the_end = slow if most else Slow(event.seconds, event.start, event.stop)
        hand.until = ended
        if slow.seconds:
            (heapq.heappushpop if len(self.slowest) >= FEW else heapq.heappush)(self.slowest, slow)
        if self.started.in_order and not self.started.done:
            self.queue.take(event.start, event.stop, event.at, slow)

    def _state(self, event: StateShipped) -> None:
        ended = event.at - event.open_seconds
        self._ship(event.lane, event, event.nbytes)
        self.timeline.add(event.lane, Span(ended - event.pack_seconds, ended, (0.0, 0.0, event.pack_seconds)))
        self.last = max(self.last, event.at)

    def _ship(self, lane: int, event: ChunkDone | StateShipped, nbytes: int) -> None:
        hand = self.hands.setdefault(lane, Hand())
        hand.packing += event.pack_seconds
        hand.opening += event.open_seconds
        hand.nbytes += nbytes
        if event.open_seconds:
            self.timeline.add(PARENT, Span(event.at - event.open_seconds, event.at, (event.open_seconds, 0.0, 0.0)))

    def _merge(self, event: StateMerged) -> None:
        self.merged += 1
        self.merged_bytes += event.nbytes
        self.merging += event.seconds
        self.last = max(self.last, event.at)
        self.timeline.add(PARENT, Span(event.at - event.seconds, event.at, (0.0, event.seconds, 0.0)))

    def _failure(self, event: ItemFailed) -> None:
        self.retries += event.will_retry
        self.skipped += not event.will_retry
        if not event.will_retry and len(self.failures) < FEW:
            what = " ".join(said(event.error).split())
            self.failures.append(f"item {event.index:,}, {event.item_repr}: {what[:200]}")

    def _death(self, event: WorkerDied) -> None:
        self.lost += 1
        if len(self.deaths) < FEW:
            code = "nobody knows how" if event.exitcode is None else f"exit code {event.exitcode}"
            how = event.reason or event.signal or code
            at_what = "" if event.suspect is None else f", running item {event.suspect:,}"
            self.deaths.append(Death(event.lane, event.at, f"worker {event.lane} died ({how}){at_what}"))

    def _checkpoint(self, event: Checkpointed) -> None:
        self.checkpoints += 1
        self.checkpointing += event.seconds
        self.checkpoint_bytes = event.nbytes
        self.timeline.add(PARENT, Span(event.at - event.seconds, event.at, (0.0, 0.0, event.seconds)))

    # -- what it adds up to ------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds of the run, so far."""
        return self.ended.elapsed if self.ended else max(0.0, self.last - self.started.at)

    @property
    def window(self) -> float:
        """Seconds from the first item's beginning to the last thing that happened: in which there was work."""
        return max(self.last - self.first, 1e-9) if self.hands else 1e-9

    @property
    def ran(self) -> int:
        """How many items were run, those that ran again as often as they did."""
        return sum(hand.items for hand in self.hands.values())

    def shares(self) -> Shares:
        """Where the time went."""
        if not self.hands:
            return Shares(self.elapsed)
        starting = max(0.0, self.first - self.started.at)
        capacity = self.window * max(1.0, self.started.workers / self.started.lanes_per_worker)
        hands, account = self.hands.values(), self.account
        waiting = max(0.0, account.waiting - max(0.0, starting - self.started.start_seconds))
        told = account.pulling + account.pickling + account.receiving + self.merging + waiting
        slow = self.at_the_end
        return Shares(
            self.elapsed,
            self.started.workers,
            starting=_share(starting, self.elapsed),
            mapping=_share(sum(hand.mapping for hand in hands), capacity),
            reducing=_share(sum(hand.reducing for hand in hands), capacity),
            packing=_share(sum(hand.packing for hand in hands), capacity),
            pulling=_share(account.pulling, self.window),
            pickling=_share(account.pickling, self.window),
            receiving=_share(account.receiving, self.window),
            merging=_share(self.merging, self.window),
            orders=_share(self.window - told, self.window) if account is not UNKNOWN else 0.0,
            tail=_share(self._tail(), self.elapsed),
            errand=_share(self._errand(), self.elapsed),
            slowest=slow.seconds,
            slowest_name=str(slow),
        )

    def _tail(self) -> float:
        """Seconds at the end in which half of the lanes or more had nothing left to do."""
        idle = [self.first] * (self.started.workers - len(self.hands))
        ends = sorted([*idle, *(max(hand.until, self.first) for hand in self.hands.values())])
        return ends[-1] - ends[(len(ends) - 1) // 2]

    def _errand(self) -> float:
        return self.started.at + self.elapsed - self.partitioned.at if self.partitioned and self.ended else 0.0


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _text(item: object) -> str:
    return "" if item is None else short_repr(item)
