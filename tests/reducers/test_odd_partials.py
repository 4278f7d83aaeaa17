"""Odd partials: what a plain loop makes of them, or an error that names the right spelling. Never something else."""

from __future__ import annotations

import copy
import enum
import functools
import math
import operator
import pickle
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolagg import (
    ArrayReduce,
    ArraySum,
    Bottom,
    Collect,
    Count,
    Fold,
    Frequencies,
    GroupBy,
    Histogram,
    Max,
    Mean,
    MergeCounts,
    Min,
    ProcessPool,
    Reduce,
    Reducer,
    SerialPool,
    SkippedItems,
    Std,
    Sum,
    ThreadPool,
    Top,
    Unique,
    Variance,
    aggregate,
)
from poolagg.reducers import fold, join, reduced
from poolagg.strategies import Ordered, Partition, Stream, Tree
from poolagg.testing import LawBroken, check_reducer
from poolagg.testing.equality import alike

NAN = float("nan")


class Level(enum.IntEnum):
    LOW = 1


class Color(enum.Enum):
    RED = 1


class Capped(float):
    """A float with a `+` of its own."""

    def __add__(self, other: float) -> float:
        return Capped(min(2.0, float(self) + float(other)))

    __radd__ = __add__


class Metres(float):
    """A float that adds as a float."""


class Odd(int):
    """An int."""


class Quantity(np.ndarray):
    """An array with a unit, say."""


ODD: dict[str, Any] = {
    "None": None,
    "str": "1",
    "bytes": b"1",
    "bool": True,
    "nan": NAN,
    "inf": math.inf,
    "complex": 1 + 2j,
    "complex nan": complex(NAN, 1),
    "a huge int": 10**400,
    "Fraction": Fraction(1, 3),
    "Decimal": Decimal("0.1"),
    "Decimal nan": Decimal("NaN"),
    "Decimal signalling": Decimal("sNaN"),
    "Decimal inf": Decimal("Infinity"),
    "IntEnum": Level.LOW,
    "Enum": Color.RED,
    "float subclass": Metres(1.5),
    "float with its own +": Capped(1.5),
    "int subclass": Odd(3),
    "date": date(2024, 1, 2),
    "timedelta": timedelta(days=1),
    "list": [1, 2],
    "dict": {"a": 1},
    "function": len,
    **{f"numpy {kind}": np.dtype(kind).type(100) for kind in ("i1", "i8", "u8", "f2", "f4", "f8", "c8", "?")},
    "numpy longdouble": np.longdouble(1) / 3,
    "numpy str": np.str_("1"),
    "datetime64": np.datetime64("2024-01-01"),
    "timedelta64 in ns": np.timedelta64(3, "ns"),
    "timedelta64 in s": np.timedelta64(3, "s"),
    "NaT": np.datetime64("NaT", "s"),
    "no span": np.timedelta64("NaT", "s"),
    "array of no dimension": np.array(3),
    "array of one": np.array([3]),
    "array of objects": np.array([1, None]),
    "masked": np.ma.masked,
    "masked array": np.ma.array([1, 2], mask=[0, 1]),
    "array with a unit": np.ones(2).view(Quantity),
}


def python(x: Any) -> Any:
    """A number of numpy as the number of Python that it equals; integers then do not overflow."""
    return x.item() if getattr(getattr(x, "dtype", None), "kind", "O") in "biufc" and x.shape == () else x


def plain_sum(values: list[Any]) -> Any:
    return functools.reduce(operator.add, map(python, values))


def plain_mean(values: list[Any]) -> Any:
    return plain_sum(values) / len(values)


def plain_variance(values: list[Any]) -> Any:
    numbers = list(map(python, values))
    if any(isinstance(x, (float, Decimal)) and not math.isfinite(x) for x in numbers):
        return NAN
    return float(statistics.variance(map(Fraction, numbers)))


def plain_histogram(values: list[Any]) -> Any:
    if any(x is None or isinstance(x, (str, np.ma.MaskedArray)) for x in values):
        raise TypeError("not a number")
    flat = [
        float(min(max(x, -(10**300)), 10**300)) if type(x) is int else float(x) for v in values for x in np.ravel(v)
    ]
    return np.histogram(np.array(flat), EDGES)[0]


def plain_array_sum(values: list[Any]) -> Any:
    if any(isinstance(x, (np.ma.MaskedArray, Quantity)) for x in values):
        raise TypeError("more than an array")
    return np.add.reduce([np.asarray(x) for x in values])


def plain_min(values: list[Any]) -> Any:
    return min([x for x in values if not is_missing(x)] or values[:1])


