"""What the plan knows of each lane, and who may be given a chunk, known without asking each of a thousand lanes.

Rule of the room: whoever changes a lane's chunks, its room, or whether it is worn, says so by `settle`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from operator import attrgetter

from poolagg._chunks import Interval
from poolagg._orders import Run

__all__ = ["Lane", "Lanes"]


_is_alone = attrgetter("alone")


@dataclass(slots=True)
class Lane:
    """What was given to a lane and has not come back: chunks, the first of which runs, and what it holds."""

    number: int
    chunks: deque[Run] = field(default_factory=deque)
    revoking: set[int] = field(default_factory=set)
    refused: int = -1
    yielding: int = -1
    """The chunk that was asked to end early; it is asked once."""
    held: list[Interval] = field(default_factory=list)
    held_seconds: float = 0.0
    held_chunks: int = 0
    shipping: bool = False
    worn: bool = False
    room: float = math.inf
    """How many items its worker may still be given."""
    reason: str = ""
    """Why it may be given nothing more, if there was room for less than a leaf."""

    @property
    def empty(self) -> bool:
        """Whether nothing is to come from it."""
        return not self.chunks and not self.held and not self.shipping

    @property
    def closed(self) -> bool:
        """Whether it may be given nothing more: its worker is worn, or has all the items that it may run."""
        return self.worn or self.room < 1

    @property
    def alone(self) -> bool:
        """Whether it runs a suspect, beside which it may be given nothing."""
        return any(map(_is_alone, self.chunks))

    def forget(self) -> list[Interval]:
        """Give up what is held, and give its intervals."""
        held, self.held, self.held_seconds, self.held_chunks = self.held, [], 0.0, 0
        return held


class Lanes:
    """All lanes, by their numbers, with an account of who has room.

    >>> lanes = Lanes(3, in_flight=2)
    >>> lanes.roomiest().number, lanes.idle
    (0, 3)
    >>> lanes[0].worn = True; lanes.settle(lanes[0])
    >>> lanes.roomiest().number, lanes.idle, lanes.worn
    (1, 2, {0})
    """

    def __init__(self, count: int, in_flight: int, most_items: int | None = None) -> None:
        self._most_items = math.inf if most_items is None else most_items
        self._limited = most_items is not None
        self._lanes = {number: Lane(number, room=self._most_items) for number in range(count)}
        self._rooms = [_Lowest() for _ in range(in_flight)]
        self._room_of: dict[int, int] = {}
        self.worn: set[int] = set()
        self.alone: set[int] = set()
        self.busy: set[int] = set()
        for lane in self:
            self.settle(lane)

    def __getitem__(self, number: int) -> Lane:
        return self._lanes[number]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    @property
    def idle(self) -> int:
        """How many have no chunk, and may be given one."""
        return len(self._rooms[0].numbers)

    def roomiest(self) -> Lane | None:
        """Of those that may be given a chunk one with the fewest, the lowest number first: O(log lanes), amortized."""
        for room in self._rooms:
            if room.numbers:
                return self._lanes[room.first()]
        return None

    def second_roomiest(self) -> Lane | None:
        """Give the lane with the second fewest chunks, if it may be given one; the first is kept free: O(lanes)."""
        lanes = sorted((lane for lane in self if not (lane.closed or lane.alone)), key=lambda lane: len(lane.chunks))
        return next((lane for lane in lanes[1:] if len(lane.chunks) < len(self._rooms)), None)

    def give(self, lane: Lane, run: Run) -> None:
        """The lane has this chunk, too."""
        lane.chunks.append(run)
        if self._limited:
            lane.room -= run.items()
        self.settle(lane)

    def finish(self, lane: Lane, reached: int) -> Run:
        """Take out the lane's oldest chunk, which ran as far as item `reached`."""
        run = lane.chunks.popleft()
        if self._limited:
            lane.room += run.items() - run.items(reached)
        self.settle(lane)
        return run

    def take_back(self, lane: Lane, chunk: int) -> Run:
        """Take out a chunk that has not begun."""
        (run,) = (run for run in lane.chunks if run.chunk == chunk)
        lane.chunks.remove(run)
        lane.room += run.items()
        self.settle(lane)
        return run

    def spend(self, lane: Lane, items: float) -> None:
        """The lane's worker may run so many items fewer."""
        lane.room -= items
        self.settle(lane)

    def close(self, lane: Lane) -> None:
        """The lane is given nothing more: what its worker may still run is less than a leaf."""
        run = self._most_items - lane.room
        lane.reason = f"it has run {run:,} items, and max_items_per_worker={self._most_items:,}"
        self.spend(lane, lane.room)

    def settle(self, lane: Lane) -> None:
        """Its chunks, or its room, have changed, or it is worn: O(log lanes), amortized."""
        number, chunks, closed = lane.number, len(lane.chunks), lane.closed
        lane.worn = lane.worn or (closed and not chunks)
        alone = chunks > 0 and lane.alone
        (self.worn.add if lane.worn else self.worn.discard)(number)
        (self.alone.add if alone else self.alone.discard)(number)
        (self.busy.add if chunks else self.busy.discard)(number)
        room = None if closed or alone or chunks >= len(self._rooms) else chunks
        before = self._room_of.pop(number, None)
        if before is not None and before != room:
            self._rooms[before].numbers.discard(number)
        if room is not None:
            self._room_of[number] = room
            self._rooms[room].add(number)

    def renew(self, number: int) -> None:
        """Another worker is in its place, and knows of nothing."""
        self._lanes[number] = Lane(number, room=self._most_items)
        self.settle(self._lanes[number])

    def check(self) -> None:
        """Assert that the account is what one finds by asking each lane."""
        with_room = [lane for lane in self if not (lane.closed or lane.alone) and len(lane.chunks) < len(self._rooms)]
        assert [lane for lane in self if lane.number in self._room_of] == with_room
        assert self.roomiest() is min(with_room, key=lambda lane: len(lane.chunks), default=None)
        assert self.idle == sum(not lane.chunks and not lane.worn for lane in self)
        assert self.worn == {lane.number for lane in self if lane.worn}
        assert self.alone == {lane.number for lane in self if lane.alone}
        assert self.busy == {lane.number for lane in self if lane.chunks}


class _Lowest:
    """Numbers that come and go, with the lowest at hand: a heap, where those that went stay until they surface."""

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
