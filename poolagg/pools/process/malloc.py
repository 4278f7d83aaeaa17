"""Have a worker keep freed memory, so that it need not make large arrays in fresh pages.

The C library returns memory at the end of its heap to the system as soon as 16 MB of it are free, and requests it anew
for the next array: the kernel then zeroes and maps each page. If partials are arrays of megabytes, this can take as
long as the work. So a worker that has seen such a partial keeps up to `KEPT` bytes until a second after the run. (By
glibc's mallopt and malloc_trim; other C libraries are left alone.)

glibc also reads these limits from the environment, but only when a program starts, and a forked worker starts none. A
worker with a memory limit, or with small partials only, keeps no freed memory.
"""

from __future__ import annotations

import contextlib

__all__ = ["give_back_freed", "keep_freed"]

KEPT = 64 << 20
"""Most free bytes at the end of the heap that a worker keeps."""

LARGEST = 32 << 20
"""Largest block, in bytes, that comes from the heap; glibc allows no more."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed() -> None:
    """Keep freed memory from now on."""
    import ctypes  # most workers never get here, and start without it

    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: on Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def give_back_freed() -> None:
    """Return the kept memory to the system."""
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: on Windows
        ctypes.CDLL(None).malloc_trim(0)
