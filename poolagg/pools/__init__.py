"""Where chunks run: processes, threads, the caller's thread, and external pools and clusters."""

from typing import TYPE_CHECKING

from poolagg._runtime.lazy_imports import lazily

if TYPE_CHECKING:
    from poolagg.pools.chunk_runner import Job as Job
    from poolagg.pools.coercion import as_pool as as_pool
    from poolagg.pools.cpus import default_workers as default_workers
    from poolagg.pools.cpus import usable_cpus as usable_cpus
    from poolagg.pools.external.dask import DaskPool as DaskPool
    from poolagg.pools.external.ray import RayPool as RayPool
    from poolagg.pools.item_timeouts import Watch as Watch
    from poolagg.pools.pool import Pool as Pool
    from poolagg.pools.process.pool import ProcessPool as ProcessPool
    from poolagg.pools.serial import SerialPool as SerialPool
    from poolagg.pools.serialization.shared_value import share as share
    from poolagg.pools.threads import ThreadPool as ThreadPool
    from poolagg.pools.turns import Turn as Turn
else:
    __getattr__, __dir__, __all__ = lazily(
        __name__,
        coercion="as_pool",
        cpus="default_workers usable_cpus",
        pool="Pool",
        item_timeouts="Watch",
        chunk_runner="Job",
        serial="SerialPool",
        threads="ThreadPool",
        turns="Turn",
        **{
            "external.dask": "DaskPool",
            "external.ray": "RayPool",
            "process.pool": "ProcessPool",
            "serialization.shared_value": "share",
        },
    )
