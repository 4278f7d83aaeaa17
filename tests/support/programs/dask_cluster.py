"""A dask cluster for tests, in a process of its own, with workers that can be killed; and clients of it.

As a program: prints the address of its scheduler, and ends with its stdin, taking everything with it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from paths import SUPPORT, TESTS

SETTINGS = {
    "distributed.comm.timeouts.connect": "10s",
    "distributed.scheduler.worker-ttl": "5s",
    "distributed.admin.low-level-log-length": 10,
}
"""For so long dask may try to reach a dead worker that held a result, and not for its default of 30 s; so long may a
worker be silent before it is killed and renewed, and not for 5 minutes; and so many of its last messages it may keep,
to be looked at, and not 1,000: tests count what is kept."""

IMPORTED = (str(SUPPORT), str(TESTS / "pools/external"), os.environ.get("PYTHONPATH", ""))
ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(IMPORTED)}
"""Workers import what the tests share, and the tests of clusters."""


@dataclass
class Cluster:
    """A cluster that runs."""

    address: str
    process: psutil.Popen
    folder: Path
    """Where all its temporary files are."""

    def workers(self) -> list[psutil.Process]:
        """The processes of its workers, oldest first; each has a nanny in the cluster's process, which renews it."""
        children = [child for child in self.process.children() if "spawn_main" in " ".join(cmdline(child))]
        return sorted(children, key=psutil.Process.create_time)


def cmdline(process: psutil.Process) -> list[str]:
    """How it was called; nothing if it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


def imported() -> Any:
    """dask.distributed; without it the test is skipped, but for CI, where that is a failure."""
    if os.environ.get("POOLAGG_CI"):
        return importlib.import_module("distributed")
    return pytest.importorskip("distributed", reason="pip install 'poolagg[dask]'")


@contextlib.contextmanager
def running(workers: int, allowed_failures: int = 3, memory_limit: str | None = None) -> Iterator[Cluster]:
    """A cluster of so many workers with one thread each; a task is given up after so many deaths, and one."""
    imported()
    pipe = subprocess.PIPE
    with tempfile.TemporaryDirectory(prefix="dask-") as folder:
        command = [sys.executable, __file__, folder, str(workers), str(allowed_failures), memory_limit or "0"]
        process = psutil.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ENVIRON)
        try:
            yield Cluster(process.stdout.readline().strip(), process, Path(folder))
        finally:
            family = process.children(recursive=True) if process.is_running() else []
            process.stdin.close()
            process.stdout.close()
            try:
                process.wait(10)
            except psutil.TimeoutExpired:  # dask may wait for long for what was killed
                process.kill()
                process.wait()
            _, alive = psutil.wait_procs(family, timeout=10)  # its orphans are the tests' own, who reap them here
            for process in alive:
                process.kill()
            psutil.wait_procs(alive)  # before the folder goes in which they write


@contextlib.contextmanager
def another_machine(cluster: Cluster) -> Iterator[psutil.Popen]:
    """One more worker, under a nanny that has a process of its own, as it would have on another machine."""
    words = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(cluster.folder)]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.address, *words]
    nanny = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRON)
    try:
        yield nanny
    finally:
        family = [nanny, *(nanny.children(recursive=True) if nanny.is_running() else [])]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)


def client(address: str, **options: Any) -> Any:
    """Make a client of it, which is not the default."""
    distributed = imported()
    import dask

    with dask.config.set(SETTINGS):
        return distributed.Client(address, set_as_default=False, **options)


def main(folder: str, workers: int, allowed_failures: int, memory_limit: str) -> None:
    """Run a cluster until its stdin closes."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set(
            SETTINGS, distributed__scheduler__allowed_failures=allowed_failures, temporary_directory=folder
        ),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            memory_limit=memory_limit,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
