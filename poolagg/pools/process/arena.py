"""Memory that a worker and its parent share: where large buffers travel, written once and read where they lie.

A payload, or an item, is pickled without its large buffers (pickle protocol 5). Its sender copies those into a *slot*
of the arena that it writes to, and its message says where they are; the reader opens the pickle upon the slot itself. A
slot is used again and again, for writing to fresh pages costs twenty times what writing to used ones does. There is an
arena for each direction.

    writer    free ── put ──▶ lent              one byte a slot, in the memory of the cell: the writer sets it when
    reader    lent ── take_back ──▶ free        it lends, the reader clears it once no view of the slot is left

Who keeps a view of a slot keeps the slot: nothing is ever overwritten under it. A writer whose slots are all lent, or
who is given no memory, sends its buffers through the pipe; so it is, too, where there is no anonymous memory. Pages are
allocated before they are written to, so that a lack of memory is an error to be handled, and not a SIGBUS.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from poolagg.pools.process.channel import Bytes, identity
from poolagg.pools.process.descriptors import close_all, descriptors, held
from poolagg.pools.process.progress_cell import SEGMENTS, LentSegments

if TYPE_CHECKING:
    import ctypes

__all__ = ["Arena", "ArenaBuffers", "BorrowedSegments", "Extent", "Region", "arena_fd"]

LEAST_BUFFER = 1 << 16
"""Bytes of a buffer that is worth a slot: a smaller one goes through the pipe sooner than its slot is looked up."""

MOST = 64 << 20
"""Bytes of an arena, unless one message is larger: two of those have a slot, one to be read and one to be written."""

KEPT = 32 << 20
"""Bytes that an arena keeps from run to run, so that the next need not begin with fresh pages."""

_PAGE = mmap.ALLOCATIONGRANULARITY
_CACHE_LINE = 64


class Region(NamedTuple):
    """A slot, and where it lies in the arena: it may have been given another place since it was last used."""

    segment: int
    offset: int
    size: int


Extent = tuple[int, int]
"""Where a buffer begins and ends in its slot."""


def arena_fd() -> int:
    """Open anonymous memory that grows when it is needed; -1 where there is no such thing."""
    if not hasattr(os, "memfd_create"):
        return -1
    return os.memfd_create("poolagg-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


class ArenaBuffers(list[pickle.PickleBuffer]):
    """Takes the buffers that are worth a slot out of a pickle: a `buffer_callback`."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the buffer is to stay in the pickle."""
        try:
            small = buffer.raw().nbytes < self._least
        except BufferError:  # it is not contiguous
            return True
        if not small:
            self.append(buffer)
        return small


# -- the writer's side -------------------------------------------------------------------------------------------------


class Arena:
    """The writer's side. `least`: see `LEAST_BUFFER`. The descriptor is its caller's to close."""

    def __init__(self, fd: int, lent: LentSegments, least: int) -> None:
        self.least = least
        self.fd = fd
        self._lent = lent
        self._regions: dict[int, Region] = {}
        self._memory: dict[int, mmap.mmap] = {}
        self._end = 0
        self._identity = identity(fd)
        _seal(fd)

    def put(self, buffers: Sequence[Bytes]) -> tuple[Region, list[Extent]] | None:
        """Copy buffers of plain bytes into a slot, which is lent from now on; None if there is none to be had."""
        spans, end = [], 0
        for buffer in buffers:
            spans.append((end, end + len(buffer)))
            end = _up(end + len(buffer), _CACHE_LINE)
        region = self._free(end) or self._new(end)
        if region is None:
            return None
        memory = self._memory[region.segment]
        for buffer, (start, stop) in zip(buffers, spans, strict=True):
            memory[start:stop] = buffer
        self._lent.lend(region.segment)
        return region, spans

    def shrink(self, most: int = KEPT) -> None:
        """Give memory back until no more than `most` bytes are held; what is lent stays."""
        for region in sorted(self._idle(), key=lambda region: region.size, reverse=True):
            if self._held() > most:
                self._drop(region)

    def _free(self, size: int) -> Region | None:
        return min((p for p in self._idle() if p.size >= size), key=lambda region: region.size, default=None)

    def _new(self, size: int) -> Region | None:
        """Make a slot with some room to spare; those that are too small by now make way for it."""
        size = _up(size + size // 8, _PAGE)
        most = max(MOST, 2 * size)
        self.shrink(max(0, most - size))
        if len(self._regions) == SEGMENTS and (idle := self._idle()):
            self._drop(min(idle, key=lambda region: region.size))
        segment = next((segment for segment in range(SEGMENTS) if segment not in self._regions), None)
        if segment is None or self._held() + size > most:
            return None
        region = Region(segment, self._end, size)
        memory = self._allocate(region)
        if memory is None:
            return None
        self._memory[segment] = memory
        self._regions[segment] = region
        self._end += size
        return region

    def _allocate(self, region: Region) -> mmap.mmap | None:
        """Memory whose pages are there. It is mapped first, so that what fails leaves no pages behind."""
        if identity(self.fd) != self._identity:  # a task has closed it, and may have a file of its own in its place
            return None
        memory = None
        try:
            os.truncate(self.fd, max(region.offset + region.size, os.fstat(self.fd).st_size))
            memory = _mapped(self.fd, region)
            os.posix_fallocate(self.fd, region.offset, region.size)
        except (OSError, ValueError):
            close_all([memory])
            return None
        return memory

    def _idle(self) -> list[Region]:
        return [region for segment, region in self._regions.items() if segment not in self._lent]

    def close(self) -> None:
        """There is no reader any more."""
        close_all(self._memory.values())
        self._memory.clear()
        self._regions.clear()

    def _held(self) -> int:
        return sum(region.size for region in self._regions.values())

    def _drop(self, region: Region) -> None:
        del self._regions[region.segment]
        memory = self._memory.pop(region.segment)
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_REMOVE)  # a hole in the file: its pages are the system's again
        close_all([memory])


