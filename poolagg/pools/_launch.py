"""Three ways to start a worker process, and one way to know that it has ended.

    forkserver   a template process, started once per pool, forks the workers: quick, and no lock can be inherited
                 (`_forkserver.py`)
    spawn        every worker is a fresh interpreter
    fork         the parent forks: memory is shared copy-on-write, and so is whatever lock a thread was holding

Rule of the room: a launcher is given descriptors and an environment, and gives back a `Child`. A child's death is
watched by a pidfd where there is one, never by the end of a pipe alone, which a grandchild may keep open.

The parent-death pipe has one writer, the parent. A template or a worker holds its reading end and dies when it closes.
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
from typing import NoReturn, Protocol

__all__ = [
    "Child",
    "ForkLauncher",
    "Launcher",
    "SpawnLauncher",
    "folder",
    "interpreter",
    "seeded",
    "start_methods",
]


def start_methods() -> list[str]:
    """The start methods of this platform, the default first."""
    pidfds = hasattr(os, "pidfd_open")
    return ["forkserver", "spawn", "fork"] if pidfds else ["spawn", "fork"]


class Child:
    """A started process. `reap` may be called once it has ended, and gives its exit status as `os.waitpid` codes it."""

    def __init__(self, pid: int, reap: Callable[[int], int | None]) -> None:
        if pid <= 0:
            raise ValueError(f"{pid} is no process: to kill it would be to kill many")
        self.pid = pid
        self._reap = reap
        self._lock = threading.Lock()
        """For another thread may kill it, while this one reaps it and the kernel gives its pid away."""
        self._ended = False
        self._exitcode: int | None = None
        self.pidfd = -1
        try:
            if hasattr(os, "pidfd_open"):
                self.pidfd = os.pidfd_open(pid)
        except OSError:
            self.kill()
            self.reap()
            raise

    def kill(self) -> None:
        """Kill it, at whatever instruction it is."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._ended:
                return
            if self.pidfd >= 0:  # never another process that was given the same pid
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Wait for its end; its exit code, negative for a signal, None if nobody knows any more."""
        with self._lock:
            if not self._ended:
                self._exitcode = self._reap(self.pid)
                self._ended = True
            return self._exitcode

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends within so many seconds; for a child with a pidfd."""
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
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Launcher(Protocol):
    """Starts worker processes."""

    def launch(self, fds: Sequence[int], private: Sequence[int]) -> Child:
        """Start a worker that holds `fds` and none of `private`, the parent's ends; all stay open here."""

    def close(self) -> None:
        """Leave nothing behind, once all children have ended."""

    def forget_in_child(self) -> None:
        """Close what a forked child of the parent must not keep."""


def _wait(pid: int) -> int | None:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # somebody's SIGCHLD handler was quicker
        return None
    return os.waitstatus_to_exitcode(status)


def _command(module: str, arguments: Sequence[object]) -> list[str]:
    """A command line that calls `main(*arguments)` of one of our modules, with this interpreter's flags and path."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main(*{list(arguments)!r})"
    return [sys.executable, *flags, "-c", code]


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
    command = _command(module, [*fds, *more])
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environ, pass_fds=fds, cwd=folder())
    process.returncode = 0  # it is ours to reap: Popen must neither wait for it nor warn about it
    return Child(process.pid, _wait)


class SpawnLauncher:
    """Every worker is a fresh interpreter."""

    def __init__(self, environ: Mapping[str, str], by_value: bool) -> None:
        del by_value
        self._environ = seeded(environ)

    def launch(self, fds: Sequence[int], private: Sequence[int]) -> Child:
        """Start an interpreter."""
        del private
        return interpreter("poolagg.pools._worker", fds, self._environ)

    def close(self) -> None:
        """Nothing is kept."""

    def forget_in_child(self) -> None:
        """Nothing is kept."""


class ForkLauncher:
    """The parent forks."""

    forking = False
    """Whether the fork that goes on is one of ours."""

    def __init__(self, environ: Mapping[str, str], by_value: bool) -> None:
        del by_value
        self._environ = dict(environ)

    def launch(self, fds: Sequence[int], private: Sequence[int]) -> Child:
        """Fork; what was printed and not yet written must not be written twice."""
        sys.stdout.flush()
        sys.stderr.flush()
        ForkLauncher.forking = True
        try:
            pid = os.fork()
        finally:
            ForkLauncher.forking = False
        if pid == 0:
            _run_forked(fds, private)
        return Child(pid, _wait)

    def close(self) -> None:
        """Nothing is kept."""

    def forget_in_child(self) -> None:
        """Nothing is kept."""


def _run_forked(fds: Sequence[int], private: Sequence[int]) -> NoReturn:
    """Be a worker, and never return into the frames of the parent."""
    status = 1
    try:
        from poolagg.pools._worker import main

        for fd in private:
            os.close(fd)
        main(*fds, forked=True)
        status = 0
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
