"""Sketches: their errors are within what they promise, their laws hold, and their states travel."""

from __future__ import annotations

import math
import pickle
import random
import subprocess
import sys
from collections import Counter
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import extras
import numpy as np
import pytest

from poolagg import (
    Count,
    Distinct,
    Frequencies,
    HeavyHitters,
    ProcessPool,
    Quantiles,
    Reducer,
    SerialPool,
    TaskError,
    aggregate,
)
from poolagg.reducers import fold, join, reduced
from poolagg.testing import check_reducer

try:
    import datasketches  # noqa: F401
except ImportError:
    extras.missing("datasketches", whole_module=True)

QS = [0, 0.01, 0.25, 0.5, 0.75, 0.99, 1]


def merged(reducer: Reducer, partials: Any, workers: int) -> Any:
    """Fold as some workers would, whose states are pickled and meet in another order."""
    prepared = [reducer.prepare(partial) for partial in partials]
    states = [fold(reducer, reducer.init(), i, prepared[i::workers]) for i in range(workers)]
    acc = reducer.init()
    for state in pickle.loads(pickle.dumps(states[::-1])):
        acc = join(reducer, acc, state)
    return reducer.finish(acc)


@pytest.mark.parametrize("reducer", [Quantiles(0.5), Quantiles([0, 0.3, 1]), Distinct(), HeavyHitters(4)])
def test_the_laws_hold(reducer: Reducer) -> None:
    check_reducer(reducer, [3, 1, 2, 2, 7.5, 3])
    check_reducer(reducer.flat(), [[1, 2], [], [2, 3, 3]])
    check_reducer({"n": Count(), "sketch": reducer}, [3, 1, 2])


# -- Quantiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize(("k", "error"), [(200, 0.0133), (800, 0.0035)])
def test_quantiles_are_within_their_error(workers: int, k: int, error: float) -> None:
    """Three times the error that holds for 99 of 100: no seed makes this fail by chance."""
    values = np.random.default_rng(7).lognormal(size=50_000).tolist()
    found = merged(Quantiles(QS, k=k), values, workers)
    ranks = np.searchsorted(np.sort(values), found, side="right") / len(values)
    assert np.abs(ranks - QS).max() <= 3 * error
    assert found[0] == min(values)
    assert found[-1] == max(values)


def test_few_quantiles_are_exact() -> None:
    values = random.Random(3).sample(range(10_000), 200)
    expected = [float(np.quantile(values, q, method="inverted_cdf")) for q in QS]
    assert reduced(Quantiles(QS), values) == expected
    assert reduced(Quantiles(0.5), values) == expected[3]


def test_quantiles_of_nothing_are_nan_and_nan_is_left_out() -> None:
    assert math.isnan(reduced(Quantiles(0.5), []))
    assert all(map(math.isnan, reduced(Quantiles([0, 1]), [math.nan])))
    assert reduced(Quantiles([0, 1]), [math.nan, 2, 1]) == [1.0, 2.0]


@pytest.mark.parametrize("bad", [None, "1", 1j, [1]])
def test_what_is_not_a_number_is_the_items_failure(bad: Any) -> None:
    with pytest.raises(TaskError, match=r"item 2.*real numbers"):
        aggregate([1, 2, bad].__getitem__, range(3), Quantiles(0.5), pool=SerialPool())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Quantiles(95), "0.95 is the 95th percentile"),
        (lambda: Quantiles([0.5, -1]), "from 0 to 1"),
        (lambda: Quantiles(0.5, k=7), "Quantiles"),
        (lambda: Quantiles(0.5, k=70_000), "at most 65535"),
        (lambda: HeavyHitters(1), "HeavyHitters"),
        (lambda: HeavyHitters(2_000_000), r"Frequencies\(\)"),
    ],
)
def test_wrong_arguments_are_refused_at_once(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("reducer", "reason"), [(Quantiles(0.5), "at random"), (HeavyHitters(3), r"hash\(\)")])
def test_what_is_not_reproducible_says_so_before_the_run(reducer: Reducer, reason: str) -> None:
    for one in (reducer, reducer.of(abs), {"n": Count(), "sketch": reducer.by(abs)}):
        with pytest.raises(ValueError, match=f"reproducible=True is not possible.*{reason}"):
            aggregate(abs, range(3), one, pool=SerialPool(), reproducible=True)  # type: ignore[call-overload]


# -- Distinct ----------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: int
    y: int


