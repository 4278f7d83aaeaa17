"""How many workers a pool has by default, and how many threads the libraries in each of them may start."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from poolagg._input.worker_state import here

__all__ = ["WorkerEnviron", "default_workers", "usable_cpus"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def usable_cpus() -> int:
    """Count the CPUs that this process may use: the smaller of its affinity and its cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        pass
    return count


def default_workers() -> int:
    """Count the workers that a pool of processes has by default; inside a worker, its share of the CPUs, 1 at least."""
    return max(1, usable_cpus() // here.workers)


class WorkerEnviron:
    """The environment variables of each worker, computed once a run, since copying `os.environ` is slow.

    The CPUs are divided among the workers by thread limits; this process's variables have priority, and `env` has most.
    """

    def __init__(self, workers: int, env: Mapping[str, str] | Callable[[int], Mapping[str, str]] | None) -> None:
        if not (env is None or callable(env) or isinstance(env, Mapping)):
            raise TypeError(f"env must be a mapping, or a function of worker_index() that returns one, not {env!r}")
        self._workers = workers
        self._env = env if callable(env) else dict(env or {})
        self._now: dict[str, str] | None = None

    @property
    def alike(self) -> bool:
        """True if all workers have the same variables."""
        return not callable(self._env)

    def renew(self) -> None:
        """Forget the variables, since those of this process may have changed."""
        self._now = None

    def of_all(self) -> dict[str, str]:
        """Return the variables that all workers have."""
        if self._now is None:
            threads = str(max(1, usable_cpus() // self._workers))
            self._now = dict.fromkeys(THREAD_VARIABLES, threads) | dict(os.environ)
            if not callable(self._env):
                self._now |= self._env
        return self._now

    def of(self, worker: int) -> dict[str, str]:
        """Return the variables of one worker."""
        if not callable(self._env):
            return self.of_all()
        own = self._env(worker)
        if not isinstance(own, Mapping):
            raise TypeError(f"env({worker}) must return a mapping, not {own!r}")
        return self.of_all() | dict(own)
