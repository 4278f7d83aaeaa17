"""The descriptors of all pools of this process. A forked child closes its copies at once.

Rule: `descriptors` is the lock around opening and `held`, and around closing. A fork takes it, too. So a child finds
each descriptor either open and held, or closed and forgotten. It never closes a number that already means another file,
and it keeps no end of a pipe that a worker waits for.

An owner forgets a number before it closes it, so that no descriptor is closed twice.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, TypeAlias, TypeVar

from poolagg._runtime.interrupts import even_if_interrupted, interrupts_held_back

__all__ = [
    "MISUSED",
    "REFUSED",
    "Closable",
    "Descriptor",
    "Mark",
    "close_all",
    "descriptors",
    "held",
    "is_open",
    "memory_fd",
    "pipe",
    "refuse_too_many",
    "spare",
]

MISUSED = 74
"""Exit code (EX_IOERR) of a worker whose descriptors an item has closed, replaced or used."""

REFUSED = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
"""Errors of a system call from kernels that do not have it, and from the filters of containers."""

OF_WORKER, OF_POOL = 10, 14
"""Descriptors that each worker takes in the parent, and those that a pool takes while it starts one."""

Mark: TypeAlias = tuple[Callable[[], object], object]
"""A function that returns the mark of the file that a descriptor refers to now, and the mark of the right file."""

descriptors = threading.RLock()
"""Held for some microseconds, or while a process starts."""


class Closable(Protocol):
    """A socket, a selector, a mapping, a `Descriptor`."""

    def close(self) -> None:
        """Close it; a second call has no effect."""


H = TypeVar("H", bound=Closable)

_held: set[weakref.ref[Any]] = set()
"""Everything open; not a WeakSet, whose methods, in Python, take ten times as long."""

_let_go = _held.discard

_spared: frozenset[int] = frozenset()


def held(thing: H) -> H:
    """Have forked children close it. The caller has just opened it, and still holds the lock."""
    _held.add(weakref.ref(thing, _let_go))
    return thing


class Descriptor:
    """A number, closed once: by its owner, by a forked child, or when it is forgotten."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        held(self)

    def fileno(self) -> int:
        """Return the number; -1 once it is closed."""
        return self.fd

    def close(self) -> None:
        """Close it, once. The program may have closed it, too, by `os.closerange`."""
        with descriptors, contextlib.suppress(OSError):
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if self.fd >= 0 and not ending():  # at exit, a frozen daemon thread may hold the lock forever
            even_if_interrupted(close_all, [self])


def pipe() -> tuple[Descriptor, Descriptor]:
    """Open a pipe; return its reading end and its writing end. The caller holds the lock."""
    reader, writer = os.pipe()
    return Descriptor(reader), Descriptor(writer)


def memory_fd(name: str) -> int:
    """Open anonymous memory that can be sealed; return -1 if the system has none, or a container's filter refuses."""
    if not hasattr(os, "memfd_create"):
        return -1
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        if error.errno in REFUSED:
            return -1
        raise


def refuse_too_many(workers: int) -> None:
    """Raise OSError, before any worker starts, if this process may not open the descriptors of so many."""
    if not hasattr(os, "sysconf"):
        return
    most = os.sysconf("SC_OPEN_MAX")  # the soft RLIMIT_NOFILE, without the module for limits, which takes long
    needs = OF_WORKER * workers + OF_POOL
    if most < 0 or 2 * needs < most:
        return
    used = sum(map(is_open, range(most)))
    if used + needs > most:
        fits = (most - used - OF_POOL) // OF_WORKER
        raise OSError(
            errno.EMFILE,
            f"{os.strerror(errno.EMFILE)}: {workers} workers need up to {needs} descriptors, and this process has "
            f"{used} open, of {most} that it may open: raise the limit (ulimit -n)"
            + (f", or pass workers={fits}" if fits > 0 else ""),
        )


def is_open(fd: int) -> bool:
    """Tell whether the number is that of an open descriptor."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def close_all(things: Collection[Closable | None]) -> None:
    """Close them, atomically with respect to a fork.

    Signal handlers are deferred: one may raise TimeoutError, an OSError that would be suppressed here.
    """
    with interrupts_held_back(), descriptors:
        for thing in things:
            if thing is not None:
                with contextlib.suppress(BufferError, OSError):  # a mapping lives as long as its views
                    thing.close()


@contextlib.contextmanager
def spare(fds: Collection[int]) -> Iterator[None]:
    """Have the worker that this thread forks within the block keep these descriptors. The caller holds the lock."""
    global _spared
    _spared = frozenset(fds)
    try:
        yield
    finally:
        _spared = frozenset()


def _before_fork() -> None:
    descriptors.acquire()


def _in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # not acquired: an interrupt has prevented `_before_fork`
        descriptors.release()


def _in_child() -> None:
    global _spared
    descriptors._at_fork_reinit()  # type: ignore[attr-defined]
    alive = [thing for reference in list(_held) if (thing := reference()) is not None]
    things = [thing for thing in alive if _number(thing) not in _spared]
    _held.clear()
    _spared = frozenset()
    close_all(things)


def _number(thing: Any) -> int:
    try:
        return int(thing.fileno())
    except (AttributeError, ValueError):  # a mapping or a closed selector has no number
        return -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
