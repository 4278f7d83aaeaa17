"""Measure how much memory a process has of its own, and check a limit for it.

A process's own memory is what is resident and in no file: the heap, stacks, private maps. A leak consists of it, and
the kernel cannot reclaim it without swap. It excludes pages of files (libraries, mapped inputs), which the kernel can
drop, and shared memory: the parent shares an arena and all workers a `share`d value, so each would count the same
bytes. It includes pages that a forked process has from its parent, though both share them until one writes: only a walk
over the whole page table could tell them apart.
"""

from __future__ import annotations

import contextlib
import os

from poolagg._runtime.sizes import parse_size, size
from poolagg.errors import WorkerLost

__all__ = ["checked_limit", "fresh_memory", "own_memory", "peak_memory"]

_STATM = "/proc/{}/statm"


def own_memory(pid: int | str = "self") -> int:
    """Return the bytes that a process has of its own; 0 if there is no such process.

    This reads two numbers that the kernel maintains, resident pages and those in files or shared; it takes some 10
    microseconds, independent of the size of the process.
    """
    try:
        with open(_STATM.format(pid), "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return max(0, resident - shared) * os.sysconf("SC_PAGE_SIZE")


def peak_memory(pid: int) -> int:
    """Return the most bytes that a process had resident, including shared ones; 0 if unknown."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def checked_limit(limit: int | str | None) -> int | None:
    """Return `limit` in bytes; raise ValueError if it is not a size, or if this system does not tell memory."""
    if limit is None:
        return None
    number = parse_size(limit)
    if number is None:
        raise ValueError(
            f"memory_limit must be a whole number of bytes, at least 1, or a text such as '2GiB', not {limit!r}"
        )
    if not own_memory():
        raise ValueError(
            f"memory_limit={limit!r} takes {_STATM.format('PID')}, which Linux has: this system does not say how much "
            "memory another process has. max_items_per_worker works everywhere"
        )
    return number


def fresh_memory(limit: int) -> int:
    """Return the own memory of this fresh worker; raise WorkerLost if it already exceeds the limit, as any would."""
    has = own_memory()
    if has <= limit:
        return has
    raise WorkerLost(
        f"a worker that has run no item yet has {size(has)} of memory of its own, above memory_limit={size(limit)}: "
        "raise the limit, or have the initializer, and what func and reducer refer to, take less. "
        'With start_method="fork" that includes all that its parent had',
        exitcode=None, signal=None, index=None, item=None,
    )  # fmt: skip
