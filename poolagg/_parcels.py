"""Parcels: consecutive items in the form they travel in, kept until they are in the result.

An item's large buffers are copied once, beside its pickle, so that they can go through memory that is shared with a
worker.
"""

from __future__ import annotations

import bisect
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from poolagg._numbers import Numbers

__all__ = [
    "LOOSE",
    "NUMBERS",
    "PACKED",
    "PLAIN",
    "Encoded",
    "Packed",
    "Parcel",
    "Parcels",
    "open_item",
    "open_parcel",
    "open_watched",
    "size_of",
]

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