def _seal(fd: int) -> None:
    """Nobody can make the file shorter under a mapping, which would be a SIGBUS for who reads it."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)


def _mapped(fd: int, region: Region) -> mmap.mmap:
    with descriptors:
        return held(mmap.mmap(fd, region.size, offset=region.offset))


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


# -- the reader's side -------------------------------------------------------------------------------------------------


class BorrowedSegments:
    """The reader's side: what it has been lent.

    Whether anyone looks at a slot is told by the count of references to what exports its memory. It is looked up when
    there is something to wait for: a weak reference's callback may come in the middle of anything, and swallows Ctrl-C.
    """

    def __init__(self, fd: int, lent: LentSegments) -> None:
        self.fd = fd
        self._theirs = lent
        self._memory: dict[int, tuple[Region, mmap.mmap]] = {}
        self._lent: dict[int, ctypes.Array[ctypes.c_ubyte]] = {}
        self._for_good: set[int] = set()

    def open(self, region: Region) -> Borrowed:
        """The slot, for as long as this or a view of it is there."""
        import ctypes  # most workers never get here, and start without it

        kind = ctypes.c_ubyte * region.size
        known = self._memory.get(region.segment)
        if known is None or known[0] != region:
            try:
                known = region, _mapped(self.fd, region)
            except OSError:  # each mapping takes a descriptor, and there is none left: a copy does as well
                return Borrowed(self._read(kind(), region))
            self._memory[region.segment] = known
        memory = self._lent[region.segment] = kind.from_buffer(known[1])
        return Borrowed(memory)

    def _read(self, memory: ctypes.Array[ctypes.c_ubyte], region: Region) -> ctypes.Array[ctypes.c_ubyte]:
        missing = memoryview(memory)
        while missing:
            missing = missing[os.preadv(self.fd, [missing], region.offset + region.size - len(missing)) :]
        self.give_back(region.segment)
        return memory

    def take_back(self) -> None:
        """Give back the slots that nobody looks at any more."""
        for segment in list(self._lent):
            if sys.getrefcount(self._lent.get(segment)) <= 2:  # ours, and the argument's
                self._lent.pop(segment, None)  # a fork in another thread may have been quicker
                self.give_back(segment)

    def give_back(self, segment: int) -> None:
        """Nobody looks at the slot."""
        self._theirs.give_back(segment)

    def before_fork(self) -> None:
        """A child is about to be forked, which may look at what is lent now for as long as it likes."""
        self.take_back()
        self._for_good |= set(self._lent)
        self._lent.clear()

    def close(self) -> None:
        """The writer is gone. What is lent lives as long as it is looked at; the rest is given back now."""
        self.take_back()
        for segment, (_, memory) in self._memory.items():
            if segment not in self._lent and segment not in self._for_good:
                with contextlib.suppress(OSError):
                    memory.madvise(mmap.MADV_REMOVE)
        self._lent.clear()
        self._memory.clear()


class Borrowed:
    """One message's slot."""

    def __init__(self, memory: ctypes.Array[ctypes.c_ubyte]) -> None:
        self._memory = memory

    def view(self, span: Extent) -> memoryview:
        """One buffer, where it lies."""
        start, stop = span
        return pickle.PickleBuffer(memoryview(self._memory)[start:stop]).raw()

    def copy(self, span: Extent) -> bytearray:
        """One buffer, to keep."""
        return bytearray(self.view(span))
