"""A started process: wait for its end, kill it, reap it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from poolagg.pools.process.descriptors import Closable, close_all, descriptors
from poolagg.pools.process.systems.choice import native

__all__ = ["PosixChild"]

LOOK = 0.005
"""Seconds between two checks of a child without a sentinel that is about to end."""


class PosixChild:
    """A started process.

    `reap(pid, options)` waits for its end as `os.waitpid` does, and returns its exit code; with `os.WNOHANG` it raises
    BlockingIOError while the process is alive. `watch(pid)` returns its sentinel.
    """

    def __init__(
        self, pid: int, reap: Callable[[int, int], int | None], watch: Callable[[int], Closable | None] | None = None
    ) -> None:
        if pid <= 0:
            raise ValueError(f"pid must be positive, not {pid!r}: to kill it would kill many processes")
        self.pid = pid
        self._reap = reap
        self._lock = threading.RLock()
        """Held to kill and to reap, since the kernel reuses the pid of a reaped process. Reentrant, since a signal
        handler may close the pool meanwhile."""
        self._ended = False
        self._exitcode: int | None = None
        self._watch: Any = None
        try:
            with descriptors:
                self._watch = (watch or native().watch_death)(pid)
        except OSError:
            self.kill()
            self.reap()
            raise

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable once the process has ended; -1 where the system has none, or if closed."""
        return -1 if self._watch is None else int(self._watch.fileno())

    def kill(self) -> None:
        """Kill it at once, unless it was reaped."""
        self.send(signal.SIGKILL)

    def send(self, signum: int) -> None:
        """Send it a signal, unless it was reaped."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._ended:
                return
            if self.sentinel >= 0 and hasattr(signal, "pidfd_send_signal"):
                with contextlib.suppress(PermissionError):  # a container's filter forbids it
                    # A pidfd never refers to another process that reuses the pid.
                    signal.pidfd_send_signal(self.sentinel, signum)
                    return
            os.kill(self.pid, signum)

    def reap(self) -> int | None:
        """Wait for its end; return its exit code, negative for a signal, None if another process has reaped it."""
        with self._lock:
            if not self._ended:
                if self.sentinel >= 0:  # a forkserver that reaps it must not wait
                    self._poll(None)
                self._exitcode = self._reap(self.pid, 0)
                self._ended = True
            return self._exitcode

    def has_ended(self) -> bool:
        """Reap it if it has ended, and tell if it has; for a child without a sentinel."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._ended:
                self._exitcode = self._reap(self.pid, os.WNOHANG)
                self._ended = True
        return self._ended

    def ends_within(self, seconds: float) -> bool:
        """Tell if it ends within so many seconds."""
        if self.sentinel < 0:
            until = monotonic() + seconds
            while not (ended := self.has_ended()) and monotonic() < until:
                sleep(LOOK)
            return ended
        return self._poll(seconds * 1000)

    def _poll(self, milliseconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self.sentinel, select.POLLIN)
        return bool(poll.poll(milliseconds))

    @property
    def stopped(self) -> bool:
        """True if it is stopped (SIGSTOP); False where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] == b"T"
        except OSError:
            return False

    def close(self) -> None:
        """Close the sentinel."""
        close_all([self._watch])
