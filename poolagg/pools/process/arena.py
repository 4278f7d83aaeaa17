"""Memory that a worker and its parent share for large buffers: written once, and read in place.

The sender pickles a state or an item without its large buffers (pickle protocol 5). It copies those into a *segment* of
its arena, and its message says where they are; the reader unpickles directly on the segment. Segments are reused, since
writing to fresh pages costs twenty times what writing to used ones does. Each direction has an arena.

    writer    free ── put ──▶ lent              one byte a segment, in the memory of the cell: the writer sets it when
    reader    lent ── take_back ──▶ free        it lends, the reader clears it once no view of the segment is left

A view of a segment keeps it: the writer never overwrites it. A writer sends its buffers through the pipe if all
segments are lent, memory is short, or the system has no anonymous memory. It allocates pages before it writes to them,
so that a lack of memory is an error to be handled, and not a SIGBUS.
"""

from __future__ import annotations

import mmap
import pickle
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from poolagg.pools.process.channel import Bytes
from poolagg.pools.process.descriptors import close_all
from poolagg.pools.process.progress_cell import SEGMENTS, LentSegments

if TYPE_CHECKING:
    import ctypes

    from poolagg.pools.process.systems.ends import Memory

__all__ = ["Arena", "ArenaBuffers", "BorrowedSegments", "Extent", "Region"]

LEAST_BUFFER = 1 << 16
"""Least size of a buffer, in bytes, that is worth a segment: the pipe is faster for a smaller one."""

MOST = 64 << 20
"""Most bytes of an arena, unless one message is larger: then two such messages fit, one to read and one to write."""

KEPT = 32 << 20
"""Bytes that an arena keeps from run to run, so that the next run need not begin with fresh pages."""

_PAGE = mmap.ALLOCATIONGRANULARITY
_CACHE_LINE = 64


class Region(NamedTuple):
    """A segment, and its place in the arena, which may have changed since its last use."""

    segment: int
    offset: int
    size: int


Extent = tuple[int, int]
"""Start and end of a buffer in its segment."""


class ArenaBuffers(list[pickle.PickleBuffer]):
    """A `buffer_callback` that takes the buffers that are worth a segment out of a pickle."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Tell if the buffer is to stay in the pickle."""
        try:
            small = buffer.raw().nbytes < self._least
        except BufferError:  # it is not contiguous
            return True
        if not small:
            self.append(buffer)
        return small


# -- the writer's side -------------------------------------------------------------------------------------------------


class Arena:
    """The writer's side. `least`: see `LEAST_BUFFER`."""

    def __init__(self, shared: Memory, lent: LentSegments, least: int) -> None:
        self.least = least
        self.shared = shared
        self._lent = lent
        self._regions: dict[int, Region] = {}
        self._memory: dict[int, mmap.mmap] = {}
        self._end = 0

    def put(self, buffers: Sequence[Bytes]) -> tuple[Region, list[Extent]] | None:
        """Copy buffers of plain bytes into a segment, and lend it; return None if no segment is available."""
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
        """Free idle segments until the arena holds no more than `most` bytes."""
        for region in sorted(self._idle(), key=lambda region: region.size, reverse=True):
            if self._held() > most:
                self._drop(region)

    def _free(self, size: int) -> Region | None:
        return min((p for p in self._idle() if p.size >= size), key=lambda region: region.size, default=None)

    def _new(self, size: int) -> Region | None:
        """Make a segment with an eighth to spare; drop idle ones, which are too small, to make space."""
        size = _up(size + size // 8, _PAGE)
        most = max(MOST, 2 * size)
        self.shrink(max(0, most - size))
        if len(self._regions) == SEGMENTS and (idle := self._idle()):
            self._drop(min(idle, key=lambda region: region.size))
        segment = next((segment for segment in range(SEGMENTS) if segment not in self._regions), None)
        if segment is None or self._held() + size > most:
            return None
        region = Region(segment, self._end, size)
        try:
            self._memory[segment] = self.shared.allocate(region.offset, size)
        except (OSError, ValueError):
            return None
        self._regions[segment] = region
        self._end += size
        return region

    def _idle(self) -> list[Region]:
        return [region for segment, region in self._regions.items() if segment not in self._lent]

    def close(self) -> None:
        """Unmap everything; the reader is gone."""
        close_all(self._memory.values())
        self._memory.clear()
        self._regions.clear()

    def _held(self) -> int:
        return sum(region.size for region in self._regions.values())

    def _drop(self, region: Region) -> None:
        del self._regions[region.segment]
        memory = self._memory.pop(region.segment)
        self.shared.free(memory, region.offset)
        close_all([memory])


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


# -- the reader's side -------------------------------------------------------------------------------------------------


class BorrowedSegments:
    """The reader's side: the segments that it borrows.

    A segment is in use as long as there are references to the object that exports its memory. The reader checks their
    count before it waits: a weak reference's callback may run in the middle of anything, and swallows Ctrl-C.
    """

    def __init__(self, shared: Memory | None, lent: LentSegments) -> None:
        self.shared = shared
        self._theirs = lent
        self._memory: dict[int, tuple[Region, mmap.mmap]] = {}
        self._lent: dict[int, ctypes.Array[ctypes.c_ubyte]] = {}
        self._for_good: set[int] = set()

    def open(self, region: Region) -> Borrowed:
        """Borrow a segment, for as long as the result or a view of it exists."""
        import ctypes  # most workers never get here, and start without it

        assert self.shared is not None
        kind = ctypes.c_ubyte * region.size
        known = self._memory.get(region.segment)
        if known is None or known[0] != region:
            try:
                known = region, self.shared.map(region.offset, region.size)
            except OSError:  # out of descriptors, of which each mapping may take one: copy instead
                copy = kind()
                self.shared.read(memoryview(copy), region.offset)
                self.give_back(region.segment)
                return Borrowed(copy)
            self._memory[region.segment] = known
        memory = self._lent[region.segment] = kind.from_buffer(known[1])
        return Borrowed(memory)

    def is_intact(self) -> bool:
        """Return False if an item has put another file in the arena's place."""
        return self.shared is None or self.shared.is_intact()

    def take_back(self) -> None:
        """Give back the segments that have no view left."""
        for segment in list(self._lent):
            if sys.getrefcount(self._lent.get(segment)) <= 2:  # that of `_lent`, and the argument's
                self._lent.pop(segment, None)  # a fork in another thread may have removed it
                self.give_back(segment)

    def give_back(self, segment: int) -> None:
        """Give back a segment that has no view."""
        self._theirs.give_back(segment)

    def before_fork(self) -> None:
        """Keep what is borrowed now forever, since the child that is about to be forked may read it at any time."""
        self.take_back()
        self._for_good |= set(self._lent)
        self._lent.clear()

    def close(self) -> None:
        """Free what is not in use, since the writer is gone; the rest lives as long as its views."""
        self.take_back()
        for segment, (region, memory) in self._memory.items():
            if self.shared is not None and segment not in self._lent and segment not in self._for_good:
                self.shared.free(memory, region.offset)
        self._lent.clear()
        self._memory.clear()


class Borrowed:
    """One message's segment."""

    def __init__(self, memory: ctypes.Array[ctypes.c_ubyte]) -> None:
        self._memory = memory

    def view(self, span: Extent) -> memoryview:
        """Return one buffer, in place."""
        start, stop = span
        return pickle.PickleBuffer(memoryview(self._memory)[start:stop]).raw()

    def copy(self, span: Extent) -> bytearray:
        """Return a copy of one buffer."""
        return bytearray(self.view(span))
