"""The descendants of this process: find them, keep orphans visible, measure and end them.

On Linux a process can inherit the orphans among its descendants, so it sees all of them, whatever sessions they make.
Other systems have neither that nor /proc: `descendants` returns nothing, and `end_all` ends only the process group.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Make the kernel give this process the orphans among its descendants."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    """Return all living descendants of this process, parents before children."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _parents() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has just ended
            continue
        if state != "Z":
            yield int(folder.name), int(parent)


def wait_until_gone(patience: float) -> list[int]:
    """Return the descendants that are alive after `patience` seconds; return early if there are none."""
    until = time.monotonic() + patience
    while (left := descendants()) and time.monotonic() < until:
        time.sleep(0.01)
    return left


def end_all() -> None:
    """End every descendant, and those that start meanwhile.

    It sends SIGTERM and waits a second: multiprocessing's resource tracker ignores the signal, and removes named
    semaphores and shared memory after the last of their users has ended.
    """
    _signal_all(signal.SIGTERM)
    patience = 1.0
    while wait_until_gone(patience):
        _signal_all(signal.SIGKILL)
        patience = 0.01


def _signal_all(number: signal.Signals) -> None:
    for pid in descendants():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def peak_memory(pid: int) -> int | None:
    """Return the peak memory of a process since its program started, in bytes."""
    return _memory(pid, "VmHWM:")


def own_memory(pid: int) -> int:
    """Return the memory of a process now without its program files, in bytes; pages shared by fork count for each."""
    return (_memory(pid, "RssAnon:") or 0) + (_memory(pid, "RssShmem:") or 0)


def cpu_time(pid: int) -> float:
    """Return the CPU seconds of a process since its program started; 0 if it has ended or is not readable."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int, field: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)
