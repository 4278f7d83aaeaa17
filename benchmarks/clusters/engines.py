"""The clusters of the suite `clusters`, on this machine: dask in a process of its own, Ray in its own processes.

As a program, it is a dask cluster: prints the address of its scheduler, and ends with its stdin. So the CPU time of
the scheduler is not that of the driver, which has another process; workers are below it, or threads in it.
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
    """A cluster that runs: what `aggregate` is given as `pool`, and what tells its scheduler's processes."""

    pool: Any
    scheduling: Any


@contextlib.contextmanager
def dask(workers, threads=False):
    """A client of so many workers with one thread each, which are processes, or `threads` of the cluster's one."""
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
    """Ray, with so many CPUs, whatever there are."""
    import ray

    from poolagg.pools import RayPool

    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        with RayPool() as pool:
            yield Engine(pool, lambda: [pid for pid in descendants() if name_of(pid) in ("raylet", "gcs_server")])
    finally:
        ray.shutdown()


def name_of(pid):
    """What the kernel calls it; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


ENGINES = {DASK: dask, RAY: ray}


class Meter:
    """CPU seconds since it was made, of the driver, which is this process, and of the scheduler; None: nobody knows."""

    def __init__(self, engine):
        self.engine = engine
        self.began = self.now()

    def now(self):
        """Of both, since they were started."""
        return time.process_time(), sum(map(cpu_time, self.engine.scheduling()))

    def read(self):
        """Of both, since the meter was made."""
        return tuple(now - before for now, before in zip(self.now(), self.began, strict=True))


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
