"""How many workers a pool has by default, and how many threads the libraries in each of them may start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["usable_cpus", "with_thread_limits"]

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


def with_thread_limits(environ: Mapping[str, str], workers: int) -> dict[str, str]:
    """Divide the CPUs among the workers by thread limits; what `environ` already sets has priority."""
    threads = str(max(1, usable_cpus() // workers))
    return dict.fromkeys(THREAD_VARIABLES, threads) | dict(environ)
