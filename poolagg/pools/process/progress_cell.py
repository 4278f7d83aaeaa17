"""A worker's progress cell: a few numbers in memory shared with the parent, which outlive the worker.

The worker writes, once a batch, which batch it runs and since when. The parent reads this to move the progress bar
within long chunks, to enforce item timeouts, and to name the item that a dead worker was running. With a memory limit,
the worker also writes how much memory earlier batches have left. The parent writes which runs are over, so that a
worker leaves a cancelled chunk. A byte for each segment of the two arenas says if it is lent. Each side counts the
bytes that it sends on the pipe, so that the other can tell if an item has written to the pipe or read from it.

Each field has one writer and no lock (a seqlock): a count that is odd during a write tells the reader if it read a
consistent state. A worker that dies during a write leaves the count odd, and so names no item.
"""

import contextlib
import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress, filterfalse, repeat
from operator import getitem
from time import monotonic_ns
from typing import Any, NamedTuple

from poolagg.pools.process.descriptors import close_all
from poolagg.pools.process.memory import own_memory

__all__ = ["CELL_SIZE", "NO_CHUNK", "SEGMENTS", "Batch", "LentSegments", "ProgressCell", "RunCancelled", "Sharing"]

SEGMENTS = 64
"""Most segments of an arena; the cell has a byte for each that says if it is lent."""

NO_CHUNK = -2
"""Stands for the chunk of a state that is packed without one."""

FREE_THREADED = "t" in getattr(sys, "abiflags", "")
"""Whether this Python is built without a GIL."""

_FIELDS = struct.Struct("=7q")  # epoch, chunk, start, stop, since, left, packing
_COUNT = struct.Struct("=q")
_OVER = struct.Struct("=q")
_BYTES = struct.Struct("q")  # natively aligned, so that a store is atomic
_FROM_WORKER = 64
_SHARING = slice(72, 88)
_OVER_AT, _TO_WORKER, _CONDEMNED_AT = 128, 136, 144  # what the parent writes is in a cache line of its own
_LENT = 192  # where the bytes of the segments begin
CELL_SIZE = _LENT + 2 * SEGMENTS

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows each signal kills


