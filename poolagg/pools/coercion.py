"""Turn the argument `pool=`, such as an Executor or a dask Client, into a Pool."""

from __future__ import annotations

import sys
from typing import Any

from poolagg.pools.pool import Pool

__all__ = ["as_pool"]


def as_pool(pool: Any) -> Pool:
    """Return what was passed as `pool=` as a Pool."""
    if isinstance(pool, Pool):
        return pool
    # Imported here, since few programs need them.
    from concurrent.futures import Executor

    from poolagg.pools.external.executors import ExecutorBackend, ImapBackend
    from poolagg.pools.external.external_pool import ExternalPool

    if (distributed := sys.modules.get("distributed")) is not None and isinstance(pool, distributed.Client):
        from poolagg.pools.external.dask import DaskPool

        return DaskPool(pool)
    if isinstance(pool, Executor):
        return ExternalPool(ExecutorBackend(pool))
    if hasattr(pool, "imap_unordered") and not isinstance(pool, type):
        return ExternalPool(ImapBackend(pool))
    hint = f": did you mean {pool.__name__}()?" if isinstance(pool, type) else ""
    raise TypeError(
        "pool must be a ProcessPool, ThreadPool or SerialPool, an Executor, a pool with imap_unordered, or a Client of "
        f"dask.distributed, not {pool!r}{hint}"
    )
