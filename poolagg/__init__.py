"""Run a function over many inputs in a pool of workers, and fold the partial results into one object, exactly once.

>>> from poolagg import Count, Sum, aggregate
>>> aggregate(abs, range(-4, 1), Sum())
10
>>> aggregate(abs, range(-4, 1), {"n": Count(), "total": Sum()})
{'n': 5, 'total': 10}

Workers call `func` and send partial results. The parent, the process that calls `aggregate`, owns the one object that
the partials are folded into, and is the only one that changes it. So there is no lock, no proxy and no server.

Each item counts exactly once, even if a worker dies and its items run again. With a checkpoint, or a resource that
commits, this holds after `kill -9` of the parent, too. An item whose func raises, or that hangs for longer than
`item_timeout`, ends the run with an error, runs again (`retries`), or is left out (`on_error`).

The run
    aggregate       run func over the items and return the result; its docstring explains each option
    snapshots       the same run as an iterator over the growing result (`Snapshot`)
    Checkpoint      where a run keeps its state, so that the same call continues it
    Progress        a watcher that draws a progress bar
    Report          a watcher that shows where the time went

The function and its input
    star            call func with the elements of a tuple: star(f)((a, b)) == f(a, b)
    with_item       return the item with the result: with_item(f)(x) == (x, f(x))
    per_worker      a value that each worker makes once, such as a model or a connection
    rng             a random generator for the item that is running
    advance         move the progress bar from inside an item
    worker_index    the number of the worker that is running
    share           a value that is sent to each worker once, or mapped from shared memory
    blocks          cut files into blocks of whole lines, which the workers read
    prefetch        pull a slow input on a thread

How partial results become one: a reducer, a dict or tuple of them, or a function of two arguments
    numbers         Count, Sum, Mean, Variance, Std, Histogram
    arrays          ArraySum, ArrayMean, ArrayStd, ArrayReduce
    picking         Min, Max, Top, Bottom, First, Last, Sample
    deciding        AnyTrue, AllTrue
    collecting      Collect, Concat, Unique, Frequencies, MergeCounts, GroupBy
    sketches        Quantiles, Distinct, HeavyHitters (with the datasketches package)
    functions       Reduce, Fold, Into (calls a function in the parent)
    several         Tee, which a dict or a tuple of reducers becomes
    your own        subclass Reducer; `poolagg.testing.check_reducer` checks its laws

Pools: where func runs
    ProcessPool     processes; the default
    ThreadPool      threads
    SerialPool      the calling thread, for debuggers and profilers
    poolagg.pools   DaskPool and RayPool, for clusters; `pool=` also takes executors of other packages

Modules
    errors          the exceptions, which derive from PoolAggError, and two warnings
    events          the values that a run passes to its watchers
    pools           where chunks run
    resources       databases and files that partials go into, exactly once
    strategies      where partials meet
    testing         checks of a reducer, or a resource, of your own
"""

from typing import TYPE_CHECKING

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
    from poolagg._input.worker_state import advance as advance
    from poolagg._input.worker_state import per_worker as per_worker
    from poolagg._input.worker_state import rng as rng
    from poolagg._input.worker_state import worker_index as worker_index
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
    from poolagg.reducers import AllTrue as AllTrue
    from poolagg.reducers import AnyTrue as AnyTrue
    from poolagg.reducers import ArrayMean as ArrayMean
    from poolagg.reducers import ArrayReduce as ArrayReduce
    from poolagg.reducers import ArrayStd as ArrayStd
    from poolagg.reducers import ArraySum as ArraySum
    from poolagg.reducers import Bottom as Bottom
    from poolagg.reducers import Collect as Collect
    from poolagg.reducers import Concat as Concat
    from poolagg.reducers import Count as Count
    from poolagg.reducers import Distinct as Distinct
    from poolagg.reducers import First as First
    from poolagg.reducers import Fold as Fold
    from poolagg.reducers import Frequencies as Frequencies
    from poolagg.reducers import GroupBy as GroupBy
    from poolagg.reducers import HeavyHitters as HeavyHitters
    from poolagg.reducers import Histogram as Histogram
    from poolagg.reducers import Into as Into
    from poolagg.reducers import Last as Last
    from poolagg.reducers import Max as Max
    from poolagg.reducers import Mean as Mean
    from poolagg.reducers import MergeCounts as MergeCounts
    from poolagg.reducers import Min as Min
    from poolagg.reducers import Quantiles as Quantiles
    from poolagg.reducers import Reduce as Reduce
    from poolagg.reducers import Reducer as Reducer
    from poolagg.reducers import Sample as Sample
    from poolagg.reducers import Std as Std
    from poolagg.reducers import Sum as Sum
    from poolagg.reducers import Tee as Tee
    from poolagg.reducers import Top as Top
    from poolagg.reducers import Unique as Unique
    from poolagg.reducers import Variance as Variance
else:  # Load each name at its first use: a worker process needs few of the modules.

    def __getattr__(name):
        """Set up the names at the first use of any: `import poolagg` itself imports no other module."""
        from poolagg._runtime.lazy_imports import lazily

        lazy = lazily(
            __name__,
            unlisted="Block",
            modules="errors events pools resources strategies testing",
            errors=(
                "CheckpointError CheckpointMismatch PoolAggError PoolBusy ReducerError RemoteError ResourceError "
                "SkippedItems TaskError WorkerLost"
            ),
            pools="ProcessPool SerialPool ThreadPool share",
            reducers=(
                "AllTrue AnyTrue ArrayMean ArrayReduce ArrayStd ArraySum Bottom Collect Concat Count Distinct First "
                "Fold Frequencies GroupBy HeavyHitters Histogram Into Last Max Mean MergeCounts Min Quantiles Reduce "
                "Reducer Sample Std Sum Tee Top Unique Variance"
            ),
            **{
                "_checkpoint.checkpoint": "Checkpoint",
                "_engine.api": "aggregate snapshots",
                "_engine.snapshot": "Snapshot",
                "_input.blocks": "Block blocks",
                "_input.functions": "star with_item",
                "_input.prefetch": "prefetch",
                "_input.worker_state": "advance per_worker rng worker_index",
                "_report.progress": "Progress",
                "_report.report": "Report",
            },
        )
        names = globals()
        names.update(zip(("__getattr__", "__dir__", "__all__"), lazy, strict=True))
        return names[name] if name in names else names["__getattr__"](name)

    def __dir__():
        """List the public names of the package."""
        __getattr__("__all__")
        return globals()["__dir__"]()
