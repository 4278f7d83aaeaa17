"""Where chunks run: pools of our own, and other people's."""

from typing import TYPE_CHECKING

from poolagg._lazily import lazily

if TYPE_CHECKING:
    from poolagg.pools._adopt import as_pool
    from poolagg.pools._cpus import usable_cpus
    from poolagg.pools._pool import Pool
    from poolagg.pools._share import share
    from poolagg.pools._watch import Watch
    from poolagg.pools._work import Job
    from poolagg.pools.dask import DaskPool
    from poolagg.pools.process import ProcessPool
    from poolagg.pools.ray import RayPool
    from poolagg.pools.serial import SerialPool
    from poolagg.pools.threads import ThreadPool

__all__ = [
    "DaskPool",
    "Job",
    "Pool",
    "ProcessPool",
    "RayPool",
    "SerialPool",
    "ThreadPool",
    "Watch",
    "as_pool",
    "share",
    "usable_cpus",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "_adopt": ("as_pool",),
        "_cpus": ("usable_cpus",),
        "_pool": ("Pool",),
        "_share": ("share",),
        "_watch": ("Watch",),
        "_work": ("Job",),
        "dask": ("DaskPool",),
        "process": ("ProcessPool",),
        "ray": ("RayPool",),
        "serial": ("SerialPool",),
        "threads": ("ThreadPool",),
    },
)
