"""What must happen whatever becomes of a pool: what it holds of the operating system is kept apart from it.

A pool may be forgotten without being closed, be alive when the interpreter ends, or be inherited by a forked child, who
must neither kill the workers nor hold the parent's ends of their pipes. A crew can be cleared away without its pool.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import threading
import weakref
from collections.abc import Sequence

from poolagg._interrupts import interrupts_held_back
from poolagg.pools._descriptors import close_all, descriptors, held
from poolagg.pools._handle import Handle
from poolagg.pools._launch import ForkLauncher, Launcher

__all__ = ["Crew"]

_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


class Crew:
    """The workers of one pool, what launches them, and what waits for them; `owner` is the process they belong to."""

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self.handles: dict[int, Handle] = {}
        self.leaving: list[Handle] = []
        self.runner: int | None = None
        """The thread that is in a run."""
        self.launcher: Launcher | None = None
        self.selector: selectors.BaseSelector

    def open(self, launcher: Launcher) -> None:
        """Hold a launcher, and a selector for what it launches."""
        try:
            with descriptors:
                self.selector = held(selectors.DefaultSelector())
        except OSError:  # no descriptor left
            launcher.close()
            raise
        self.launcher = launcher
        _crews.add(self)

    def end(self, handles: Sequence[Handle]) -> None:
        """Kill workers, reap them, and give back what lies between: each step for all, before the next begins."""
        with interrupts_held_back():
            for handle in handles:
                handle.child.kill()
            for handle in handles:
                handle.child.reap()
            for handle in handles:
                for fd in (handle.channel.sock, handle.child.pidfd):
                    with contextlib.suppress(KeyError, ValueError):
                        self.selector.unregister(fd)
                handle.close()
                if self.handles.get(handle.lane) is handle:
                    del self.handles[handle.lane]
                if handle in self.leaving:
                    self.leaving.remove(handle)

    def close(self) -> None:
        """All workers have ended."""
        launcher, self.launcher = self.launcher, None
        if launcher is not None:
            launcher.close()
            close_all([self.selector])
        _crews.discard(self)

    def abandon(self) -> None:
        """The pool was forgotten without being closed, or the interpreter ends: kill its workers."""
        if os.getpid() == self._owner:
            with interrupts_held_back():
                self.end([*self.handles.values(), *self.leaving])
                self.close()

    def forget_in_child(self) -> None:
        """This process is a forked child: the workers are not its own, and their descriptors are closed."""
        self.handles.clear()
        self.leaving.clear()
        self.launcher = None  # another use of the pool, in the child, starts workers of the child's own
        self._owner, self.runner = os.getpid(), None


def _at_exit() -> None:
    """A crew that another thread is using is left alone, for they would stumble over each other: its workers end with
    this process anyway."""
    for crew in list(_crews):
        if crew.runner in (None, threading.get_ident()):
            crew.abandon()


def _before_fork() -> None:
    if ForkLauncher.forking == threading.get_ident():  # a worker: it does not look at what is lent
        return
    for crew in list(_crews):
        for handle in [*crew.handles.values(), *crew.leaving]:
            handle.loans.before_fork()


def _forget_in_child() -> None:
    for crew in list(_crews):
        crew.forget_in_child()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_forget_in_child)
