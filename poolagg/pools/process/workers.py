"""The workers of a process pool: start them, wait for them and end them.

A pool may be dropped without being closed, be alive when the interpreter ends, or be inherited by a forked child, which
must neither kill the workers nor hold the parent's ends of their pipes. So `Workers` can be freed without its pool.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

from poolagg._runtime.interrupts import interrupts_held_back
from poolagg.pools.process.channel import EXIT
from poolagg.pools.process.descriptors import close_all, descriptors, held, refuse_too_many
from poolagg.pools.process.launch.forkserver.launcher import ForkserverLauncher, ForkserverLost
from poolagg.pools.process.launch.launchers import ForkLauncher, SpawnLauncher
from poolagg.pools.process.launch.parent_death import born_deaf
from poolagg.pools.process.launch.standard_streams import standard_descriptors
from poolagg.pools.process.output.relay import Relay
from poolagg.pools.process.systems.choice import native, system_of
from poolagg.pools.process.systems.system import Launcher
from poolagg.pools.process.worker_handle import Handle

__all__ = ["Workers"]

GOODBYE = 1.0
"""Seconds that a worker has to exit at the pool's end if idle, or to leave its chunk when its run is over."""

_LAUNCHERS: dict[str, type[Any]] = {"forkserver": ForkserverLauncher, "spawn": SpawnLauncher, "fork": ForkLauncher}

LOOK = 0.05
"""Seconds between two checks of children without a sentinel; a check costs a system call for each."""

_all_workers: weakref.WeakSet[Workers] = weakref.WeakSet()

native()  # imports the system's module now: in a child forked while another thread imports it, it would wait for ever


