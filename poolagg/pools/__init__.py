"""Where chunks run: pools of our own, and other people's."""

from typing import Any

from poolagg.pools._pool import Pool
from poolagg.pools._work import Job
from poolagg.pools.process import ProcessPool, usable_cpus
from poolagg.pools.serial import SerialPool
from poolagg.pools.threads import ThreadPool

__all__ = ["Job", "Pool", "ProcessPool", "SerialPool", "ThreadPool", "as_pool", "usable_cpus"]


def as_pool(pool: Any) -> Pool:
    """What was passed as `pool=`, as a pool."""
    if isinstance(pool, Pool):
        return pool
    raise TypeError(f"pool must be a ProcessPool, a ThreadPool, a SerialPool or an Executor, not {pool!r}")
