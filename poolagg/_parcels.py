"""The input as parcels: consecutive items in the form they travel in, kept until they are in the result.

An item is pickled when it is pulled, since a generator may reuse its buffer. Its large buffers are copied once, beside
the pickle, so that they can go through memory that is shared with a worker. Who wants to know what the input is (for a
checkpoint) sees each item before it is handed on: as it is pulled, or many at a time if they cannot change.
"""

from __future__ import annotations

import bisect
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from types import GeneratorType
from typing import Any, NamedTuple, Protocol, TypeAlias

from poolagg._numbers import PIECE, TYPES, Numbers, Puller, cut_pieces, join_pieces, read_piece, write_piece

__all__ = [
    "PACKED",
    "Encoded",
    "Packed",
    "Parcel",
    "Parcels",
    "Source",
    "Witness",
    "is_sliced",
    "length_of",
    "open_item",
    "open_parcel",
    "open_watched",
    "size_of",
]

# Items of these exact types cannot change after they were pulled, so a whole chunk of them is pickled at once; all
# others are pickled one by one as they are pulled, for a generator may reuse its buffer.
_ATOMS = TYPES | {str, bytes}

_ENDED_FOR_GOOD = {*map(type, map(iter, ([], (), "", b"", {}, set(), range(0))))} | {GeneratorType}
"""Iterators that remember their end, so that to ask them again runs no code of the user's."""

TOGETHER = 64
"""Numbers that are pulled between two looks at the clock, from a source that is quick. So many, less one, may have to
wait for each other, once, when it stops being quick; looking after each would take longer than pulling does."""

MANY = 1000
"""Numbers from which on a source is quick that gave as many in one go, which lasts a millisecond."""

NUMBERS, PLAIN, PACKED, LOOSE = "numbers", "plain", "packed", "loose"


class Packed(NamedTuple):
    """A pickle, and the large buffers that belong to it."""

    pickle: Any
    buffers: Sequence[Any]


Encoded: TypeAlias = bytes | Packed


class Parcel(NamedTuple):
    """Consecutive items in the form they travel in.

    `data` is one pickle of them all (kind "plain"), a list of pickles ("packed"), or the items themselves ("loose").
    Numbers are written in pieces ("numbers"), which is quicker, and whose bytes digests are made of.
    """

    start: int
    stop: int
    kind: str
    data: Any
    nbytes: int

    def cut(self, start: int, stop: int) -> tuple[str, Any, int]:
        """What of it must travel for items `start` to `stop`: the kind, the data, and where in that they begin."""
        if self.kind in (NUMBERS, PLAIN):
            return self.kind, self.data, start - self.start
        return self.kind, self.data[start - self.start : stop - self.start], 0


def open_parcel(kind: str, data: Any, offset: int, count: int) -> tuple[Sequence[Any], Callable[[Any], Any] | None]:
    """`count` items of a parcel from `offset` on, and what opens each of them if it is still pickled on its own."""
    if kind == NUMBERS:
        return Numbers(data, offset, count), None
    items = open_item(data) if kind == PLAIN else data
    if offset or count != len(items):
        items = items[offset : offset + count]
    if kind != PACKED:
        return items, None
    return items, open_item if Packed in set(map(type, items)) else pickle.loads


def open_item(data: Encoded) -> Any:
    """Unpickle, upon the very buffers if there are any; those that are kept for a re-run are copied."""
    if not isinstance(data, Packed):
        return pickle.loads(data)
    buffers = [bytearray(buffer) if isinstance(buffer, bytes) else buffer for buffer in data.buffers]
    return pickle.loads(data.pickle, buffers=buffers)


def open_watched(data: Packed, alive: Callable[[], None]) -> Any:
    """Unpickle, upon the very buffers; `alive` is called for each 64 kB of the pickle."""
    return pickle.load(_Watched(data.pickle, alive), buffers=data.buffers)


class _Watched(io.BytesIO):
    def __init__(self, data: bytes, alive: Callable[[], None]) -> None:
        super().__init__(data)
        self._alive = alive

    def read(self, size: int | None = -1) -> bytes:
        self._alive()
        return super().read(size)


def size_of(data: Encoded) -> int:
    """How many bytes travel."""
    return len(data.pickle) + sum(map(len, data.buffers)) if isinstance(data, Packed) else len(data)


