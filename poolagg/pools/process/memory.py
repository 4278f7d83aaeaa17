"""How much memory a process has of its own, and what a limit of it is.

Counted is what is resident and in no file: the heap, stacks, private maps. That is what a leak consists of, and what
the kernel cannot take back without swap. Not counted are pages of files (libraries, mapped inputs), which it can drop,
nor shared memory: an arena belongs to the parent as well, and what is given to `share` to all workers, so that each
would answer for the same bytes. Pages that a forked process has from its parent do count, though they are shared until
one of the two writes to them: which those are, only a walk over its whole page table would tell.
"""

from __future__ import annotations

import contextlib
import os

from poolagg._runtime.sizes import parse_size, size
from poolagg.errors import WorkerLost

__all__ = ["checked_limit", "fresh_memory", "own_memory", "peak_memory"]

_STATM = "/proc/{}/statm"


def own_memory(pid: int | str = "self") -> int:
    """Bytes that a process has of its own; 0 if there is no such process.

    Two numbers that the kernel keeps anyway, resident pages and those of them that are of files or shared: it takes
    some 10 microseconds, however large the process is.
    """
    try:
        with open(_STATM.format(pid), "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return max(0, resident - shared) * os.sysconf("SC_PAGE_SIZE")


def peak_memory(pid: int) -> int:
    """Bytes that a process had resident at most, shared ones included; 0 if there is no telling."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def checked_limit(limit: int | str | None) -> int | None:
    """`limit` in bytes, if it is one, and if memory can be looked at here."""
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
    """What this worker has, which has run nothing yet; WorkerLost if that is too much, for so it would be for ever."""
    has = own_memory()
    if has <= limit:
        return has
    raise WorkerLost(
        f"a worker that has run no item yet has {size(has)} of memory of its own, above memory_limit={size(limit)}: "
        "raise the limit, or have the initializer, and what func and reducer refer to, take less. "
        'With start_method="fork" that includes all that its parent had',
        exitcode=None, signal=None, index=None, item=None,
    )  # fmt: skip
