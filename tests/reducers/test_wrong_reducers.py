"""What is not a reducer is refused before the run, and the error says what to write instead."""

import functools
import math
import operator
import statistics
from collections import Counter
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pytest

from poolagg.reducers import (
    ArrayReduce,
    Bottom,
    Collect,
    Count,
    Fold,
    GroupBy,
    Histogram,
    Into,
    Max,
    Reduce,
    Reducer,
    Sample,
    Sum,
    Tee,
    Top,
    Variance,
    as_reducer,
    join,
    reduced,
)


def test_a_missing_method_is_named():
    """What is not defined says what to define."""
    with pytest.raises(NotImplementedError, match=r"Empty must define init\(self\)"):
        type("Empty", (Reducer,), {})().init()
    with pytest.raises(NotImplementedError, match=r"Empty must define step"):
        type("Empty", (Reducer,), {})().step(None, 1)
    with pytest.raises(NotImplementedError, match="call step_at"):
        Collect().step({}, 1)
    with pytest.raises(TypeError, match="call step_at"):
        Collect().of(len).step({}, 1)


def test_a_step_or_merge_that_returns_none_is_an_error():
    """The commonest slip, a mutated accumulator that is not returned, is named, in a combinator too."""

    class Forgetful(Reducer):
        def init(self):
            return []

        def step(self, acc, prepared):
            acc.append(prepared)

        def merge(self, acc, other):
            acc.extend(other)

    for reducer in (Forgetful(), Forgetful().of(str), Tee((Count(), Forgetful())), Forgetful().by(str)):
        with pytest.raises(TypeError, match=r"Forgetful\(\).step returned None: return the accumulator"):
            reduced(reducer, [1, 2])
    with pytest.raises(TypeError, match=r"Forgetful\(\).merge returned None"):
        join(Tee((Forgetful(),)), [[]], [[]])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (list, r"Collect\(\)"),
        (set, r"Unique\(\)"),
        (dict, "GroupBy"),
        (Counter, r"Frequencies\(\), or MergeCounts\(\)"),
        (int, r"Sum\(\)"),
        (sum, r"Sum\(\)"),
        (len, r"Count\(\)"),
        (sorted, r"Collect\(\).then\(sorted\)"),
        (any, r"AnyTrue\(\)"),
        (all, r"AllTrue\(\)"),
        (np.sum, r"ArraySum\(\)"),
        (math.fsum, r"Sum\(\)"),
        (statistics.mean, r"Mean\(\)"),
        (Sum, r"Sum is a class: write Sum\(\)"),
        (Top, r"Top is a class: write Top\(\.\.\.\)"),
        (GroupBy[int], r"GroupBy is a class: write GroupBy\(\.\.\.\)"),
        (list[int], r"list is not a reducer: write Collect\(\)"),
        (Fraction, r"Collect\(\).then\(Fraction\)"),
        (str.upper, "two arguments"),
        (lambda x: x, "two arguments"),
        (np.sqrt, "two arguments"),
        (functools.partial(operator.add, 1), "two arguments"),
        ([Sum()], "expected a reducer"),
        (None, "expected a reducer"),
    ],
)
def test_what_is_no_reducer_is_told_its_right_spelling(wrong, right):
    """Classes and one-argument functions are refused before the run, also inside a Tee or GroupBy."""
    for make in (as_reducer, lambda x: Tee({"a": x}), GroupBy):
        with pytest.raises(TypeError, match=right):
            make(wrong)


def test_a_mapping_of_reducers_need_not_be_a_dict():
    """The result is a dict."""
    assert reduced(as_reducer(MappingProxyType({"n": Count(), "all": Collect()})), "ab") == {"n": 2, "all": ["a", "b"]}


def test_two_argument_functions_are_reducers():
    """Builtins, partials, lambdas, bound methods, ufuncs: whatever takes two arguments."""
    for f in (
        max,
        min,
        operator.add,
        lambda a, b: a,
        functools.partial(max, 3),
        str.__add__,
        np.add,
    ):
        assert isinstance(as_reducer(f), Fold)
    assert isinstance(as_reducer((max, {"a": Sum()})), Tee)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Top(0), ValueError, r"Top\(k\) must be at least 1, got 0"),
        (lambda: Top("3"), TypeError, r"Top\(k\) takes an integer, got '3'"),
        (lambda: Bottom(1.5), TypeError, "got 1.5"),
        (lambda: Max(key="size"), TypeError, r"operator.itemgetter\('size'\)"),
        (lambda: Sum().by(3), TypeError, r"Sum\(\).by\(key\) takes a function, got 3"),
        (lambda: Sum().of(None), TypeError, r"of\(f\)"),
        (lambda: Sum().where(True), TypeError, r"where\(pred\)"),
        (lambda: Sum().then([]), TypeError, r"then\(f\)"),
        (lambda: Sample(0, seed=1), ValueError, "at least 1"),
        (lambda: Sample(1, seed=None), TypeError, "seed"),
        (lambda: Variance(ddof=-1), ValueError, "ddof"),
        (lambda: Histogram([1]), ValueError, "two or more increasing"),
        (lambda: Histogram([1, 1]), ValueError, "increasing"),
        (lambda: Histogram([[1, 2]]), ValueError, "increasing"),
        (lambda: Fold(1), TypeError, r"Fold\(step\)"),
        (lambda: Fold(max, init=0), TypeError, "factory"),
        (lambda: Fold(max, merge=0), TypeError, "merge"),
        (lambda: Reduce(3), TypeError, r"Reduce\(f\)"),
        (lambda: Into([]), TypeError, r"Into\(apply\)"),
        (lambda: ArrayReduce(max), TypeError, r"ufunc such as np.maximum, got max"),
        (lambda: ArrayReduce(np.sqrt), TypeError, "two arrays"),
        (lambda: Tee({}), ValueError, "at least one"),
    ],
)
def test_bad_arguments_fail_at_construction(make, error, match):
    """Before anything runs, with the value."""
    with pytest.raises(error, match=match):
        make()
