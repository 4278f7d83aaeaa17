"""Reducers turn partial results into one. `Reducer` is the protocol; `as_reducer` converts what may stand for one.

States pickle by public names such as `poolagg.reducers.Total`, and checkpoints keep these names. So a class whose
instances are in a state has `__module__ = "poolagg.reducers"`, and the package keeps its name.
"""

from typing import TYPE_CHECKING

from poolagg._runtime.lazy_imports import lazily

if TYPE_CHECKING:
    from poolagg.reducers.arrays import ArrayMean as ArrayMean
    from poolagg.reducers.arrays import ArrayMoments as ArrayMoments
    from poolagg.reducers.arrays import ArrayReduce as ArrayReduce
    from poolagg.reducers.arrays import ArrayStd as ArrayStd
    from poolagg.reducers.arrays import ArraySum as ArraySum
    from poolagg.reducers.arrays import Histogram as Histogram
    from poolagg.reducers.collecting import Collect as Collect
    from poolagg.reducers.collecting import Concat as Concat
    from poolagg.reducers.collecting import Frequencies as Frequencies
    from poolagg.reducers.collecting import MergeCounts as MergeCounts
    from poolagg.reducers.collecting import Unique as Unique
    from poolagg.reducers.exact_sum import FloatSum as FloatSum
    from poolagg.reducers.exact_sum import Total as Total
    from poolagg.reducers.functions import Fold as Fold
    from poolagg.reducers.functions import Into as Into
    from poolagg.reducers.functions import Reduce as Reduce
    from poolagg.reducers.grouping import GroupBy as GroupBy
    from poolagg.reducers.keys import Mark as Mark
    from poolagg.reducers.moments import Count as Count
    from poolagg.reducers.moments import Mean as Mean
    from poolagg.reducers.moments import Moments as Moments
    from poolagg.reducers.moments import Std as Std
    from poolagg.reducers.moments import Sum as Sum
    from poolagg.reducers.moments import Variance as Variance
    from poolagg.reducers.picking import AllTrue as AllTrue
    from poolagg.reducers.picking import AnyTrue as AnyTrue
    from poolagg.reducers.picking import Bottom as Bottom
    from poolagg.reducers.picking import First as First
    from poolagg.reducers.picking import Last as Last
    from poolagg.reducers.picking import Max as Max
    from poolagg.reducers.picking import Min as Min
    from poolagg.reducers.picking import Sample as Sample
    from poolagg.reducers.picking import Top as Top
    from poolagg.reducers.reducer import Position as Position
    from poolagg.reducers.reducer import Reducer as Reducer
    from poolagg.reducers.reducer import Rejection as Rejection
    from poolagg.reducers.reducer import fold as fold
    from poolagg.reducers.reducer import join as join
    from poolagg.reducers.reducer import reduced as reduced
    from poolagg.reducers.sketches.distinct import Distinct as Distinct
    from poolagg.reducers.sketches.distinct import SetSketch as SetSketch
    from poolagg.reducers.sketches.heavy_hitters import CountSketch as CountSketch
    from poolagg.reducers.sketches.heavy_hitters import HeavyHitters as HeavyHitters
    from poolagg.reducers.sketches.quantiles import Quantiles as Quantiles
    from poolagg.reducers.sketches.quantiles import RankSketch as RankSketch
    from poolagg.reducers.tee import ReducerLike as ReducerLike
    from poolagg.reducers.tee import Tee as Tee
    from poolagg.reducers.tee import as_reducer as as_reducer
else:
    __getattr__, __dir__, __all__ = lazily(
        __name__,
        unlisted="ArrayMoments CountSketch FloatSum Mark Moments RankSketch Rejection SetSketch Total",
        arrays="ArrayMean ArrayMoments ArrayReduce ArrayStd ArraySum Histogram",
        exact_sum="FloatSum Total",
        functions="Fold Into Reduce",
        collecting="Collect Concat Frequencies MergeCounts Unique",
        grouping="GroupBy",
        keys="Mark",
        moments="Count Mean Moments Std Sum Variance",
        picking="AllTrue AnyTrue Bottom First Last Max Min Sample Top",
        reducer="Position Reducer Rejection fold join reduced",
        tee="ReducerLike Tee as_reducer",
        **{
            "sketches.distinct": "Distinct SetSketch",
            "sketches.heavy_hitters": "CountSketch HeavyHitters",
            "sketches.quantiles": "Quantiles RankSketch",
        },
    )
