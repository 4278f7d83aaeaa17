"""Track what each worker was given, and find a worker for the next chunk without asking each of a thousand.

Rule: after a change of a slot's chunks, of its capacity or of `retiring`, call `settle`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from operator import attrgetter

from poolagg._scheduler.messages import RunChunk
from poolagg._scheduler.ranges import Interval

__all__ = ["Slot", "Slots"]


_is_alone = attrgetter("alone")


@dataclass(slots=True, eq=False)
class Slot:
    """The work of one worker that has not come back: its chunks, the first of which runs, and the items it holds."""

    number: int
    chunks: deque[RunChunk] = field(default_factory=deque)
    cancelling: set[int] = field(default_factory=set)
    refused: int = -1
    yielding: int = -1
    """The chunk that was told to end early, so that it is told only once."""
    held: list[Interval] = field(default_factory=list)
    held_seconds: float = 0.0
    held_chunks: int = 0
    flushing: bool = False
    retiring: bool = False
    capacity: float = math.inf
    """How many more items its worker may be given."""
    reason: str = ""
    """Why the worker retires, if its capacity is less than a leaf."""

    @property
    def empty(self) -> bool:
        """True if the worker has nothing to run or to flush."""
        return not self.chunks and not self.held and not self.flushing

    @property
    def closed(self) -> bool:
        """True if the worker gets no more chunks: it is retiring, or has all the items that it may run."""
        return self.retiring or self.capacity < 1

    @property
    def alone(self) -> bool:
        """True if the worker runs a suspect, so that it gets no other chunk meanwhile."""
        return any(map(_is_alone, self.chunks))

    def forget(self) -> list[Interval]:
        """Forget the held items and return their intervals."""
        held, self.held, self.held_seconds, self.held_chunks = self.held, [], 0.0, 0
        return held


class Slots:
    """All slots by number, with an index of those that may get a chunk.

    >>> slots = Slots(3, in_flight=2)
    >>> slots.most_capacity().number, slots.idle
    (0, 3)
    >>> slots[0].retiring = True; slots.settle(slots[0])
    >>> slots.most_capacity().number, slots.idle, slots.retiring
    (1, 2, {0})
    """

    def __init__(self, count: int, in_flight: int, most_items: int | None = None) -> None:
        self._most_items = math.inf if most_items is None else most_items
        self._limited = most_items is not None
        self._slots = {number: Slot(number, capacity=self._most_items) for number in range(count)}
        self._capacities = [_Lowest() for _ in range(in_flight)]
        self._capacity_of: dict[int, int] = {}
        self.retiring: set[int] = set()
        self.alone: set[int] = set()
        self.busy: set[int] = set()
        for slot in self:
            self.settle(slot)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    @property
    def idle(self) -> int:
        """The number of workers that have no chunk and may get one."""
        return len(self._capacities[0].numbers)

    def most_capacity(self) -> Slot | None:
        """Return the slot with the fewest chunks that may get one, the lowest number first: O(log slots), amortized."""
        for capacity in self._capacities:
            if capacity.numbers:
                return self._slots[capacity.first()]
        return None

    def second_most_capacity(self) -> Slot | None:
        """Return the slot with the second fewest chunks, if it may get one; the first stays free: O(slots)."""
        slots = sorted((slot for slot in self if not (slot.closed or slot.alone)), key=lambda slot: len(slot.chunks))
        return next((slot for slot in slots[1:] if len(slot.chunks) < len(self._capacities)), None)

    def give(self, slot: Slot, run: RunChunk) -> None:
        """Record that the worker has this chunk, too."""
        slot.chunks.append(run)
        if self._limited:
            slot.capacity -= run.items()
        self.settle(slot)

    def finish(self, slot: Slot, reached: int) -> RunChunk:
        """Take out the worker's oldest chunk, which ran up to item `reached`."""
        run = slot.chunks.popleft()
        if self._limited:
            slot.capacity += run.items() - run.items(reached)
        self.settle(slot)
        return run

    def take_back(self, slot: Slot, chunk: int) -> RunChunk:
        """Take out a chunk that has not begun."""
        (run,) = (run for run in slot.chunks if run.chunk == chunk)
        slot.chunks.remove(run)
        slot.capacity += run.items()
        self.settle(slot)
        return run

    def spend(self, slot: Slot, items: float) -> None:
        """Reduce the number of items that the slot's worker may still run."""
        slot.capacity -= items
        self.settle(slot)

    def close(self, slot: Slot) -> None:
        """Give the worker no more chunks, because its capacity is less than a leaf."""
        run = self._most_items - slot.capacity
        slot.reason = f"it has run {run:,} items, and max_items_per_worker={self._most_items:,}"
        self.spend(slot, slot.capacity)

    def settle(self, slot: Slot) -> None:
        """Update the index after a change of the slot: O(log slots), amortized."""
        number, chunks, closed = slot.number, len(slot.chunks), slot.closed
        slot.retiring = slot.retiring or (closed and not chunks)
        alone = chunks > 0 and slot.alone
        (self.retiring.add if slot.retiring else self.retiring.discard)(number)
        (self.alone.add if alone else self.alone.discard)(number)
        (self.busy.add if chunks else self.busy.discard)(number)
        capacity = None if closed or alone or chunks >= len(self._capacities) else chunks
        before = self._capacity_of.pop(number, None)
        if before is not None and before != capacity:
            self._capacities[before].numbers.discard(number)
        if capacity is not None:
            self._capacity_of[number] = capacity
            self._capacities[capacity].add(number)

    def renew(self, number: int) -> None:
        """Replace the slot by an empty one for a new worker."""
        self._slots[number] = Slot(number, capacity=self._most_items)
        self.settle(self._slots[number])

    def check(self) -> None:
        """Assert that the index equals what asking each slot finds."""
        with_capacity = [
            slot for slot in self if not (slot.closed or slot.alone) and len(slot.chunks) < len(self._capacities)
        ]
        assert [slot for slot in self if slot.number in self._capacity_of] == with_capacity
        assert self.most_capacity() is min(with_capacity, key=lambda slot: len(slot.chunks), default=None)
        assert self.idle == sum(not slot.chunks and not slot.retiring for slot in self)
        assert self.retiring == {slot.number for slot in self if slot.retiring}
        assert self.alone == {slot.number for slot in self if slot.alone}
        assert self.busy == {slot.number for slot in self if slot.chunks}


class _Lowest:
    """A set of numbers that finds its lowest: a heap from which removed numbers are deleted lazily."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()
        self._heap: list[int] = []
        self._heaped: set[int] = set()

    def add(self, number: int) -> None:
        self.numbers.add(number)
        if number not in self._heaped:
            self._heaped.add(number)
            heappush(self._heap, number)

    def first(self) -> int:
        while self._heap[0] not in self.numbers:
            self._heaped.remove(heappop(self._heap))
        return self._heap[0]