class Workers:
    """The workers of one pool, their launcher and their selector; `owner` is the pid of the process that owns them."""

    def __init__(self, owner: int, start_method: str, relay: Relay) -> None:
        self._owner, self._start_method, self._relay = owner, start_method, relay
        self.system = system_of(start_method)
        self.handles: dict[int, Handle] = {}
        self.leaving: list[Handle] = []
        self.runner: int | None = None
        """The thread that runs a job on these workers."""
        self.launcher: Launcher | None = None
        self.selector: selectors.BaseSelector
        self.next_look = 0.0
        """When to check again if workers without a sentinel have ended."""
        self._unwatched = False
        """True if some workers have no sentinel."""

    def everyone(self) -> list[Handle]:
        """Return the workers of all slots, and those that are exiting."""
        return [*self.handles.values(), *self.leaving]

    def open(self, workers: int, environ: Mapping[str, str], alike: bool, start: tuple[Any, Any]) -> None:
        """Open a launcher, and a selector for what it launches; refuse more workers than there are descriptors for."""
        refuse_too_many(workers)
        with _undisturbed():
            launcher: Launcher = _launcher(self._start_method)(environ, alike, start)
            try:
                with descriptors:
                    self.selector = held(self.system.selector())
            except OSError:  # no descriptor left
                launcher.close()
                raise
            self.launcher = launcher
            _all_workers.add(self)

    def expect(self, *pickles: bytes) -> None:
        """Prepare for workers that will open these pickles."""
        if isinstance(self.launcher, ForkserverLauncher):
            self.launcher.expect(pickles)

    def launch(self, slot: int) -> Handle:
        """Start the worker of a slot; no interrupt comes between its start and its entry in `handles`."""
        assert self.launcher is not None
        with _undisturbed():
            try:
                handle = Handle(slot, self.launcher, self.system, self._relay)
            except ForkserverLost:
                handle = Handle(slot, self.launcher, self.system, self._relay)
            self.handles[slot] = handle
            self.selector.register(handle.channel.sock, selectors.EVENT_READ, handle)
            for fd in handle.output.fds:
                self.selector.register(fd, selectors.EVENT_READ, handle)
            if handle.child.sentinel < 0:
                self._unwatched = True
            else:
                self.selector.register(handle.child.sentinel, selectors.EVENT_READ, handle)
        return handle

    def dismiss(self, handle: Handle, at_once: bool) -> None:
        """Have a worker exit, killed `at_once` or told to, and free its slot."""
        with interrupts_held_back():
            self.leaving.append(handle)
            if self.handles.get(handle.slot) is handle:
                del self.handles[handle.slot]
            if at_once:
                handle.child.kill()
            else:
                handle.channel.send(EXIT, 0)

    def read_output(self, handle: Handle, fd: int) -> None:
        """Read what has come on a pipe of a worker's output; at its end, wait for it no longer."""
        if not handle.output.read(fd):
            self.selector.unregister(fd)
            handle.output.forget(fd)

    def watch(self, handle: Handle) -> None:
        """Wait for what a worker writes, and for space in its pipe if unsent bytes are left."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if handle.channel.full else 0)
        if self.selector.get_key(handle.channel.sock).events != events:
            self.selector.modify(handle.channel.sock, events, handle)

    def select(self, timeout: float | None) -> dict[Any, tuple[Handle, int]]:
        """Wait for pipes and deaths; return each ready descriptor with its worker and the selector's events."""
        if self._unwatched:
            timeout = min(LOOK if timeout is None else timeout, max(0.0, self.next_look - monotonic()))
        return {key.fileobj: (key.data, events) for key, events in self.selector.select(timeout)}

    def found_dead(self) -> list[Handle]:
        """Return the workers without a sentinel that have ended, if a check is due."""
        if not self._unwatched or monotonic() < self.next_look:
            return []
        self.next_look = monotonic() + LOOK
        return [handle for handle in self.everyone() if handle.child.sentinel < 0 and handle.child.has_ended()]

    def end(self, handles: Sequence[Handle]) -> None:
        """Kill workers, reap them, and free their channels: each step for all before the next."""
        with interrupts_held_back():
            for handle in handles:
                handle.child.kill()
            for handle in handles:
                handle.child.reap()
            for handle in handles:
                handle.output.finish()
                sources: list[Any] = [handle.channel.sock, handle.child.sentinel, *handle.output.fds]
                for fd in sources:
                    with contextlib.suppress(KeyError, ValueError):
                        self.selector.unregister(fd)
                handle.close()
                if self.handles.get(handle.slot) is handle:
                    del self.handles[handle.slot]
                if handle in self.leaving:
                    self.leaving.remove(handle)

    def close(self) -> None:
        """Free the launcher and the selector; all workers have ended."""
        launcher, self.launcher = self.launcher, None
        if launcher is not None:
            launcher.close()
            close_all([self.selector])
        _all_workers.discard(self)

    def abandon(self) -> None:
        """End the workers of a pool that was dropped without being closed, or when the interpreter ends.

        Idle workers exit in good order; the others are killed.
        """
        if os.getpid() == self._owner:
            with interrupts_held_back():
                until = monotonic() + GOODBYE
                for handle in [handle for handle in self.handles.values() if handle.idle]:
                    self.dismiss(handle, at_once=False)
                for handle in self.leaving:
                    handle.child.ends_within(max(0.0, until - monotonic()))
                self.end(self.everyone())
                self.close()

    def forget_in_child(self) -> None:
        """Forget the workers in a forked child, which does not own them and whose descriptors are closed."""
        self.handles.clear()
        self.leaving.clear()
        self.launcher = None  # another use of the pool, in the child, starts workers of the child's own
        self._owner, self.runner = os.getpid(), None


def _launcher(start_method: str) -> type[Any]:
    """Return what opens the launcher of a start method."""
    if sys.platform == "win32":
        from poolagg.pools.process.launch.windows import WindowsLauncher

        return WindowsLauncher
    if start_method == "portable":
        from poolagg.pools.process.launch.portable import PortableLauncher

        return PortableLauncher
    return _LAUNCHERS[start_method]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold interrupts back while a process starts; it ignores Ctrl-C from the start and has all standard streams."""
    with interrupts_held_back(), born_deaf(), standard_descriptors():
        yield


def _at_exit() -> None:
    """End the workers of all pools, except those that another thread uses: they end with this process anyway."""
    for workers in list(_all_workers):
        if workers.runner in (None, threading.get_ident()):
            workers.abandon()


def _before_fork() -> None:
    if ForkLauncher.forking == threading.get_ident():  # the child is a worker, which reads no borrowed segment
        return
    for workers in list(_all_workers):
        for handle in workers.everyone():
            handle.borrowed_segments.before_fork()


def _forget_in_child() -> None:
    for workers in list(_all_workers):
        workers.forget_in_child()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_forget_in_child)
