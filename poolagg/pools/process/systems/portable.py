"""What macOS and Windows use, as far as Linux has it. Tests run it on Linux as one more start method, "portable".

It does not promise what takes a primitive of Linux:

    a worker whose C code holds the GIL outlives the parent until that code returns: a thread sees the parent's end
    the parent has fewer than 1,024 descriptors (on Windows, 512 workers), which is the most that `select` counts
    a chunk that waits cannot be cancelled, so a worker has one at a time, and waits for the next
    the parent notices up to 0.05 s late that a worker has died whose child keeps the pipe open
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping, Sequence
from typing import Any

from poolagg.pools.process.descriptors import Closable
from poolagg.pools.process.systems.posix import Posix, PosixChild
from poolagg.pools.process.systems.system import Launcher

__all__ = ["PORTABLE", "Portable", "main"]


class Portable(Posix):
    """The primitives that every system has in some form."""

    in_flight = 1
    gathers = False

    def claims(self, ours: list[Closable]) -> None:
        """Return None: a worker has one chunk at a time."""

    def launcher(self, method: str, environ: Mapping[str, str], by_value: bool, start: tuple[Any, Any]) -> Launcher:
        """Open what starts interpreters."""
        return _Launcher(environ)

    def selector(self) -> selectors.BaseSelector:
        """Open a selector by `select`."""
        return selectors.SelectSelector()


PORTABLE = Portable()


class _Launcher:
    """Starts each worker as a fresh interpreter."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        from poolagg.pools.process.launch.launchers import seeded  # starts workers, which import this

        self._environ = seeded(environ)

    def launch(self, handed: Sequence[int]) -> PosixChild:
        """Start an interpreter, which inherits the descriptors."""
        from poolagg.pools.process.launch.launchers import interpreter

        return interpreter(__name__, handed, self._environ, watch=PORTABLE.watch_death)

    def close(self) -> None:
        """Do nothing, as there is nothing to free."""


def main(*handed: int) -> None:
    """Be a worker that uses these primitives."""
    from poolagg.pools.process import worker_main

    worker_main.main(*handed, system=PORTABLE)
