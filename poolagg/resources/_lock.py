"""A lock on a file, for one run at a time: the kernel gives it back when its process ends, however it ends.

And patience: what another has is asked for again, after pauses that grow. There is no event to wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Callable
from time import monotonic

from poolagg._interrupts import interrupts_held_back

__all__ = ["FIRST_PAUSE", "LockFile", "locked", "pause", "unlock", "within"]

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds between two tries, doubled each time; each pause is a random part of that, lest two runs keep step."""


def pause(seconds: float) -> float:
    """Wait a random part of it; how long to wait the next time."""
    time.sleep(seconds * random.uniform(0.5, 1.0))
    return min(2 * seconds, LONGEST_PAUSE)


def within(patience: float, attempt: Callable[[], bool]) -> bool:
    """Try it again and again, for so many seconds; whether it went well."""
    until, seconds = monotonic() + patience, FIRST_PAUSE
    while not attempt():
        if monotonic() >= until:
            return False
        seconds = pause(seconds)
    return True


def locked(descriptor: int) -> bool:
    """Lock an open file, unless somebody else has: another process, or another part of this one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Give the lock back, and close the file. Forked workers may have it open, so closing alone would not do."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


class LockFile:
    """A file that is there to be locked, and is gone when it is not; `kill -9` leaves it behind, empty and unlocked."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock, if it is free."""
        with interrupts_held_back():
            while True:
                descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    if not locked(descriptor):
                        return False
                    if self._names(descriptor):  # else whoever had it has just taken the file away
                        self._descriptor, descriptor = descriptor, -1
                        return True
                finally:
                    if descriptor >= 0:
                        os.close(descriptor)

    def release(self) -> None:
        """Give it free."""
        with interrupts_held_back():
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
                unlock(descriptor)

    def _names(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False
