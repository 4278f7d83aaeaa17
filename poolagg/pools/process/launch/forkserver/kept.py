"""The forkserver that this process keeps for its pools, also after the last of them is closed.

A worker has the environment, the limits and all else that a process inherits from the one that starts it, as they are
when its pool starts its first worker. So a pool uses the forkserver that is there only if nothing of this has changed
since it was started; else another takes its place, and the old one ends with the last pool that uses it.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

from poolagg.pools.process.launch.forkserver.connection import Forkserver
from poolagg.pools.process.launch.launchers import folder
from poolagg.pools.process.launch.program import import_path

__all__ = ["give_back", "kept", "lose", "take"]

_Conditions: TypeAlias = tuple[object, ...]

_INHERITED = (
    *(b"Uid", b"Gid", b"Groups", b"Umask", b"SigBlk", b"SigIgn", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb"),
    *(b"NoNewPrivs", b"Seccomp", b"Cpus_allowed", b"Mems_allowed"),
)
"""The lines of a thread's status, in /proc, that a process which it starts inherits."""

_kept: tuple[_Conditions, Forkserver] | None = None
"""Read and replaced without a lock, which the garbage collector might want a second time as it ends a pool. If threads
start two forkservers at once, one of them is kept; if one ends while it is taken, the taker starts another."""


def take(environ: Mapping[str, str], alike: bool, user: object) -> Forkserver:
    """Return a forkserver for a user, who gives it back. `alike`: all workers have these environment variables."""
    global _kept
    conditions, now = _conditions(environ, alike), _kept
    if now is not None and now[0] != conditions:
        if _kept is now:
            _kept = None
        _close_unused(now[1])
        now = None
    forkserver = _started(environ) if now is None else now[1]
    forkserver.users.add(id(user))
    if now is None and conditions is not None and _kept is None:
        _kept = conditions, forkserver
    return forkserver


def _started(environ: Mapping[str, str]) -> Forkserver:
    """Start a forkserver, and have it ended at the exit of this process.

    This is noted here, since a forked child has dropped its exit functions. One of `multiprocessing` runs finalizers.
    """
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, _at_exit, exitpriority=0)
    return Forkserver(environ)


def give_back(forkserver: Forkserver, user: object) -> None:
    """End the use; a forkserver that is not kept ends with its last."""
    forkserver.users.discard(id(user))
    if forkserver is not kept():
        _close_unused(forkserver)


def lose(forkserver: Forkserver) -> None:
    """Forget a forkserver that has ended."""
    global _kept
    if forkserver is kept():
        _kept = None
    forkserver.close()


def kept() -> Forkserver | None:
    """Return the forkserver that the next pool may use."""
    return None if _kept is None else _kept[1]


def _close_unused(forkserver: Forkserver) -> None:
    if not forkserver.users:
        forkserver.close()


def _conditions(environ: Mapping[str, str], alike: bool) -> _Conditions | None:
    """Return what a worker inherits or finds; None if the system does not tell, and no forkserver can be kept."""
    path = tuple(import_path())
    try:
        with open("/proc/thread-self/status", "rb") as status, open("/proc/self/limits", "rb") as limits:
            inherited = *(line for line in status if line.partition(b":")[0] in _INHERITED), limits.read()
        with open("/proc/self/cgroup", "rb") as cgroup:
            groups = cgroup.read()
    except OSError:
        return None
    return (
        *(dict(environ), alike, sys.executable, path, all(map(os.path.isabs, path)) or folder()),
        *(inherited, groups, os.getpriority(os.PRIO_PROCESS, 0), _policy()),
        tuple(subprocess._args_from_interpreter_flags()),  # type: ignore[attr-defined]
        tuple(map(_file, (1, 2, "/"))),
    )


def _policy() -> int | None:
    try:
        return os.sched_getscheduler(0)
    except OSError:  # the C library of Alpine has no such call
        return None


def _file(file: Any) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _at_exit() -> None:
    """End it before this process ends: now, or with the last pool that still uses it."""
    global _kept
    forkserver, _kept = kept(), None
    if forkserver is not None:
        _close_unused(forkserver)


def _in_child() -> None:
    global _kept
    _kept = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
