"""Windows: a socket handed over by share(), memory named by a secret, a job object for the parent's death.

What Windows lacks, and so is not promised:

    a chunk that waits cannot be cancelled, so a worker has one at a time, and waits for the next
    the parent asks for deaths twenty times a second
    a pool has at most 512 workers, which is the most that `select` counts
    a worker that was killed has an exit code, and no signal

Sockets and memory are no descriptors there, so no item reaches a worker's ends by a loop over small numbers. Tried
under Wine, not on Windows.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from poolagg.pools.process.channel import Pipe
from poolagg.pools.process.descriptors import Closable, close_all, descriptors, held
from poolagg.pools.process.launch.frozen import STARTED_BY, is_frozen
from poolagg.pools.process.progress_cell import CELL_SIZE, ProgressCell
from poolagg.pools.process.systems.system import Child, Ends, Launcher, Mark, WorkerEnds

__all__ = ["WINDOWS", "TaggedMemory", "Windows", "main"]

_subprocess: Any = subprocess  # type checkers know only what their own system has
_ctypes: Any = ctypes
_mmap: Any = mmap.mmap

KILL_ON_JOB_CLOSE, SILENT_BREAKAWAY_OK, EXTENDED_LIMITS = 0x2000, 0x1000, 9
"""Processes of the job die with its last handle; the programs that they run are not in it. (From winnt.h.)"""


class TaggedMemory:
    """Mappings of the page file that know each other by name: a secret one, as others of the session could open them.

    A part is a mapping of its own. Windows reserves its pages when the first side opens it, and frees them once neither
    side has it mapped.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name or f"poolagg-{os.urandom(16).hex()}"

    def map(self, offset: int, size: int) -> mmap.mmap:
        """Open a part."""
        with descriptors:
            mapping: mmap.mmap = held(_mmap(-1, size, tagname=f"{self.name}-{offset}"))
        return mapping

    def allocate(self, offset: int, size: int) -> mmap.mmap:
        """Open a part, which is allocated by that."""
        return self.map(offset, size)

    def read(self, into: memoryview, offset: int) -> None:
        """Raise OSError."""
        raise OSError(f"Windows has no address space left to map {len(into):,} bytes")

    def free(self, mapping: mmap.mmap, offset: int) -> None:
        """Do nothing: the pages go with the last mapping."""

    def is_intact(self) -> bool:
        """Return True: it has no descriptor."""
        return True


class _Handed(NamedTuple):
    """What a worker is handed; `there` becomes the bytes of `share`, which are good for one process."""

    there: socket.socket
    names: tuple[str, ...]


class Windows:
    """The primitives of Windows."""

    in_flight = 1
    gathers = False

    # -- in the parent -------------------------------------------------------------------------------------------------

    def ends(self, ours: list[Closable], theirs: list[Closable]) -> Ends:
        """Open a socket pair, which is a TCP connection, and name the memory."""
        del theirs
        with descriptors:
            here, there = socket.socketpair()
            # The parent keeps the worker's end: closed before the worker has it, it would be gone. And as long as it is
            # open, a killed worker resets no connection, which would drop its last words.
            ours += [held(here), held(there)]
        for sock in (here, there):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cell, to_parent, to_worker = (TaggedMemory() for _ in range(3))
        handed = _Handed(there, (cell.name, to_parent.name, to_worker.name))
        return Ends(here, cell.map(0, CELL_SIZE), None, to_parent, to_worker, handed)

    def launcher(self, method: str, environ: Mapping[str, str], by_value: bool, start: tuple[Any, Any]) -> Launcher:
        """Open what starts interpreters."""
        del method, by_value, start
        return _Launcher(environ)

    def selector(self) -> selectors.BaseSelector:
        """Open a selector by `select`."""
        return _Selector()

    def watch_death(self, pid: int) -> None:
        """Return None: the parent asks."""

    # -- in the worker -------------------------------------------------------------------------------------------------

    def worker_ends(self, *handed: Any) -> WorkerEnds:
        """Open the socket, the memory, and a handle of the parent."""
        import _winapi

        winapi: Any = _winapi
        shared, (cell, arena, items), parent = handed
        sock: socket.socket = socket.fromshare(shared)  # type: ignore[attr-defined]
        handle = winapi.OpenProcess(winapi.SYNCHRONIZE, False, parent)
        return WorkerEnds(
            sock, _mmap(-1, CELL_SIZE, tagname=f"{cell}-0"), -1, handle, *map(TaggedMemory, (arena, items))
        )

    def die_with_parent(self, parent: int) -> None:
        """Do nothing: the job object ends this process, whatever it does."""

    def mark(self, fd: int, number: int) -> Mark:
        """Return a mark that is always right."""
        del fd, number
        return int, 0

    def check_of(self, ends: WorkerEnds, pipe: Pipe, cell: ProgressCell) -> Callable[[], None] | None:
        """Return None."""


WINDOWS = Windows()


class _Selector(selectors.SelectSelector):
    """Waits for no socket at all, too."""

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready."""
        if self.get_map():
            return super().select(timeout)
        time.sleep(max(0.0, timeout or 0.0))
        return []


# -- processes ---------------------------------------------------------------------------------------------------------


class _Launcher:
    """Starts each worker as a fresh interpreter, in a job object that ends it with this process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        from poolagg.pools.process.launch.launchers import seeded  # for systems that fork, it imports the worker

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

    def launch(self, handed: _Handed) -> Child:
        """Start an interpreter, which Ctrl-C does not reach, and write to it what it is handed."""
        from poolagg.pools.process.launch.launchers import command, folder

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
                process.stdin.write(pickle.dumps((shared, handed.names, os.getpid())))
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
        from poolagg.pools.process import worker_main

        worker_main.main(*pickle.loads(handed), system=WINDOWS)
