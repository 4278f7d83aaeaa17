"""Three ways to start a worker process, and one way to know that it has ended.

    forkserver   a process started once per pool forks the workers: quick, and no lock can be inherited
                 (`forkserver.py`)
    spawn        every worker is a fresh interpreter
    fork         the parent forks: the worker shares memory copy-on-write, and inherits any lock that a thread holds

Rule: a launcher takes descriptors and an environment, and returns a `Child`. The parent watches a child's death by a
pidfd, never by the end of a pipe alone, which a grandchild may keep open. Where the system has no pidfd (old kernels),
or refuses it (containers with a filter), the parent polls for deaths some twenty times a second: SIGCHLD belongs to the
program, and grandchildren inherit every other descriptor.

The parent-death pipe has one writer, the parent. A forkserver or a worker holds its reading end and dies when it
closes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep
from typing import Any, NoReturn, Protocol

from poolagg.pools.process.descriptors import REFUSED, Descriptor, close_all, descriptors, spare
from poolagg.pools.process.launch.frozen import STARTED_BY, is_frozen
from poolagg.pools.process.launch.frozen import command as frozen_command
from poolagg.pools.process.launch.program import import_path
from poolagg.pools.process.launch.standard_streams import flush_streams

__all__ = [
    "LOOK",
    "Child",
    "ForkLauncher",
    "Launcher",
    "SpawnLauncher",
    "checked_start_method",
    "folder",
    "interpreter",
    "seeded",
    "start_methods",
]


LOOK = 0.05
"""Seconds between two checks of children without a pidfd; a check costs a system call for each."""


def start_methods() -> list[str]:
    """Return the start methods of this platform, the default first."""
    return ["forkserver", "spawn", "fork"] if sys.platform == "linux" else ["spawn", "fork"]


def checked_start_method(name: str | None) -> str:
    """Return the start method of this name; None means the default."""
    methods = start_methods()
    if name is None:
        return methods[0]
    if name not in methods:
        raise ValueError(f"start_method must be one of {methods} here, not {name!r}")
    return name


class Child:
    """A started process.

    `reap(pid, options)` waits for its end as `os.waitpid` does, and returns its exit code; with `os.WNOHANG` it raises
    BlockingIOError while the process is alive. `pidfd` is -1 where the system has none.
    """

    def __init__(self, pid: int, reap: Callable[[int, int], int | None]) -> None:
        if pid <= 0:
            raise ValueError(f"pid must be positive, not {pid!r}: to kill it would kill many processes")
        self.pid = pid
        self._reap = reap
        self._lock = threading.RLock()
        """Held to kill and to reap, since the kernel reuses the pid of a reaped process. Reentrant, since a signal
        handler may close the pool meanwhile."""
        self._ended = False
        self._exitcode: int | None = None
        self._watch: Descriptor | None = None
        try:
            with descriptors:
                if (pidfd := _pidfd(pid)) >= 0:
                    self._watch = Descriptor(pidfd)
        except OSError:
            self.kill()
            self.reap()
            raise

    @property
    def pidfd(self) -> int:
        """A descriptor that is readable once the process has ended; -1 where the system has none, or if closed."""
        return -1 if self._watch is None else self._watch.fd

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send it a signal, which kills it at once, unless it was reaped."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._ended:
                return
            if self.pidfd >= 0:
                with contextlib.suppress(PermissionError):  # a container's filter forbids it
                    # A pidfd never refers to another process that reuses the pid.
                    signal.pidfd_send_signal(self.pidfd, signum)
                    return
            os.kill(self.pid, signum)

    def reap(self) -> int | None:
        """Wait for its end; return its exit code, negative for a signal, None if another process has reaped it."""
        with self._lock:
            if not self._ended:
                self._exitcode = self._reap(self.pid, 0)
                self._ended = True
            return self._exitcode

    def has_ended(self) -> bool:
        """Reap it if it has ended, and tell if it has; for a child without a pidfd."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._ended:
                self._exitcode = self._reap(self.pid, os.WNOHANG)
                self._ended = True
        return self._ended

    def ends_within(self, seconds: float) -> bool:
        """Tell if it ends within so many seconds."""
        if self.pidfd < 0:
            until = monotonic() + seconds
            while not (ended := self.has_ended()) and monotonic() < until:
                sleep(LOOK / 10)
            return ended
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    @property
    def stopped(self) -> bool:
        """True if it is stopped (SIGSTOP); False where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] == b"T"
        except OSError:
            return False

    def close(self) -> None:
        """Close the descriptor that watches it."""
        close_all([self._watch])


class Launcher(Protocol):
    """Starts worker processes."""

    def launch(self, fds: Sequence[int]) -> Child:
        """Start a worker that holds `fds` and none of the parent's ends; all stay open here."""

    def close(self) -> None:
        """Free everything, once all children have ended."""


