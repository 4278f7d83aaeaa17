"""The primitives that Linux and macOS share: workers inherit descriptors, and their parent reaps them."""

from __future__ import annotations

import mmap
import os
import selectors
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

from poolagg.pools.process.channel import Pipe
from poolagg.pools.process.descriptors import Closable, Descriptor, Mark, descriptors, held, pipe
from poolagg.pools.process.launch.parent_death import die_by_thread
from poolagg.pools.process.output.reporter import REPORTS_MARK
from poolagg.pools.process.progress_cell import CELL_SIZE, ProgressCell
from poolagg.pools.process.systems.ends import Ends, Memory, WorkerEnds
from poolagg.pools.process.systems.file_memory import FileMemory, identity
from poolagg.pools.process.tampering import Descriptors

__all__ = ["Posix"]


class Posix:
    """The primitives of Linux and macOS, as far as they are the same."""

    in_flight = 2
    gathers = has_pipes = True
    memory: type[FileMemory] = FileMemory

    # -- in the parent -------------------------------------------------------------------------------------------------

    def ends(self, ours: list[Closable], theirs: list[Closable], output: Sequence[int]) -> Ends:
        """Open a socket pair, the pipes of claims and of the parent's death, the cell and the arenas."""
        with descriptors:
            here, there = socket.socketpair()
            ours.append(held(here))
            theirs.append(held(there))
            death_reader, death_writer = pipe()
            theirs.append(death_reader)
            ours.append(death_writer)
            claims = self.claims(ours)
            cell = self.file("poolagg")
            theirs.append(cell)
            arenas = self.arenas(ours)
        memories: list[Memory | None] = [self.memory(arena.fd) for arena in arenas] or [None, None]
        fds = [there.fileno(), cell.fd, claims[0] if claims else -1, death_reader.fd]
        fds += [*output, *(arena.fd for arena in arenas)]
        return Ends(here, self.memory(cell.fd).allocate(0, CELL_SIZE), claims, memories[0], memories[1], fds)

    def claims(self, ours: list[Closable]) -> tuple[int, int] | None:
        """Open the pipe of claims."""
        ends = pipe()
        ours += ends
        for end in ends:
            os.set_blocking(end.fd, False)
        return ends[0].fd, ends[1].fd

    def file(self, name: str) -> Descriptor:
        """Open a file that has no name, and so leaves none behind; `name` is for people who list descriptors."""
        import tempfile  # takes long, and Linux has better memory

        fd, path = tempfile.mkstemp(prefix=f"{name}-")
        opened = Descriptor(fd)
        os.unlink(path)
        return opened

    def arenas(self, ours: list[Closable]) -> list[Descriptor]:
        """Open the files of two arenas; return none where the system has no memory for them."""
        arenas = [self.file("poolagg-arena") for _ in range(2)]
        ours += arenas
        return arenas

    def selector(self) -> selectors.BaseSelector:
        """Open the best one that Python has here."""
        return selectors.DefaultSelector()

    def watch_death(self, pid: int) -> Closable | None:
        """Return None: the parent asks."""
        del pid
        return None

    # -- in the worker -------------------------------------------------------------------------------------------------

    def worker_ends(self, *handed: int) -> WorkerEnds:
        """Map the cell, and wrap the descriptors."""
        pipe_fd, cell_fd, claims_fd, death_fd, reports_fd, stdout_fd, stderr_fd, *arena_fds = handed
        cell = mmap.mmap(cell_fd, CELL_SIZE)
        self.memory(cell_fd).put_aside()  # the mapping keeps a duplicate, which an item may write to
        os.close(cell_fd)
        arena, items = map(self.memory, arena_fds) if arena_fds else (None, None)
        sock, streams = socket.socket(fileno=pipe_fd), (stdout_fd, stderr_fd)
        return WorkerEnds(sock, cell, claims_fd, death_fd, arena, items, reports_fd, streams)

    def die_with_parent(self, parent: int) -> None:
        """Wait in a thread; C code that holds the GIL delays it."""
        die_by_thread(parent)

    def mark(self, fd: int, number: int) -> Mark:
        """Return the file's identity, the only mark that it has."""
        del number
        return partial(identity, fd), identity(fd)

    def check_of(self, ends: WorkerEnds, pipe: Pipe, cell: ProgressCell) -> Callable[[], None]:
        """Return the check of the descriptors, which items can reach."""
        arenas = [memory for memory in (ends.arena, ends.items) if isinstance(memory, FileMemory)]
        numbers = {ends.claims: signal.SIGUSR2, ends.parent: signal.SIGIO, ends.reports: REPORTS_MARK}
        pipes = [(fd, int(number)) for fd, number in numbers.items() if fd >= 0]
        return Descriptors(ends.sock, pipe, cell, pipes, arenas, self.mark).check