class Sharing:
    """Divides a running chunk by two numbers that the worker and the parent share.

    The worker writes which item it reaches, and then reads if it is to yield; the parent writes that the worker is to
    yield, and then reads which item the worker has reached. So the worker runs no item after that one, whichever side
    was first (Dekker's algorithm). This requires that each side sees the other's earlier write; taking the lock is the
    memory barrier.
    """

    def __init__(self, numbers: memoryview) -> None:
        self.numbers = numbers  # the chunk that is to yield, plus one; the item that the worker has reached
        self._barrier = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Ask no chunk to yield. (Never 0: `compress` selects by these numbers.)"""
        self.numbers[0] = -1

    # -- the worker's side ---------------------------------------------------------------------------------------------

    def come_to(self, index: int) -> None:
        """Announce that items up to `index` may run before the worker checks again."""
        self.numbers[1] = index
        with self._barrier:
            pass

    def asked(self, chunk: int) -> bool:
        """Tell if the chunk is to yield."""
        return bool(self.numbers[0] == chunk + 1)

    def until_asked(self, chunk: int, start: int, stop: int, source: Iterator[Any]) -> Iterator[Any]:
        """Iterate over the items of `source`, `start` to `stop`, until the chunk is to yield, at C speed: 0.1 us each.

        Before each item it announces the item and checks. The item at which it ends is consumed and dropped.
        """
        indices = range(start, stop)
        # Between threads without a GIL, only the lock has each see the other's write.
        come_to = map(self.come_to, indices) if FREE_THREADED else map(self.numbers.__setitem__, repeat(1), indices)
        asked = iter(partial(getitem, self.numbers, 0), chunk + 1)
        return compress(filterfalse(partial(next, come_to), source), asked)

    # -- the parent's side ---------------------------------------------------------------------------------------------

    def ask(self, chunk: int, batch: "Callable[[], Batch | None]") -> int | None:
        """Ask a running chunk to yield; return the first item that the worker will not run, None if unknown.

        `batch` returns what the worker is mapping.
        """
        self.numbers[0] = chunk + 1
        with self._barrier:
            pass
        now = batch()
        return int(self.numbers[1]) + 1 if now is not None and now.chunk == chunk else None


class RunCancelled(BaseException):
    """The run of this chunk is over. (A BaseException, so that no handler of the user's swallows it.)"""


class Batch(NamedTuple):
    """Items `start` to `stop` of a chunk, which a worker maps since `since` (`time.monotonic()`).

    `left`: bytes that earlier items have left in the worker; 0 without a memory limit. `packing`: the items are done
    and the worker packs its state; `since` is its last sign of life.
    """

    chunk: int
    start: int
    stop: int
    since: float
    left: int = 0
    packing: bool = False


class LentSegments:
    """Which segments of an arena are lent. The lender marks one before its message, the borrower clears the mark."""

    def __init__(self, memory: mmap.mmap, begin: int) -> None:
        self._memory, self._begin = memory, begin

    def lend(self, segment: int) -> None:
        """Mark a segment as lent, from the next message on."""
        self._memory[self._begin + segment] = 1

    def __contains__(self, segment: int) -> bool:
        """Tell if the other side still borrows it."""
        return bool(self._memory[self._begin + segment])

    def give_back(self, segment: int) -> None:
        """Mark a segment as free, unless the memory is closed."""
        with contextlib.suppress(ValueError):  # the memory is closed
            self._memory[self._begin + segment] = 0


class ProgressCell:
    """One worker's cell, seen from either side."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.lent_to_parent = LentSegments(self._memory, _LENT)
        self.lent_to_worker = LentSegments(self._memory, _LENT + SEGMENTS)
        self.sharing = Sharing(memoryview(self._memory)[_SHARING].cast("q"))
        self._count = 0
        self._fence = threading.Lock()
        """A memory barrier: taking it orders the writes before it and the reads after it."""
        self._before: tuple[int, ...] = (0, -1, 0, 0, 0, 0, 0)
        self._epoch = 0
        self._fresh = 0
        self._limit: int | None = None
        self._check: Callable[[], None] | None = None
        self._resting = True
        self._chunk = -1

    # -- the worker's side ---------------------------------------------------------------------------------------------

    def guard(self, check: Callable[[], None]) -> None:
        """Call `check` after each batch, before the cell names another; it ends a process that an item has damaged."""
        self._check = check

    def begin(self, epoch: int) -> None:
        """Begin a run: batches from now on belong to it."""
        self._epoch, self._chunk = epoch, -1
        self.rest()

    def weigh(self, fresh: int, limit: int) -> None:
        """Check memory with each batch: this process has `fresh` bytes, and may have up to `limit`."""
        self._fresh, self._limit = fresh, limit

    def full(self) -> bool:
        """Tell if this process has more memory than the limit."""
        return self._limit is not None and own_memory() > self._limit

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Report the batch that is mapped next; raise `RunCancelled` if the run is over."""
        if self._check is not None and not self._resting:
            self._check()
        if _OVER.unpack_from(self._memory, _OVER_AT)[0] >= self._epoch:
            raise RunCancelled
        self.sharing.come_to(stop - 1)  # before the batch, since a reader of the batch relies on it
        left = 0 if self._limit is None else max(0, own_memory() - self._fresh)
        self._resting, self._chunk = False, chunk
        self._write(self._epoch, chunk, start, stop, monotonic_ns(), left, 0)

    def packing(self, chunk: int, reached: int) -> None:
        """Report that the state is being packed, with a chunk that ran up to item `reached`, or with `NO_CHUNK`."""
        self._resting = False
        self._write(self._epoch, chunk, reached, reached, monotonic_ns(), 0, 1)

    def rest(self) -> None:
        """Report that no item is being mapped; the last chunk stays recorded."""
        if self._check is not None and not self._resting:
            self._check()
        self._resting = True
        self._write(self._epoch, self._chunk, 0, 0, 0, 0, 0)

    def announce(self, count: int) -> None:
        """Announce how many bytes the worker has sent, including those that it is about to send."""
        _BYTES.pack_into(self._memory, _FROM_WORKER, count)

    def sent(self) -> int:
        """Return how many bytes the parent has sent at least."""
        return _BYTES.unpack_from(self._memory, _TO_WORKER)[0]  # type: ignore[no-any-return]

    def _write(self, *fields: int) -> None:
        self._put(fields)
        # Meanwhile the parent may have condemned the batch before. It reads the count after it has written that, and
        # this worker reads that after it has written the count: at least one of them sees the other's write.
        with self._fence:
            condemned = _COUNT.unpack_from(self._memory, _CONDEMNED_AT)[0] == self._count - 1
        if condemned:
            self._put(self._before)
            os.kill(os.getpid(), _KILL)
        self._before = fields

    def _put(self, fields: tuple[int, ...]) -> None:
        self._count += 2
        _COUNT.pack_into(self._memory, 0, self._count - 1)
        _FIELDS.pack_into(self._memory, 8, *fields)
        _COUNT.pack_into(self._memory, 0, self._count)

    # -- the parent's side ---------------------------------------------------------------------------------------------

    def read(self) -> Batch | None:
        """Return the batch that is being mapped; None if there is none, or the write is incomplete."""
        return self._read()[1]

    def _read(self) -> tuple[int, Batch | None]:
        """Return the count, and the batch."""
        for _ in range(100):
            (before,) = _COUNT.unpack_from(self._memory, 0)
            _, chunk, start, stop, since, left, packing = _FIELDS.unpack_from(self._memory, 8)
            if before == _COUNT.unpack_from(self._memory, 0)[0] and not before % 2:
                there = packing or (chunk >= 0 and stop)
                return before, Batch(chunk, start, stop, since / 1e9, left, bool(packing)) if there else None
        return -1, None

    def condemn(self, batch: Batch) -> bool:
        """Decide that the worker is to die in this batch; return True if it is still in it, and may be killed.

        If False, the worker has gone on, or it has seen the decision, restored the batch and killed itself.
        """
        count, now = self._read()
        if now != batch:
            return False
        _COUNT.pack_into(self._memory, _CONDEMNED_AT, count + 1)  # never 0, which it is at first
        with self._fence:
            return self._read() == (count, batch)

    def last(self) -> tuple[int, int]:
        """Return the last run that the worker began, and its last chunk; -1 if none yet."""
        epoch, chunk, *_ = _FIELDS.unpack_from(self._memory, 8)
        return epoch, chunk

    def over(self, epoch: int) -> None:
        """Tell the worker that runs up to `epoch` are over."""
        _OVER.pack_into(self._memory, _OVER_AT, epoch)

    def announced(self) -> int:
        """Return how many bytes the worker has sent at most."""
        return _BYTES.unpack_from(self._memory, _FROM_WORKER)[0]  # type: ignore[no-any-return]

    def tell_sent(self, count: int) -> None:
        """Record how many bytes the parent has sent."""
        _BYTES.pack_into(self._memory, _TO_WORKER, count)

    def close(self) -> None:
        """Free the memory."""
        self.sharing.numbers.release()
        close_all([self._memory])
