"""Windows: a socket handed over by share(), memory named by a secret, a job object for the parent's death.

Limits, because Windows lacks the primitives:

    a chunk that waits cannot be cancelled, so a worker has one at a time, and waits for the next
    the parent asks for deaths twenty times a second
    a pool has at most 512 workers, which is the most that `select` counts
    a worker that was killed has an exit code, no signal and no stack
    the streams, log records and warnings of workers are those of their process

Sockets and memory are no descriptors there, so no item reaches a worker's ends by a loop over small numbers. Tried
under Wine, not on Windows.
"""

from __future__ import annotations

import mmap
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from poolagg.pools.process.channel import Pipe
from poolagg.pools.process.descriptors import Closable, Mark, descriptors, held
from poolagg.pools.process.progress_cell import CELL_SIZE, ProgressCell
from poolagg.pools.process.systems.ends import Ends, WorkerEnds

__all__ = ["WINDOWS", "Handed", "TaggedMemory", "Windows"]

_mmap: Any = mmap.mmap  # type checkers know only what their own system has


class TaggedMemory:
    """Mappings of the page file that know each other by name: a secret one, as others of the session could open them.

    A part is a mapping of its own. Windows reserves its pages when the first side opens it, and frees them once neither
    side has it mapped.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name or f"poolagg-{os.urandom(16).hex()}"

    def map(self, offset: int, size: int) -> mmap.mmap:
        """Open a part."""
        with descriptors:
            mapping: mmap.mmap = held(_mmap(-1, size, tagname=f"{self.name}-{offset}"))
        return mapping

    def allocate(self, offset: int, size: int) -> mmap.mmap:
        """Open a part, which is allocated by that."""
        return self.map(offset, size)

    def read(self, into: memoryview, offset: int) -> None:
        """Raise OSError."""
        raise OSError(f"Windows has no address space left to map {len(into):,} bytes")

    def free(self, mapping: mmap.mmap, offset: int) -> None:
        """Do nothing: the pages go with the last mapping."""

    def is_intact(self) -> bool:
        """Return True: it has no descriptor."""
        return True


class Handed(NamedTuple):
    """The values handed to a worker; `there` becomes the bytes of `share`, which are good for one process."""

    there: socket.socket
    names: tuple[str, ...]


class Windows:
    """The primitives of Windows."""

    in_flight = 1
    gathers = has_pipes = False

    # -- in the parent -------------------------------------------------------------------------------------------------

    def ends(self, ours: list[Closable], theirs: list[Closable], output: Sequence[int]) -> Ends:
        """Open a socket pair, which is a TCP connection, and name the memory."""
        del theirs, output
        with descriptors:
            here, there = socket.socketpair()
            # The parent keeps the worker's end: closed before the worker has it, it would be gone. And as long as it is
            # open, a killed worker resets no connection, which would drop its last words.
            ours += [held(here), held(there)]
        for sock in (here, there):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cell, to_parent, to_worker = (TaggedMemory() for _ in range(3))
        handed = Handed(there, (cell.name, to_parent.name, to_worker.name))
        return Ends(here, cell.map(0, CELL_SIZE), None, to_parent, to_worker, handed)

    def selector(self) -> selectors.BaseSelector:
        """Open a selector by `select`."""
        return _Selector()

    def watch_death(self, pid: int) -> None:
        """Return None: the parent asks."""

    # -- in the worker -------------------------------------------------------------------------------------------------

    def worker_ends(self, *handed: Any) -> WorkerEnds:
        """Open the socket, the memory, and a handle of the parent."""
        import _winapi

        winapi: Any = _winapi
        shared, (cell, arena, items), parent = handed
        sock: socket.socket = socket.fromshare(shared)  # type: ignore[attr-defined]
        handle = winapi.OpenProcess(winapi.SYNCHRONIZE, False, parent)
        memory = TaggedMemory(arena), TaggedMemory(items)
        return WorkerEnds(sock, _mmap(-1, CELL_SIZE, tagname=f"{cell}-0"), -1, handle, memory[0], memory[1])

    def die_with_parent(self, parent: int) -> None:
        """Do nothing: the job object ends this process, whatever it does."""

    def mark(self, fd: int, number: int) -> Mark:
        """Return a mark that is always right."""
        del fd, number
        return int, 0

    def check_of(self, ends: WorkerEnds, pipe: Pipe, cell: ProgressCell) -> Callable[[], None] | None:
        """Return None."""


WINDOWS = Windows()


class _Selector(selectors.SelectSelector):
    """Waits for no socket at all, too."""

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready."""
        if self.get_map():
            return super().select(timeout)
        time.sleep(max(0.0, timeout or 0.0))
        return []
