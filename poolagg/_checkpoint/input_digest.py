"""Digests of an input's pages, by which a run that continues another recognizes its input.

A page is a group of consecutive items. Each of the first 4,096 items is a page of its own, so that a difference there
has an exact index; later items share pages of 1,024, so that digests cost little. (Pages of one width would lose one
of the two.) A page that is not full yet has the digest of its items so far.

Rule: each item is digested once, before it is passed on, and immutable items many at a time. A `range` is identified by
its start and step, and an array is read in slices.
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
"""Items that have a page of their own: 16 kB of digests in all, and about a microsecond for each item."""

SHARED = 1024
"""Items of each later page: about 2 ns for a number, where pages of 64 take 6. A difference is located to within 1,024
items."""

BUFFER = 64
"""Items in canonical form that are buffered and digested together."""

PIECE = 1 << 20
"""Bytes of an array that are digested together, approximately."""

_WIDTHS = ((b"i", 5), (b"g", 9))

SIZE = 4
"""Bytes of a digest, which is a CRC: it detects mistakes, not forgery. It certainly detects one changed int or two
swapped ones, and misses one in four billion of other changes. A longer digest takes three times as long."""


def page_of(index: int) -> tuple[int, int, int]:
    """Return the number, start and stop of the page that item `index` is on.

    >>> page_of(7), page_of(6000)
    ((7, 7, 8), (4097, 5120, 6144))
    """
    if index < ALONE:
        return index, index, index + 1
    group = (index - ALONE) // SHARED
    return ALONE + group, ALONE + group * SHARED, ALONE + (group + 1) * SHARED


class Known(NamedTuple):
    """An earlier run's digests: of full pages, and of the first items of one more, up to `items`.

    The earlier result covers no item from `needed` on. `kind` describes the sort of input.
    """

    kind: str
    needed: int = 0
    pages: bytes = b""
    items: int = 0
    partial: bytes = b""


NOTHING_KNOWN = Known("")


class _Earlier:
    """Compares an input with the digests of an earlier run; `differs(what)` raises."""

    def __init__(self, known: Known, differs: Callable[[str], NoReturn]) -> None:
        self.known, self._differs = known, differs

    def compare_pages(self, number: int, digests: bytes) -> None:
        """Compare full pages of one size, from page `number` on."""
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
    """Digests the items of `iterable`: its caller passes each item it pulls, and a `sliced` input is read directly.

    After `expect`, `differs(what)` is called at the first difference, and must raise.
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
        self._capacity = BUFFER
        self._broken = False

    def expect(self, known: Known, differs: Callable[[str], NoReturn]) -> None:
        """Compare the input with the digests of an earlier run from now on."""
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
        """The number of items seen."""
        return self._hashed + len(self._buffer)

    @property
    def verified(self) -> bool:
        """True if no item seen is still to be compared with an earlier run's digest."""
        return self.position >= self._earlier.known.items or self.position == self._page[1]

    def known(self, needed: int) -> Known:
        """Return the digests so far, of pages with items before `needed`: later items were pulled, but are not in the
        result."""
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

    # -- digesting -----------------------------------------------------------------------------------------------------

    def see(self, item: Any) -> None:
        """Take an item when it is pulled; convert a mutable one at once, because a generator may reuse it."""
        self._buffer.append(item if type(item) in ATOMS else canonical(item))
        if len(self._buffer) >= self._capacity:
            self._flush()

    def see_all(self, items: Sequence[Any], dumped: bytes | None = None) -> None:
        """Take immutable items. If all are numbers of one width, a page's bytes are a slice of `dumped`.

        The head of a list is left out, so that the digest does not depend on how items are grouped.
        """
        self._flush()
        if dumped is not None and (width := _width(dumped, len(items))):
            self._look(len(items), lambda start, stop: dumped[HEAD + start * width : HEAD + stop * width])
        else:
            self._look(len(items), lambda start, stop: dump(items[start:stop])[HEAD:])

    def pass_by(self, items: Iterator[Any], count: int) -> None:
        """Read `count` items from `items` only to digest them."""
        if self.sliced:
            deque(items, maxlen=0)
            return
        buffer, end = self._buffer, self.position + count
        for item in items:
            buffer.append(item if type(item) in ATOMS else canonical(item))
            if len(buffer) >= self._capacity:
                self._flush()
        if self.position < end:
            self.ended()

    def ended(self) -> None:
        """Record the end of the input, and compare its length."""
        self._flush()
        self._earlier.check_length(self._hashed)

    def _flush(self) -> None:
        if self._buffer:
            buffer = self._buffer
            self._look(len(buffer), lambda start, stop: dump(buffer[start:stop])[HEAD:])

    def _read_slices(self, stop: int) -> None:
        """Digest the items of an array up to `stop`, slice by slice, because rows may be large."""
        if not self.kind.startswith("a range"):
            array: Any = self._iterable
            count = max(1, PIECE // max(1, array[:1].nbytes))
            for start in range(self._hashed, min(stop, len(array)), count):
                self._look_at(array[start : min(stop, start + count)])

    def _look_at(self, rows: Any) -> None:
        self._look(len(rows), lambda first, last: rows[first:last].tobytes())

    def _look(self, count: int, data: Callable[[int, int], bytes]) -> None:
        """Digest the next `count` items; `data(start, stop)` returns the bytes of some, in any grouping."""
        self._broken = True  # if Ctrl-C interrupts this: then `known` returns the digests of the last commit
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
        """Return how many of the next `count` items fill whole pages of one size that need no partial comparison."""
        _, start, stop = self._page
        if self._hashed != start:
            return 0
        if start < ALONE:
            count = min(count, ALONE - start)
        if start < self._earlier.known.items:
            count = min(count, self._earlier.known.items - start)
        return count - count % (stop - start)

    def _add_pages(self, crcs: list[int]) -> None:
        """Add the digests of full pages, from the current one on."""
        number, start, stop = self._page
        digests = _digests(crcs)
        self._earlier.compare_pages(number, digests)
        self._digests += digests
        self._hashed = start + len(crcs) * (stop - start)
        self._page = page_of(self._hashed)
        self._make_space()

    def _add(self, data: bytes, count: int) -> None:
        """Add the next `count` items of the current page."""
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
        """The item up to which items may be digested together: the page's end, or a partial page to compare."""
        known, end = self._earlier.known.items, self._page[2]
        return known if self._hashed < known < end else end

    def _make_space(self) -> None:
        """Set how many items the buffer takes: it ends where a comparison is due."""
        later = self._hashed >= self._earlier.known.items
        self._capacity = BUFFER if later else min(BUFFER, self._end - self._hashed)


def _digests(crcs: list[int]) -> bytes:
    return pack(f"<{len(crcs)}I", *crcs)


def _width(dumped: bytes, count: int) -> int:
    """Return the bytes of each item if all are 32-bit ints or all are floats, else 0.

    The first byte of an item is its type, which determines its length, so every `width`-th byte must be that type.

    >>> _width(dump([1, -2]), 2), _width(dump([1.5, 2.0, 0.0]), 3), _width(dump([1, 2.0]), 2)
    (5, 9, 0)
    """
    for kind, width in _WIDTHS:
        if len(dumped) == HEAD + count * width and dumped[HEAD::width] == kind * count:
            return width
    return 0


def _start(number: int) -> int:
    """Return the first item of a page."""
    return number if number < ALONE else ALONE + (number - ALONE) * SHARED


def _kind(sliced: Any) -> str:
    if type(sliced) is range:
        return f"a range from {sliced.start} by {sliced.step}"
    return f"an array of {sliced.dtype} with rows of shape {sliced.shape[1:]}"


def _nothing_differs(what: str) -> NoReturn:
    raise AssertionError(f"nothing is known, and yet {what}")
