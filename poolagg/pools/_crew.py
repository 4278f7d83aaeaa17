"""What must happen whatever becomes of a pool: what it holds of the operating system is kept apart from it.

A pool may be forgotten without being closed, be alive when the interpreter ends, or be inherited by a forked child, who
must neither kill the workers nor hold the parent's ends of their pipes. A crew can be cleared away without its pool.
"""

from __future__ import annotations

import atexit
import os
import selectors
import threading
import weakref

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
            self.selector = selectors.DefaultSelector()
        except OSError:  # no descriptor left
            launcher.close()
            raise
        self.launcher = launcher
        _crews.add(self)

    def close(self) -> None:
        """All workers have ended."""
        if self.launcher is not None:
            self.launcher.close()
            self.selector.close()
        _crews.discard(self)

    def abandon(self) -> None:
        """The pool was forgotten without being closed, or the interpreter ends: kill its workers."""
        if os.getpid() != self._owner:
            return
        for handle in [*self.handles.values(), *self.leaving]:
            handle.child.kill()
            handle.child.reap()
            handle.close()
        self.handles.clear()
        self.leaving.clear()
        self.close()

    def forget_in_child(self) -> None:
        """This process is a forked child: the workers are not its own."""
        for handle in [*self.handles.values(), *self.leaving]:
            handle.forget_in_child()
        self.handles.clear()
        self.leaving.clear()
        if self.launcher is not None:
            self.launcher.forget_in_child()
            self.launcher = None  # another use of the pool, in the child, starts workers of the child's own
            self.selector.close()
        self._owner, self.runner = os.getpid(), None


def _at_exit() -> None:
    """A crew that another thread is using is left alone, for they would stumble over each other: its workers end with
    this process anyway."""
    for crew in list(_crews):
        if crew.runner in (None, threading.get_ident()):
            crew.abandon()


def _before_fork() -> None:
    if ForkLauncher.forking:  # a worker: it does not look at what is lent
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
