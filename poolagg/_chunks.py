"""Items as intervals of their index, and the bytes they travel as.

Rule of the room: coverage is a set of item-index intervals, never chunk numbers, so that chunks may be cut anew at
any time. Everything here knows indices and opaque parcels; nothing knows a worker.
"""

from __future__ import annotations

import bisect
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Grid", "Interval", "Intervals", "Parcel", "Parcels", "Source", "is_sliced", "open_parcel"]

Interval: TypeAlias = tuple[int, int]
"""Item indices from the first up to, and without, the second."""


class Intervals:
    """A set of item indices, kept as sorted, disjoint, non-adjacent intervals.

    Adding what is already there is an error: this is where "exactly once" is enforced. O(log n) to find a place,
    O(n) to insert there, with n the number of gaps, which a run keeps small.

    >>> covered = Intervals([(0, 3), (5, 9)])
    >>> covered.add(3, 5)
    >>> covered, len(covered), covered.prefix
    (Intervals([(0, 9)]), 9, 9)
    """

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        for start, stop in intervals:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Add `start` to `stop`; ValueError if any of them is in already."""
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
        return isinstance(other, Intervals) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Intervals({list(self)})"

    def near(self, start: int, stop: int) -> list[Interval]:
        """The intervals that `start` to `stop` touches, at their full length: O(log n) and those."""
        i, j = bisect.bisect_right(self._stops, start), bisect.bisect_left(self._starts, stop)
        return list(zip(self._starts[i:j], self._stops[i:j], strict=True))

    def end(self, index: int) -> int:
        """The first item from `index` on that is not in."""
        i = bisect.bisect_right(self._starts, index)
        return self._stops[i - 1] if i and index < self._stops[i - 1] else index

    @property
    def prefix(self) -> int:
        """How many items from index 0 on are in without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0


def overlap(a: Interval, b: Interval) -> Interval:
    """What two intervals have in common; it is empty where the start is not before the stop."""
    return max(a[0], b[0]), min(a[1], b[1])


def overlaps(left: Iterable[Interval], right: Sequence[Interval]) -> list[Interval]:
    """What each interval of `left` has in common with each of `right`.

    >>> overlaps([(0, 6)], [(1, 2), (5, 9)])
    [(1, 2), (5, 6)]
    """
    common = (overlap(a, b) for a in left for b in right)
    return [(start, stop) for start, stop in common if start < stop]


def without(interval: Interval, indices: Iterable[int]) -> list[Interval]:
    """`interval` less some single items.

    >>> without((0, 6), [2, 5])
    [(0, 2), (3, 5)]
    """
    start, stop = interval
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


