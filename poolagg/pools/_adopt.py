"""Other people's pools, taken for ours."""

from __future__ import annotations

from typing import Any

from poolagg.pools._pool import Pool

__all__ = ["as_pool"]


def as_pool(pool: Any) -> Pool:
    """What was passed as `pool=`, as a pool."""
    if isinstance(pool, Pool):
        return pool
    # Only here, for few programs need them.
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
