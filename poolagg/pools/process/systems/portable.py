"""The primitives of macOS and Windows that Linux has, too. Tests run them on Linux as a start method, "portable".

Without further primitives of Linux, these limits hold:

    a worker whose C code holds the GIL outlives the parent until that code returns: a thread sees the parent's end
    the parent has fewer than 1,024 descriptors (on Windows, 512 workers), which is the most that `select` counts
    a chunk that waits cannot be cancelled, so a worker has one at a time, and waits for the next
    the parent notices up to 0.05 s late that a worker has died whose child keeps the pipe open
"""

from __future__ import annotations

import selectors

from poolagg.pools.process.descriptors import Closable
from poolagg.pools.process.systems.posix import Posix

__all__ = ["PORTABLE", "Portable"]


class Portable(Posix):
    """The primitives that every system has in some form."""

    in_flight = 1
    gathers = False

    def claims(self, ours: list[Closable]) -> None:
        """Return None: a worker has one chunk at a time."""

    def selector(self) -> selectors.BaseSelector:
        """Open a selector by `select`."""
        return selectors.SelectSelector()


PORTABLE = Portable()