class Grid(NamedTuple):
    """The fixed leaves of a reproducible run: which items share a leaf depends on the item index alone.

    With `size` every leaf has that many items. Without, leaves grow with the index (64 of one item, 64 of two, of
    four, ... up to 1024), so that a leaf is never more than a sixty-fourth of the work before it, and a few heavy
    items are spread as well as many light ones.

    >>> Grid(10).leaf(25), Grid().leaf(5), Grid().leaf(64 + 3), Grid().leaf(10**6)
    ((2, 20, 30), (5, 5, 6), (65, 66, 68), (1552, 999360, 1000384))
    """

    size: int | None = None

    def leaf(self, index: int) -> tuple[int, int, int]:
        """The number, start and stop of the leaf that `index` is in."""
        if self.size is not None:
            number = index // self.size
            return number, number * self.size, (number + 1) * self.size
        group = min((index // GROUP + 1).bit_length() - 1, LARGEST)
        base, size = GROUP * ((1 << group) - 1), 1 << group
        k = (index - base) // size
        return GROUP * group + k, base + k * size, base + (k + 1) * size

    def floor(self, index: int) -> int:
        """The last leaf boundary at or before `index`."""
        return self.leaf(index)[1]

    def ceil(self, index: int) -> int:
        """The first leaf boundary at or after `index`."""
        return self.leaf(index - 1)[2] if index else 0


# Items of these exact types cannot change after they were pulled, so a whole chunk of them is pickled at once; all
# others are pickled one by one as they are pulled, for a generator may reuse its buffer.
_NUMBERS = frozenset({int, float, bool, complex, type(None)})
_ATOMS = _NUMBERS | {str, bytes}

PLAIN, PACKED, LOOSE = "plain", "packed", "loose"


class Parcel(NamedTuple):
    """Consecutive items in the form they travel in: `kind` says how to open `data`."""

    start: int
    stop: int
    kind: str
    data: Any
    nbytes: int


def open_parcel(kind: str, data: Any, offset: int, count: int) -> tuple[Sequence[Any], bool]:
    """`count` items of a parcel from `offset` on, and whether each is still pickled on its own."""
    items = data if kind == LOOSE else pickle.loads(data)
    whole = offset == 0 and count == len(items)
    return (items if whole else items[offset : offset + count]), kind == PACKED


class Source:
    """Pulls an iterable lazily, on the caller's thread, into parcels.

    `encode` pickles one item (None: items go by reference, as between threads). A `range` or a numpy array is not
    iterated: it travels as a slice of itself.
    """

    def __init__(self, iterable: Iterable[Any], encode: Callable[[Any], bytes] | None) -> None:
        self.total = _length(iterable)
        self.ended = False
        self._encode = encode
        self._sliced = iterable if encode is not None and is_sliced(iterable) else None
        self._iterator = iter(()) if self._sliced is not None else iter(iterable)
        self._start = 0
        self._items: list[Any] = []
        self._packed = False
        self._packing = 0.0
        self._nbytes = 0
        self._slice_count = 0

    @property
    def in_hand(self) -> int:
        """How many items are pulled and not yet sealed into a parcel."""
        return self._slice_count if self._sliced is not None else len(self._items)

    @property
    def position(self) -> int:
        """How many items have been pulled altogether."""
        return self._start + self.in_hand

    @property
    def nbytes(self) -> int:
        """About how many bytes the items in hand take."""
        return self._nbytes

    @property
    def packing(self) -> float:
        """About how many seconds it took to pickle the items in hand one by one: as long as the first of them each."""
        return self._packing * len(self._items) if self._packed else 0.0

    def pull(self, count: int, most_bytes: int, clock: Callable[[], float], until: float) -> None:
        """Pull until `count` items are in hand, or `most_bytes`, or `clock()` passes `until`; at least one item."""
        if self._sliced is not None:
            left = len(self._sliced) - self._start  # type: ignore[arg-type]
            self._slice_count = min(count, left)
            self.ended = self._slice_count == left
            return
        items = self._items
        coming = islice(self._iterator, count - len(items))
        wanted: Iterator[Any] | None = coming
        if not self._packed and self._encode is not None:
            wanted = self._pull_numbers(coming, clock, until)
        if wanted is None:
            return
        for item in wanted:
            if type(item) in _ATOMS or self._encode is None:
                if self._packed:
                    item = self._pack(item)
                elif type(item) in (str, bytes):
                    self._nbytes += len(item)
                items.append(item)
                self._nbytes += 8
            else:
                if self._packed:
                    items.append(self._pack(item))
                else:
                    self._pack_all()
                    began = clock()
                    items.append(self._pack(item))
                    self._packing = clock() - began
            if self._nbytes > most_bytes or clock() > until:
                return
        self.ended = len(items) < count

    def _pull_numbers(self, wanted: Iterator[Any], clock: Callable[[], float], until: float) -> Iterator[Any] | None:
        """Pull numbers, of which there may be very many, with as little as possible for each.

        Gives what is left to be pulled, None if the time is up.
        """
        items = self._items
        add, before = items.append, len(items)
        try:
            for item in wanted:
                if type(item) not in _NUMBERS:
                    return chain((item,), wanted)
                add(item)
                if clock() > until:
                    return None
        finally:
            self._nbytes += 8 * (len(items) - before)
        return wanted

    def skip(self, count: int) -> Iterator[Any]:
        """Pull `count` items past the engine: for a continued run, which has them in its result already."""
        self._start += count
        if self._sliced is not None:
            return iter(self._sliced[self._start - count : self._start])  # type: ignore[index]
        return islice(self._iterator, count)

    def seal(self, count: int) -> Parcel:
        """Make a parcel of the first `count` items in hand."""
        start, stop = self._start, self._start + count
        self._start = stop
        if self._sliced is not None:
            self._slice_count -= count
            data: Any = pickle.dumps(self._sliced[start:stop], 5)  # type: ignore[index]
            return Parcel(start, stop, PLAIN, data, len(data))
        items, self._items = self._items[:count], self._items[count:]
        kind = LOOSE if self._encode is None else PACKED if self._packed else PLAIN
        data = items if kind == LOOSE else pickle.dumps(items, 5)
        nbytes = self._nbytes if kind == LOOSE else len(data)
        self._nbytes = sum(map(sys.getsizeof, self._items))
        self._packed = self._packed and bool(self._items)
        return Parcel(start, stop, kind, data, nbytes)

    def _pack(self, item: Any) -> bytes:
        assert self._encode is not None
        data = self._encode(item)
        self._nbytes += len(data)
        return data

    def _pack_all(self) -> None:
        self._packed = True
        self._items[:] = map(self._pack, self._items)


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        return None


def is_sliced(iterable: Any) -> bool:
    """Whether an input travels as slices of itself: a range, or an array of plain numbers."""
    if type(iterable) is range:
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(iterable) is numpy.ndarray and iterable.ndim > 0 and not iterable.dtype.hasobject


class Parcels:
    """The parcels whose items are not all covered yet: what a re-run is made from.

    >>> parcels = Parcels()
    >>> parcels.add(Parcel(0, 4, LOOSE, "abcd", 4))
    >>> parcels.find(2).data, parcels.nbytes
    ('abcd', 4)
    >>> parcels.release(0, 3); parcels.release(3, 4); parcels.nbytes
    0
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._parcels: list[Parcel] = []
        self._left: list[int] = []
        self.nbytes = 0

    def add(self, parcel: Parcel) -> None:
        """Keep a parcel; parcels come in input order."""
        self._starts.append(parcel.start)
        self._parcels.append(parcel)
        self._left.append(parcel.stop - parcel.start)
        self.nbytes += parcel.nbytes

    def find(self, index: int) -> Parcel:
        """The parcel that holds item `index`."""
        return self._parcels[self._place(index)]

    def release(self, start: int, stop: int) -> None:
        """Items `start` to `stop` are covered: a parcel with none left is let go."""
        while start < stop:
            i = self._place(start)
            parcel = self._parcels[i]
            count = min(stop, parcel.stop) - start
            start += count
            self._left[i] -= count
            if not self._left[i]:
                self.nbytes -= parcel.nbytes
                del self._starts[i], self._parcels[i], self._left[i]

    def _place(self, index: int) -> int:
        i = bisect.bisect_right(self._starts, index) - 1
        if i < 0 or index >= self._parcels[i].stop:
            raise LookupError(f"item {index} is not kept")
        return i

    def __len__(self) -> int:
        return len(self._parcels)
