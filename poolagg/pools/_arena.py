"""Memory that a worker shares with its parent: where large buffers travel, written once and read where they lie.

A payload is pickled without its large buffers (pickle protocol 5). The worker copies those into a *slot* of its arena,
and its message says where they are; the parent opens the payload upon the slot itself. A slot is used again and again,
for writing to fresh pages costs twenty times what writing to used ones does.

    worker    free ── put ──▶ lent         one byte a slot, in the memory of the cell: the worker sets it when it
    parent    lent ── gone ──▶ free        lends, the parent clears it when the last view of the slot is gone

Who keeps a view of a slot keeps the slot: nothing is ever overwritten under it. A worker whose slots are all lent, or
who is given no memory, sends its buffers through the pipe; so it is, too, where there is no anonymous memory. Pages are
allocated before they are written to, so that a lack of memory is an error to be handled, and not a SIGBUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from poolagg.pools._cell import SLOTS, Cell

__all__ = ["Apart", "Arena", "Loans", "Place", "Span", "arena_fd"]

LEAST = 1 << 16
"""Bytes of a buffer that is worth a slot: a smaller one goes through the pipe sooner than its slot is looked up."""

MOST = 64 << 20
"""Bytes of an arena, unless one message is larger: two of those have a slot, one to be read and one to be written."""

KEPT = 32 << 20
"""Bytes that an arena keeps from run to run, so that the next need not begin with fresh pages."""

_PAGE = mmap.ALLOCATIONGRANULARITY
_CACHE_LINE = 64
_SHARED = getattr(mmap, "MAP_SHARED", 0) | getattr(mmap, "MAP_POPULATE", 0)


class Place(NamedTuple):
    """A slot, and where it lies in the arena: it may have been given another place since it was last used."""

    slot: int
    offset: int
    size: int


Span = tuple[int, int]
"""Where a buffer begins and ends in its slot."""


def arena_fd() -> int:
    """A descriptor of anonymous memory that grows when it is needed; -1 where there is no such thing."""
    if not hasattr(os, "memfd_create"):
        return -1
    return os.memfd_create("poolagg-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


class Apart(list[pickle.PickleBuffer]):
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


# -- the worker's side -----------------------------------------------------------------------------------------------


class Arena:
    """The worker's side. `least`: see `LEAST`."""

    def __init__(self, fd: int, cell: Cell, least: int) -> None:
        self.least = least
        self._fd = fd
        self._cell = cell
        self._places: dict[int, Place] = {}
        self._memory: dict[int, mmap.mmap] = {}
        self._end = 0
        _seal(fd)

    def put(self, buffers: Sequence[pickle.PickleBuffer]) -> tuple[Place, list[Span]] | None:
        """Copy the buffers into a slot, which is lent from now on; None if there is none to be had."""
        raws = [buffer.raw() for buffer in buffers]
        spans, end = [], 0
        for raw in raws:
            spans.append((end, end + raw.nbytes))
            end = _up(end + raw.nbytes, _CACHE_LINE)
        place = self._free(end) or self._new(end)
        if place is None:
            return None
        memory = self._memory[place.slot]
        for raw, (start, stop) in zip(raws, spans, strict=True):
            memory[start:stop] = raw
        self._cell.lend(place.slot)
        return place, spans

    def shrink(self, most: int = KEPT) -> None:
        """Give memory back until no more than `most` bytes are held; what is lent stays."""
        for place in sorted(self._idle(), key=lambda place: place.size, reverse=True):
            if self._held() > most:
                self._drop(place)

    def _free(self, size: int) -> Place | None:
        return min((p for p in self._idle() if p.size >= size), key=lambda place: place.size, default=None)

    def _new(self, size: int) -> Place | None:
        """Make a slot with some room to spare; those that are too small by now make way for it."""
        size = _up(size + size // 8, _PAGE)
        most = max(MOST, 2 * size)
        self.shrink(max(0, most - size))
        slot = next((slot for slot in range(SLOTS) if slot not in self._places), None)
        if slot is None or self._held() + size > most:
            return None
        place = Place(slot, self._end, size)
        try:
            os.posix_fallocate(self._fd, place.offset, size)
            self._memory[slot] = mmap.mmap(self._fd, size, _SHARED, offset=place.offset)
        except (OSError, ValueError):  # what was allocated will be there when the same place is tried again
            return None
        self._places[slot] = place
        self._end += size
        return place

    def _idle(self) -> list[Place]:
        return [place for slot, place in self._places.items() if not self._cell.is_lent(slot)]

    def _held(self) -> int:
        return sum(place.size for place in self._places.values())

    def _drop(self, place: Place) -> None:
        del self._places[place.slot]
        memory = self._memory.pop(place.slot)
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_REMOVE)  # a hole in the file: its pages are the system's again
        memory.close()


def _seal(fd: int) -> None:
    """Nobody can make the file shorter under a mapping, which would be a SIGBUS for who reads it."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


# -- the parent's side -----------------------------------------------------------------------------------------------


class Loans:
    """The parent's side: what it has been lent."""

    def __init__(self, fd: int, cell: Cell) -> None:
        self._fd = fd
        self._cell = cell
        self._owner = os.getpid()
        self._memory: dict[int, tuple[Place, mmap.mmap]] = {}
        self._out: dict[int, weakref.ref[Any]] = {}

    def open(self, place: Place) -> Loan:
        """The slot; it is given back when this, and every view of it, is gone. OSError if it can't be mapped."""
        known = self._memory.get(place.slot)
        if known is None or known[0] != place:
            known = place, mmap.mmap(self._fd, place.size, _SHARED, offset=place.offset)
            self._memory[place.slot] = known
        memory = (ctypes.c_ubyte * place.size).from_buffer(known[1])
        self._out[place.slot] = weakref.ref(memory, lambda _, slot=place.slot: self.give_back(slot))  # type: ignore
        return Loan(memory)

    def give_back(self, slot: int) -> None:
        """Nobody looks at the slot any more, here. (A forked child has views of its own, and no say in this.)"""
        if os.getpid() == self._owner:
            self._cell.give_back(slot)

    def close(self) -> None:
        """The worker is gone. What is lent lives as long as it is looked at."""
        self._memory.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Loan:
    """One message's slot."""

    def __init__(self, memory: ctypes.Array[ctypes.c_ubyte]) -> None:
        self._memory = memory

    def view(self, span: Span) -> memoryview:
        """One buffer, where it lies."""
        start, stop = span
        return pickle.PickleBuffer(memoryview(self._memory)[start:stop]).raw()

    def copy(self, span: Span) -> bytearray:
        """One buffer, to keep."""
        return bytearray(self.view(span))