def _pidfd(pid: int) -> int:
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in REFUSED:
            return -1
        raise


def _wait(pid: int, options: int) -> int | None:
    try:
        ended, status = os.waitpid(pid, options)
    except ChildProcessError:  # a SIGCHLD handler of the program has reaped it
        return None
    if not ended:
        raise BlockingIOError(f"process {pid} is alive")
    return os.waitstatus_to_exitcode(status)


def _command(module: str, arguments: Sequence[object]) -> list[str]:
    """Make a command line that calls `main(*arguments)` of a poolagg module, with this interpreter's flags and path.

    It disables the garbage collector during the imports, which make no garbage: that saves 2 ms.
    """
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    code = (
        f"import gc, sys; gc.disable(); sys.path[:] = {import_path()!r}; from {module} import main; "
        f"gc.freeze(); gc.enable(); main(*{list(arguments)!r})"
    )
    return [sys.executable, *flags, "-c", code]


def folder() -> str:
    """Return the folder to start in: the current one, or the root if that was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:  # Python may not start in a removed folder (3.13.0 does not)
        return os.sep


def seeded(environ: Mapping[str, str]) -> dict[str, str]:
    """Add one hash seed for all workers of a pool, so that they partition keys in the same way.

    The interpreter reads it as it starts; the worker later sets `os.environ` to the parent's.
    """
    seed = environ.get("PYTHONHASHSEED", "random")
    return {
        **environ,
        "PYTHONHASHSEED": str(int.from_bytes(os.urandom(4), sys.byteorder)) if seed == "random" else seed,
    }


def interpreter(module: str, fds: Sequence[int], environ: Mapping[str, str], *more: object) -> Child:
    """Start an interpreter for `main(*fds, *more)` of a poolagg module; `Child` reaps it, since `Popen` would poll."""
    environ = {**environ, STARTED_BY: str(os.getpid())}
    with descriptors, contextlib.ExitStack() as stack:  # a child forked meanwhile would keep Popen's pipe open
        if is_frozen():
            command, start = frozen_command(module, [*fds, *more], import_path())
            stack.callback(os.close, start)
            fds = [*fds, start]
        else:
            command = _command(module, [*fds, *more])
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environ, pass_fds=fds, cwd=folder())
    process.returncode = 0  # `Child` reaps it: Popen must neither wait for it nor warn about it
    return Child(process.pid, _wait)


class SpawnLauncher:
    """Starts each worker as a fresh interpreter."""

    def __init__(self, environ: Mapping[str, str], by_value: bool, start: Any = None) -> None:
        del by_value, start
        self._environ = seeded(environ)

    def launch(self, fds: Sequence[int]) -> Child:
        """Start an interpreter."""
        return interpreter("poolagg.pools.process.worker_main", fds, self._environ)

    def close(self) -> None:
        """Do nothing, as there is nothing to free."""


class ForkLauncher:
    """Forks each worker from the parent. `start`: initializer and its arguments, inherited, so they need not pickle."""

    forking: int | None = None
    """The thread that forks a worker just now."""

    def __init__(self, environ: Mapping[str, str], by_value: bool, start: tuple[Any, Any] = (None, ())) -> None:
        del environ, by_value
        self._start = start

    def launch(self, fds: Sequence[int]) -> Child:
        """Fork, after flushing the streams, so that buffered output is not written twice."""
        flush_streams()
        with descriptors, spare(fds):
            ForkLauncher.forking = threading.get_ident()
            try:
                pid = os.fork()
            finally:
                ForkLauncher.forking = None
            if pid == 0:
                _run_forked(fds, self._start)
        return Child(pid, _wait)

    def close(self) -> None:
        """Do nothing, as there is nothing to free."""


def _run_forked(fds: Sequence[int], start: tuple[Any, Any]) -> NoReturn:
    """Run the worker, and never return into the frames of the parent."""
    status = 1
    try:
        from poolagg.pools.process.worker_main import main

        main(*fds, forked=True, inherited=start)
        status = 0
    finally:
        try:
            flush_streams()
        finally:
            os._exit(status)