def plain_max(values: list[Any]) -> Any:
    return max([x for x in values if not is_missing(x)] or values[:1])


def is_missing(x: Any) -> bool:
    return x is np.ma.masked or (isinstance(x, (float, Decimal, np.generic)) and bool(x != x))


EDGES = [0, 1, 2, 50, 150]

PLAIN: list[tuple[Reducer, Callable[[list[Any]], Any]]] = [
    (Sum(), plain_sum),
    (Mean(), plain_mean),
    (Variance(), plain_variance),
    (Std(), lambda values: math.sqrt(plain_variance(values))),
    (Histogram(EDGES), plain_histogram),
    (ArraySum(), plain_array_sum),
    (ArrayReduce(np.add), plain_array_sum),
    (Min(), plain_min),
    (Max(), plain_max),
    (Top(1), lambda values: [plain_max(values)]),
    (Bottom(1), lambda values: [plain_min(values)]),
    (Collect(), list),
    (Count(), len),
]


# A number beside a time span is deprecated from numpy 2.5 on, for the plain loop as well.
@pytest.mark.filterwarnings("ignore:The 'generic' unit for NumPy timedelta is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    ("reducer", "plain"), PLAIN, ids=lambda value: repr(value) if isinstance(value, Reducer) else ""
)
def test_an_odd_partial_gives_what_a_plain_loop_gives_or_an_error(reducer: Any, plain: Any, name: str) -> None:
    odd = ODD[name]
    for partials in ([odd, odd, odd], [odd, odd], [1, odd, 2], [2.5, odd], [odd, 1]):
        try:
            result = in_parts(reducer, partials)
        except (TypeError, ValueError, ArithmeticError):
            continue
        try:
            expected = plain(partials)
        except OverflowError:
            expected = math.inf  # as it says: what is beyond the largest float is infinite
        same = alike(result, expected) or bool(np.all(np.isclose(float(result), float(expected), equal_nan=True)))
        assert same, (partials, result, expected)
        assert not isinstance(expected, np.timedelta64) or isinstance(result, np.timedelta64)


def in_parts(reducer: Reducer, partials: list[Any]) -> Any:
    """The result, which is the same however the partials are spread; the errors that are raised, all before the end."""
    prepared = [reducer.prepare(partial) for partial in partials]
    whole = fold(reducer, reducer.init(), 0, prepared)
    parts = [fold(reducer, reducer.init(), i, [x]) for i, x in enumerate(prepared)]
    first, *others = pickle.loads(pickle.dumps(parts))
    merged = functools.reduce(functools.partial(join, reducer), reversed(others), join(reducer, reducer.init(), first))
    try:
        result, again = reducer.finish(whole), reducer.finish(merged)
    except Exception as error:
        raise AssertionError(f"{reducer!r} of {partials} raises at the end") from error
    assert alike(result, again), (result, again)
    return result


SPELLINGS: list[tuple[Reducer, str, str]] = [
    (Sum(), "None", "return statement"),
    (Sum(), "timedelta", "total_seconds"),
    (Sum(), "datetime64", r"Min\(\) and Max\(\)"),
    (Sum(), "masked", r"\.where\("),
    (Sum(), "float with its own +", r"Reduce\(operator.add\)"),
    (Sum(), "list", r"\.flat\(\)"),
    (Sum(), "array of one", r"ArraySum\(\)"),
    (Variance(), "complex", r"\.of\(abs\)"),
    (Variance(), "timedelta64 in s", r"\.of\(float\)"),
    (Histogram([0, 1]), "None", r"\.where\(f\)"),
    (Histogram([0, 1]), "array of objects", r"None in array"),
    (Histogram([0, 1]), "masked array", r"compressed\(\)"),
    (Histogram([0, 1]), "timedelta64 in s", "real numbers"),
    (ArraySum(), "masked array", r"filled\(0\)"),
    (ArraySum(), "array with a unit", "numpy.asarray"),
    (ArraySum(), "None", "arrays of numbers"),
    (MergeCounts(), "list", r"Frequencies\(\)"),
]


@pytest.mark.parametrize(("reducer", "name", "spelling"), SPELLINGS, ids=str)
def test_an_error_names_the_right_spelling(reducer: Any, name: str, spelling: str) -> None:
    with pytest.raises(TypeError, match=spelling):
        reduced(reducer, [ODD[name]])


