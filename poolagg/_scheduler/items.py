"""Where items are: pulled and waiting for a worker, arrived out of order, or covered. What runs or is held, workers
know.

Rule: every change of what is covered happens here, and covering an item twice is an error.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from poolagg._scheduler.messages import PartialState
from poolagg._scheduler.ranges import Interval, LeafGrid, RangeSet, overlaps, without

__all__ = ["ItemTracker"]

GAPS = 1024
"""RangeSet of failed items that are kept before those that no longer matter are looked for."""


class ItemTracker:
    """The scheduler's account of items, from `pulled` to `covered`. Items that failed for good are covered, too."""

    def __init__(self, grid: LeafGrid | None, covered: Iterable[Interval], failed: Iterable[Interval]) -> None:
        self.grid = grid
        self.covered = RangeSet(covered)
        self.failed = RangeSet(failed)
        self.failures = len(self.failed)
        self._tidy_at = GAPS
        self._before = RangeSet(part for before in self.covered for part in self.to_run(before))
        self.uncovered = 0
        self.pulled = self._unpulled(0)
        self.waiting: list[Interval] = []  # a heap: the oldest first
        self.arrived: list[tuple[int, int, PartialState]] = []  # a heap: the oldest first
        self.arrived_bytes = 0
        self._arrivals = 0

    # -- pulled and waiting --------------------------------------------------------------------------------------------

    def pull(self, start: int, stop: int) -> list[Interval]:
        """Have the items `start` to `stop` wait; return those that failed in an earlier run, and do not.

        `pulled` passes them, and what an earlier run covered behind them.
        """
        assert start == self.pulled, (start, self.pulled)
        failed = overlaps([(start, stop)], self.failed.near(start, stop))
        self.uncovered += stop - start - sum(end - begin for begin, end in failed)
        self.pulled = self._unpulled(stop)
        self.wait((start, stop))
        return failed

    def _unpulled(self, index: int) -> int:
        """The first item from `index` on that an earlier run did not cover. A leaf is begun at its start."""
        end = self.covered.end(index)
        if self.grid is None:
            return end
        start = max(index, self.grid.floor(end))
        return end if self._before.near(start, end) else start

    def chunk_end(self, start: int, size: int) -> int:
        """Where a chunk of about `size` items ends: at a leaf boundary, if there are leaves."""
        return start + size if self.grid is None else self.grid.ceil(start + size)

    def wanted(self, size: int) -> int:
        """How many items to pull for a chunk of about `size`: none that an earlier run covered."""
        end = self.chunk_end(self.pulled, size)
        if before := self._before.near(self.pulled, end):
            end = before[0][0] if self.grid is None else self.grid.floor(before[0][0])
        return end - self.pulled

    def wait(self, *intervals: Interval) -> None:
        """These items wait for a worker (again)."""
        for interval in intervals:
            if self.to_run(interval):
                heapq.heappush(self.waiting, interval)

    def next(self, size: int) -> Interval:
        """The oldest items that wait: no more than a chunk should have by now, which may be less than it had."""
        start, stop = heapq.heappop(self.waiting)
        if stop - start > 2 * size and (end := self.chunk_end(start, size)) < stop:
            heapq.heappush(self.waiting, (end, stop))
            stop = end
        return start, stop

    def cut(self, interval: Interval, most: float) -> int:
        """The end of the first `most` of these items; of the leaves among them, for a leaf is never cut."""
        start, stop = interval
        left = most
        for first, last in self.to_run(interval):
            if last - first > left:
                end = first + int(left)
                return end if self.grid is None else max(start, self.grid.floor(end))
            left -= last - first
        return stop

    # -- arrived and covered -------------------------------------------------------------------------------------------

    def arrive(self, state: PartialState) -> None:
        """Keep a piece until all before it are covered."""
        self._arrivals += 1
        self.arrived_bytes += state.nbytes
        heapq.heappush(self.arrived, (state.covers[0][0], self._arrivals, state))

    def in_order(self) -> PartialState | None:
        """Take the piece out that comes next in input order, if it is there."""
        if not self.arrived or self.arrived[0][0] != self.covered.prefix:
            return None
        _, _, state = heapq.heappop(self.arrived)
        self.arrived_bytes -= state.nbytes
        return state

    def cover(self, state: PartialState) -> None:
        """The piece's items are in the result."""
        self.uncovered -= state.items
        self.covered.update(state.covers)

    def skip(self, index: int) -> int | None:
        """The item is given up: covered as failed. Return its leaf's number if no item of that leaf is left."""
        self.uncovered -= 1
        self.covered.add(index, index + 1)
        self.failed.add(index, index + 1)
        self.failures += 1
        number = None if self.grid is None else self._failed_leaf(self.grid, index)
        if self.failed.gaps > self._tidy_at:
            self.failed.forget(self._settled)
            self._tidy_at = max(GAPS, 2 * self.failed.gaps)
        return number

    def _failed_leaf(self, grid: LeafGrid, index: int) -> int | None:
        number, start, stop = grid.leaf(index)
        return number if self.failed.near(start, stop) and self.failed.end(start) >= stop else None

    @property
    def _settled(self) -> int:
        """The first item that may still run, or whose leaf may: nothing asks which items before it failed."""
        prefix = self.covered.prefix
        return prefix if self.grid is None else self.grid.floor(prefix)

    # -- which of some items are to run --------------------------------------------------------------------------------

    def failed_in(self, start: int, stop: int) -> tuple[int, ...]:
        """The items that failed for good; only a leaf that is folded anew may still contain such."""
        near = self.failed.near(start, stop)
        if not near:
            return ()
        parts = overlaps([(start, stop)], near)
        return tuple(index for a, b in parts for index in range(a, b))

    def to_run(self, interval: Interval) -> list[Interval]:
        """`interval` less the items that failed for good."""
        return without(interval, self.failed_in(*interval))

    def trimmed(self, start: int, stop: int) -> Interval | None:
        """From the first to the last item that is to run, if there is one."""
        left = self.to_run((start, stop))
        return (left[0][0], left[-1][1]) if left else None

    # -- leaves --------------------------------------------------------------------------------------------------------

    def leaf(self, index: int) -> Interval:
        """The leaf that `index` is in; the last may be cut off by the input's end."""
        assert self.grid is not None
        _, start, stop = self.grid.leaf(index)
        return start, min(stop, self.pulled)

    def whole_leaves(self, interval: Interval) -> Interval:
        """Widen `interval` so that it cuts no leaf."""
        return interval if self.grid is None else (self.leaf(interval[0])[0], self.leaf(interval[1] - 1)[1])

    def leaves(self, state: PartialState) -> set[Interval]:
        """The leaves that a piece covers items of."""
        found = set()
        for start, stop in state.covers:
            while start < stop:
                leaf = self.leaf(start)
                found.add(leaf)
                start = leaf[1]
        return found

    def is_probe(self, start: int, stop: int) -> bool:
        """Whether these items are a part of a leaf: which runs only to see whether it fails."""
        return self.grid is not None and (self.leaf(start)[0] < start or stop < self.leaf(stop - 1)[1])

    # -- the invariant -------------------------------------------------------------------------------------------------

    def check(self, elsewhere: Iterable[Interval], stopped: bool) -> None:
        """Assert that every pulled item is here or in just one of the intervals `elsewhere`."""
        everywhere = RangeSet(self.covered)
        for interval in self.waiting:
            everywhere.update(self.to_run(interval))
        for _, _, state in self.arrived:
            everywhere.update(state.covers)
        everywhere.update(elsewhere)
        if not stopped:
            assert everywhere.prefix >= self.pulled, (everywhere, self.pulled)
            assert self.uncovered == self.pulled - sum(b - a for a, b in overlaps(self.covered, [(0, self.pulled)]))
        assert all(index in self.covered for start, stop in self.failed for index in range(start, stop))
        assert self.arrived_bytes == sum(state.nbytes for *_, state in self.arrived)
