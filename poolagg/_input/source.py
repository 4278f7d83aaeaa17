"""Source: pull the input of a run lazily, encode the items, and seal them into input batches.

Items that are pulled and not yet sealed are *in hand*, in one of five forms, each a class: slices of a range or an
array, numbers, values that cannot change, items pickled one by one, and items that go by reference. An input starts as
numbers. When the current form cannot hold an item, the next form takes over all items in hand; once these are sealed,
the source expects numbers again.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from types import GeneratorType
from typing import Any, NamedTuple, Protocol, TypeAlias

from poolagg._input.batches import LOOSE, NUMBERS, PACKED, PLAIN, Encoded, InputBatch, size_of
from poolagg._input.numbers import PIECE, TYPES, Puller, cut_pieces, join_pieces, read_piece, write_piece
from poolagg._runtime.signals import raised_by_handler

__all__ = ["InputObserver", "Source", "is_sliced", "length_of"]

# Items of these exact types cannot change, so the source pickles a whole batch of them at once. It pickles all others
# one by one as it pulls them, since a generator may reuse its buffer.
_ATOMS = TYPES | {str, bytes}

_ENDED_FOR_GOOD = {*map(type, map(iter, ([], (), "", b"", {}, set(), range(0))))} | {GeneratorType}
"""Iterators that remember their end, so that a further `next` runs no code of the user's."""

TOGETHER = 64
"""Numbers to pull from a quick source between two looks at the clock; a look after each takes longer than the pull.
When the source turns slow, up to 63 numbers wait for the 64th, once."""

MANY = 1000
"""A source is quick if one pull, which lasts a millisecond, yields more numbers than this."""

Encode: TypeAlias = Callable[[Any], Encoded]

Other: TypeAlias = tuple[Any, ...]
"""The item that the current form cannot hold, in a tuple; or ()."""


class Limits(NamedTuple):
    """When a pull stops: at `items` in hand, at `most_bytes` in hand, or when `clock()` passes `until`."""

    items: int
    most_bytes: int
    clock: Callable[[], float]
    until: float


class InputObserver(Protocol):
    """An object that sees each item of an input, in input order, before the source seals it."""

    def see(self, item: Any) -> None:
        """See an item that was just pulled, and may change later."""

    def see_all(self, items: Sequence[Any], dumped: bytes | None) -> None:
        """See items that cannot change; `dumped` is their marshal form, None if the source has not made it."""

    def ended(self) -> None:
        """See the end of the input."""


class Source:
    """Pull an iterable lazily, on the caller's thread, into input batches.

    `encode` pickles one item; None passes items by reference, as between threads. The source does not iterate over a
    `range` or a numpy array, but sends slices of it.
    """

    def __init__(self, iterable: Iterable[Any], encode: Encode | None, observer: InputObserver | None = None) -> None:
        self.total = length_of(iterable)
        self.ended = False
        self._start = 0
        if encode is None:
            self._first: _InHand = _Loose(asked_once(iter(iterable)), observer)
        elif is_sliced(iterable):
            self._first = _Slices(iterable, encode, self.total or 0)
        else:
            self._first = _Numbers(asked_once(iter(iterable)), observer, encode)
        self._current: _InHand = self._first

    @property
    def in_hand(self) -> int:
        """How many items are pulled and not yet sealed into a batch."""
        return self._current.count

    @property
    def position(self) -> int:
        """How many items have been pulled since the start."""
        return self._start + self._current.count

    @property
    def nbytes(self) -> int:
        """About how many bytes the items in hand take."""
        return self._current.nbytes

    @property
    def packing(self) -> float:
        """Estimated seconds of pickling the items in hand one by one: each as long as the first of them."""
        return self._current.first_packing * self._current.count

    def pull(self, count: int, most_bytes: int, clock: Callable[[], float], until: float) -> None:
        """Pull until `count` items or `most_bytes` are in hand, or `clock()` passes `until`; at least one item."""
        limits = Limits(count, most_bytes, clock, until)
        other = self._current.pull((), limits)
        while other:
            self._current = self._current.next_form()
            other = self._current.pull(other, limits)
        if other is not None and self._current.ends_before(count):
            self.ended = True

    def skip(self, count: int) -> Iterator[Any]:
        """Pull `count` items that a continued run has in its result already, and return an iterator over them."""
        self._start += count
        return self._current.skip(count)

    def seal(self, count: int) -> InputBatch:
        """Make a batch of the first `count` items in hand."""
        start, stop = self._start, self._start + count
        self._start = stop
        kind, data, nbytes = self._current.seal(count)
        if not self._current.count:
            self._current = self._first
            self._current.begin()
        return InputBatch(start, stop, kind, data, nbytes)


