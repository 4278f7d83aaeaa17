"""The descriptors 0 to 2, and the streams on them: a program may have closed some, or may never have had them.

The system gives the lowest free number to the next file that is opened. So without precaution a worker's pipe becomes
number 1 of a daemon, and whatever prints there, C code and programs that `func` runs included, writes into the pipe.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["flush_streams", "standard_descriptors"]


@contextlib.contextmanager
def standard_descriptors() -> Iterator[None]:
    """Open 0 to 2 on the null device while descriptors are made and processes started, where they are closed.

    A started process inherits them; this one has closed them again afterwards, as they were.
    """
    opened: list[int] = []
    try:
        while not all(map(_is_open, (0, 1, 2))):
            fd = os.open(os.devnull, os.O_RDWR)
            if fd > 2:  # another thread has opened a file meanwhile
                os.close(fd)
                break
            opened.append(fd)
            os.set_inheritable(fd, True)
        yield
    finally:
        while opened:
            os.close(opened.pop())


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def flush_streams() -> None:
    """Write what was printed, as far as there is anywhere to write it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # there is none, nobody reads it any more, or somebody has closed it
