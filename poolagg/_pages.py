"""An input as digests of its pages, so that a run that continues another can tell whether it is the same input.

A page is a few consecutive items: each of the first 4,096 has one of its own, so that a difference there has an exact
index, later ones share one in groups of 64, so that a digest costs little. A page that is not full yet is kept as the
digest of what there is of it. Rule of the room: an item is looked at once, as it is pulled; a `range` is known by where
it starts, and an array is read in slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple, NoReturn

from poolagg._chunks import Interval
from poolagg._parcels import is_sliced
from poolagg._stable import ATOMS, dump, stable

__all__ = ["Known", "Pages", "page_of"]

ALONE = 4096
"""Items that have a page of their own: 32 kB in all, and one or two microseconds for each of them."""

SHARED = 64
"""Items of every other page: an eighth of a byte for each, and some 20 ns for the digest. A difference there is found
to within 64 items."""

SIZE = 8
"""Bytes of a digest: against mistakes, not against forgery."""


def page_of(index: int) -> tuple[int, int, int]:
    """The number, start and stop of the page that item `index` is on.

    >>> page_of(7), page_of(5000)
    ((7, 7, 8), (4110, 4992, 5056))
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


class Pages:
    """Looks at each item of `iterable` as it is pulled through `watched()`; `differs` is called if one is not as known.

    `differs(what)` must raise. Without anything known nothing differs.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable
        self._sliced = is_sliced(iterable)
        self.kind = _kind(iterable) if self._sliced else "items"
        self._known = self._last = Known(self.kind)
        self._differs: Callable[[str], NoReturn] = _nothing_differs
        self._hash = blake2b(digest_size=SIZE)
        self._page = page_of(0)
        self._hashed = 0
        self._buffer: list[Any] = []
        self._room = 1
        self._broken = False
        self._fresh = bytearray()  # digests of full pages that are in no checkpoint yet
        self._saved = 0  # how many pages are

    def expect(self, known: Known, differs: Callable[[str], NoReturn]) -> None:
        """From now on compare with what an earlier run saw."""
        if known.kind != self.kind:
            differs(f"the input was {known.kind} and is {self.kind}")
        self._known, self._differs, self._saved = known, differs, len(known.pages) // SIZE
        self._last = known._replace(pages=b"")
        self._make_room()
        if self._sliced:
            if len(self._iterable) < known.needed:  # type: ignore[arg-type]
                self._too_short(len(self._iterable))  # type: ignore[arg-type]
            self._read_slices(known.items)

    def watched(self) -> Iterable[Any]:
        """The input, to be pulled by whoever wants the items."""
        return self._iterable if self._sliced else _Watched(self._iterable, self._look)

    @property
    def position(self) -> int:
        """How many items were looked at."""
        return self._hashed + len(self._buffer)

    @property
    def verified(self) -> bool:
        """Whether all items that were looked at have been compared, as far as there is something to compare with."""
        return self.position >= self._known.items or self.position == self._page[1]

    def unsaved(self, needed: int) -> tuple[bytes, Known]:
        """Digests of full pages to add to those that are saved; and what is known now, but for `pages`, which grows.

        Only pages with items before `needed` count: what comes later was pulled, but is not in the result.
        """
        if self._sliced:
            self._read_slices(needed)
        if not self._broken:
            self._flush()
        added = b""
        if self._broken or self._hashed <= self._known.items or not needed or self.kind.startswith("a range"):
            self._last = self._last._replace(needed=needed)
        else:
            added, self._last = self._new(needed)
        return added, self._last

    def _new(self, needed: int) -> tuple[bytes, Known]:
        last, number = page_of(needed - 1)[0], self._page[0]
        count = max(0, min(last + 1, number) - self._saved)
        added = bytes(self._fresh[: count * SIZE])
        del self._fresh[: count * SIZE]
        self._saved += count
        if last >= number:
            return added, Known(self.kind, needed, b"", self._hashed, self._hash.copy().digest())
        return added, Known(self.kind, needed, b"", _start(self._saved))

    # -- looking -----------------------------------------------------------------------------------------------

    def _look(self, items: Iterable[Any]) -> Iterator[Any]:
        buffer = self._buffer
        for item in items:
            # What can change is made plain at once: a generator may reuse its buffer.
            buffer.append(item if type(item) in ATOMS else stable(item))
            if len(buffer) >= self._room:
                self._flush()
            yield item
        self._flush()
        if self._hashed < self._known.needed:
            self._too_short(self._hashed)

    def _flush(self) -> None:
        if self._buffer:
            self._broken = True  # by Ctrl-C, if it comes now: then nothing is said of what comes after the last commit
            self._add(dump(self._buffer)[5:], len(self._buffer))  # without the list's own head, so that cuts don't show
            self._buffer.clear()
            self._broken = False

    def _read_slices(self, stop: int) -> None:
        """Look at the items of an array up to `stop`."""
        if self.kind.startswith("a range"):
            return
        while self._hashed < min(stop, len(self._iterable)):  # type: ignore[arg-type]
            end = min(self._hashed + self._room, len(self._iterable))  # type: ignore[arg-type]
            self._add(self._iterable[self._hashed : end].tobytes(), end - self._hashed)  # type: ignore[index]

    def _add(self, data: bytes, count: int) -> None:
        self._hash.update(data)
        self._hashed += count
        number, start, stop = self._page
        if self._hashed == stop:
            digest = self._hash.digest()
            if known := self._known.pages[number * SIZE : (number + 1) * SIZE]:
                self._compare(digest, known, (start, stop))
            if number >= self._saved:
                self._fresh += digest
            self._hash = blake2b(digest_size=SIZE)
            self._page = page_of(stop)
        elif self._hashed == self._known.items:
            self._compare(self._hash.copy().digest(), self._known.partial, (start, self._hashed))
        self._make_room()

    def _make_room(self) -> None:
        """How many items may be looked at together: up to the page's end, or to where there is something to compare."""
        ends = [self._page[2]]
        if self._hashed < self._known.items < self._page[2]:
            ends.append(self._known.items)
        self._room = min(ends) - self._hashed

    # -- differences -------------------------------------------------------------------------------------------

    def _compare(self, digest: bytes, known: bytes, items: Interval) -> None:
        if digest != known:
            start, last = items[0], items[1] - 1
            which = f"item {start}" if start == last else f"one of items {start} to {last}"
            self._differs(f"the input differs: {which} is not what it was")

    def _too_short(self, count: int) -> None:
        self._differs(f"the input has {count} items now, and the checkpoint holds items up to {self._known.needed - 1}")


class _Watched:
    """An iterable that is looked at while it is iterated over; as long as the one behind it."""

    def __init__(self, iterable: Iterable[Any], look: Callable[[Iterable[Any]], Iterator[Any]]) -> None:
        self._iterable, self._look = iterable, look

    def __iter__(self) -> Iterator[Any]:
        return self._look(self._iterable)

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]


def _start(number: int) -> int:
    """The first item of a page."""
    return number if number < ALONE else ALONE + (number - ALONE) * SHARED


def _kind(sliced: Any) -> str:
    if type(sliced) is range:
        return f"a range from {sliced.start} by {sliced.step}"
    return f"an array of {sliced.dtype} with rows of shape {sliced.shape[1:]}"


def _nothing_differs(what: str) -> NoReturn:
    raise AssertionError(f"nothing is known, and yet {what}")
