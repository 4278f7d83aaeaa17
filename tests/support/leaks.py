"""The resources of the operating system that this process holds, and a check that it releases them.

Orphans are counted too: on Linux a process can ask to inherit them, and the tests do (`adopt_orphans`).
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Have the kernel give this process the orphans among its descendants, so that none gets out of sight."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True)
class Holdings:
    """Processes (all descendants), descriptors with what they refer to, threads, and names in shared memory."""

    processes: frozenset[tuple[int, str]]
    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[str]
    shared_memory: frozenset[str]

    def __sub__(self, other: Holdings) -> dict[str, list]:
        """Return the resources held in addition to `other`, by kind; empty if there are none."""
        extra = {kind: sorted(getattr(self, kind) - getattr(other, kind)) for kind in self.__dataclass_fields__}
        return {kind: things for kind, things in extra.items() if things}


def held() -> Holdings:
    """Return the resources that this process holds now."""
    threads = (f"{thread.name} {thread.ident}" for thread in threading.enumerate())
    return Holdings(frozenset(_processes()), frozenset(_descriptors()), frozenset(threads), _shared_memory())


STANDARD = {
    "multiprocessing.forkserver": ("_forkserver", "_forkserver_pid"),
    "multiprocessing.resource_tracker": ("_resource_tracker", "_pid"),
}
"""Processes that the standard library starts once and keeps: the module of each, and the name of its pid."""


def standard_servers() -> dict[str, Any]:
    """Those of the standard library's own servers that run, by name."""
    there = {name: getattr(sys.modules[name], STANDARD[name][0]) for name in STANDARD if name in sys.modules}
    return {name: server for name, server in there.items() if getattr(server, STANDARD[name][1]) is not None}


def stop_standard_servers(before: dict[str, Any]) -> bool:
    """End those that were not there before, which are not what a test asks after; tell if there were any.

    Their children are then orphans, which may be zombies: a forkserver, the default since Python 3.14, has some.
    """
    new = [server for name, server in standard_servers().items() if name not in before]
    for server in new:
        server._stop()
    return bool(new)


def left_behind(before: Holdings, patience: float = 10.0, orphans: bool = False) -> dict[str, list]:
    """Return the resources held beyond `before`, after up to `patience` seconds for those about to go.

    `orphans`: such as the test made on purpose are reaped here, once they have ended, for nobody else will. What
    `pytest.raises` has caught keeps the frame of its test in a cycle, and so a pool that the test did not close.
    """
    began, collected = time.monotonic(), False
    while (extra := _without_kept(held() - before)) and (waited := time.monotonic() - began) < patience:
        time.sleep(0.01)
        if waited > 0.2 and not collected:
            gc.collect()
            collected = True
        if orphans:
            _reap()
    return extra


def kept_forkserver() -> tuple[int, set[int]]:
    """Return the pid and the descriptors of the one process that poolagg keeps; -1 and none if there is none."""
    kept = sys.modules.get("poolagg.pools.process.launch.forkserver.kept")
    forkserver = kept and kept.kept()
    process = forkserver and forkserver.process
    if not process:
        return -1, set()
    return process.pid, {process.sentinel, forkserver._control.fileno(), forkserver._death.fileno()}


def _without_kept(extra: dict[str, list]) -> dict[str, list]:
    """Leave out the forkserver that the process keeps, as promised, if no pool uses it any more."""
    pid, descriptors = kept_forkserver()
    kept = {"processes": {pid}, "descriptors": descriptors}
    left = {kind: [thing for thing in things if thing[0] not in kept.get(kind, ())] for kind, things in extra.items()}
    if "processes" in left:
        left["processes"] = [process for process in left["processes"] if not _is_kept_by_another(process[0])]
    return {kind: things for kind, things in left.items() if things}


def _is_kept_by_another(pid: int) -> bool:
    """Tell if it is the forkserver of a process that lives on, such as a worker of a cluster."""
    try:
        process = psutil.Process(pid)
        return "launch.forkserver.main" in " ".join(process.cmdline()) and process.ppid() not in {1, os.getpid()}
    except psutil.Error:
        return False


def _reap() -> None:
    for process in psutil.Process().children():
        if process.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(process.pid, 0)


def _processes() -> list[tuple[int, str]]:
    if _childless():
        return []
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append((process.pid, f"{process.status()} since {process.create_time()}"))
        except psutil.NoSuchProcess:
            pass
    return [(pid, state.partition(" ")[2] + (" zombie" if "zombie" in state else "")) for pid, state in found]


def _childless() -> bool:
    """Tell whether there is no child, not even a zombie: most tests have none, and psutil reads about all processes."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _descriptors() -> list[tuple[int, str]]:
    if sys.platform == "win32":
        return _descriptors_of_windows()
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            found.append((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except OSError:  # the one that listed them
            pass
    return found


def _descriptors_of_windows() -> list[tuple[int, str]]:
    """The descriptors of the C library, of which a program has few; sockets are none there."""
    found = []
    for fd in range(64):
        try:
            found.append((fd, str(os.fstat(fd).st_ino)))
        except OSError:  # not open
            pass
    return found


def _shared_memory() -> frozenset[str]:
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return frozenset(name for name in names if name.startswith(("poolagg", "psm_")))  # others' come and go