@pytest.mark.parametrize(
    ("reducer", "bad", "good", "expected"),
    [
        (Histogram([0, 1, 2]), None, 1.5, [0, 3]),
        (Histogram([0, 1, 2]), [1, None], 1.5, [0, 3]),
        (Histogram([0, 1, 2]), "1", 1.5, [0, 3]),
        (ArraySum(), np.ma.array([1, 2], mask=[0, 1]), np.array([1, 2]), [3, 6]),
        (MergeCounts(), [("a", 2)], {"a": 2}, {"a": 6}),
    ],
    ids=str,
)
def test_a_bad_partial_is_that_items_failure_and_the_others_count(
    reducer: Any, bad: Any, good: Any, expected: Any
) -> None:
    values = [good, bad, good, bad, good]
    with pytest.warns(SkippedItems, match="2 "):
        result = aggregate(values.__getitem__, range(5), reducer, pool=SerialPool(), on_error="skip")
    assert alike(result if isinstance(result, dict) else result.tolist(), expected)


@pytest.mark.parametrize("count", [None, "2", [2]])
@pytest.mark.parametrize("more", [[], [{"b": 1}], [{"a": 1}]])
def test_what_is_not_a_count_is_never_taken_for_one(count: Any, more: list[Any]) -> None:
    with pytest.raises(TypeError) as caught:
        reduced(MergeCounts(), [*more, {"a": count}])
    assert "GroupBy(reducer)" in caught.value.__notes__[0]


# -- labelled data -----------------------------------------------------------------------------------------------------


class Labelled:
    """The class names of data in pandas, or a package like it."""

    __module__ = "pandas.core.series"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.ones(2)


class Derived(Labelled):
    """A user's subclass of it."""

    __module__ = "users"


@pytest.mark.parametrize("labelled", [Labelled(), Derived()])
@pytest.mark.parametrize("reducer", [ArraySum(), ArraySum(float), ArrayReduce(np.maximum)])
def test_labelled_data_is_not_combined_by_position(labelled: Any, reducer: Any) -> None:
    with pytest.raises(TypeError, match=r"by position.*Reduce\(lambda a, b: a.add\(b, fill_value=0\)\)"):
        reducer.prepare(labelled)


def test_series_and_frames_of_pandas_are_refused_and_the_spelling_is_right() -> None:
    pd = pytest.importorskip("pandas")
    left, right = pd.Series([1, 2], index=["a", "b"]), pd.Series([10, 20], index=["b", "c"])
    for labelled in (left, left.to_frame(), left.index):
        with pytest.raises(TypeError, match="by position"):
            ArraySum().prepare(labelled)
    result = reduced(Reduce(lambda a, b: a.add(b, fill_value=0)), [left, right])
    assert result.to_dict() == {"a": 1, "b": 12, "c": 20}
    assert reduced(ArraySum().of(lambda a: a.to_numpy()), [left, right]).tolist() == [11, 22]
    assert reduced(Histogram([0, 1, 2]), [left]).tolist() == [0, 2]


def test_missing_values_of_pandas_are_errors_or_worse_than_every_other() -> None:
    pd = pytest.importorskip("pandas")
    for missing in (pd.NA, pd.NaT):
        for reducer in (Sum(), Mean(), Variance(), Histogram([0, 1])):
            with pytest.raises(TypeError):
                reduced(reducer, [missing])
    early, late = pd.Timestamp(1), pd.Timestamp(2)
    assert reduced(Max(), [pd.NaT, early, late]) == reduced(Max(), [early, late, pd.NaT]) == late
    with pytest.raises(TypeError):
        reduced(Max(), [1, pd.NA])


def test_series_and_frames_of_polars_are_refused() -> None:
    pl = pytest.importorskip("polars")
    for labelled in (pl.Series([1, 2]), pl.DataFrame({"a": [1, 2]})):
        with pytest.raises(TypeError, match="by position"):
            ArraySum().prepare(labelled)


