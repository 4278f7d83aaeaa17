"""Reducers: how partial results become one. `Reducer` is the protocol, `as_reducer` what may stand for one.

States pickle by names of this package, such as `poolagg.reducers.Total`, and checkpoints keep these names. So a class
whose instances are in a state has `__module__ = "poolagg.reducers"`, and the package keeps its name.
"""

from typing import TYPE_CHECKING

from poolagg._lazily import lazily

if TYPE_CHECKING:
    from poolagg.reducers._arrays import ArrayReduce as ArrayReduce
    from poolagg.reducers._arrays import ArraySum as ArraySum
    from poolagg.reducers._arrays import Histogram as Histogram
    from poolagg.reducers._counting import Frequencies as Frequencies
    from poolagg.reducers._counting import MergeCounts as MergeCounts
    from poolagg.reducers._exact import FloatSum as FloatSum
    from poolagg.reducers._functions import Fold as Fold
    from poolagg.reducers._functions import Into as Into
    from poolagg.reducers._functions import Reduce as Reduce
    from poolagg.reducers._gathering import Collect as Collect
    from poolagg.reducers._gathering import Unique as Unique
    from poolagg.reducers._grouping import GroupBy as GroupBy
    from poolagg.reducers._marks import Mark as Mark
    from poolagg.reducers._numbers import Count as Count
    from poolagg.reducers._numbers import Mean as Mean
    from poolagg.reducers._numbers import Moments as Moments
    from poolagg.reducers._numbers import Std as Std
    from poolagg.reducers._numbers import Sum as Sum
    from poolagg.reducers._numbers import Variance as Variance
    from poolagg.reducers._picking import Bottom as Bottom
    from poolagg.reducers._picking import First as First
    from poolagg.reducers._picking import Last as Last
    from poolagg.reducers._picking import Max as Max
    from poolagg.reducers._picking import Min as Min
    from poolagg.reducers._picking import Sample as Sample
    from poolagg.reducers._picking import Top as Top
    from poolagg.reducers._reducer import Place as Place
    from poolagg.reducers._reducer import Reducer as Reducer
    from poolagg.reducers._reducer import fold as fold
    from poolagg.reducers._reducer import join as join
    from poolagg.reducers._reducer import reduced as reduced
    from poolagg.reducers._tee import ReducerLike as ReducerLike
    from poolagg.reducers._tee import Tee as Tee
    from poolagg.reducers._tee import as_reducer as as_reducer
    from poolagg.reducers._total import Total as Total
else:
    __getattr__, __dir__, __all__ = lazily(
        __name__,
        unlisted="FloatSum Mark Moments Total",
        _arrays="ArrayReduce ArraySum Histogram",
        _counting="Frequencies MergeCounts",
        _exact="FloatSum",
        _functions="Fold Into Reduce",
        _gathering="Collect Unique",
        _grouping="GroupBy",
        _marks="Mark",
        _numbers="Count Mean Moments Std Sum Variance",
        _picking="Bottom First Last Max Min Sample Top",
        _reducer="Place Reducer fold join reduced",
        _tee="ReducerLike Tee as_reducer",
        _total="Total",
    )
