"""Track items: pulled and waiting for a worker, arrived out of order, or covered. Slots track those in workers.

Rule: only this module changes coverage, and covering an item twice is an error.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

from poolagg._scheduler.messages import Commit, Instruction, PartialState, Skip
from poolagg._scheduler.ranges import Interval, LeafGrid, RangeSet, overlaps, without

__all__ = ["Counts", "ItemTracker"]

GAPS = 1024
"""Intervals of failed items from which on the tracker forgets those that no longer matter."""


class Counts(NamedTuple):
    """How many items are in the result, how many failed for good, and how many have run without a failure."""

    merged: int = 0
    failed: int = 0
    done: int = 0


class ItemTracker:
    """The scheduler's record of items, from `pulled` to `covered`. Items that failed for good count as covered."""

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
        self._dropped = Counts()

    # -- pulled and waiting --------------------------------------------------------------------------------------------

    def pull(self, start: int, stop: int) -> list[Interval]:
        """Let items `start` to `stop` wait for a worker; return those that failed in an earlier run, which do not wait.

        `pulled` advances past them and past the items after them that an earlier run covered.
        """
        assert start == self.pulled, (start, self.pulled)
        failed = overlaps([(start, stop)], self.failed.near(start, stop))
        self.uncovered += stop - start - sum(end - begin for begin, end in failed)
        self.pulled = self._unpulled(stop)
        self.wait((start, stop))
        return failed

    def _unpulled(self, index: int) -> int:
        """Return the first item from `index` on that an earlier run did not cover, or the start of its leaf."""
        end = self.covered.end(index)
        if self.grid is None:
            return end
        start = max(index, self.grid.floor(end))
        return end if self._before.near(start, end) else start

    def chunk_end(self, start: int, size: int) -> int:
        """Return where a chunk of about `size` items ends: at a leaf boundary, if there are leaves."""
        return start + size if self.grid is None else self.grid.ceil(start + size)

    def wanted(self, size: int) -> int:
        """Return how many items to pull for a chunk of about `size`, up to those that an earlier run covered."""
        end = self.chunk_end(self.pulled, size)
        if before := self._before.near(self.pulled, end):
            end = before[0][0] if self.grid is None else self.grid.floor(before[0][0])
        return end - self.pulled

    def wait(self, *intervals: Interval) -> None:
        """Let these items wait for a worker (again)."""
        for interval in intervals:
            if self.to_run(interval):
                heapq.heappush(self.waiting, interval)

    def next(self, size: int) -> Interval:
        """Take the oldest items that wait; cut the interval if chunks have become smaller since it was a chunk."""
        start, stop = heapq.heappop(self.waiting)
        if stop - start > 2 * size and (end := self.chunk_end(start, size)) < stop:
            heapq.heappush(self.waiting, (end, stop))
            stop = end
        return start, stop

    def cut(self, interval: Interval, most: float) -> int:
        """Return the end of the first `most` of these items, or of the whole leaves among them."""
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
        """Keep a partial state until all items before it are covered."""
        self._arrivals += 1
        self.arrived_bytes += state.nbytes
        heapq.heappush(self.arrived, (state.covers[0][0], self._arrivals, state))

    def in_order(self) -> PartialState | None:
        """Take out the partial state that is next in input order, if it has arrived."""
        if not self.arrived or self.arrived[0][0] != self.covered.prefix:
            return None
        _, _, state = heapq.heappop(self.arrived)
        self.arrived_bytes -= state.nbytes
        return state

    def cover(self, state: PartialState) -> None:
        """Record that the items of a partial state are in the result."""
        self.uncovered -= state.items
        self.covered.update(state.covers)

    def skip(self, index: int) -> int | None:
        """Cover the item as failed. Return the number of its leaf if all items of that leaf have failed."""
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

    def drop(self, instructions: Iterable[Instruction]) -> None:
        """Leave out of the counts what the engine has not carried out, because the run ended early."""
        merged, failed, _ = self._dropped
        for instruction in instructions:
            if isinstance(instruction, Commit):
                merged += instruction.state.items
            failed += isinstance(instruction, Skip)
        self._dropped = Counts(merged, failed)

    def counts(self, in_workers: int) -> Counts:
        """Count the items by their state, with those that have run and are still in workers."""
        failed = self.failures - self._dropped.failed
        merged = len(self.covered) - self.failures - self._dropped.merged
        return Counts(merged, failed, merged + in_workers + sum(state.items for *_, state in self.arrived))

    @property
    def _settled(self) -> int:
        """The first item that may still run, alone or with its leaf; failures before it no longer matter."""
        prefix = self.covered.prefix
        return prefix if self.grid is None else self.grid.floor(prefix)

    # -- which items of an interval are to run -------------------------------------------------------------------------

    def failed_in(self, start: int, stop: int) -> tuple[int, ...]:
        """Return the items that failed for good; only a leaf that is folded again may contain any."""
        near = self.failed.near(start, stop)
        if not near:
            return ()
        parts = overlaps([(start, stop)], near)
        return tuple(index for a, b in parts for index in range(a, b))

    def to_run(self, interval: Interval) -> list[Interval]:
        """Return `interval` without the items that failed for good."""
        return without(interval, self.failed_in(*interval))

    def trimmed(self, start: int, stop: int) -> Interval | None:
        """Return the interval from the first to the last item that is to run, None if there is none."""
        left = self.to_run((start, stop))
        return (left[0][0], left[-1][1]) if left else None

    # -- leaves --------------------------------------------------------------------------------------------------------

    def leaf(self, index: int) -> Interval:
        """Return the leaf that `index` is in; the end of the input may cut the last one."""
        assert self.grid is not None
        _, start, stop = self.grid.leaf(index)
        return start, min(stop, self.pulled)

    def whole_leaves(self, interval: Interval) -> Interval:
        """Widen `interval` so that it cuts no leaf."""
        return interval if self.grid is None else (self.leaf(interval[0])[0], self.leaf(interval[1] - 1)[1])

    def leaves(self, state: PartialState) -> set[Interval]:
        """Return the leaves that a partial state covers items of."""
        found = set()
        for start, stop in state.covers:
            while start < stop:
                leaf = self.leaf(start)
                found.add(leaf)
                start = leaf[1]
        return found

    def is_probe(self, start: int, stop: int) -> bool:
        """Return whether these items are a part of a leaf, which runs only to see if it fails."""
        return self.grid is not None and (self.leaf(start)[0] < start or stop < self.leaf(stop - 1)[1])

    # -- the invariant -------------------------------------------------------------------------------------------------

    def check(self, elsewhere: Iterable[Interval], stopped: bool) -> None:
        """Assert that each pulled item is here or in exactly one of the intervals `elsewhere`."""
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
