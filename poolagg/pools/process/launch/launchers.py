"""Three ways to start a worker process, where processes inherit descriptors. (Windows: `windows.py`.)

    forkserver   a process that all pools share forks the workers: quick, and no lock can be inherited
                 (`forkserver/`)
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
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from poolagg.pools.process.descriptors import Closable, descriptors, spare
from poolagg.pools.process.launch.child import PosixChild
from poolagg.pools.process.launch.frozen import STARTED_BY, is_frozen
from poolagg.pools.process.launch.frozen import command as frozen_command
from poolagg.pools.process.launch.program import import_path
from poolagg.pools.process.launch.standard_streams import flush_streams

__all__ = [
    "ForkLauncher",
    "SpawnLauncher",
    "checked_start_method",
    "command",
    "folder",
    "interpreter",
    "seeded",
    "start_methods",
]


def start_methods() -> list[str]:
    """Return the start methods of this platform, the default first."""
    methods = {"linux": ["forkserver", "spawn", "fork"], "win32": ["spawn"]}
    return methods.get(sys.platform, ["spawn", "fork"])


def checked_start_method(name: str | None) -> str:
    """Return the start method of this name; None means the default. Only tests may choose "portable"."""
    methods = start_methods()
    if name == "portable" and os.environ.get("POOLAGG_PORTABLE") and os.name == "posix":
        return name
    if name is None:
        return methods[0]
    if name not in methods:
        raise ValueError(f"start_method must be one of {methods} here, not {name!r}")
    return name


def _wait(pid: int, options: int) -> int | None:
    try:
        ended, status = os.waitpid(pid, options)
    except ChildProcessError:  # a SIGCHLD handler of the program has reaped it
        return None
    if not ended:
        raise BlockingIOError(f"process {pid} is alive")
    return os.waitstatus_to_exitcode(status)


def command(module: str, arguments: Sequence[object]) -> list[str]:
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


def interpreter(
    module: str,
    fds: Sequence[int],
    environ: Mapping[str, str],
    *more: object,
    watch: Callable[[int], Closable | None] | None = None,
) -> PosixChild:
    """Start an interpreter for `main(*fds, *more)` of a poolagg module; `Popen` must not reap it."""
    passed = [fd for fd in fds if fd >= 0]
    environ = {**environ, STARTED_BY: str(os.getpid())}
    with descriptors, contextlib.ExitStack() as stack:  # a child forked meanwhile would keep Popen's pipe open
        if is_frozen():
            argv, start = frozen_command(module, [*fds, *more], import_path())
            stack.callback(os.close, start)
            passed.append(start)
        else:
            argv = command(module, [*fds, *more])
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=environ, pass_fds=passed, cwd=folder())
    process.returncode = 0  # `PosixChild` reaps it: Popen must neither wait for it nor warn about it
    return PosixChild(process.pid, _wait, watch)


class SpawnLauncher:
    """Starts each worker as a fresh interpreter."""

    def __init__(self, environ: Mapping[str, str], alike: bool, start: Any = None) -> None:
        del alike, start
        self._environ = seeded(environ)

    def launch(self, fds: Sequence[int]) -> PosixChild:
        """Start an interpreter."""
        return interpreter("poolagg.pools.process.worker_main", fds, self._environ)

    def close(self) -> None:
        """Do nothing, as there is nothing to free."""


class ForkLauncher:
    """Forks each worker from the parent. `start`: initializer and its arguments, inherited, so they need not pickle."""

    forking: int | None = None
    """The thread that forks a worker just now."""

    def __init__(self, environ: Mapping[str, str], alike: bool, start: tuple[Any, Any] = (None, ())) -> None:
        del environ, alike
        self._start = start

    def launch(self, fds: Sequence[int]) -> PosixChild:
        """Fork, after flushing the streams, so that buffered output is not written twice."""
        flush_streams(replaced=True)
        with descriptors, spare(fds):
            ForkLauncher.forking = threading.get_ident()
            try:
                pid = os.fork()
            finally:
                ForkLauncher.forking = None
            if pid == 0:
                _run_forked(fds, self._start)
        return PosixChild(pid, _wait)

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
            flush_streams(replaced=True)
        finally:
            os._exit(status)
