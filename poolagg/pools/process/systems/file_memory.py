"""Memory behind a descriptor: what Linux and macOS map."""

from __future__ import annotations

import contextlib
import mmap
import os

from poolagg.pools.process.descriptors import close_all, descriptors, held

__all__ = ["FileMemory", "identity"]

ZEROS = bytes(1 << 20)

IN_MEMORY, ON_DISK = 1 << 60, 1 << 43
"""File positions far behind all segments; disks have smaller files."""


def identity(fd: int) -> tuple[int, int] | None:
    """Return device and inode of the file that a descriptor refers to; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class FileMemory:
    """Memory behind a descriptor, which the caller owns."""

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

    def put_aside(self) -> int:
        """Move the file position far behind the contents, also for the duplicate in a mapping; return the position."""
        with contextlib.suppress(OSError):
            return os.lseek(self.fd, IN_MEMORY, os.SEEK_SET)
        return os.lseek(self.fd, ON_DISK, os.SEEK_SET)

    def is_intact(self) -> bool:
        """Tell if the descriptor still refers to the same file."""
        return identity(self.fd) == self._identity
