"""A worker's progress cell: a few numbers in memory shared with the parent, which outlive the worker's death.

The worker writes which batch it runs and since when, once per batch; the parent reads it to move the bar inside long
chunks, to time items out, and to name the item that a dead worker was running. Where memory is limited, the worker also
writes what earlier batches have left in its own. The parent writes which runs are over, so that a worker leaves a chunk
that nobody wants. A byte for each slot of the two arenas says whether it is lent.

One writer per field and no lock: a count before and after the fields (odd while they are being written) tells the
reader whether what it read is whole. A worker that died while writing leaves it odd, and so names no item.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import threading
from time import monotonic_ns
from typing import NamedTuple

from poolagg.pools._memory import own_memory

__all__ = ["NO_CHUNK", "SLOTS", "Batch", "Cell", "Lent", "Over"]

SLOTS = 64
"""Slots of an arena at most: as many bytes of the cell say whether they are lent."""

NO_CHUNK = -2
"""The chunk of a state that is packed with none."""

_FIELDS = struct.Struct("=6q")  # chunk, start, stop, since, left, packing
_COUNT = struct.Struct("=q")
_OVER = struct.Struct("=q")
_OVER_AT, _CONDEMNED_AT = 56, 64
_LENT = 72  # where the bytes of the slots begin
_SIZE = _LENT + 2 * SLOTS


class Over(BaseException):
    """The run that this chunk belongs to is over. (Not an Exception: no handler of a user's may swallow it.)"""


class Batch(NamedTuple):
    """Items `start` to `stop` of a chunk, being mapped since `since` (`time.monotonic()`).

    `left`: bytes by which the worker was larger then than when it was fresh; 0 where memory is not limited. `packing`:
    the items are done, and the worker packs its state, `since` the last sign of life.
    """

    chunk: int
    start: int
    stop: int
    since: float
    left: int = 0
    packing: bool = False


class Lent:
    """Which slots of an arena are lent: the side that lends says so before its message, the other gives back."""

    def __init__(self, memory: mmap.mmap, begin: int) -> None:
        self._memory, self._begin = memory, begin

    def lend(self, slot: int) -> None:
        """Say that the other side has a slot, from the next message on."""
        self._memory[self._begin + slot] = 1

    def __contains__(self, slot: int) -> bool:
        """Whether the other side has it still."""
        return bool(self._memory[self._begin + slot])

    def give_back(self, slot: int) -> None:
        """Say that the slot may be used again; if there is anybody still to use it."""
        with contextlib.suppress(ValueError):  # the memory is closed
            self._memory[self._begin + slot] = 0


class Cell:
    """One worker's cell, seen from either side."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _anonymous_memory(_SIZE) if fd is None else fd
        try:
            self._memory = mmap.mmap(self.fd, _SIZE)
        except BaseException:
            self.close_fd()
            raise
        self.lent_to_parent = Lent(self._memory, _LENT)
        self.lent_to_worker = Lent(self._memory, _LENT + SLOTS)
        self._count = 0
        self._fence = threading.Lock()
        """To take a lock orders what is written before it and what is read after it."""
        self._before: tuple[int, ...] = (-1, 0, 0, 0, 0, 0)
        self._epoch = 0
        self._fresh = 0
        self._limit: int | None = None

    # -- the worker's side -------------------------------------------------------------------------------------

    def begin(self, epoch: int) -> None:
        """Batches from now on belong to this run."""
        self._epoch = epoch

    def weigh(self, fresh: int, limit: int) -> None:
        """This process has `fresh` bytes of memory, and may have up to `limit`: look at it with each batch."""
        self._fresh, self._limit = fresh, limit

    def full(self) -> bool:
        """Whether it has more memory than the limit by now."""
        return self._limit is not None and own_memory() > self._limit

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Say what is being mapped; raises `Over` if nobody wants it any more."""
        if _OVER.unpack_from(self._memory, _OVER_AT)[0] >= self._epoch:
            raise Over
        left = 0 if self._limit is None else max(0, own_memory() - self._fresh)
        self._write(chunk, start, stop, monotonic_ns(), left, 0)

    def packing(self, chunk: int, reached: int) -> None:
        """Say that the state is being packed, with a chunk that was run up to item `reached`, or with `NO_CHUNK`."""
        self._write(chunk, reached, reached, monotonic_ns(), 0, 1)

    def rest(self) -> None:
        """Say that nothing is being mapped."""
        self._write(-1, 0, 0, 0, 0, 0)

    def _write(self, *fields: int) -> None:
        self._put(fields)
        # Here the parent may have decided that what was there before has run for too long. It looks at the count after
        # it has said so, and this worker looks at what it says after it has changed the count: one of them sees it.
        with self._fence:
            condemned = _COUNT.unpack_from(self._memory, _CONDEMNED_AT)[0] == self._count - 1
        if condemned:
            self._put(self._before)
            os.kill(os.getpid(), signal.SIGKILL)
        self._before = fields

    def _put(self, fields: tuple[int, ...]) -> None:
        self._count += 2
        _COUNT.pack_into(self._memory, 0, self._count - 1)
        _FIELDS.pack_into(self._memory, 8, *fields)
        _COUNT.pack_into(self._memory, 0, self._count)

    # -- the parent's side -------------------------------------------------------------------------------------

    def read(self) -> Batch | None:
        """The batch that is being mapped, None if there is none, or none can be told."""
        return self._read()[1]

    def _read(self) -> tuple[int, Batch | None]:
        """The count, and the batch."""
        for _ in range(100):
            (before,) = _COUNT.unpack_from(self._memory, 0)
            chunk, start, stop, since, left, packing = _FIELDS.unpack_from(self._memory, 8)
            if before == _COUNT.unpack_from(self._memory, 0)[0] and not before % 2:
                there = packing or (chunk >= 0 and stop)
                return before, Batch(chunk, start, stop, since / 1e9, left, bool(packing)) if there else None
        return -1, None

    def condemn(self, batch: Batch) -> bool:
        """Decide that the worker is to die in this batch; whether it is still in it, and may be killed.

        If not, the worker has gone on; or it has seen this, has put the batch back and killed itself.
        """
        count, now = self._read()
        if now != batch:
            return False
        _COUNT.pack_into(self._memory, _CONDEMNED_AT, count + 1)  # never 0, which it is at first
        with self._fence:
            return self._read() == (count, batch)

    def over(self, epoch: int) -> None:
        """Tell the worker that runs up to `epoch` are over."""
        _OVER.pack_into(self._memory, _OVER_AT, epoch)

    def close_fd(self) -> None:
        """Close the descriptor; the memory stays mapped."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Give the memory back."""
        self.close_fd()
        self._memory.close()


def _anonymous_memory(size: int) -> int:
    """A descriptor of memory that has no name, so that nothing can be left behind."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("poolagg")
    else:
        import tempfile

        fd, path = tempfile.mkstemp()
        os.unlink(path)
    os.truncate(fd, size)
    return fd