def test_nothing_is_imported_to_find_out() -> None:
    program = (
        "import sys; import numpy as np; from poolagg.reducers import *; reduced(ArraySum(), [np.ones(2), [1, 2.0]]); "
        "assert not {'pandas', 'polars', 'xarray'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


# -- numbers at the edge -----------------------------------------------------------------------------------------------


def test_ints_beyond_floats_are_beyond_the_last_edge() -> None:
    values = [10**400, -(10**400), [10**400, 1], 1]
    assert reduced(Histogram([0, 2, 3]), values).tolist() == [2, 0]
    assert reduced(Histogram([-math.inf, 0, math.inf]), values).tolist() == [1, 4]


@pytest.mark.parametrize("odd", [Decimal("NaN"), Decimal("Infinity"), Decimal("-Infinity")])
def test_variance_of_decimals_that_are_not_finite_is_nan(odd: Decimal) -> None:
    values = [Decimal(1), odd, Decimal(2)]
    assert reduced(Variance(), values).is_nan()
    assert math.isnan(reduced(Std(), values))
    assert reduced(Mean(), values).is_nan() is odd.is_nan()


@given(st.permutations([Decimal(1), Decimal("NaN"), Decimal(3), Decimal(0), Decimal("Infinity")]))
def test_a_decimal_that_is_nan_is_worse_than_every_other(values: list[Decimal]) -> None:
    assert reduced(Max(), values) == Decimal("Infinity")
    assert reduced(Bottom(3), values) == [0, 1, 3]
    assert reduced(Top(5), values)[-1].is_nan()


# -- keys that are nan -------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: float
    y: float


def key_of(i: int) -> Any:
    """A new nan each time, of several types."""
    return [
        float("nan"),
        math.nan,
        np.float64("nan"),
        np.float32("nan"),
        Decimal("nan"),
        complex("nan"),
        (float("nan"), "a"),
        ("b", (np.float64("nan"), 2)),
        Point(1.0, float("nan")),
        frozenset([float("nan")]),
        np.datetime64("NaT", "s"),
        1.5,
        "x",
        (1, 2),
    ][i % 14]


N = 14 * 20
SIZES = {
    math.nan: 120,
    (math.nan, "a"): 20,
    ("b", (math.nan, 2)): 20,
    Point(1.0, math.nan): 20,
    frozenset([math.nan]): 20,
    "NaT": 20,
    1.5: 20,
    "x": 20,
    (1, 2): 20,
}


def shown(keys: Any) -> set[Any]:
    return {"NaT" if isinstance(key, np.datetime64) else key for key in keys}


def one(i: int) -> Any:
    return key_of(i), i


def count_of(i: int) -> Any:
    return {key_of(i): 1}


def nested(i: int) -> Any:
    return key_of(i), (key_of(i), 1)


HOW: list[dict[str, Any]] = [
    {},
    {"reproducible": True},
    {"strategy": Partition(4)},
    {"strategy": Stream()},
    {"strategy": Ordered()},
    {"chunksize": 1},
]


@pytest.mark.parametrize(
    "make", [SerialPool, lambda: ThreadPool(2), lambda: ProcessPool(2)], ids=["serial", "threads", "processes"]
)
def test_every_nan_is_one_key_in_every_pool_and_strategy(make: Callable[[], Any]) -> None:
    with make() as pool:
        for how in HOW:
            run = functools.partial(aggregate, iterable=range(N), pool=pool, **how)
            for func, reducer in ((key_of, Frequencies()), (count_of, MergeCounts()), (one, GroupBy(Count()))):
                result = run(func, reducer=reducer)
                assert shown(result) == SIZES.keys()
                assert {key: result[key] for key in SIZES if key != "NaT"} == {
                    key: size for key, size in SIZES.items() if key != "NaT"
                }
            assert run(int, reducer=Sum().of(lambda i: 1).by(key_of))[math.nan] == 120
            places = run(one, reducer=GroupBy(Collect()))[math.nan]
            assert places == [i for i in range(N) if i % 14 < 6]
            inner = run(nested, reducer=GroupBy(GroupBy(Sum())))[math.nan]
            assert {**inner} == {math.nan: 120}
            if not isinstance(how.get("strategy"), Partition):
                assert shown(run(key_of, reducer=Unique())) == SIZES.keys()


def test_keys_come_in_input_order_also_with_nan_among_them() -> None:
    keys = ["b", float("nan"), "a", (float("nan"), 1), float("nan"), "c"]
    for reducer in (Frequencies(), GroupBy(Count()).of(lambda key: (key, 1))):
        result = aggregate(keys.__getitem__, range(6), reducer, pool=SerialPool(), reproducible=True)
        assert list(result) == ["b", math.nan, "a", (math.nan, 1), "c"]


@given(st.lists(st.sampled_from([0, 1, 2, "nan", ("nan", 1), (2, "nan")]), max_size=30), st.integers(0, 30))
def test_counts_are_those_of_the_same_keys_with_a_name_for_nan(names: list[Any], cut: int) -> None:
    def made(name: Any) -> Any:
        return tuple(map(made, name)) if isinstance(name, tuple) else NAN_OF(name)

    def NAN_OF(name: Any) -> Any:
        return float("nan") if name == "nan" else name

    def named(key: Any) -> Any:
        return tuple(map(named, key)) if isinstance(key, tuple) else "nan" if key != key else key

    reducer = Frequencies()
    parts = [fold(reducer, reducer.init(), 0, list(map(made, part))) for part in (names[:cut], names[cut:])]
    left, right = map(copy.copy, pickle.loads(pickle.dumps(parts)))
    result = reducer.finish(join(reducer, left, right))
    assert {named(key): count for key, count in result.items()} == Counter(names)
    assert type(result) is Counter
    assert {named(key) for key in reduced(Unique(), map(made, names))} == set(names)


# -- equality of results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reducer", "samples"),
    [
        (Histogram([0, 1, 2]), [0.5, 1.5, NAN, [1.0, NAN]]),
        (ArraySum(), [np.array([1.0, NAN]), np.array([2.0, 3.0])]),
        (ArrayReduce(np.maximum), [np.array([1, 5]), np.array([4, 2])]),
        (Collect(), [NAN, (NAN, 1), {"a": [NAN]}, np.array([1.0, NAN]), np.array([None, NAN])]),
        (GroupBy(ArraySum()), [(float("nan"), np.ones(2)), ("a", np.ones(2)), (float("nan"), np.ones(2))]),
        ({"n": Count(), "all": Collect(), "sum": ArraySum()}, [np.ones(2), np.array([NAN, 1.0])]),
        (Frequencies(), [float("nan"), float("nan"), 1.0]),
        (Unique(), [float("nan"), (float("nan"),)]),
        (Variance(), [Decimal("NaN"), Decimal(1), Decimal(2)]),
        (Mean(), [complex(NAN, 1), 2.0]),
        (Max(), [np.datetime64("NaT", "s"), np.datetime64(1, "s")]),
    ],
    ids=str,
)
def test_our_reducers_keep_their_laws_on_nan_and_arrays_without_a_comparison(reducer: Any, samples: Any) -> None:
    check_reducer(reducer, samples)