class _InHand:
    """The items in hand, in one form."""

    first_packing = 0.0
    """Seconds of pickling the first item."""

    def __init__(self, iterator: Iterator[Any], observer: InputObserver | None, encode: Any = None) -> None:
        self.iterator, self.observer, self.encode = iterator, observer, encode
        self.items: list[Any] = []
        self.nbytes = 0
        self.seen = 0
        """Items in hand that the observer has seen."""

    def begin(self) -> None:
        """Start again with no item in hand, and the next one of any type."""

    @property
    def count(self) -> int:
        """How many items are in hand."""
        return len(self.items)

    def pull(self, other: Other, limits: Limits) -> Other | None:
        """Take `other`, then pull up to the limits.

        Return the item that this form cannot hold, () if all were taken, None if time or bytes ran out.
        """
        raise NotImplementedError

    def next_form(self) -> _InHand:
        """Convert all items to the next form, which can hold more types."""
        raise NotImplementedError

    def ends_before(self, count: int) -> bool:
        """Tell whether the input ended before `count` items; if so, show the observer the rest and the end."""
        if self.count >= count:
            return False
        self.see_rest(self.items)
        if self.observer is not None:
            self.observer.ended()
        return True

    def skip(self, count: int) -> Iterator[Any]:
        """Pull `count` items that will not run."""
        return islice(self.iterator, count)

    def seal(self, count: int) -> tuple[str, Any, int]:
        """Take the first `count` items; return their kind, their data and its size in bytes."""
        raise NotImplementedError

    def coming(self, other: Other, count: int) -> Iterator[Any]:
        """Iterate over the items to pull, `other` first, until `count` are in hand."""
        left = islice(self.iterator, count - self.count - len(other))
        return chain(other, left) if other else left

    def see_rest(self, items: list[Any], dumped: bytes | None = None) -> None:
        """Show the observer those of `items`, the first in hand, that it has not seen; they cannot change."""
        if self.observer is not None and self.seen < len(items):
            self.observer.see_all(*((items[self.seen :], None) if self.seen else (items, dumped)))
            self.seen = len(items)

    def cut(self, count: int) -> list[Any]:
        """Take the first `count` items."""
        items, self.items = self.items, self.items[count:]
        del items[count:]
        self.see_rest(items)
        self.seen = max(0, self.seen - count)
        return items


class _Slices(_InHand):
    """Slices of a range or an array, without iterating over it."""

    def __init__(self, iterable: Any, encode: Encode, total: int) -> None:
        super().__init__(iter(()), None, encode)
        self._iterable, self._total = iterable, total
        self._start = self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def pull(self, other: Other, limits: Limits) -> Other | None:
        self._count = min(limits.items, self._total - self._start)
        return ()

    def ends_before(self, count: int) -> bool:
        return self._count == self._total - self._start

    def skip(self, count: int) -> Iterator[Any]:
        self._start += count
        return iter(self._iterable[self._start - count : self._start])

    def seal(self, count: int) -> tuple[str, Any, int]:
        data = self.encode(self._iterable[self._start : self._start + count])
        self._start += count
        self._count -= count
        return PLAIN, data, size_of(data)


class _Loose(_InHand):
    """Items passed by reference."""

    def pull(self, other: Other, limits: Limits) -> Other | None:
        items, (count, most_bytes, clock, until) = self.items, limits
        for item in self.coming(other, count):
            kind = type(item)
            if kind in _ATOMS:
                self.nbytes += 8 + len(item) if kind is str or kind is bytes else 8
                items.append(item)
            else:
                self.see_rest(items)
                if self.observer is not None:
                    self.observer.see(item)
                items.append(item)
                self.seen += 1
                self.nbytes += 8 + _buffer_size(item)
            if self.nbytes > most_bytes or clock() > until:
                return None
        return ()

    def seal(self, count: int) -> tuple[str, Any, int]:
        items = self.cut(count)
        nbytes, self.nbytes = self.nbytes, sum(map(sys.getsizeof, self.items))
        return LOOSE, items, nbytes


