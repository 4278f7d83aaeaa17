"""InputBatch: consecutive items, encoded for workers. RetryBuffer: the batches whose items are not in the result yet.

Pickling copies an item's large buffers once, out of band, so that a worker can map them in shared memory.
"""

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
    """A pickle, and its large buffers, out of band."""

    pickle: Any
    buffers: Sequence[Any]


Encoded: TypeAlias = bytes | PackedItem


class InputBatch(NamedTuple):
    """Consecutive items in the form that workers receive.

    `data` is one pickle of them all (kind "plain"), a list of pickles ("packed"), or the items themselves ("loose").
    Kind "numbers" is pieces written by marshal, which is quicker; the input's digest uses their bytes.
    """

    start: int
    stop: int
    kind: str
    data: Any
    nbytes: int

    def cut(self, start: int, stop: int) -> tuple[str, Any, int]:
        """Return what a worker needs for items `start` to `stop`: the kind, the data, and their offset in the data."""
        if self.kind in (NUMBERS, PLAIN):
            return self.kind, self.data, start - self.start
        return self.kind, self.data[start - self.start : stop - self.start], 0


def open_batch(kind: str, data: Any, offset: int, count: int) -> tuple[Sequence[Any], Callable[[Any], Any] | None]:
    """Return `count` items from `offset` on, and the function that unpickles each; None if they are no pickles."""
    if kind == NUMBERS:
        return NumberBatch(data, offset, count), None
    items = open_item(data) if kind == PLAIN else data
    if offset or count != len(items):
        items = items[offset : offset + count]
    if kind != PACKED:
        return items, None
    return items, open_item if PackedItem in set(map(type, items)) else pickle.loads


def open_item(data: Encoded) -> Any:
    """Unpickle an item on top of its buffers; copy those that are `bytes`, which a retry needs unchanged."""
    if not isinstance(data, PackedItem):
        return pickle.loads(data)
    buffers = [bytearray(buffer) if isinstance(buffer, bytes) else buffer for buffer in data.buffers]
    return pickle.loads(data.pickle, buffers=buffers)


def open_watched(data: PackedItem, alive: Callable[[], None]) -> Any:
    """Unpickle an item on top of its buffers, and call `alive` for each 64 kB of the pickle."""
    return pickle.load(_Watched(data.pickle, alive), buffers=data.buffers)


class _Watched(io.BytesIO):
    def __init__(self, data: bytes, alive: Callable[[], None]) -> None:
        super().__init__(data)
        self._alive = alive

    def read(self, size: int | None = -1) -> bytes:
        self._alive()
        return super().read(size)


def size_of(data: Encoded) -> int:
    """Return the size in bytes, out-of-band buffers included."""
    return len(data.pickle) + sum(map(len, data.buffers)) if isinstance(data, PackedItem) else len(data)


class RetryBuffer:
    """The batches that a retry may need: those whose items are not all covered yet.

    >>> kept = RetryBuffer()
    >>> kept.add(InputBatch(0, 4, LOOSE, "abcd", 4))
    >>> kept.find(2).data, kept.nbytes
    ('abcd', 4)
    >>> kept.release(0, 3); kept.release(3, 4); kept.nbytes
    0
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._batches: list[InputBatch] = []
        self._left: list[int] = []
        self.nbytes = 0

    def add(self, batch: InputBatch) -> None:
        """Keep a batch; batches come in input order."""
        self._starts.append(batch.start)
        self._batches.append(batch)
        self._left.append(batch.stop - batch.start)
        self.nbytes += batch.nbytes

    def find(self, index: int) -> InputBatch:
        """Return the batch that holds item `index`."""
        return self._batches[self._position(index)]

    def release(self, start: int, stop: int) -> None:
        """Note that items `start` to `stop` are covered, and drop batches without other items."""
        while start < stop:
            i = self._position(start)
            batch = self._batches[i]
            count = min(stop, batch.stop) - start
            start += count
            self._left[i] -= count
            if not self._left[i]:
                self.nbytes -= batch.nbytes
                del self._starts[i], self._batches[i], self._left[i]

    def _position(self, index: int) -> int:
        i = bisect.bisect_right(self._starts, index) - 1
        if i < 0 or index >= self._batches[i].stop:
            raise LookupError(f"item {index} is not kept")
        return i

    def __len__(self) -> int:
        return len(self._batches)
