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
import struct
from time import monotonic_ns
from typing import NamedTuple

from poolagg.pools._descriptors import Descriptor, close_all, descriptors
from poolagg.pools._memory import own_memory

__all__ = ["SLOTS", "Batch", "Cell", "Lent", "Over"]

SLOTS = 64
"""Slots of an arena at most: as many bytes of the cell say whether they are lent."""

_FIELDS = struct.Struct("=5q")  # chunk, start, stop, since, left
_COUNT = struct.Struct("=q")
_OVER = struct.Struct("=q")
_LENT = 64  # where the bytes of the slots begin
_SIZE = _LENT + 2 * SLOTS


class Over(BaseException):
    """The run that this chunk belongs to is over. (Not an Exception: no handler of a user's may swallow it.)"""


class Batch(NamedTuple):
    """Items `start` to `stop` of a chunk, being mapped since `since` (`time.monotonic()`).

    `left`: bytes by which the worker was larger then than when it was fresh; 0 where memory is not limited.
    """

    chunk: int
    start: int
    stop: int
    since: float
    left: int = 0


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
        if fd is not None:
            self._descriptor, self._memory = None, mmap.mmap(fd, _SIZE)
        else:
            with descriptors:
                self._descriptor = _anonymous_memory(_SIZE)
                self._memory = mmap.mmap(self._descriptor.fd, _SIZE)
        self.lent_to_parent = Lent(self._memory, _LENT)
        self.lent_to_worker = Lent(self._memory, _LENT + SLOTS)
        self._count = 0
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
        if _OVER.unpack_from(self._memory, 48)[0] >= self._epoch:
            raise Over
        left = 0 if self._limit is None else max(0, own_memory() - self._fresh)
        self._write(chunk, start, stop, monotonic_ns(), left)

    def rest(self) -> None:
        """Say that nothing is being mapped."""
        self._write(-1, 0, 0, 0, 0)

    def _write(self, *fields: int) -> None:
        self._count += 2
        _COUNT.pack_into(self._memory, 0, self._count - 1)
        _FIELDS.pack_into(self._memory, 8, *fields)
        _COUNT.pack_into(self._memory, 0, self._count)

    # -- the parent's side -------------------------------------------------------------------------------------

    def read(self) -> Batch | None:
        """The batch that is being mapped, None if there is none, or none can be told."""
        for _ in range(100):
            before = _COUNT.unpack_from(self._memory, 0)
            chunk, start, stop, since, left = _FIELDS.unpack_from(self._memory, 8)
            if before == _COUNT.unpack_from(self._memory, 0) and not before[0] % 2:
                return Batch(chunk, start, stop, since / 1e9, left) if chunk >= 0 and stop else None
        return None

    def over(self, epoch: int) -> None:
        """Tell the worker that runs up to `epoch` are over."""
        _OVER.pack_into(self._memory, 48, epoch)

    @property
    def fd(self) -> int:
        """The descriptor for the worker; -1 once it is closed."""
        return -1 if self._descriptor is None else self._descriptor.fd

    def fileno(self) -> int:
        """The same."""
        return self.fd

    def close_fd(self) -> None:
        """Close the descriptor; the memory stays mapped."""
        close_all([self._descriptor])

    def close(self) -> None:
        """Give the memory back."""
        close_all([self._descriptor, self._memory])


def _anonymous_memory(size: int) -> Descriptor:
    """Memory that has no name, so that nothing can be left behind."""
    if hasattr(os, "memfd_create"):
        memory = Descriptor(os.memfd_create("poolagg"))
    else:
        import tempfile

        fd, path = tempfile.mkstemp()
        memory = Descriptor(fd)
        os.unlink(path)
    os.truncate(memory.fd, size)
    return memory
