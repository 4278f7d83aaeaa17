"""Whose turn it is: a pool runs one job at a time, and threads wait in line, first come first served.

    turns.take(turn)  ── waits ──▶  the run  ── turns.leave(turn) ──▶  the next in line

A run that waited for itself would never end. So `is_inside` tells whether this thread runs the current job, or whether
it is a worker thread in which that job, or a job within it, calls `func`.

No lock: each step is one atomic operation of a deque, or a `put` of a `SimpleQueue`, which is reentrant. So a signal
handler, or the finalizer of a dropped run, may leave the line at any moment. A forked child does not wait for the runs
of its parent.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from poolagg._runtime.threads import here

__all__ = ["Turn", "Turns", "WorkerThread"]


class Turn:
    """The place of one run in the line of its pool."""

    __slots__ = ("called", "process", "thread")

    def __init__(self) -> None:
        self.process = 0
        self.thread: Thread | None = None
        """The thread that runs the job: the last one, since a generator may go from thread to thread."""
        self.called: SimpleQueue[None] = SimpleQueue()

    def step(self) -> None:
        """Note that this thread runs the job now."""
        self.thread = here.thread


class WorkerThread(Thread):
    """A thread that calls `func` for a run, which has the turn `serves`."""

    serves: Turn | None = None


class Turns:
    """The line of the runs of one pool.

    >>> turns, first, second = Turns(), Turn(), Turn()
    >>> turns.take(first, check=bool); turns.leave(first); turns.take(second, check=bool)
    >>> turns.is_inside()
    True
    """

    def __init__(self) -> None:
        self._line: deque[Turn] = deque()

    def take(self, turn: Turn, check: Callable[[], object]) -> None:
        """Wait until all runs that came before have ended. `check` raises if the wait is in vain."""
        turn.process = os.getpid()
        self._line.append(turn)
        try:
            while self.current() is not turn:
                check()
                turn.called.get()
        except BaseException:  # Ctrl-C, or the pool is closed
            self.leave(turn)
            raise
        turn.step()

    def leave(self, turn: Turn) -> None:
        """Leave the line, and call the next run; a second call is harmless, and completes one that was interrupted."""
        turn.thread = None
        try:
            self._line.remove(turn)
        except ValueError:  # it has left before
            pass
        if (first := self.current()) is not None:
            first.called.put(None)

    def call_all(self) -> None:
        """Have all that wait check again whether they wait in vain."""
        for turn in self._line.copy():
            turn.called.put(None)

    def is_inside(self) -> bool:
        """Tell whether the current run waits for this thread."""
        first, thread = self.current(), here.thread
        while first is not None and first.thread is not thread:
            served = thread.serves if isinstance(thread, WorkerThread) else None
            if served is None or served.thread is None:
                return False
            thread = served.thread
        return first is not None

    def current(self) -> Turn | None:
        """Return the turn of the current run; forget turns that a forked child has from its parent."""
        while self._line:
            try:
                first = self._line[0]
            except IndexError:  # another thread was quicker
                break
            if first.process == os.getpid():
                return first
            with contextlib.suppress(ValueError):
                self._line.remove(first)
        return None
