"""ArrayMean and ArrayStd: what numpy gives for all arrays at once, however they are spread."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from poolagg import ArrayMean, ArrayStd, Count, ProcessPool, Reduce, Reducer, SerialPool, TaskError, aggregate
from poolagg.reducers import fold, join, reduced
from poolagg.testing import check_reducer

RNG = np.random.default_rng(11)


def merged(reducer: Reducer, arrays: Any, workers: int) -> Any:
    prepared = [reducer.prepare(array) for array in arrays]
    acc = reducer.init()
    for i in reversed(range(workers)):
        acc = join(reducer, acc, fold(reducer, reducer.init(), i, prepared[i::workers]))
    return reducer.finish(acc)


ARRAYS: dict[str, list[Any]] = {
    "floats": list(RNG.normal(size=(40, 3, 4))),
    "float32": list(RNG.normal(size=(40, 5)).astype(np.float32)),
    "small ints": list(RNG.integers(-100, 100, size=(40, 5), dtype=np.int8)),
    "bools": list(RNG.integers(0, 2, size=(40, 5)).astype(bool)),
    "numbers": list(RNG.normal(size=40)),
    "lists": RNG.normal(size=(40, 2)).tolist(),
    "one": [np.array([1.5, 2])],
    "two": [np.array([1.5, 2]), np.array([2, 7])],
    "empty": [np.zeros((0, 3))] * 3,
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", ARRAYS)
def test_the_same_as_numpy_of_all_at_once(name: str, workers: int) -> None:
    arrays = ARRAYS[name]
    stacked = np.asarray(arrays, np.float64)
    mean = merged(ArrayMean(), arrays, workers)
    assert mean.dtype == np.float64
    np.testing.assert_allclose(mean, stacked.mean(axis=0), rtol=1e-12, atol=1e-14)
    for ddof in (0, 1):
        squares = ((stacked - stacked.mean(axis=0)) ** 2).sum(axis=0)
        expected = np.sqrt(squares / (len(arrays) - ddof or np.nan))
        found = merged(ArrayStd(ddof), arrays, workers)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("workers", [1, 5])
def test_a_large_mean_does_not_cancel_a_small_spread(workers: int) -> None:
    """The sum of squares less the square of the sum would have no digit left."""
    arrays = [np.array([1e9, -1e12]) + x for x in RNG.integers(-3, 4, size=(1000, 2))]
    exact = [math.sqrt(variance_of([array[i] for array in arrays])) for i in (0, 1)]
    np.testing.assert_allclose(merged(ArrayStd(), arrays, workers), exact, rtol=1e-5)


def variance_of(values: list[float]) -> float:
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    return float(sum((x - mean) ** 2 for x in exact) / (len(exact) - 1))


def test_a_mean_does_not_overflow_where_its_sum_would() -> None:
    assert reduced(ArrayMean(), [np.array([1e308])] * 4).tolist() == [1e308]
    assert reduced(ArrayMean(), [np.array([1e308]), np.array([-1e308])]).tolist() == [0.0]


def test_infinities_and_nan_are_those_of_numpy() -> None:
    rows = [[math.inf, math.inf, 1, math.nan, -math.inf], [1, -math.inf, math.inf, 1, -math.inf], [2, 1, 2, 3, 4]]
    arrays = list(map(np.array, rows))
    for order in (arrays, arrays[::-1], arrays[1:] + arrays[:1]):
        np.testing.assert_array_equal(reduced(ArrayMean(), order), [math.inf, math.nan, math.inf, math.nan, -math.inf])
        assert np.isnan(reduced(ArrayStd(), order)).all()


def test_of_too_few() -> None:
    assert reduced(ArrayMean(), []) is reduced(ArrayStd(), []) is None
    assert np.isnan(reduced(ArrayStd(), [np.ones(2)])).all()
    assert reduced(ArrayStd(ddof=0), [np.ones(2)]).tolist() == [0.0, 0.0]


def test_a_complex_mean_is_complex_and_a_complex_deviation_is_refused() -> None:
    arrays = [np.array([1 + 2j]), np.array([3 - 4j])]
    assert reduced(ArrayMean(), arrays).tolist() == [2 - 1j]
    with pytest.raises(TypeError, match=r"real numbers.*numpy.abs"):
        reduced(ArrayStd(), arrays)


@pytest.mark.parametrize("reducer", [ArrayMean(), ArrayStd(), ArrayStd(0)])
def test_the_laws_hold(reducer: Reducer) -> None:
    samples = [np.array([1.0, 2]), np.array([4, 8]), np.array([0.5, -3]), np.array([7, 1e9])]
    check_reducer(reducer, samples, equal=lambda a, b: np.allclose(a, b, rtol=1e-12, equal_nan=True))


@pytest.mark.parametrize("reducer", [ArrayMean(), ArrayStd()])
def test_what_does_not_match_is_refused(reducer: Reducer) -> None:
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        reduced(reducer, [np.ones(2), np.ones(3)])
    for bad in (None, "text", np.array(["a"])):
        with pytest.raises(TaskError, match=r"item 1.*arrays of numbers"):
            aggregate([np.ones(2), bad].__getitem__, range(2), reducer, pool=SerialPool())
    with pytest.raises(TypeError, match="mask"):
        reduced(reducer, [np.ma.array([1, 2], mask=[0, 1])])


def test_labelled_data_is_refused_and_its_spelling_is_right() -> None:
    pd = pytest.importorskip("pandas")
    frames = [pd.DataFrame({"a": [1.0, 2]}, index=["x", "y"]), pd.DataFrame({"a": [10.0, 20]}, index=["y", "z"])]
    with pytest.raises(TypeError, match=r"Reduce\(lambda a, b: a.add\(b, fill_value=0\)\)"):
        reduced(ArrayMean(), frames)
    total = aggregate(frames.__getitem__, range(2), Reduce(lambda a, b: a.add(b, fill_value=0)), pool=SerialPool())
    assert total["a"].to_dict() == {"x": 1, "y": 12, "z": 20}


def test_a_wrong_ddof_is_refused() -> None:
    for ddof in (-1, 1.5):
        with pytest.raises((TypeError, ValueError), match=r"ArrayStd\(ddof\)"):
            ArrayStd(ddof)  # type: ignore[arg-type]


def test_partials_are_left_as_they_are_in_processes_and_out_of_them() -> None:
    one = np.arange(1e5)
    reduced(ArrayMean(), [one, one + 1])
    assert (one == np.arange(1e5)).all()
    both: Any = {"n": Count(), "mean": ArrayMean(), "std": ArrayStd(0)}
    with ProcessPool(2) as pool:
        result: Any = aggregate(lambda i: np.full(100_000, float(i)), range(9), both, pool=pool, chunksize=2)
        fixed = [aggregate(lambda i: np.full(9, 1 / (i + 3)), range(99), ArrayStd(), pool=p, reproducible=True)
                 for p in (pool, SerialPool())]  # fmt: skip
    assert result["n"] == 9
    np.testing.assert_allclose(result["mean"], 4.0, rtol=1e-12)  # which worker has what decides the last bit
    np.testing.assert_allclose(result["std"], np.std(range(9)), rtol=1e-12)
    assert fixed[0].tobytes() == fixed[1].tobytes()
