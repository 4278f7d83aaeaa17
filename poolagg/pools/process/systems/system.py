"""The primitives that a process pool takes from the operating system.

                  Linux                    macOS                     Windows                  portable, on Linux
    worker        fork, spawn, forkserver  spawn, fork               spawn                    spawn
    its ends      descriptors              descriptors               socket.share, names      descriptors
    wait          epoll, pidfds            kqueue, for deaths, too   select, ask for deaths   select, ask for deaths
    parent dies   a signal (SIGIO)         a thread                  a job object             a thread
    memory        memfd, sealed            file without a name       named by a secret        file without a name
    claims        a pipe that both read    the same                  none                     none

Tests run "portable" on Linux, in the place of a start method: what macOS and Windows use, as far as Linux has it.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from poolagg.pools.process.channel import Pipe
    from poolagg.pools.process.descriptors import Closable, Mark
    from poolagg.pools.process.progress_cell import ProgressCell
    from poolagg.pools.process.systems.ends import Ends, WorkerEnds

__all__ = [
    "Child",
    "Launcher",
    "System",
]


class Child(Protocol):
    """A started process."""

    pid: int

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended; -1 where the system has none, or if closed."""

    @property
    def stopped(self) -> bool:
        """True if it is stopped (SIGSTOP); False where the system does not tell."""

    def kill(self) -> None:
        """Kill it at once, unless it was reaped."""

    def send(self, signum: int) -> None:
        """Send it a signal, unless it was reaped; do nothing on a system without signals."""

    def reap(self) -> int | None:
        """Wait for its end; return its exit code, negative for a signal, None if unknown."""

    def has_ended(self) -> bool:
        """Tell if it has ended, and reap it then; for a child without a sentinel."""

    def ends_within(self, seconds: float) -> bool:
        """Tell if it ends within so many seconds."""

    def close(self) -> None:
        """Close what watches it."""


class Launcher(Protocol):
    """Starts worker processes."""

    def launch(self, handed: Any) -> Child:
        """Start a worker and hand it its ends; it holds none of the parent's. All stay open here."""

    def close(self) -> None:
        """Free everything, once all children have ended."""


class System(Protocol):
    """The primitives that a process pool needs of an operating system."""

    in_flight: int
    """Most chunks of a worker: 2 where it claims them, so that the parent can cancel the one that waits; else 1."""
    gathers: bool
    """A socket sends several buffers by one call."""
    has_pipes: bool
    """A worker is handed pipes for its output, and the parent waits for them; else its streams are inherited."""

    # -- in the parent -------------------------------------------------------------------------------------------------

    def ends(self, ours: list[Closable], theirs: list[Closable], output: Sequence[int]) -> Ends:
        """Open both ends, beside those of the `output`.

        Add to `ours` and `theirs` what the parent closes at the worker's end, and once it runs.
        """

    def selector(self) -> selectors.BaseSelector:
        """Open what waits for sockets and sentinels at once."""

    def watch_death(self, pid: int) -> Closable | None:
        """Open a sentinel of a child, an object with a `fileno`; None where the parent has to ask."""

    # -- in the worker -------------------------------------------------------------------------------------------------

    def worker_ends(self, *handed: Any) -> WorkerEnds:
        """Open what the launcher has handed over."""

    def die_with_parent(self, parent: int) -> None:
        """Have this process die when its parent does."""

    def mark(self, fd: int, number: int) -> Mark:
        """Mark the file of a descriptor by a number, where files take marks."""

    def check_of(self, ends: WorkerEnds, pipe: Pipe, cell: ProgressCell) -> Callable[[], None] | None:
        """Return the check that no item has touched this worker's ends; None where no item can."""
