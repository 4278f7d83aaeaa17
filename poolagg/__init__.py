"""Run a function over many inputs in a pool of workers, and fold the partial results into one object, exactly once.

aggregate(func, iterable, reducer)

Each name is loaded at its first use, since a worker process needs few of the modules.
"""

from typing import TYPE_CHECKING

from poolagg._runtime.lazy_imports import lazily

__version__ = "0.1.0"

if TYPE_CHECKING:
    from poolagg import errors as errors
    from poolagg import events as events
    from poolagg import pools as pools
    from poolagg import resources as resources
    from poolagg import strategies as strategies
    from poolagg import testing as testing
    from poolagg._checkpoint.checkpoint import Checkpoint as Checkpoint
    from poolagg._engine.api import aggregate as aggregate
    from poolagg._engine.api import snapshots as snapshots
    from poolagg._engine.snapshot import Snapshot as Snapshot
    from poolagg._input.blocks import Block as Block
    from poolagg._input.blocks import blocks as blocks
    from poolagg._input.functions import star as star
    from poolagg._input.functions import with_item as with_item
    from poolagg._input.prefetch import prefetch as prefetch
    from poolagg._input.worker_state import per_worker as per_worker
    from poolagg._input.worker_state import rng as rng
    from poolagg._report.progress import Progress as Progress
    from poolagg._report.report import Report as Report
    from poolagg.errors import CheckpointError as CheckpointError
    from poolagg.errors import CheckpointMismatch as CheckpointMismatch
    from poolagg.errors import PoolAggError as PoolAggError
    from poolagg.errors import PoolBusy as PoolBusy
    from poolagg.errors import ReducerError as ReducerError
    from poolagg.errors import RemoteError as RemoteError
    from poolagg.errors import ResourceError as ResourceError
    from poolagg.errors import SkippedItems as SkippedItems
    from poolagg.errors import TaskError as TaskError
    from poolagg.errors import WorkerLost as WorkerLost
    from poolagg.pools import ProcessPool as ProcessPool
    from poolagg.pools import SerialPool as SerialPool
    from poolagg.pools import ThreadPool as ThreadPool
    from poolagg.pools import share as share
    from poolagg.reducers import ArrayReduce as ArrayReduce
    from poolagg.reducers import ArraySum as ArraySum
    from poolagg.reducers import Bottom as Bottom
    from poolagg.reducers import Collect as Collect
    from poolagg.reducers import Count as Count
    from poolagg.reducers import First as First
    from poolagg.reducers import Fold as Fold
    from poolagg.reducers import Frequencies as Frequencies
    from poolagg.reducers import GroupBy as GroupBy
    from poolagg.reducers import Histogram as Histogram
    from poolagg.reducers import Into as Into
    from poolagg.reducers import Last as Last
    from poolagg.reducers import Max as Max
    from poolagg.reducers import Mean as Mean
    from poolagg.reducers import MergeCounts as MergeCounts
    from poolagg.reducers import Min as Min
    from poolagg.reducers import Reduce as Reduce
    from poolagg.reducers import Reducer as Reducer
    from poolagg.reducers import Sample as Sample
    from poolagg.reducers import Std as Std
    from poolagg.reducers import Sum as Sum
    from poolagg.reducers import Tee as Tee
    from poolagg.reducers import Top as Top
    from poolagg.reducers import Unique as Unique
    from poolagg.reducers import Variance as Variance
else:
    __getattr__, __dir__, __all__ = lazily(
        __name__,
        unlisted="Block",
        modules="errors events pools resources strategies testing",
        errors=(
            "CheckpointError CheckpointMismatch PoolAggError PoolBusy ReducerError RemoteError ResourceError "
            "SkippedItems TaskError WorkerLost"
        ),
        pools="ProcessPool SerialPool ThreadPool share",
        reducers=(
            "ArrayReduce ArraySum Bottom Collect Count First Fold Frequencies GroupBy Histogram Into Last Max "
            "Mean MergeCounts Min Reduce Reducer Sample Std Sum Tee Top Unique Variance"
        ),
        **{
            "_checkpoint.checkpoint": "Checkpoint",
            "_engine.api": "aggregate snapshots",
            "_engine.snapshot": "Snapshot",
            "_input.blocks": "Block blocks",
            "_input.functions": "star with_item",
            "_input.prefetch": "prefetch",
            "_input.worker_state": "per_worker rng",
            "_report.progress": "Progress",
            "_report.report": "Report",
        },
    )
