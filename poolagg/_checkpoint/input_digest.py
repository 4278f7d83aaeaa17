"""An input as digests of its pages, so that a run that continues another can tell whether it is the same input.

A page is some consecutive items: each of the first 4,096 has one of its own, so that a difference there has an exact
index, later ones share one in groups of 1,024, so that a digest costs little. (Pages of one width would lose either.)
A page that is not full yet is kept as the digest of what there is of it. Rule: an item is looked at once,
before it is handed on, and what cannot change many at a time; a `range` is known by where it starts, and an array is
read in slices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import pack
from typing import Any, NamedTuple, NoReturn
from zlib import crc32

from poolagg._checkpoint.canonical import ATOMS, canonical, dump
from poolagg._input.numbers import HEAD
from poolagg._input.source import is_sliced, length_of
from poolagg._scheduler.ranges import Interval

__all__ = ["InputDigest", "Known", "page_of"]

ALONE = 4096
"""Items that have a page of their own: 16 kB in all, and about a microsecond for each of them."""

SHARED = 1024
"""Items of every other page: some 2 ns for a number, where pages of 64 take 6. A difference there is found to within
1,024 items."""

BUFFER = 64
"""Items that could change, made plain, that are kept to be looked at together."""

PIECE = 1 << 20
"""Bytes of an array, about, that are looked at together."""

_WIDTHS = ((b"i", 5), (b"g", 9))

SIZE = 4
"""Bytes of a digest, which is a CRC: against mistakes, not against forgery. If one int is another, or if two changed
places, it says so for certain; of other mistakes it misses one in four billion. A longer one takes thrice as long."""


def page_of(index: int) -> tuple[int, int, int]:
    """The number, start and stop of the page that item `index` is on.

    >>> page_of(7), page_of(6000)
    ((7, 7, 8), (4097, 5120, 6144))
    """
    if index < ALONE:
        return index, index, index + 1
    group = (index - ALONE) // SHARED
    return ALONE + group, ALONE + group * SHARED, ALONE + (group + 1) * SHARED


class Known(NamedTuple):
    """What an earlier run saw of its input: digests of full pages, then of the first items of one more, up to `items`.

    Its result covers no item from `needed` on. `kind` says what sort of input it was.
    """

    kind: str
    needed: int = 0
    pages: bytes = b""
    items: int = 0
    partial: bytes = b""


NOTHING_KNOWN = Known("")


class _Earlier:
    """Compare an input with what an earlier run saw; `differs(what)` raises."""

    def __init__(self, known: Known, differs: Callable[[str], NoReturn]) -> None:
        self.known, self._differs = known, differs

    def compare_pages(self, number: int, digests: bytes) -> None:
        """Compare full pages of one size, from this one on."""
        known = self.known.pages[number * SIZE : number * SIZE + len(digests)]
        for at in range(0, 0 if digests.startswith(known) else len(known), SIZE):
            start = _start(number + at // SIZE)
            self._compare(digests[at : at + SIZE], known[at : at + SIZE], page_of(start)[1:])

    def compare_partial(self, digest: bytes, items: Interval) -> None:
        """Compare the first items of a page that was not full."""
        self._compare(digest, self.known.partial, items)

    def check_length(self, count: int) -> None:
        """Compare the length of an input that has ended."""
        if count < self.known.needed:
            self._differs(
                f"the input has {count} items now, and the checkpoint holds items up to {self.known.needed - 1}"
            )

    def _compare(self, digest: bytes, known: bytes, items: Interval) -> None:
        if digest != known:
            start, last = items[0], items[1] - 1
            which = f"item {start}" if start == last else f"one of items {start} to {last}"
            self._differs(f"the input differs: {which} is not what it was")


class InputDigest:
    """Sees each item of `iterable` as it is pulled, from whoever pulls it; `differs` is called if one is not as known.

    `differs(what)` must raise. Without anything known nothing differs. What is `sliced` it reads itself.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self.sliced = is_sliced(iterable)
        self.kind = _kind(iterable) if self.sliced else "items"
        self._earlier = _Earlier(NOTHING_KNOWN, _nothing_differs)
        self._last = Known(self.kind)
        self._digests = bytearray()  # of full pages
        self._crc = 0  # of the first items of one more
        self._hashed = 0
        self._page = page_of(0)
        self._buffer: list[Any] = []
        self._room = BUFFER
        self._broken = False

    def expect(self, known: Known, differs: Callable[[str], NoReturn]) -> None:
        """From now on compare with what an earlier run saw."""
        if known.kind != self.kind:
            differs(f"the input was {known.kind} and is {self.kind}")
        self._earlier, self._last = _Earlier(known, differs), known
        self._make_space()
        if self.sliced:
            length = length_of(self._iterable)
            assert length is not None
            self._earlier.check_length(length)
            self._read_slices(known.items)

    @property
    def position(self) -> int:
        """How many items were looked at."""
        return self._hashed + len(self._buffer)

    @property
    def verified(self) -> bool:
        """Whether all items that were looked at have been compared, as far as there is something to compare with."""
        return self.position >= self._earlier.known.items or self.position == self._page[1]

    def known(self, needed: int) -> Known:
        """Return what is known now.

        Only pages with items before `needed` count: what comes later was pulled, but is not in the result.
        """
        if self.sliced:
            self._read_slices(needed)
        if not self._broken:
            self._flush()
        if self._broken or self._hashed <= self._earlier.known.items or not needed or self.kind.startswith("a range"):
            self._last = self._last._replace(needed=needed)
        else:
            self._last = self._new(needed)
        return self._last

    def _new(self, needed: int) -> Known:
        last = page_of(needed - 1)[0]
        if last >= self._page[0]:
            return Known(self.kind, needed, bytes(self._digests), self._hashed, _digests([self._crc]))
        return Known(self.kind, needed, bytes(self._digests[: (last + 1) * SIZE]), _start(last + 1))

    # -- looking -------------------------------------------------------------------------------------------------------

    def see(self, item: Any) -> None:
        """An item that was pulled just now. If it can change it is made plain at once: a generator may reuse it."""
        self._buffer.append(item if type(item) in ATOMS else canonical(item))
        if len(self._buffer) >= self._room:
            self._flush()

    def see_all(self, items: Sequence[Any], dumped: bytes | None = None) -> None:
        """Items that can't change. Of numbers that are equally long a page's bytes are cut out of `dumped`.

        A list's head is no part of a digest, so that it does not show how items were cut.
        """
        self._flush()
        if dumped is not None and (width := _width(dumped, len(items))):
            self._look(len(items), lambda start, stop: dumped[HEAD + start * width : HEAD + stop * width])
        else:
            self._look(len(items), lambda start, stop: dump(items[start:stop])[HEAD:])

    def pass_by(self, items: Iterator[Any], count: int) -> None:
        """See `count` items that nobody else will."""
        if self.sliced:
            deque(items, maxlen=0)
            return
        buffer, end = self._buffer, self.position + count
        for item in items:
            buffer.append(item if type(item) in ATOMS else canonical(item))
            if len(buffer) >= self._room:
                self._flush()
        if self.position < end:
            self.ended()

    def ended(self) -> None:
        """There are no more items."""
        self._flush()
        self._earlier.check_length(self._hashed)

    def _flush(self) -> None:
        if self._buffer:
            buffer = self._buffer
            self._look(len(buffer), lambda start, stop: dump(buffer[start:stop])[HEAD:])

    def _read_slices(self, stop: int) -> None:
        """Look at the items of an array up to `stop`, a piece at a time, for rows may be large."""
        if not self.kind.startswith("a range"):
            array: Any = self._iterable
            count = max(1, PIECE // max(1, array[:1].nbytes))
            for start in range(self._hashed, min(stop, len(array)), count):
                self._look_at(array[start : min(stop, start + count)])

    def _look_at(self, rows: Any) -> None:
        self._look(len(rows), lambda first, last: rows[first:last].tobytes())

    def _look(self, count: int, data: Callable[[int, int], bytes]) -> None:
        """Look at `count` items. `data(start, stop)` are the bytes of some: how they are cut does not show."""
        self._broken = True  # by Ctrl-C, if it comes now: then nothing is said of what comes after the last commit
        at = 0
        while at < count:
            if whole := self._whole(count - at):
                size = self._page[2] - self._page[1]
                starts = range(at, at + whole, size)
                self._add_pages([crc32(data(i, i + size)) for i in starts])
                at += whole
            else:
                end = min(count, at + self._end - self._hashed)
                self._add(data(at, end), end - at)
                at = end
        self._buffer.clear()
        self._broken = False

    def _whole(self, count: int) -> int:
        """How many of the next `count` items are in full pages of one size, with nothing to compare but those."""
        _, start, stop = self._page
        if self._hashed != start:
            return 0
        if start < ALONE:
            count = min(count, ALONE - start)
        if start < self._earlier.known.items:
            count = min(count, self._earlier.known.items - start)
        return count - count % (stop - start)

    def _add_pages(self, crcs: list[int]) -> None:
        """Full pages, from the one on that is looked at."""
        number, start, stop = self._page
        digests = _digests(crcs)
        self._earlier.compare_pages(number, digests)
        self._digests += digests
        self._hashed = start + len(crcs) * (stop - start)
        self._page = page_of(self._hashed)
        self._make_space()

    def _add(self, data: bytes, count: int) -> None:
        """The next items of a page."""
        crc = crc32(data, self._crc)
        if self._hashed + count == self._page[2]:
            self._crc = 0
            self._add_pages([crc])
            return
        self._crc = crc
        self._hashed += count
        if self._hashed == self._earlier.known.items:
            self._earlier.compare_partial(_digests([crc]), (self._page[1], self._hashed))
        self._make_space()

    @property
    def _end(self) -> int:
        """Up to where items may be looked at together: the page's end, or where there is something to compare."""
        known, end = self._earlier.known.items, self._page[2]
        return known if self._hashed < known < end else end

    def _make_space(self) -> None:
        """How many items may be kept before they are looked at: those that are to be compared, only up to that."""
        later = self._hashed >= self._earlier.known.items
        self._room = BUFFER if later else min(BUFFER, self._end - self._hashed)


def _digests(crcs: list[int]) -> bytes:
    return pack(f"<{len(crcs)}I", *crcs)


def _width(dumped: bytes, count: int) -> int:
    """How many bytes each item has, if all are ints of 32 bits, or all floats; else 0.

    The first of an item's bytes is its type. If that of a whole item says how long it is, the next byte is a first one.

    >>> _width(dump([1, -2]), 2), _width(dump([1.5, 2.0, 0.0]), 3), _width(dump([1, 2.0]), 2)
    (5, 9, 0)
    """
    for kind, width in _WIDTHS:
        if len(dumped) == HEAD + count * width and dumped[HEAD::width] == kind * count:
            return width
    return 0


def _start(number: int) -> int:
    """The first item of a page."""
    return number if number < ALONE else ALONE + (number - ALONE) * SHARED


def _kind(sliced: Any) -> str:
    if type(sliced) is range:
        return f"a range from {sliced.start} by {sliced.step}"
    return f"an array of {sliced.dtype} with rows of shape {sliced.shape[1:]}"


def _nothing_differs(what: str) -> NoReturn:
    raise AssertionError(f"nothing is known, and yet {what}")
