"""Run a function over many inputs in a pool of workers, and fold the partial results into one object, exactly once.

aggregate(func, iterable, reducer)

Names are loaded when they are first used: a worker process, which enters by a side door, needs few of these rooms.
"""

from typing import TYPE_CHECKING

from poolagg._lazily import lazily

if TYPE_CHECKING:
    from poolagg import errors, events, pools, resources, strategies, testing
    from poolagg._checkpoint import Checkpoint
    from poolagg._engine import Snapshot, aggregate, snapshots
    from poolagg._progress import Progress
    from poolagg._report import Report
    from poolagg.errors import (
        CheckpointError,
        CheckpointMismatch,
        PoolAggError,
        PoolBusy,
        ReducerError,
        RemoteError,
        ResourceError,
        SkippedItems,
        TaskError,
        WorkerLost,
    )
    from poolagg.functions import per_worker, rng, star, with_item
    from poolagg.pools import ProcessPool, SerialPool, ThreadPool, share
    from poolagg.reducers import (
        ArrayReduce,
        ArraySum,
        Bottom,
        Collect,
        Count,
        First,
        Fold,
        Frequencies,
        GroupBy,
        Histogram,
        Into,
        Last,
        Max,
        Mean,
        MergeCounts,
        Min,
        Reduce,
        Reducer,
        Sample,
        Std,
        Sum,
        Tee,
        Top,
        Unique,
        Variance,
    )
    from poolagg.sources import blocks, prefetch

__version__ = "0.1.0"

__all__ = [
    "ArrayReduce",
    "ArraySum",
    "Bottom",
    "Checkpoint",
    "CheckpointError",
    "CheckpointMismatch",
    "Collect",
    "Count",
    "First",
    "Fold",
    "Frequencies",
    "GroupBy",
    "Histogram",
    "Into",
    "Last",
    "Max",
    "Mean",
    "MergeCounts",
    "Min",
    "PoolAggError",
    "PoolBusy",
    "ProcessPool",
    "Progress",
    "Reduce",
    "Reducer",
    "ReducerError",
    "RemoteError",
    "Report",
    "ResourceError",
    "Sample",
    "SerialPool",
    "SkippedItems",
    "Snapshot",
    "Std",
    "Sum",
    "TaskError",
    "Tee",
    "ThreadPool",
    "Top",
    "Unique",
    "Variance",
    "WorkerLost",
    "aggregate",
    "blocks",
    "errors",
    "events",
    "per_worker",
    "pools",
    "prefetch",
    "resources",
    "rng",
    "share",
    "snapshots",
    "star",
    "strategies",
    "testing",
    "with_item",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "_checkpoint": ("Checkpoint",),
        "_engine": ("Snapshot", "aggregate", "snapshots"),
        "_progress": ("Progress",),
        "_report": ("Report",),
        "errors": (
            "CheckpointError",
            "CheckpointMismatch",
            "PoolAggError",
            "PoolBusy",
            "ReducerError",
            "RemoteError",
            "ResourceError",
            "SkippedItems",
            "TaskError",
            "WorkerLost",
        ),
        "functions": ("per_worker", "rng", "star", "with_item"),
        "pools": ("ProcessPool", "SerialPool", "ThreadPool", "share"),
        "reducers": (
            "ArrayReduce",
            "ArraySum",
            "Bottom",
            "Collect",
            "Count",
            "First",
            "Fold",
            "Frequencies",
            "GroupBy",
            "Histogram",
            "Into",
            "Last",
            "Max",
            "Mean",
            "MergeCounts",
            "Min",
            "Reduce",
            "Reducer",
            "Sample",
            "Std",
            "Sum",
            "Tee",
            "Top",
            "Unique",
            "Variance",
        ),
        "sources": ("Block", "blocks", "prefetch"),
    },
    rooms=("errors", "events", "pools", "resources", "strategies", "testing"),
)
