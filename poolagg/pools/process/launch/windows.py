"""Workers on Windows, each a fresh interpreter in a job object, which ends it with its parent."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from poolagg.pools.process import worker_main
from poolagg.pools.process.descriptors import close_all, descriptors
from poolagg.pools.process.launch.frozen import STARTED_BY, is_frozen
from poolagg.pools.process.launch.launchers import command, folder, seeded
from poolagg.pools.process.systems.system import Child
from poolagg.pools.process.systems.windows import WINDOWS, Handed

__all__ = ["WindowsLauncher", "main"]

_subprocess: Any = subprocess  # type checkers know only what their own system has
_ctypes: Any = ctypes

KILL_ON_JOB_CLOSE, SILENT_BREAKAWAY_OK, EXTENDED_LIMITS = 0x2000, 0x1000, 9
"""Processes of the job die with its last handle; the programs that they run are not in it. (From winnt.h.)"""


class WindowsLauncher:
    """Starts each worker as a fresh interpreter, in a job object that ends it with this process."""

    def __init__(self, environ: Mapping[str, str], alike: bool, start: Any = None) -> None:
        del alike, start
        if is_frozen():
            raise RuntimeError(
                f"this frozen program, {sys.executable!r}, cannot start worker processes on Windows: use ThreadPool()"
            )
        self._environ = seeded(environ) | {STARTED_BY: str(os.getpid())}
        self._executable = sys.executable
        if sys.prefix != sys.base_prefix:  # the python.exe of an environment only starts another process
            self._executable = sys._base_executable  # type: ignore[attr-defined]
            self._environ["__PYVENV_LAUNCHER__"] = sys.executable
        self._job: _Job | None = _Job()

    def launch(self, handed: Handed) -> Child:
        """Start an interpreter, which Ctrl-C does not reach, and write to it what it is handed."""
        assert self._job is not None
        with descriptors:
            process = subprocess.Popen(
                [self._executable, *command(__name__, ())[1:]],
                stdin=subprocess.PIPE, env=self._environ, cwd=folder(),
                creationflags=_subprocess.CREATE_NEW_PROCESS_GROUP,
            )  # fmt: skip
        try:
            self._job.add(process)
            shared = handed.there.share(process.pid)  # type: ignore[attr-defined]
            assert process.stdin is not None
            with contextlib.suppress(OSError), process.stdin:  # it has died
                process.stdin.write(repr((shared, handed.names, os.getpid())).encode())
        except BaseException:
            process.kill()
            process.wait()
            raise
        return _Child(process)

    def close(self) -> None:
        """Close the job, whose processes have ended."""
        close_all([self._job])


class _Child:
    """A started process."""

    sentinel = -1
    stopped = False

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid = process.pid
        self._process = process
        self._lock = threading.RLock()

    def kill(self) -> None:
        """End it at once."""
        with self._lock:
            self._process.kill()

    def send(self, signum: int) -> None:
        """Do nothing."""

    def reap(self) -> int | None:
        """Wait for its end; return its exit code."""
        with self._lock:
            return self._process.wait()

    def has_ended(self) -> bool:
        """Tell if it has ended."""
        with self._lock:
            return self._process.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        """Tell if it ends within so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.has_ended()

    def close(self) -> None:
        """Do nothing: the process's handle goes with this object."""


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 2),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("classes", ctypes.c_uint32 * 2),
        ("io", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


class _Job:
    """A job object: when this process ends, however it does, Windows closes its handles and so ends the workers."""

    def __init__(self) -> None:
        self._kernel = _ctypes.WinDLL("kernel32", use_last_error=True)
        self._kernel.CreateJobObjectW.restype = ctypes.c_void_p
        self._handle = ctypes.c_void_p(self._checked(self._kernel.CreateJobObjectW(None, None)))
        limits = _Limits(flags=KILL_ON_JOB_CLOSE | SILENT_BREAKAWAY_OK)
        size = ctypes.sizeof(limits)
        self._checked(self._kernel.SetInformationJobObject(self._handle, EXTENDED_LIMITS, ctypes.byref(limits), size))

    def add(self, process: Any) -> None:
        """Put a process into the job."""
        self._checked(self._kernel.AssignProcessToJobObject(self._handle, ctypes.c_void_p(int(process._handle))))

    def _checked(self, result: int | None) -> int:
        if not result:
            raise _ctypes.WinError(_ctypes.get_last_error())
        return result

    def close(self) -> None:
        """Close the handle, once."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._kernel.CloseHandle(handle)


# -- the worker --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Be a worker: read what the parent hands over from standard input, which is empty from then on."""
    with open(0, "rb", closefd=False) as file:
        handed = file.read()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if handed:  # else the parent has died
        worker_main.main(*ast.literal_eval(handed.decode()), system=WINDOWS)
