"""RetryBuffer: consecutive items in the form they travel in, kept until they are in the result.

An item's large buffers are copied once, beside its pickle, so that they can go through memory that is shared with a
worker.
"""

from __future__ import annotations

import bisect
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from poolagg._input.numbers import NumberBatch

__all__ = [
    "LOOSE",
    "NUMBERS",
    "PACKED",
    "PLAIN",
    "Encoded",
    "InputBatch",
    "PackedItem",
    "RetryBuffer",
    "open_batch",
    "open_item",
    "open_watched",
    "size_of",
]

NUMBERS, PLAIN, PACKED, LOOSE = "numbers", "plain", "packed", "loose"


class PackedItem(NamedTuple):
    """A pickle, and the large buffers that belong to it."""

    pickle: Any
    buffers: Sequence[Any]


Encoded: TypeAlias = bytes | PackedItem


class InputBatch(NamedTuple):
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


def open_batch(kind: str, data: Any, offset: int, count: int) -> tuple[Sequence[Any], Callable[[Any], Any] | None]:
    """`count` items of an input batch from `offset` on, and what opens each of them if it is still pickled on its
    own."""
    if kind == NUMBERS:
        return NumberBatch(data, offset, count), None
    items = open_item(data) if kind == PLAIN else data
    if offset or count != len(items):
        items = items[offset : offset + count]
    if kind != PACKED:
        return items, None
    return items, open_item if PackedItem in set(map(type, items)) else pickle.loads


def open_item(data: Encoded) -> Any:
    """Unpickle, upon the very buffers if there are any; those that are kept for a re-run are copied."""
    if not isinstance(data, PackedItem):
        return pickle.loads(data)
    buffers = [bytearray(buffer) if isinstance(buffer, bytes) else buffer for buffer in data.buffers]
    return pickle.loads(data.pickle, buffers=buffers)


def open_watched(data: PackedItem, alive: Callable[[], None]) -> Any:
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
    return len(data.pickle) + sum(map(len, data.buffers)) if isinstance(data, PackedItem) else len(data)


class RetryBuffer:
    """The input batches whose items are not all covered yet: what a re-run is made from.

    >>> retry_buffer = RetryBuffer()
    >>> retry_buffer.add(InputBatch(0, 4, LOOSE, "abcd", 4))
    >>> retry_buffer.find(2).data, retry_buffer.nbytes
    ('abcd', 4)
    >>> retry_buffer.release(0, 3); retry_buffer.release(3, 4); retry_buffer.nbytes
    0
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._retry_buffer: list[InputBatch] = []
        self._left: list[int] = []
        self.nbytes = 0

    def add(self, input_batch: InputBatch) -> None:
        """Keep an input batch; input batches come in input order."""
        self._starts.append(input_batch.start)
        self._retry_buffer.append(input_batch)
        self._left.append(input_batch.stop - input_batch.start)
        self.nbytes += input_batch.nbytes

    def find(self, index: int) -> InputBatch:
        """The input batch that holds item `index`."""
        return self._retry_buffer[self._place(index)]

    def release(self, start: int, stop: int) -> None:
        """Items `start` to `stop` are covered: an input batch with none left is let go."""
        while start < stop:
            i = self._place(start)
            input_batch = self._retry_buffer[i]
            count = min(stop, input_batch.stop) - start
            start += count
            self._left[i] -= count
            if not self._left[i]:
                self.nbytes -= input_batch.nbytes
                del self._starts[i], self._retry_buffer[i], self._left[i]

    def _place(self, index: int) -> int:
        i = bisect.bisect_right(self._starts, index) - 1
        if i < 0 or index >= self._retry_buffer[i].stop:
            raise LookupError(f"item {index} is not kept")
        return i

    def __len__(self) -> int:
        return len(self._retry_buffer)
