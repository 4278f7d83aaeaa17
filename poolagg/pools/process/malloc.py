"""Freed memory that a worker keeps, so that large arrays are made in memory that is not fresh.

The C library gives memory at the end of its heap back to the system as soon as 16 MB of it are free, and takes it anew
for the next array: each page is then zeroed, and mapped, by the kernel. Where partials are arrays of megabytes that
can take as long as the work. So a worker that has seen such a partial keeps up to `KEPT` bytes until the run ends.
(glibc's mallopt and malloc_trim; where the C library has none of these, nothing happens.)

glibc also reads these limits from the environment, but only when a program starts: a forked worker starts none. And a
worker with a memory limit, or with small partials only, keeps nothing.
"""

from __future__ import annotations

import contextlib

__all__ = ["give_back_freed", "keep_freed"]

KEPT = 64 << 20
"""Bytes at the end of the heap that a worker keeps at most, though they are free."""

LARGEST = 32 << 20
"""Bytes of a block at most that comes from the heap; glibc allows no more."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed() -> None:
    """Keep freed memory from now on."""
    import ctypes  # most workers never get here, and start without it

    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def give_back_freed() -> None:
    """Give back what is kept."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
