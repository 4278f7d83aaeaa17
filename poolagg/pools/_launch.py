"""Three ways to start a worker process, and one way to know that it has ended.

    forkserver   a template process, started once per pool, forks the workers: quick, and no lock can be inherited
    spawn        every worker is a fresh interpreter
    fork         the parent forks: memory is shared copy-on-write, and so is whatever lock a thread was holding

Rule of the room: a launcher is given descriptors and an environment, and gives back a `Child`. A child's death is
watched by a pidfd where there is one, never by the end of a pipe alone, which a grandchild may keep open.

The parent-death pipe has one writer, the parent. A template or a worker holds its reading end and dies when it closes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol

from poolagg.pools._template import ANSWER, REQUEST

__all__ = [
    "Child",
    "ForkLauncher",
    "Launcher",
    "SpawnLauncher",
    "TemplateLauncher",
    "TemplateLost",
    "folder",
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


def _seeded(environ: Mapping[str, str]) -> dict[str, str]:
    """With one hash seed for all workers of a pool, so that they agree about which part of the keys a key is in.

    The interpreter reads it as it starts; a worker's `os.environ` is set later, and is that of the parent.
    """
    seed = environ.get("PYTHONHASHSEED", "random")
    return {
        **environ,
        "PYTHONHASHSEED": str(int.from_bytes(os.urandom(4), sys.byteorder)) if seed == "random" else seed,
    }


def _interpreter(module: str, fds: Sequence[int], environ: Mapping[str, str], *more: object) -> Child:
    """Start one. It is reaped by its pid, for `subprocess` would poll."""
    command = _command(module, [*fds, *more])
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environ, pass_fds=fds, cwd=folder())
    process.returncode = 0  # it is ours to reap: Popen must neither wait for it nor warn about it
    return Child(process.pid, _wait)


class SpawnLauncher:
    """Every worker is a fresh interpreter."""

    def __init__(self, environ: Mapping[str, str], by_value: bool) -> None:
        del by_value
        self._environ = _seeded(environ)

    def launch(self, fds: Sequence[int], private: Sequence[int]) -> Child:
        """Start an interpreter; the child is reaped by its pid, for `subprocess` would poll."""
        del private
        return _interpreter("poolagg.pools._worker", fds, self._environ)

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


class TemplateLost(OSError):
    """The template was killed. It may have forked a worker first, so the descriptors must not be given to another."""


class TemplateLauncher:
    """A template process forks the workers; it has one thread and has run none of the user's code.

    `by_value`: jobs are sent by cloudpickle, which the template imports for all.

    The template reaps a child only when it is asked to, so that a pid the parent knows never means another process.
    """

    def __init__(self, environ: Mapping[str, str], by_value: bool) -> None:
        self._environ = _seeded(environ)
        self._by_value = by_value
        self._process: Child | None = None
        self._socket: socket.socket | None = None
        self._death: int = -1
        self._asking = threading.Lock()
        self._numbers = itertools.count()
        self._start()  # it takes its time to be ready, and the first launch waits for it

    def launch(self, fds: Sequence[int], private: Sequence[int]) -> Child:
        """Have a worker forked; TemplateLost if the template was killed: the next call starts another."""
        del private
        template = self._socket or self._start()
        try:
            pid = self._ask(template, b"F", 0, fds)
        except EOFError as error:
            self.close()
            raise TemplateLost("the template process was killed") from error
        try:
            return Child(pid, lambda pid: self._reap(template, pid))
        except ProcessLookupError as error:  # somebody else has reaped it
            raise TemplateLost("the template process was killed") from error

    def _start(self) -> socket.socket:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(here)
            theirs.enter_context(there)
            reader, death = os.pipe()
            theirs.callback(os.close, reader)
            ours.callback(os.close, death)
            by_value = self._by_value or "cloudpickle" in sys.modules
            fds = there.fileno(), reader
            self._process = _interpreter("poolagg.pools._template", fds, self._environ, by_value)
            self._socket, self._death = here, death
            ours.pop_all()
        return here

    def _ask(self, template: socket.socket, what: bytes, pid: int, fds: Sequence[int] = ()) -> int:
        with self._asking:
            number = next(self._numbers)
            try:
                socket.send_fds(template, [REQUEST.pack(what, number, pid)], fds)
                while answer := template.recv(ANSWER.size):
                    told, value = ANSWER.unpack(answer)
                    if told == number:  # else of a question that was interrupted
                        return int(value)
            except ConnectionError:
                pass
        raise EOFError("the template process is gone")

    def _reap(self, template: socket.socket, pid: int) -> int | None:
        try:
            status = self._ask(template, b"R", pid)
        except (OSError, EOFError):  # the template was killed, or closed, and its children are init's
            return None
        return os.waitstatus_to_exitcode(status) if status >= 0 else None

    def close(self) -> None:
        """End the template."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._death >= 0:
            os.close(self._death)
            self._death = -1
        if self._process is not None:
            self._process.kill()
            self._process.reap()
            self._process.close()
            self._process = None

    def forget_in_child(self) -> None:
        """Neither the template's socket nor the end that keeps it alive."""
        if self._socket is not None:
            os.close(self._socket.detach())
            os.close(self._death)
            self._socket, self._death, self._process = None, -1, None
