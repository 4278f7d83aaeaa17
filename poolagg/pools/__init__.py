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
    # Only here, for they cost every worker's start what few programs need.
    from concurrent.futures import Executor

    from poolagg.pools.executors import ExecutorPool, ImapPool

    if isinstance(pool, Executor):
        return ExecutorPool(pool)
    if hasattr(pool, "imap_unordered") and not isinstance(pool, type):
        return ImapPool(pool)
    hint = f": did you mean {pool.__name__}()?" if isinstance(pool, type) else ""
    raise TypeError(
        "pool must be a ProcessPool, ThreadPool or SerialPool, an Executor, or a pool with imap_unordered, not "
        f"{pool!r}{hint}"
    )
