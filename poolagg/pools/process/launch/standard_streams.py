"""Keep the descriptors 0 to 2 for standard streams, also in a program that has closed some or never had them.

The system gives the lowest free number to the next file. So without precaution, a worker's pipe becomes number 1 of a
daemon, and everything that prints, including C code and programs that `func` runs, writes into the pipe.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from poolagg.pools.process.descriptors import is_open

__all__ = ["flush_streams", "standard_descriptors"]


@contextlib.contextmanager
def standard_descriptors() -> Iterator[None]:
    """Open those of 0 to 2 that are closed on the null device, while descriptors are made and processes start.

    A started process inherits them; this one closes them again afterwards.
    """
    opened: list[int] = []
    try:
        while not all(map(is_open, (0, 1, 2))):
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


def flush_streams(replaced: bool = False) -> None:
    """Flush the standard streams, as far as they are open; if `replaced`, also those that the program has replaced."""
    for stream in (sys.stdout, sys.stderr, *((sys.__stdout__, sys.__stderr__) if replaced else ())):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # the stream is missing or closed, or its reader is gone
