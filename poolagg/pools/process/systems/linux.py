"""Linux: memory by memfd, deaths by pidfd, the parent's death by a signal, marks of descriptors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from functools import partial

from poolagg.pools.process.descriptors import Closable, Descriptor, Mark
from poolagg.pools.process.launch.parent_death import die_by_signal
from poolagg.pools.process.systems.file_memory import FileMemory
from poolagg.pools.process.systems.posix import Posix

__all__ = ["LINUX", "Linux", "Memfd"]

NO_PIDFD = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
"""Errors from kernels without pidfds, and from the filters of containers."""


class Memfd(FileMemory):
    """Memory without a file."""

    ASIDE = 1 << 60

    def _allocate_pages(self, offset: int, size: int) -> None:
        os.posix_fallocate(self.fd, offset, size)

    def free(self, mapping: mmap.mmap, offset: int) -> None:
        """Punch a hole, which frees the pages."""
        del offset
        with contextlib.suppress(OSError):
            mapping.madvise(mmap.MADV_REMOVE)


class Linux(Posix):
    """The primitives of Linux."""

    memory = Memfd

    def file(self, name: str) -> Descriptor:
        """Make memory that its owner may not shorten under a mapping, which would be a SIGBUS for a reader."""
        if not hasattr(os, "memfd_create"):
            return super().file(name)
        memory = Descriptor(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        with contextlib.suppress(OSError):
            fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return memory

    def arenas(self, ours: list[Closable]) -> list[Descriptor]:
        """Open two arenas, but not on a disk: there the pipe is better."""
        return super().arenas(ours) if hasattr(os, "memfd_create") else []

    def watch_death(self, pid: int) -> Descriptor | None:
        """Open a pidfd, where the kernel has them and no filter forbids them."""
        if not hasattr(os, "pidfd_open"):
            return None
        try:
            return Descriptor(os.pidfd_open(pid))
        except OSError as error:
            if error.errno in NO_PIDFD:
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
