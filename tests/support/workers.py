"""The processes of a pool, for tests to kill."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator

import psutil

from poolagg import ProcessPool


def workers_of(pool: ProcessPool) -> list[psutil.Process]:
    """The worker processes, for tests to kill."""
    return [psutil.Process(handle.child.pid) for handle in list(pool._handles.values())]


def template_of(pool: ProcessPool) -> psutil.Process:
    """The process that forks the workers."""
    return psutil.Process(pool._workers.launcher.forkserver.process.pid)  # type: ignore[union-attr]


SLOWNESS = 1 if os.name == "posix" else 4
"""How much longer a program that starts workers takes: under Wine, each of them is a new interpreter."""


def kill_at_any_moment(command: list[str], times: int, latest: float, moments: random.Random) -> Iterator[None]:
    """Run a program some times, and kill it and all its processes after a quarter of a second to `latest` seconds."""
    for _ in range(times):
        program = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(moments.uniform(0.25, latest) * SLOWNESS)
        _kill_all(program)
        program.wait()
        yield


def _kill_all(program: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(program.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    program.kill()
