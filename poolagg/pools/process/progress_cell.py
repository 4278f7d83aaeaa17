"""A worker's progress cell: a few numbers in memory shared with the parent, which outlive the worker's death.

The worker writes which batch it runs and since when, once per batch; the parent reads it to move the bar inside long
chunks, to time items out, and to name the item that a dead worker was running. Where memory is limited, the worker also
writes what earlier batches have left in its own. The parent writes which runs are over, so that a worker leaves a chunk
that nobody wants. A byte for each slot of the two arenas says whether it is lent. Each side counts the bytes that it
sends on the pipe, so that the other can tell whether an item has written to the pipe or read from it.

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
from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress, filterfalse, repeat
from operator import getitem
from time import monotonic_ns
from typing import Any, NamedTuple

from poolagg.pools.process.descriptors import Descriptor, close_all, descriptors
from poolagg.pools.process.memory import own_memory

__all__ = ["NO_CHUNK", "SEGMENTS", "Batch", "LentSegments", "ProgressCell", "RunCancelled", "Sharing"]

SEGMENTS = 64
"""Slots of an arena at most: as many bytes of the cell say whether they are lent."""

NO_CHUNK = -2
"""The chunk of a state that is packed with none."""

_FIELDS = struct.Struct("=7q")  # epoch, chunk, start, stop, since, left, packing
_COUNT = struct.Struct("=q")
_OVER = struct.Struct("=q")
_BYTES = struct.Struct("q")  # of native alignment, so that it is stored in one piece
_FROM_WORKER = 64
_SHARING = slice(72, 88)
_OVER_AT, _TO_WORKER, _CONDEMNED_AT = 128, 136, 144  # what the parent writes is in a cache line of its own
_LENT = 192  # where the bytes of the slots begin
_SIZE = _LENT + 2 * SEGMENTS


class Sharing:
    """How a chunk that is running is divided: two numbers that the worker and the parent both see.

    The worker says which item it comes to, and looks only then whether it is to yield; the parent says that it is to
    yield, and looks only then which item the worker has come to. So the worker runs nothing after that item, whichever
    of them was first. That holds where each sees what the other wrote before: hence the lock, which is a memory
    barrier.
    """

    def __init__(self, numbers: memoryview) -> None:
        self.numbers = numbers  # the chunk that is to yield, plus one; the item that the worker has come to
        self._barrier = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """No chunk is to yield. (Never 0: the numbers are what `compress` selects by.)"""
        self.numbers[0] = -1

    # -- the worker's side ---------------------------------------------------------------------------------------------

    def come_to(self, index: int) -> None:
        """Say that items up to `index` may be run before the worker looks again."""
        self.numbers[1] = index
        with self._barrier:
            pass

    def asked(self, chunk: int) -> bool:
        """Whether the chunk is to yield."""
        return bool(self.numbers[0] == chunk + 1)

    def until_asked(self, chunk: int, start: int, stop: int, source: Iterator[Any]) -> Iterator[Any]:
        """The items of `source`, `start` to `stop`, until the chunk is to yield: 0.1 us for each, at C speed.

        It says which item it comes to and looks, before each of them. The one at which it ends is lost.
        """
        come_to = map(self.numbers.__setitem__, repeat(1), range(start, stop))
        asked = iter(partial(getitem, self.numbers, 0), chunk + 1)
        return compress(filterfalse(partial(next, come_to), source), asked)

    # -- the parent's side ---------------------------------------------------------------------------------------------

    def ask(self, chunk: int, batch: Callable[[], Batch | None]) -> int | None:
        """Ask for a chunk that is running; the first item that the worker will not run any more, None if it is unknown.

        `batch` tells what the worker is mapping.
        """
        self.numbers[0] = chunk + 1
        with self._barrier:
            pass
        now = batch()
        return int(self.numbers[1]) + 1 if now is not None and now.chunk == chunk else None


class RunCancelled(BaseException):
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


class LentSegments:
    """Which slots of an arena are lent: the side that lends says so before its message, the other gives back."""

    def __init__(self, memory: mmap.mmap, begin: int) -> None:
        self._memory, self._begin = memory, begin

    def lend(self, segment: int) -> None:
        """Say that the other side has a slot, from the next message on."""
        self._memory[self._begin + segment] = 1

    def __contains__(self, segment: int) -> bool:
        """Whether the other side has it still."""
        return bool(self._memory[self._begin + segment])

    def give_back(self, segment: int) -> None:
        """Say that the slot may be used again; if there is anybody still to use it."""
        with contextlib.suppress(ValueError):  # the memory is closed
            self._memory[self._begin + segment] = 0


class ProgressCell:
    """One worker's cell, seen from either side."""

    def __init__(self, fd: int | None = None) -> None:
        if fd is not None:
            self._descriptor, self._memory = None, mmap.mmap(fd, _SIZE)
        else:
            with descriptors:
                self._descriptor = _anonymous_memory(_SIZE)
                self._memory = mmap.mmap(self._descriptor.fd, _SIZE)
        self.lent_to_parent = LentSegments(self._memory, _LENT)
        self.lent_to_worker = LentSegments(self._memory, _LENT + SEGMENTS)
        self.sharing = Sharing(memoryview(self._memory)[_SHARING].cast("q"))
        self._count = 0
        self._fence = threading.Lock()
        """To take a lock orders what is written before it and what is read after it."""
        self._before: tuple[int, ...] = (0, -1, 0, 0, 0, 0, 0)
        self._epoch = 0
        self._fresh = 0
        self._limit: int | None = None
        self._check: Callable[[], None] | None = None
        self._resting = True
        self._chunk = -1

    # -- the worker's side ---------------------------------------------------------------------------------------------

    def guard(self, check: Callable[[], None]) -> None:
        """Call `check` after each batch, before the cell names another: it ends a process that an item has damaged."""
        self._check = check

    def begin(self, epoch: int) -> None:
        """Batches from now on belong to this run; the worker is ready for it."""
        self._epoch, self._chunk = epoch, -1
        self.rest()

    def weigh(self, fresh: int, limit: int) -> None:
        """This process has `fresh` bytes of memory, and may have up to `limit`: look at it with each batch."""
        self._fresh, self._limit = fresh, limit

    def full(self) -> bool:
        """Whether it has more memory than the limit by now."""
        return self._limit is not None and own_memory() > self._limit

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Say what is being mapped; raises `RunCancelled` if nobody wants it any more."""
        if self._check is not None and not self._resting:
            self._check()
        if _OVER.unpack_from(self._memory, _OVER_AT)[0] >= self._epoch:
            raise RunCancelled
        self.sharing.come_to(stop - 1)  # before: who reads the batch may rely on it
        left = 0 if self._limit is None else max(0, own_memory() - self._fresh)
        self._resting, self._chunk = False, chunk
        self._write(self._epoch, chunk, start, stop, monotonic_ns(), left, 0)

    def packing(self, chunk: int, reached: int) -> None:
        """Say that the state is being packed, with a chunk that was run up to item `reached`, or with `NO_CHUNK`."""
        self._resting = False
        self._write(self._epoch, chunk, reached, reached, monotonic_ns(), 0, 1)

    def rest(self) -> None:
        """Say that nothing is being mapped; which chunk was the last stays there."""
        if self._check is not None and not self._resting:
            self._check()
        self._resting = True
        self._write(self._epoch, self._chunk, 0, 0, 0, 0, 0)

    def announce(self, count: int) -> None:
        """Say how many bytes the worker has sent, with those that it is about to send."""
        _BYTES.pack_into(self._memory, _FROM_WORKER, count)

    def sent(self) -> int:
        """How many bytes the parent has sent at least."""
        return _BYTES.unpack_from(self._memory, _TO_WORKER)[0]  # type: ignore[no-any-return]

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

    # -- the parent's side ---------------------------------------------------------------------------------------------

    def read(self) -> Batch | None:
        """The batch that is being mapped, None if there is none, or none can be told."""
        return self._read()[1]

    def _read(self) -> tuple[int, Batch | None]:
        """The count, and the batch."""
        for _ in range(100):
            (before,) = _COUNT.unpack_from(self._memory, 0)
            _, chunk, start, stop, since, left, packing = _FIELDS.unpack_from(self._memory, 8)
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

    def last(self) -> tuple[int, int]:
        """The run that the worker was ready for last, and the chunk it began last in it; -1 if none yet."""
        epoch, chunk, *_ = _FIELDS.unpack_from(self._memory, 8)
        return epoch, chunk

    def over(self, epoch: int) -> None:
        """Tell the worker that runs up to `epoch` are over."""
        _OVER.pack_into(self._memory, _OVER_AT, epoch)

    def announced(self) -> int:
        """How many bytes the worker has sent at most."""
        return _BYTES.unpack_from(self._memory, _FROM_WORKER)[0]  # type: ignore[no-any-return]

    def tell_sent(self, count: int) -> None:
        """Say how many bytes the parent has sent."""
        _BYTES.pack_into(self._memory, _TO_WORKER, count)

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
        self.sharing.numbers.release()
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