def test_different_keys_stay_different() -> None:
    for left, right in [
        ([NAN], [1.0]),
        ([1], (1,)),
        (np.ones(2), np.ones(3)),
        (np.ones(2), np.ones(2, int)),
        (np.array([1.0, NAN]), np.array([NAN, 1.0])),
        (np.ones(2), [1.0, 1.0]),
        ({"a": np.ones(2)}, {"a": np.zeros(2)}),
        ({"a": NAN}, {"b": NAN}),
        (NAN, None),
        (np.array([None]), np.array([1], object)),
    ]:
        assert not alike(left, right), (left, right)
        assert not alike(right, left), (left, right)

    class Loses(Collect):
        """Loses the last array."""

        def merge(self, acc: Any, other: Any) -> Any:
            return super().merge(acc, {place: stretch for place, stretch in other.items() if place[0] < 2})

    with pytest.raises(LawBroken):
        check_reducer(Loses(), [np.ones(2), np.zeros(2), np.ones(3)])


def test_data_of_polars_and_pandas_is_compared_as_a_whole() -> None:
    pl = pytest.importorskip("polars")
    assert alike(pl.Series([1, 2]), pl.Series([1, 2]))
    assert not alike([pl.Series([1, 2])], [pl.Series([1, 3])])
    pd = pytest.importorskip("pandas")
    assert alike({"a": pd.Series([1, NAN])}, {"a": pd.Series([1, NAN])})
    assert not alike(pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}))


# -- Fold(ordered=True) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [SerialPool, lambda: ThreadPool(2), lambda: ProcessPool(2)], ids=["serial", "threads", "processes"]
)
def test_an_ordered_fold_merges_in_input_order_only(make: Callable[[], Any]) -> None:
    with make() as pool:
        for reducer in (
            Fold(operator.add, init=str, merge=operator.add, ordered=True),
            Fold(operator.add, merge=operator.add, ordered=True),
        ):
            assert reducer.mergeable
            for how in ({}, {"reproducible": True}, {"strategy": Ordered()}, {"strategy": Tree()}, {"chunksize": 1}):
                assert aggregate(str, range(300), reducer, pool=pool, **how) == "".join(map(str, range(300)))
    with pytest.raises(ValueError, match="in input order"):
        aggregate(str, range(3), reducer, strategy=Stream())


def test_an_ordered_fold_keeps_the_laws_that_one_that_commutes_breaks() -> None:
    check_reducer(Fold(operator.add, init=list, merge=operator.add, ordered=True), [[1], [2], [3]])
    with pytest.raises(LawBroken, match="commutes"):
        check_reducer(Fold(operator.add, init=list, merge=operator.add), [[1], [2], [3]])
    assert repr(Fold(operator.add, init=list, merge=operator.add, ordered=True)).endswith("merge=add, ordered=True)")
    assert repr(Fold(operator.add)) == "Fold(add)"
