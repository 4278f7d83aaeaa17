"""Three ways to start a worker process, and one way to know that it has ended.

    forkserver   a template process, started once per pool, forks the workers: quick, and no lock can be inherited
                 (`forkserver.py`)
    spawn        every worker is a fresh interpreter
    fork         the parent forks: memory is shared copy-on-write, and so is whatever lock a thread was holding

Rule: a launcher is given descriptors and an environment, and gives back a `Child`. A child's death is
watched by a pidfd, never by the end of a pipe alone, which a grandchild may keep open. Where the system has no pidfd
(old kernels), or refuses it (containers with a filter), the parent asks for deaths, some twenty times a second: SIGCHLD
is not the library's to take, and every other descriptor is inherited by grandchildren.

The parent-death pipe has one writer, the parent. A template or a worker holds its reading end and dies when it closes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep
from typing import Any, NoReturn, Protocol

from poolagg.pools.process.descriptors import Descriptor, close_all, descriptors, spare
from poolagg.pools.process.launch.frozen import STARTED_BY, is_frozen
from poolagg.pools.process.launch.frozen import command as frozen_command
from poolagg.pools.process.launch.standard_streams import flush_streams

__all__ = [
    "LOOK",
    "Child",
    "ForkLauncher",
    "Launcher",
    "SpawnLauncher",
    "checked_start_method",
    "folder",
    "import_path",
    "interpreter",
    "seeded",
    "start_methods",
]


LOOK = 0.05
"""Seconds between two looks at children without a pidfd: a look costs a call of the system for each."""

NO_PIDFD = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}
"""How kernels without pidfds, and filters of containers, answer."""


def start_methods() -> list[str]:
    """The start methods of this platform, the default first."""
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

    `reap(pid, options)` waits for its end as `os.waitpid` does, and gives its exit code; with `os.WNOHANG` it raises
    BlockingIOError while the process is alive. `pidfd` is -1 where there is none.
    """

    def __init__(self, pid: int, reap: Callable[[int, int], int | None]) -> None:
        if pid <= 0:
            raise ValueError(f"{pid} is no process: to kill it would be to kill many")
        self.pid = pid
        self._reap = reap
        self._lock = threading.RLock()
        """For another thread may kill it, while this one reaps it and the kernel gives its pid away. A signal handler
        that closes the pool may do so within."""
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
        """The descriptor that is readable when it has ended; -1 where there is none, or once it is closed."""
        return -1 if self._watch is None else self._watch.fd

    def kill(self) -> None:
        """Kill it, at whatever instruction it is."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._ended:
                return
            if self.pidfd >= 0:
                with contextlib.suppress(PermissionError):  # by a filter
                    # never another process that was given the same pid
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                    return
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Wait for its end; its exit code, negative for a signal, None if nobody knows any more."""
        with self._lock:
            if not self._ended:
                self._exitcode = self._reap(self.pid, 0)
                self._ended = True
            return self._exitcode

    def has_ended(self) -> bool:
        """Reap it if it has ended; for a child without a pidfd."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._ended:
                self._exitcode = self._reap(self.pid, os.WNOHANG)
                self._ended = True
        return self._ended

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
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
        """Whether it was stopped (SIGSTOP) and not continued; False where the system does not say."""
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
        """Leave nothing behind, once all children have ended."""


def _pidfd(pid: int) -> int:
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in NO_PIDFD:
            return -1
        raise


def _wait(pid: int, options: int) -> int | None:
    try:
        ended, status = os.waitpid(pid, options)
    except ChildProcessError:  # somebody's SIGCHLD handler was quicker
        return None
    if not ended:
        raise BlockingIOError(f"process {pid} is alive")
    return os.waitstatus_to_exitcode(status)


def _command(module: str, arguments: Sequence[object]) -> list[str]:
    """A command line that calls `main(*arguments)` of one of our modules, with this interpreter's flags and path.

    The garbage collector rests during the imports, which make no garbage: it would take 2 ms.
    """
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    code = (
        f"import gc, sys; gc.disable(); sys.path[:] = {import_path()!r}; from {module} import main; "
        f"gc.freeze(); gc.enable(); main(*{list(arguments)!r})"
    )
    return [sys.executable, *flags, "-c", code]


def import_path() -> list[str]:
    """The folders and archives that this process imports from: Python passes over what is not a text in sys.path."""
    return [str(path) for path in sys.path if isinstance(path, str)]


def folder() -> str:
    """The folder to start in: this process's, unless somebody has removed it."""
    try:
        return os.getcwd()
    except FileNotFoundError:  # where Python itself may not start (3.13.0 does not)
        return os.sep


def seeded(environ: Mapping[str, str]) -> dict[str, str]:
    """With one hash seed for all workers of a pool, so that they agree about which part of the keys a key is in.

    The interpreter reads it as it starts; a worker's `os.environ` is set later, and is that of the parent.
    """
    seed = environ.get("PYTHONHASHSEED", "random")
    return {
        **environ,
        "PYTHONHASHSEED": str(int.from_bytes(os.urandom(4), sys.byteorder)) if seed == "random" else seed,
    }


def interpreter(module: str, fds: Sequence[int], environ: Mapping[str, str], *more: object) -> Child:
    """Start one for `main(*fds, *more)` of a module of ours. It is reaped by its pid, for `subprocess` would poll."""
    environ = {**environ, STARTED_BY: str(os.getpid())}
    with descriptors, contextlib.ExitStack() as stack:  # a child forked meanwhile would keep a pipe of Popen's
        if is_frozen():
            command, start = frozen_command(module, [*fds, *more], import_path())
            stack.callback(os.close, start)
            fds = [*fds, start]
        else:
            command = _command(module, [*fds, *more])
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environ, pass_fds=fds, cwd=folder())
    process.returncode = 0  # it is ours to reap: Popen must neither wait for it nor warn about it
    return Child(process.pid, _wait)


class SpawnLauncher:
    """Every worker is a fresh interpreter."""

    def __init__(self, environ: Mapping[str, str], by_value: bool, start: Any = None) -> None:
        del by_value, start
        self._environ = seeded(environ)

    def launch(self, fds: Sequence[int]) -> Child:
        """Start an interpreter."""
        return interpreter("poolagg.pools.process.worker_main", fds, self._environ)

    def close(self) -> None:
        """Nothing is kept."""


class ForkLauncher:
    """The parent forks. `start`, the initializer of the workers and its arguments, is inherited and need not travel."""

    forking: int | None = None
    """The thread that is forking a worker."""

    def __init__(self, environ: Mapping[str, str], by_value: bool, start: tuple[Any, Any] = (None, ())) -> None:
        del environ, by_value
        self._start = start

    def launch(self, fds: Sequence[int]) -> Child:
        """Fork; what was printed and not yet written must not be written twice."""
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
        """Nothing is kept."""


def _run_forked(fds: Sequence[int], start: tuple[Any, Any]) -> NoReturn:
    """Be a worker, and never return into the frames of the parent."""
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
