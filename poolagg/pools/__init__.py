"""Where chunks run: pools of our own, and other people's."""

from typing import TYPE_CHECKING

from poolagg._lazily import lazily

if TYPE_CHECKING:
    from poolagg.pools._adopt import as_pool as as_pool
    from poolagg.pools._cpus import usable_cpus as usable_cpus
    from poolagg.pools._pool import Pool as Pool
    from poolagg.pools._share import share as share
    from poolagg.pools._watch import Watch as Watch
    from poolagg.pools._work import Job as Job
    from poolagg.pools.dask import DaskPool as DaskPool
    from poolagg.pools.process import ProcessPool as ProcessPool
    from poolagg.pools.ray import RayPool as RayPool
    from poolagg.pools.serial import SerialPool as SerialPool
    from poolagg.pools.threads import ThreadPool as ThreadPool
else:
    __getattr__, __dir__, __all__ = lazily(
        __name__,
        _adopt="as_pool",
        _cpus="usable_cpus",
        _pool="Pool",
        _share="share",
        _watch="Watch",
        _work="Job",
        dask="DaskPool",
        process="ProcessPool",
        ray="RayPool",
        serial="SerialPool",
        threads="ThreadPool",
    )
