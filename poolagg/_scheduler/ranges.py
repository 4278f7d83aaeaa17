"""Intervals and sets of item indices, and the fixed leaves of a reproducible run.

Rule: coverage is a set of item intervals, never of chunk numbers, so that the scheduler may re-cut chunks at any time.
"""

import bisect
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["Interval", "LeafGrid", "RangeSet", "overlap", "overlaps", "without"]

Interval: TypeAlias = tuple[int, int]
"""Item indices from the first up to, but excluding, the second."""


class RangeSet:
    """A set of item indices, stored as sorted, disjoint, non-adjacent intervals.

    Adding an index twice is an error: this enforces "exactly once". Finding a position is O(log n) and inserting there
    O(n), where n is the number of gaps, which a run keeps small.

    >>> covered = RangeSet([(0, 3), (5, 9)])
    >>> covered.add(3, 5)
    >>> covered, len(covered), covered.prefix
    (RangeSet([(0, 9)]), 9, 9)
    """

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        for start, stop in intervals:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Add `start` to `stop`; raise ValueError if the set contains any of them."""
        if start >= stop:
            return
        i = bisect.bisect_right(self._starts, start)
        if (i and self._stops[i - 1] > start) or (i < len(self._starts) and self._starts[i] < stop):
            raise ValueError(f"items {start} to {stop} would be counted twice: {self!r} overlaps them")
        self._count += stop - start
        joins_left = bool(i) and self._stops[i - 1] == start
        joins_right = i < len(self._starts) and self._starts[i] == stop
        if joins_left and joins_right:
            self._stops[i - 1] = self._stops[i]
            del self._starts[i], self._stops[i]
        elif joins_left:
            self._stops[i - 1] = stop
        elif joins_right:
            self._starts[i] = start
        else:
            self._starts.insert(i, start)
            self._stops.insert(i, stop)

    def update(self, intervals: Iterable[Interval]) -> None:
        """Add each of `intervals`."""
        for start, stop in intervals:
            self.add(start, stop)

    def __contains__(self, index: int) -> bool:
        i = bisect.bisect_right(self._starts, index)
        return bool(i) and index < self._stops[i - 1]

    def __iter__(self) -> Iterator[Interval]:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)})"

    def near(self, start: int, stop: int) -> list[Interval]:
        """Return the intervals that `start` to `stop` touches, at full length, in O(log n + their number)."""
        i, j = bisect.bisect_right(self._stops, start), bisect.bisect_left(self._starts, stop)
        return list(zip(self._starts[i:j], self._stops[i:j], strict=True))

    def end(self, index: int) -> int:
        """Return the first item from `index` on that the set lacks."""
        i = bisect.bisect_right(self._starts, index)
        return self._stops[i - 1] if i and index < self._stops[i - 1] else index

    def forget(self, index: int) -> None:
        """Remove the intervals that end at or before `index`: O(n)."""
        i = bisect.bisect_right(self._stops, index)
        self._count -= sum(self._stops[:i]) - sum(self._starts[:i])
        del self._starts[:i], self._stops[:i]

    @property
    def gaps(self) -> int:
        """The number of intervals."""
        return len(self._starts)

    @property
    def prefix(self) -> int:
        """The number of items from index 0 on without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0


def overlap(a: Interval, b: Interval) -> Interval:
    """Return the common part of two intervals; it is empty if its start is not before its stop."""
    return max(a[0], b[0]), min(a[1], b[1])


def overlaps(left: Iterable[Interval], right: Sequence[Interval]) -> list[Interval]:
    """Return the common part of each interval of `left` with each of `right`.

    >>> overlaps([(0, 6)], [(1, 2), (5, 9)])
    [(1, 2), (5, 6)]
    """
    common = (overlap(a, b) for a in left for b in right)
    return [(start, stop) for start, stop in common if start < stop]


def without(interval: Interval, indices: Collection[int]) -> list[Interval]:
    """Return `interval` without some single items.

    >>> without((0, 6), [2, 5])
    [(0, 2), (3, 5)]
    """
    start, stop = interval
    if not indices:
        return [interval] if start < stop else []
    left = []
    for index in sorted(indices):
        if start < index:
            left.append((start, index))
        start = index + 1
    if start < stop:
        left.append((start, stop))
    return left


GROUP = 64  # leaves of one size
LARGEST = 10  # log2 of the largest leaf


class LeafGrid(NamedTuple):
    """The fixed leaves of a reproducible run: an item's leaf depends on its index alone.

    With `size` each leaf has that many items. Without, leaves grow with the index (64 of one item, 64 of two, 64 of
    four, ... up to `largest`), so that a leaf is at most a sixty-fourth of the items before it, and a few heavy items
    are spread as well as many light ones.

    >>> LeafGrid(10).leaf(25), LeafGrid().leaf(5), LeafGrid().leaf(64 + 3), LeafGrid().leaf(10**6)
    ((2, 20, 30), (5, 5, 6), (65, 66, 68), (1552, 999360, 1000384))
    """

    size: int | None = None
    largest: int = 1 << LARGEST
    """Most items of a leaf where leaves grow: a power of two."""

    @property
    def most(self) -> int:
        """Most items of a leaf."""
        return self.largest if self.size is None else self.size

    def within(self, most: int | None) -> "LeafGrid":
        """Return a grid like this one whose leaves have at most `most` items."""
        if most is None or self.most <= most:
            return self
        return LeafGrid(None, 1 << (most.bit_length() - 1)) if self.size is None else LeafGrid(most)

    def leaf(self, index: int) -> tuple[int, int, int]:
        """Return the number, start and stop of the leaf that `index` is in."""
        if self.size is not None:
            number = index // self.size
            return number, number * self.size, (number + 1) * self.size
        group = min((index // GROUP + 1).bit_length(), self.largest.bit_length()) - 1
        base, size = GROUP * ((1 << group) - 1), 1 << group
        k = (index - base) // size
        return GROUP * group + k, base + k * size, base + (k + 1) * size

    def floor(self, index: int) -> int:
        """Return the last leaf boundary at or before `index`."""
        return self.leaf(index)[1]

    def ceil(self, index: int) -> int:
        """Return the first leaf boundary at or after `index`."""
        return self.leaf(index - 1)[2] if index else 0