DIFFERENT = [
    1, 2, -1, 2**64, 2**5000, 0.5, 1e300, math.inf, -math.inf, math.nan, 1j, "1", "i1", "", "é", "Ã©",
    "\ud800", b"", b"1", None, True + 1.5, (), (1,), ((1,),), (1, 2), ("1", 2), ("12",), ("1", "2"), frozenset(),
    frozenset([1]), frozenset([(1,)]),
    date(2024, 1, 2), date(2024, 1, 3), Fraction(1, 3), Decimal("0.1"), int, float, len, Ellipsis,
]  # fmt: skip
EQUAL = [
    (1, True, 1.0, Fraction(1), Decimal("1.0"), 1 + 0j, np.int8(1), np.float32(1)),
    (0.5, Fraction(1, 2), Decimal("0.50"), np.float64(0.5)),
    (float("nan"), math.nan, Decimal("nan"), np.float32("nan")),
    ((1, 2), Point(1, 2), (1.0, True + 1)),
    (frozenset(["a", "b"]), frozenset(["b", "a"])),
    ("ab", "".join(["a", "b"]), np.str_("ab")),
    (date(2024, 1, 2), date.fromisoformat("2024-01-02")),
]


def test_equal_items_count_once_and_different_ones_apart() -> None:
    assert reduced(Distinct(), DIFFERENT) == len(DIFFERENT)
    assert reduced(Distinct(), [item for items in EQUAL for item in items]) == len(EQUAL)
    assert reduced(HeavyHitters(100), DIFFERENT * 2)[0][1] == 2


def test_up_to_8192_different_items_are_counted_exactly() -> None:
    items = [i % 8000 for i in range(20_000)]
    assert merged(Distinct(), items, 3) == 8000.0
    assert reduced(Distinct(), []) == 0.0


@pytest.mark.parametrize("count", [20_000, 100_000])
def test_distinct_is_within_its_error_and_the_same_for_any_number_of_workers(count: int) -> None:
    items = [f"item {i}" for i in range(count)]
    whole = reduced(Distinct(), items)
    assert abs(whole / count - 1) <= 0.033
    for workers in (2, 7):
        assert merged(Distinct(), items + items[:1000], workers) == whole


def test_the_standard_error_of_distinct_is_about_what_it_says() -> None:
    errors = [reduced(Distinct(), range(i << 40, (i << 40) + 12_000)) / 12_000 - 1 for i in range(30)]
    assert 0.004 < math.sqrt(np.mean(np.square(errors))) < 0.018


# -- HeavyHitters ------------------------------------------------------------------------------------------------------


def zipf(count: int) -> list[int]:
    return np.random.default_rng(5).zipf(1.2, count).tolist()


@pytest.mark.parametrize("workers", [1, 6])
@pytest.mark.parametrize("k", [3, 20, 100])
def test_no_heavy_hitter_is_missing_and_counts_are_within_their_error(workers: int, k: int) -> None:
    items = [("item", i) for i in zipf(60_000)]
    exact, found = Counter(items), dict(merged(HeavyHitters(k), items, workers))
    assert len(exact) > 100 * k or len(exact) > 5000
    assert {item for item, count in exact.items() if count > len(items) / k} <= set(found)
    for item, count in found.items():
        assert exact[item] <= count <= exact[item] + len(items) / (10 * k)
        assert exact[item] > 0.9 * len(items) / k
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_few_different_items_are_counted_exactly() -> None:
    items = [i % 7 for i in range(1000)] + ["often"] * 500 + [math.nan] * 400
    expected = [(x, n) for x, n in reduced(Frequencies(), items).most_common() if n > len(items) / 5]
    assert merged(HeavyHitters(5), items, 3) == expected == [("often", 500), (math.nan, 400)]
    assert reduced(HeavyHitters(5), []) == []


def test_an_item_without_a_hash_is_that_items_failure() -> None:
    for reducer in (Distinct(), HeavyHitters(3)):
        with pytest.raises(TaskError, match=r"item 1.*unhashable"):
            aggregate([1, [2]].__getitem__, range(2), reducer, pool=SerialPool())


# -- in workers, and without the library -------------------------------------------------------------------------------


def test_sketches_come_back_from_worker_processes() -> None:
    class Mine(NamedTuple):
        name: str

    sketches = {
        "median": Quantiles(0.5).of(int),
        "n": Distinct(),
        "most": HeavyHitters(3).of(lambda i: Mine(str(i % 2))),
    }
    result: Any = aggregate(abs, range(3000), sketches, pool=ProcessPool(2), chunksize=100)
    assert abs(result["median"] - 1500) < 150
    assert result["n"] == 3000
    assert result["most"] == [(Mine("0"), 1500), (Mine("1"), 1500)]


def test_without_the_library_the_error_says_how_to_install_it() -> None:
    program = """
        import sys
        sys.modules["datasketches"] = None
        from poolagg import Distinct, HeavyHitters, Quantiles
        for make in (Distinct, lambda: HeavyHitters(3), lambda: Quantiles(0.5)):
            try:
                make()
            except ImportError as error:
                assert "pip install 'poolagg[sketches]'" in str(error), error
            else:
                raise AssertionError(make)
    """
    import textwrap

    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=50)


def test_importing_poolagg_imports_no_sketches() -> None:
    program = "import sys, poolagg; poolagg.Sum(); assert not {'datasketches', 'numpy', 'tqdm'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