class _Numbers(_InHand):
    """Numbers, perhaps very many: pulled with as little work as possible for each, and written in pieces."""

    def __init__(self, iterator: Iterator[Any], observer: InputObserver | None, encode: Encode) -> None:
        super().__init__(iterator, observer, encode)
        self._puller = Puller(iterator)
        self._pieces: list[bytes] = []  # the numbers before `items`
        self._written = 0  # how many numbers the pieces have
        self._together = 1

    def begin(self) -> None:
        self._puller.begin()

    @property
    def count(self) -> int:
        return self._written + len(self.items)

    def pull(self, other: Other, limits: Limits) -> Other | None:
        items, before = self.items, self.count
        count, _, clock, until = limits
        pull, left = self._puller.pull, count - before
        try:
            while left > 0:
                end = len(items) + min(left, self._together)
                left -= self._together
                if found := pull(items, end - len(items)):
                    return found
                if len(items) < end:
                    break
                if end >= PIECE:
                    self._write_piece()
                if clock() > until:
                    self._together = TOGETHER if self.count - before > MANY else 1
                    return None
            return ()
        finally:
            self.nbytes += 8 * (self.count - before)

    def next_form(self) -> _Plain:
        plain = _Plain(self.iterator, self.observer, self.encode)
        plain.items = [number for piece in self._pieces for number in read_piece(piece)]
        plain.seen = self.seen + len(plain.items)  # the observer has seen those in pieces
        plain.items += self.items
        plain.nbytes = self.nbytes
        self.items, self._pieces = [], []
        self._written = self.seen = self.nbytes = 0
        return plain

    def seal(self, count: int) -> tuple[str, Any, int]:
        """Take numbers in pieces; the rest of a cut piece becomes a piece."""
        self._write_piece()
        pieces, self._pieces = cut_pieces(self._pieces, count)
        self._written -= count
        self.nbytes = 8 * self._written
        data = join_pieces(pieces)
        return NUMBERS, data, len(data)

    def _write_piece(self) -> None:
        """Write `items` as a piece."""
        items = self.items
        if items:
            self._pieces.append(write_piece(items))
            self.see_rest(items, self._pieces[-1])
            self._written += len(items)
            self.seen = 0
            items.clear()


class _Plain(_InHand):
    """Values that cannot change, pickled a whole batch at once."""

    def pull(self, other: Other, limits: Limits) -> Other | None:
        items, (count, most_bytes, clock, until) = self.items, limits
        for item in self.coming(other, count):
            kind = type(item)
            if kind not in _ATOMS:
                return (item,)
            self.nbytes += 8 + len(item) if kind is str or kind is bytes else 8
            items.append(item)
            if self.nbytes > most_bytes or clock() > until:
                return None
        return ()

    def next_form(self) -> _Packed:
        self.see_rest(self.items)
        packed = _Packed(self.iterator, self.observer, self.encode)
        packed.nbytes = self.nbytes
        packed.items = list(map(packed.pack, self.items))
        return packed

    def seal(self, count: int) -> tuple[str, Any, int]:
        data = pickle.dumps(self.cut(count), 5)
        self.nbytes = sum(map(sys.getsizeof, self.items))
        return PLAIN, data, len(data)


class _Packed(_InHand):
    """Items that may change after the pull: the observer sees each, then the source pickles it at once."""

    def pull(self, other: Other, limits: Limits) -> Other | None:
        observer, items, (count, most_bytes, clock, until) = self.observer, self.items, limits
        for item in self.coming(other, count):
            if observer is not None:
                observer.see(item)
            if other:
                other, began = (), clock()
                items.append(self.pack(item))
                self.first_packing = clock() - began
            else:
                items.append(self.pack(item))
            if self.nbytes > most_bytes or clock() > until:
                return None
        return ()

    def see_rest(self, items: list[Any], dumped: bytes | None = None) -> None:
        """Show nothing: the observer has seen each item."""

    def seal(self, count: int) -> tuple[str, Any, int]:
        items = self.cut(count)
        self.nbytes = sum(map(size_of, self.items))
        return PACKED, items, sum(map(size_of, items))

    def pack(self, item: Any) -> Encoded:
        """Pickle an item."""
        data: Encoded = self.encode(item)
        self.nbytes += size_of(data)
        return data


def _buffer_size(item: Any) -> int:
    """Return the bytes of an array or a buffer, 0 for other items. Items passed by reference take memory, too."""
    if type(item) is bytearray:
        return len(item)
    try:
        nbytes = item.nbytes
    except AttributeError:  # few items have it
        return 0
    except Exception as error:
        if raised_by_handler(error):
            raise
        return 0
    return nbytes if type(nbytes) is int else 0


def asked_once(iterator: Iterator[Any]) -> Iterator[Any]:
    """Return an iterator over the same items that allows `next` after its end.

    Not every iterator does: one over a queue would wait forever. `chain` drops it at its end, for 5 ns an item.
    """
    return iterator if type(iterator) in _ENDED_FOR_GOOD else chain(iterator)


def length_of(iterable: Iterable[Any]) -> int | None:
    """Return how many items the input has, None if it cannot tell; for a range also beyond the limit of `len`.

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
    """Tell whether the source sends an input as slices: a range, or an array without object dtype."""
    if type(iterable) is range:
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(iterable) is numpy.ndarray and iterable.ndim > 0 and not iterable.dtype.hasobject
