"""Suggestions for objects that users pass where a reducer is expected."""

from __future__ import annotations

import reprlib
from typing import Any

from poolagg._runtime.arguments import shown
from poolagg.reducers.reducer import Reducer

__all__ = ["no_reducer", "outdated", "takes"]

# By qualified name, so that a message needs no import.
_MEANT = {
    "builtins.all": "AllTrue()",
    "builtins.any": "AnyTrue()",
    "None.dict.update": "Collect().flat().of(dict.items).then(dict)",
    "None.list.append": "Collect()",
    "None.list.extend": "Collect().flat()",
    "None.set.add": "Unique()",
    "None.set.update": "Unique().flat()",
    "builtins.bool": "AnyTrue()",
    "builtins.complex": "Sum()",
    "builtins.dict": "Collect().then(dict) for (key, value) pairs, or GroupBy(reducer)",
    "builtins.enumerate": "Collect()",
    "builtins.float": "Sum()",
    "builtins.frozenset": "Unique().then(frozenset)",
    "builtins.int": "Sum()",
    "builtins.len": "Count()",
    "builtins.list": "Collect()",
    "builtins.map": "Collect()",
    "builtins.print": "Into(print)",
    "builtins.reversed": "Collect().then(reversed)",
    "builtins.set": "Unique()",
    "builtins.sorted": "Collect().then(sorted)",
    "builtins.str": 'Collect().then("".join)',
    "builtins.sum": "Sum()",
    "builtins.tuple": "Collect().then(tuple)",
    "collections.Counter": "Frequencies(), or MergeCounts() for partials that are counts",
    "collections.Counter.update": "Frequencies().flat() for partials to count, MergeCounts() for mappings of counts",
    "collections.defaultdict": "Collect().by(key), or GroupBy(reducer) for (key, value) pairs",
    "collections.deque": "Collect()",
    "functools.reduce": "the function itself, or Reduce(f) where it is associative and commutative",
    "heapq.nlargest": "Top(k, key)",
    "heapq.nsmallest": "Bottom(k, key)",
    "math.fsum": "Sum()",
    "math.prod": "Reduce(operator.mul)",
    "numpy.amax": "ArrayReduce(numpy.maximum)",
    "numpy.amin": "ArrayReduce(numpy.minimum)",
    "numpy.array": "Collect().then(numpy.array)",
    "numpy.column_stack": "Collect().then(numpy.column_stack)",
    "numpy.concatenate": "Concat()",
    "numpy.dstack": "Collect().then(numpy.dstack)",
    "numpy.histogram": "Histogram(edges)",
    "numpy.hstack": "Collect().then(numpy.hstack)",
    "numpy.max": "ArrayReduce(numpy.maximum)",
    "numpy.mean": "Mean(), or ArrayMean() for arrays",
    "numpy.min": "ArrayReduce(numpy.minimum)",
    "numpy.ndarray": "ArraySum()",
    "numpy.quantile": "Quantiles(qs)",
    "numpy.stack": "Collect().then(numpy.stack)",
    "numpy.std": "Std(ddof=0), or ArrayStd(ddof=0) for arrays",
    "numpy.sum": "ArraySum()",
    "numpy.var": "Variance()",
    "numpy.unique": "Unique()",
    "numpy.vstack": "Collect().then(numpy.vstack)",
    "pandas.concat": "Concat()",
    "pandas.core.reshape.concat.concat": "Concat()",
    "polars.functions.eager.concat": "Concat()",
    "pyarrow.lib.concat_tables": "Concat()",
    "statistics.fmean": "Mean()",
    "statistics.mean": "Mean()",
    "statistics.median": "Quantiles(0.5)",
    "statistics.pstdev": "Std(ddof=0)",
    "statistics.pvariance": "Variance(ddof=0)",
    "statistics.stdev": "Std()",
    "statistics.variance": "Variance()",
}


def no_reducer(what: Any) -> str | None:
    """Say why `what` cannot stand for a reducer and what to write instead; None for a two-argument function.

    >>> no_reducer(len)
    'len is not a reducer: write Count()'
    """
    if isinstance(origin := getattr(what, "__origin__", None), type):  # `list[int]`, or a generic reducer's class
        return no_reducer(origin)
    name = shown(what)
    if meant := _MEANT.get(f"{getattr(what, '__module__', None)}.{name}"):
        return f"{name} is not a reducer: write {meant}"
    if isinstance(what, type) and issubclass(what, Reducer):
        return f"{name} is a class: write {name}{'()' if takes(what, 0) else '(...) with its arguments'}"
    if isinstance(what, type):
        return f"the class {name} is not a reducer: write Collect().then({name}), or Fold(step, init={name})"
    if not callable(what):
        wanted = "a Reducer, a dict or tuple of them, or a two-argument function"
        return f"expected a reducer, got {reprlib.repr(what)}: {wanted}"
    if not takes(what, 2):
        instead = f"write Collect().of({name}) to apply it to each partial, Into({name}) to call it for its effect"
        return f"{name} cannot be called with two arguments (the result so far, a partial): {instead}"
    return None


def outdated(reducer: Reducer) -> str | None:
    """Say what to write instead of a `done` that takes no `settled`; None if no part of the reducer has one."""
    if type(reducer).done is not Reducer.done and not takes(reducer.done, 2):
        return (
            f"{reducer!r}.done cannot be called with an accumulator and an index: write done(self, acc, settled). All "
            "items before index `settled` are in acc"
        )
    return next(filter(None, map(outdated, getattr(reducer, "parts", ()))), None)


def takes(function: Any, count: int) -> bool:
    """Tell whether `function` accepts `count` positional arguments, as far as its signature says."""
    if hasattr(function, "nin"):
        return bool(function.nin == count)  # a numpy ufunc, whose last parameter is `out`
    import inspect

    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True  # some builtins have no signature
    return True
