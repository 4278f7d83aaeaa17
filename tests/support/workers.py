"""The processes of a pool, for tests to kill."""

from __future__ import annotations

import psutil

from poolagg import ProcessPool


def workers_of(pool: ProcessPool) -> list[psutil.Process]:
    """The worker processes, for tests to kill."""
    return [psutil.Process(handle.child.pid) for handle in list(pool._handles.values())]


def template_of(pool: ProcessPool) -> psutil.Process:
    """The process that forks the workers."""
    return psutil.Process(pool._workers.launcher.forkserver.process.pid)  # type: ignore[union-attr]
