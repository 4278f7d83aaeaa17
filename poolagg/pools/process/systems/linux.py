"""Linux: memory by memfd, deaths by pidfd, the parent's death by a signal, marks of descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import os
from functools import partial

from poolagg.pools.process.descriptors import REFUSED, Closable, Descriptor, Mark, memory_fd
from poolagg.pools.process.launch.parent_death import die_by_signal
from poolagg.pools.process.systems.file_memory import FileMemory
from poolagg.pools.process.systems.posix import Posix

__all__ = ["LINUX", "Linux", "Memfd"]


class Memfd(FileMemory):
    """Memory without a file, or a file where that is refused."""

    def _allocate_pages(self, offset: int, size: int) -> None:
        os.posix_fallocate(self.fd, offset, size)


def _memfd(name: str) -> Descriptor | None:
    """Make memory that no process may shorten under a mapping, which would be a SIGBUS for a reader."""
    if (fd := memory_fd(name)) < 0:
        return None
    memory = Descriptor(fd)
    with contextlib.suppress(OSError):
        fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return memory


class Linux(Posix):
    """The primitives of Linux."""

    memory = Memfd

    def file(self, name: str) -> Descriptor:
        """Make memory, or a file where the system has no such memory."""
        return _memfd(name) or super().file(name)

    def arenas(self, ours: list[Closable]) -> list[Descriptor]:
        """Open two arenas, but not on a disk: there the pipe is better."""
        arenas = [arena for arena in map(_memfd, ["poolagg-arena"] * 2) if arena is not None]
        ours += arenas
        return arenas if len(arenas) == 2 else []

    def watch_death(self, pid: int) -> Descriptor | None:
        """Open a pidfd, where the kernel has them and no filter forbids them."""
        if not hasattr(os, "pidfd_open"):
            return None
        try:
            return Descriptor(os.pidfd_open(pid))
        except OSError as error:
            if error.errno in REFUSED:
                return None
            raise

    def die_with_parent(self, parent: int) -> None:
        """Die at once, even within C code that holds the GIL."""
        die_by_signal(parent)

    def mark(self, fd: int, number: int) -> Mark:
        """Set the signal that the open file sends instead of SIGIO, if it is to send one (O_ASYNC).

        Linux keeps that number with each open file; to read it takes a quarter of `fstat`.
        """
        fcntl.fcntl(fd, fcntl.F_SETSIG, number)
        return partial(fcntl.fcntl, fd, fcntl.F_GETSIG), number


LINUX = Linux()
