"""Reducers: how partial results become one. `Reducer` is the protocol, `as_reducer` what may stand for one.

States pickle by names of this package, such as `poolagg.reducers.Total`, and checkpoints keep these names. So a class
whose instances are in a state has `__module__ = "poolagg.reducers"`, and the package keeps its name.
"""

from typing import TYPE_CHECKING

from poolagg._lazily import lazily

if TYPE_CHECKING:
    from poolagg.reducers._arrays import ArrayReduce, ArraySum, Histogram
    from poolagg.reducers._counting import Frequencies, MergeCounts
    from poolagg.reducers._functions import Fold, Into, Reduce
    from poolagg.reducers._gathering import Collect, Unique
    from poolagg.reducers._grouping import GroupBy
    from poolagg.reducers._numbers import Count, Mean, Std, Sum, Variance
    from poolagg.reducers._picking import Bottom, First, Last, Max, Min, Sample, Top
    from poolagg.reducers._reducer import Place, Reducer, fold, join, reduced
    from poolagg.reducers._tee import Tee, as_reducer

__all__ = [
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
    "Place",
    "Reduce",
    "Reducer",
    "Sample",
    "Std",
    "Sum",
    "Tee",
    "Top",
    "Unique",
    "Variance",
    "as_reducer",
    "fold",
    "join",
    "reduced",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "_arrays": (
            "ArrayReduce",
            "ArraySum",
            "Histogram",
        ),
        "_counting": (
            "Frequencies",
            "MergeCounts",
        ),
        "_exact": ("FloatSum",),
        "_functions": (
            "Fold",
            "Into",
            "Reduce",
        ),
        "_gathering": (
            "Collect",
            "Unique",
        ),
        "_grouping": ("GroupBy",),
        "_numbers": (
            "Count",
            "Mean",
            "Moments",
            "Std",
            "Sum",
            "Variance",
        ),
        "_picking": (
            "Bottom",
            "First",
            "Last",
            "Max",
            "Min",
            "Sample",
            "Top",
        ),
        "_reducer": (
            "Place",
            "Reducer",
            "fold",
            "join",
            "reduced",
        ),
        "_tee": (
            "Tee",
            "as_reducer",
        ),
        "_total": ("Total",),
    },
)
