"""The clusters of the suite `clusters`, on this machine: dask in a separate process, Ray in its own processes.

As a program, this module is a dask cluster: it prints the address of its scheduler, and ends with its stdin. So driver
and scheduler are separate processes with separate CPU times; workers are the scheduler's children, or its threads.
"""

import contextlib
import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import cpu_time, descendants

DASK, RAY = "dask", "Ray"


@dataclass(frozen=True)
class Engine:
    """A running cluster: the `pool` argument of `aggregate`, and the processes of its scheduler."""

    pool: Any
    scheduling: Any


@contextlib.contextmanager
def dask(workers, threads=False):
    """Start a client of `workers` workers with one thread each, which are processes, or `threads` of one process."""
    from distributed import Client

    command = [sys.executable, "-m", __name__, str(workers), "threads" if threads else "processes"]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process,
        Client(process.stdout.readline().strip()) as client,
    ):
        client.wait_for_workers(workers)
        yield Engine(client, lambda: [process.pid])


def serve(workers, kind):
    """Be the cluster."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=kind == "processes", dashboard_address=None,
        silence_logs=logging.CRITICAL, protocol="tcp://",
    ) as cluster:  # fmt: skip
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def ray(workers):
    """Start Ray with `workers` CPUs, whatever the machine has."""
    import ray

    from poolagg.pools import RayPool

    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        with RayPool() as pool:
            yield Engine(pool, lambda: [pid for pid in descendants() if name_of(pid) in ("raylet", "gcs_server")])
    finally:
        ray.shutdown()


def name_of(pid):
    """Return the kernel's name of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


ENGINES = {DASK: dask, RAY: ray}


class Meter:
    """CPU seconds since its start, of the driver (this process) and of the scheduler; None if unknown."""

    def __init__(self, engine):
        self.engine = engine
        self.began = self.now()

    def now(self):
        """Return the CPU seconds of both since they started."""
        return time.process_time(), sum(map(cpu_time, self.engine.scheduling()))

    def read(self):
        """Return the CPU seconds of both since the meter was made."""
        return tuple(now - before for now, before in zip(self.now(), self.began, strict=True))


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
