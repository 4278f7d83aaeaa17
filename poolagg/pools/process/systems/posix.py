"""What Linux and macOS have in common: workers inherit descriptors, and their parent reaps them."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import selectors
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic, sleep
from typing import Any

from poolagg.pools.process.channel import Pipe
from poolagg.pools.process.descriptors import Closable, Descriptor, close_all, descriptors, held, pipe
from poolagg.pools.process.launch.parent_death import die_by_thread
from poolagg.pools.process.progress_cell import CELL_SIZE, ProgressCell
from poolagg.pools.process.systems.system import Ends, Launcher, Mark, Memory, WorkerEnds, native

__all__ = ["FileMemory", "Posix", "PosixChild", "identity"]

LOOK = 0.05
"""Seconds between two checks of a child without a sentinel that is about to end."""

ZEROS = bytes(1 << 20)


def identity(fd: int) -> tuple[int, int] | None:
    """Return device and inode of the file that a descriptor refers to; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileMemory:
    """Memory behind a descriptor, which the caller owns."""

    ASIDE = 1 << 43
    """A file position far behind all segments, which file systems still take."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._identity = identity(fd)

    def map(self, offset: int, size: int) -> mmap.mmap:
        """Map a part."""
        with descriptors:
            return held(mmap.mmap(self.fd, size, offset=offset))

    def allocate(self, offset: int, size: int) -> mmap.mmap:
        """Map a part and allocate its pages, in this order, so that a failure leaves no pages behind."""
        if not self.is_intact():
            raise OSError("an item has closed this memory, or put another file in its place")
        mapping = None
        try:
            os.truncate(self.fd, max(offset + size, os.fstat(self.fd).st_size))
            mapping = self.map(offset, size)
            self._allocate_pages(offset, size)
        except (OSError, ValueError):
            close_all([mapping])
            raise
        return mapping

    def _allocate_pages(self, offset: int, size: int) -> None:
        for at in range(offset, offset + size, len(ZEROS)):
            os.pwrite(self.fd, ZEROS[: offset + size - at], at)

    def read(self, into: memoryview, offset: int) -> None:
        """Copy a part by system calls."""
        end = offset + len(into)
        while into:
            into = into[os.preadv(self.fd, [into], end - len(into)) :]

    def free(self, mapping: mmap.mmap, offset: int) -> None:
        """Punch a hole into the file, where it can have one."""
        if hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError):
                mapping.madvise(mmap.MADV_REMOVE)

    def put_aside(self) -> None:
        """Move the file position behind the contents, also for the duplicate in a mapping."""
        os.lseek(self.fd, self.ASIDE, os.SEEK_SET)

    def is_intact(self) -> bool:
        """Tell if the descriptor still refers to the same file."""
        return identity(self.fd) == self._identity


class Posix:
    """The primitives of Linux and macOS, as far as they are the same."""

    in_flight = 2
    gathers = True
    memory: type[FileMemory] = FileMemory

    # -- in the parent -------------------------------------------------------------------------------------------------

    def ends(self, ours: list[Closable], theirs: list[Closable]) -> Ends:
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
        fds = [there.fileno(), cell.fd, claims[0] if claims else -1, death_reader.fd, *(arena.fd for arena in arenas)]
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
        import tempfile

        fd, path = tempfile.mkstemp(prefix=f"{name}-")
        opened = Descriptor(fd)
        os.unlink(path)
        return opened

    def arenas(self, ours: list[Closable]) -> list[Descriptor]:
        """Open the files of two arenas; return none where the system has no memory for them."""
        arenas = [self.file("poolagg-arena") for _ in range(2)]
        ours += arenas
        return arenas

    def launcher(self, method: str, environ: Mapping[str, str], by_value: bool, start: tuple[Any, Any]) -> Launcher:
        """Open what starts workers by this method."""
        from poolagg.pools.process.launch import forkserver, launchers  # they start workers, which import this

        kinds: dict[str, Callable[..., Launcher]] = {
            "forkserver": forkserver.ForkserverLauncher,
            "spawn": launchers.SpawnLauncher,
            "fork": launchers.ForkLauncher,
        }
        return kinds[method](environ, by_value, start)

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
        pipe_fd, cell_fd, claims_fd, death_fd, *arena_fds = handed
        cell = mmap.mmap(cell_fd, CELL_SIZE)
        self.memory(cell_fd).put_aside()  # the mapping keeps a duplicate, which an item may write to
        os.close(cell_fd)
        arena, items = map(self.memory, arena_fds) if arena_fds else (None, None)
        return WorkerEnds(socket.socket(fileno=pipe_fd), cell, claims_fd, death_fd, arena, items)

    def die_with_parent(self, parent: int) -> None:
        """Wait in a thread; C code that holds the GIL delays it."""
        die_by_thread(parent)

    def mark(self, fd: int, number: int) -> Mark:
        """Return the file's identity, the only mark that it has."""
        del number
        return partial(identity, fd), identity(fd)

    def check_of(self, ends: WorkerEnds, pipe: Pipe, cell: ProgressCell) -> Callable[[], None]:
        """Return the check of the descriptors, which items can reach."""
        from poolagg.pools.process.tampering import Descriptors

        arenas = [memory for memory in (ends.arena, ends.items) if isinstance(memory, FileMemory)]
        pipes = [(fd, number) for fd, number in ((ends.claims, signal.SIGUSR2), (ends.parent, signal.SIGIO)) if fd >= 0]
        return Descriptors(ends.sock, pipe, cell, pipes, arenas, self.mark).check