class Witness(Protocol):
    """Who sees every item of an input, in its order, before it is handed on."""

    def see(self, item: Any) -> None:
        """One that was pulled just now, and may change."""

    def see_all(self, items: Sequence[Any], dumped: bytes | None) -> None:
        """Some that cannot change; `dumped` is what marshal makes of them, if somebody has it."""

    def ended(self) -> None:
        """There are no more."""


class Source:
    """Pulls an iterable lazily, on the caller's thread, into parcels.

    `encode` pickles one item (None: items go by reference, as between threads). A `range` or a numpy array is not
    iterated: it travels as a slice of itself.
    """

    def __init__(
        self, iterable: Iterable[Any], encode: Callable[[Any], Encoded] | None, witness: Witness | None = None
    ) -> None:
        self.total = length_of(iterable)
        self.ended = False
        self._encode = encode
        self._witness = witness
        self._sliced = iterable if encode is not None and is_sliced(iterable) else None
        self._iterator = iter(()) if self._sliced is not None else asked_once(iter(iterable))
        self._puller = Puller(self._iterator)
        self._start = 0
        self._items: list[Any] = []
        self._pieces: list[bytes] = []  # of numbers, which come before those
        self._written = 0  # how many there are in pieces
        self._kind = self._first_kind = LOOSE if encode is None else NUMBERS
        self._seen = 0  # items in hand that the witness has seen; of those that are packed it has seen all
        self._together = 1
        self._packing = 0.0
        self._nbytes = 0
        self._slice_count = 0

    @property
    def in_hand(self) -> int:
        """How many items are pulled and not yet sealed into a parcel."""
        return self._slice_count if self._sliced is not None else self._written + len(self._items)

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
        return self._packing * len(self._items) if self._kind == PACKED else 0.0

    def pull(self, count: int, most_bytes: int, clock: Callable[[], float], until: float) -> None:
        """Pull until `count` items are in hand, or `most_bytes`, or `clock()` passes `until`; at least one item."""
        if self._sliced is not None:
            assert self.total is not None
            left = self.total - self._start
            self._slice_count = min(count, left)
            self.ended = self._slice_count == left
            return
        items = self._items
        coming = self._pull_numbers(count, clock, until) if self._kind == NUMBERS else self._coming(count - len(items))
        if coming is None:
            return
        for item in coming:
            if self._kind == PACKED:
                if self._witness is not None:
                    self._witness.see(item)
                items.append(self._pack(item))
            elif type(item) in _ATOMS:
                if type(item) in (str, bytes):
                    self._nbytes += len(item)
                items.append(item)
                self._nbytes += 8
            else:
                self._take(item, clock)
            if self._nbytes > most_bytes or clock() > until:
                return
        if self.in_hand < count:
            self.ended = True
            self._see_rest(items)
            if self._witness is not None:
                self._witness.ended()

    def _coming(self, count: int) -> Iterator[Any]:
        return islice(self._iterator, count)

    def _pull_numbers(self, count: int, clock: Callable[[], float], until: float) -> Iterator[Any] | None:
        """Pull numbers, of which there may be very many, with as little as possible for each.

        Gives what is left to be pulled, None if the time is up.
        """
        items, before = self._items, self.in_hand
        pull, left = self._puller.pull, count - before
        try:
            while left > 0:
                end = len(items) + min(left, self._together)
                left -= self._together
                if other := pull(items, end - len(items)):  # and nothing is pulled before it is kept
                    self._read_pieces()
                    self._kind = PLAIN
                    return chain(other, self._coming(count - len(items) - 1))
                if len(items) < end:
                    break
                if end >= PIECE:
                    self._write_piece()
                if clock() > until:
                    self._together = TOGETHER if self.in_hand - before > MANY else 1
                    return None
            return iter(())
        finally:
            self._nbytes += 8 * (self.in_hand - before)

    def _write_piece(self) -> None:
        """Of all numbers in hand that are in none."""
        items = self._items
        if items:
            self._pieces.append(write_piece(items))
            self._see_rest(items, self._pieces[-1])
            self._written += len(items)
            self._seen = 0
            items.clear()

    def _read_pieces(self) -> None:
        """Have all in hand as they were pulled."""
        seen = [number for piece in self._pieces for number in read_piece(piece)]
        self._items[:0] = seen
        self._seen += len(seen)
        self._pieces, self._written = [], 0

    def _take(self, item: Any, clock: Callable[[], float]) -> None:
        """The first item that may change after it was pulled: from here on each is pickled as it is pulled."""
        items = self._items
        self._see_rest(items)
        if self._witness is not None:
            self._witness.see(item)
        if self._encode is None:
            items.append(item)
            self._seen += 1
            self._nbytes += 8 + _buffer_size(item)
            return
        self._kind, self._seen = PACKED, 0
        items[:] = map(self._pack, items)
        began = clock()
        items.append(self._pack(item))
        self._packing = clock() - began

    def _see_rest(self, items: list[Any], dumped: bytes | None = None) -> None:
        """Show what of these items, the first in hand, was not shown yet, for it cannot change."""
        if self._witness is not None and self._kind != PACKED and self._seen < len(items):
            rest = (items[self._seen :], None) if self._seen else (items, dumped)
            self._witness.see_all(*rest)
            self._seen = len(items)

    def skip(self, count: int) -> Iterator[Any]:
        """Pull `count` items past the engine: for a continued run, which has them in its result already."""
        self._start += count
        if self._sliced is not None:
            return iter(self._sliced[self._start - count : self._start])  # type: ignore[index]
        return self._coming(count)

    def seal(self, count: int) -> Parcel:
        """Make a parcel of the first `count` items in hand."""
        start, stop = self._start, self._start + count
        self._start = stop
        if self._sliced is not None:
            self._slice_count -= count
            assert self._encode is not None
            piece = self._encode(self._sliced[start:stop])  # type: ignore[index]
            return Parcel(start, stop, PLAIN, piece, size_of(piece))
        kind, data, nbytes = self._seal_numbers(count) if self._kind == NUMBERS else self._seal_items(count)
        if not self.in_hand:
            self._kind = self._first_kind
            self._puller.begin()
        return Parcel(start, stop, kind, data, nbytes)

    def _seal_numbers(self, count: int) -> tuple[str, Any, int]:
        """As `_seal_items`; what of a piece is left over is a piece."""
        self._write_piece()
        pieces, self._pieces = cut_pieces(self._pieces, count)
        self._written -= count
        self._nbytes = 8 * self._written
        data = join_pieces(pieces)
        return NUMBERS, data, len(data)

    def _seal_items(self, count: int) -> tuple[str, Any, int]:
        """Items in the form they travel in: what it is, the form, its size."""
        items, self._items = self._items, self._items[count:]
        del items[count:]
        self._see_rest(items)
        self._seen = max(0, self._seen - count)
        nbytes, self._nbytes = self._nbytes, sum(map(size_of if self._kind == PACKED else sys.getsizeof, self._items))
        if self._kind == LOOSE:
            return LOOSE, items, nbytes
        if self._kind == PACKED:
            return PACKED, items, sum(map(size_of, items))
        data = pickle.dumps(items, 5)
        return PLAIN, data, len(data)

    def _pack(self, item: Any) -> Encoded:
        assert self._encode is not None
        data = self._encode(item)
        self._nbytes += size_of(data)
        return data


def _buffer_size(item: Any) -> int:
    """Return the bytes of an array or a buffer, 0 for other items: what is passed by reference is kept, too."""
    if type(item) is bytearray:
        return len(item)
    try:
        nbytes = item.nbytes
    except Exception:  # few items have it
        return 0
    return nbytes if type(nbytes) is int else 0


def asked_once(iterator: Iterator[Any]) -> Iterator[Any]:
    """The same items, from an iterator that may be asked again after its end.

    Not every iterator may: one over a queue would wait for ever. `chain` drops it at its end, for 5 ns an item.
    """
    return iterator if type(iterator) in _ENDED_FOR_GOOD else chain(iterator)


def length_of(iterable: Iterable[Any]) -> int | None:
    """Return how many items there are, if the input can tell; a range may be longer than `len` can say.

    >>> length_of(range(10**19, 0, -1)), length_of(range(0, -5)), length_of(iter([]))
    (10000000000000000000, 0, None)
    """
    if type(iterable) is range:
        return (iterable[-1] - iterable[0]) // iterable.step + 1 if iterable else 0
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