class PosixChild:
    """A started process.

    `reap(pid, options)` waits for its end as `os.waitpid` does, and returns its exit code; with `os.WNOHANG` it raises
    BlockingIOError while the process is alive. `watch(pid)` returns its sentinel.
    """

    def __init__(
        self, pid: int, reap: Callable[[int, int], int | None], watch: Callable[[int], Closable | None] | None = None
    ) -> None:
        if pid <= 0:
            raise ValueError(f"pid must be positive, not {pid!r}: to kill it would kill many processes")
        self.pid = pid
        self._reap = reap
        self._lock = threading.RLock()
        """Held to kill and to reap, since the kernel reuses the pid of a reaped process. Reentrant, since a signal
        handler may close the pool meanwhile."""
        self._ended = False
        self._exitcode: int | None = None
        self._watch: Any = None
        try:
            with descriptors:
                self._watch = (watch or native().watch_death)(pid)
        except OSError:
            self.kill()
            self.reap()
            raise

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended; -1 where the system has none, or if closed."""
        return -1 if self._watch is None else int(self._watch.fileno())

    def kill(self) -> None:
        """Kill it at once, unless it was reaped."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._ended:
                return
            if self.sentinel >= 0 and hasattr(signal, "pidfd_send_signal"):
                with contextlib.suppress(PermissionError):  # a container's filter forbids it
                    # A pidfd never refers to another process that reuses the pid.
                    signal.pidfd_send_signal(self.sentinel, signal.SIGKILL)
                    return
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Wait for its end; return its exit code, negative for a signal, None if another process has reaped it."""
        with self._lock:
            if not self._ended:
                self._exitcode = self._reap(self.pid, 0)
                self._ended = True
            return self._exitcode

    def has_ended(self) -> bool:
        """Reap it if it has ended, and tell if it has; for a child without a sentinel."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._ended:
                self._exitcode = self._reap(self.pid, os.WNOHANG)
                self._ended = True
        return self._ended

    def ends_within(self, seconds: float) -> bool:
        """Tell if it ends within so many seconds."""
        if self.sentinel < 0:
            until = monotonic() + seconds
            while not (ended := self.has_ended()) and monotonic() < until:
                sleep(LOOK / 10)
            return ended
        poll = select.poll()
        poll.register(self.sentinel, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    @property
    def stopped(self) -> bool:
        """True if it is stopped (SIGSTOP); False where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] == b"T"
        except OSError:
            return False

    def close(self) -> None:
        """Close the sentinel."""
        close_all([self._watch])
