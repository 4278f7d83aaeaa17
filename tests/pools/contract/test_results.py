"""Whatever runs the chunks, the result is that of a plain loop."""

from __future__ import annotations

import functools
import operator
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from contract import KINDS, Kind, entered
from tasks import METHODS, Flaky, Rough, identity, rough, square

from poolagg import (
    ArraySum,
    Bottom,
    Collect,
    Count,
    First,
    Fold,
    Frequencies,
    GroupBy,
    Histogram,
    Into,
    Last,
    Max,
    Mean,
    MergeCounts,
    Min,
    Reduce,
    Sample,
    SerialPool,
    SkippedItems,
    Std,
    Sum,
    Top,
    Unique,
    Variance,
    aggregate,
    star,
    with_item,
)
from poolagg.reducers import as_reducer, reduced
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree

# -- results -----------------------------------------------------------------------------------------------------------


def words_of(x: int) -> list[str]:
    return ["a", "b", "c"][: x % 4]


CASES: list[tuple[Callable[[int], Any], Any]] = [
    (square, Count()),
    (square, Sum()),
    (lambda x: x / 7, Sum()),
    (lambda x: x / 7, Mean()),
    (lambda x: x / 7, Variance()),
    (lambda x: x / 7, Std()),
    (lambda x: x % 17, Min(key=lambda x: -x)),
    (lambda x: x % 17, Max()),
    (with_item(lambda x: x % 17), Top(5, key=operator.itemgetter(1))),
    (lambda x: x % 17, Bottom(5)),
    (identity, First()),
    (identity, Last()),
    (words_of, Frequencies().flat()),
    (lambda x: {"n": x % 3}, MergeCounts()),
    (lambda x: (x % 3, x), GroupBy(Sum())),
    (identity, Collect()),
    (lambda x: x % 5, Unique()),
    (lambda x: np.arange(3.0) * x, ArraySum()),
    (identity, Histogram([0, 10, 200, 1000])),
    (identity, Sample(7, seed=1)),
    (square, Reduce(operator.xor)),
    (identity, Fold(operator.iadd, init=int, merge=operator.iadd)),
    (str, Fold(operator.add, init=str)),
    (identity, Sum().of(square).where(lambda x: x % 2).by(lambda x: x % 3)),
    (identity, {"n": Count(), "both": (Sum(), Max())}),
    (str, operator.add),
]


def same(left: Any, right: Any) -> bool:
    return pickle.dumps(left) == pickle.dumps(right) or bool(np.all(left == right))


def test_every_reducer_by_every_strategy_gives_the_result_of_a_plain_loop(kind: Kind, pool: Any) -> None:
    chunksize = 100 if kind.far else None
    for number, (func, spelled) in enumerate(CASES):
        reducer = as_reducer(spelled)
        expected = reduced(reducer, map(func, range(300)))
        strategies = [Stream(), Ordered(), Combine(), Partition(3), Tree()]
        strategies = [strategy for strategy in strategies if strategy.refusal(reducer) is None]
        if kind.far:  # each reducer by one of them, in turn
            strategies = [strategies[number % len(strategies)]]
        for strategy in [None, *strategies]:
            result = aggregate(func, range(300), spelled, pool=pool, strategy=strategy, chunksize=chunksize)
            assert same(result, expected), (reducer, strategy, result, expected)


def test_a_plain_function_is_functools_reduce_input_order_included(pool: Any) -> None:
    def glued(a: str, b: str) -> str:
        return f"({a}{b})"

    def slow_first(x: int) -> str:
        time.sleep(0.01 * (x < 2))
        return str(x)

    assert aggregate(slow_first, range(40), glued, pool=pool) == functools.reduce(glued, map(str, range(40)))
    with pytest.raises(TypeError, match="reduce"):
        aggregate(str, [], glued, pool=pool)
    assert aggregate(str, [5], glued, pool=pool) == "5"


def test_no_items_no_work(kind: Kind) -> None:
    assert aggregate(square, [], Sum(), pool=kind.make()) == 0
    assert aggregate(square, iter(()), Collect(), pool=kind.make()) == []


def test_a_wrong_total_is_only_a_hint(pool: Any) -> None:
    for total in (0, 1, 7, 10**6):
        assert aggregate(square, iter(range(100)), Sum(), pool=pool, total=total) == sum(map(square, range(100)))


def test_sliced_sources_arrive_whole(pool: Any) -> None:
    array = np.arange(1000.0).reshape(500, 2)
    assert aggregate(np.sum, array, Sum(), pool=pool) == array.sum()
    assert aggregate(identity, range(10, 0, -3), Collect(), pool=pool) == [10, 7, 4, 1]
    assert aggregate(identity, range(10**30, 10**30 + 3), Count(), pool=pool) == 3


def test_iterators_that_func_returns_are_drained_where_it_runs(pool: Any) -> None:
    def count_to(x: int) -> Iterator[int]:
        yield from range(x)

    assert aggregate(count_to, [2, 0, 3], Collect(), pool=pool) == [[0, 1], [], [0, 1, 2]]
    assert aggregate(lambda x: map(str, range(x)), [2, 1], Collect().flat(), pool=pool) == ["0", "1", "0"]
    assert aggregate(lambda x: zip("ab", "cd", strict=True), [0], Collect(), pool=pool) == [[("a", "c"), ("b", "d")]]


def test_star_and_with_item(pool: Any) -> None:
    assert aggregate(star(pow), [(2, 3), (3, 2)], Sum(), pool=pool) == 17
    assert aggregate(with_item(square), [3, 1], Max(key=operator.itemgetter(1)), pool=pool) == (3, 9)
    assert aggregate(identity, [(1, 2)], Collect(), pool=pool) == [(1, 2)], "a tuple is one item unless star says so"


def test_into_applies_each_partial_once_on_the_callers_thread(pool: Any) -> None:
    seen: list[int] = []
    threads = set()

    def apply(partial: int) -> None:
        seen.append(partial)
        threads.add(threading.get_ident())

    assert aggregate(square, range(500), Into(apply), pool=pool) is None
    assert sorted(seen) == [square(x) for x in range(500)]
    assert threads == {threading.get_ident()}
    seen.clear()
    aggregate(identity, range(500), Into(apply, ordered=True), pool=pool)
    assert seen == list(range(500))


# -- reproducible ------------------------------------------------------------------------------------------------------


@functools.cache
def expected_bits() -> float:
    return aggregate(rough, range(2000), Rough(), pool=SerialPool(), reproducible=True)


def workers_and_kinds() -> list[tuple[int, Kind]]:
    """Every kind; and threads and workers of the default start method in any number, which the leaves depend on."""
    some = (METHODS[0], "threads")
    several = [(workers, kind) for kind in KINDS if kind.name in some for workers in (1, 2, 3)]
    return several + [
        (3 if kind.ours and kind.slots > 1 else kind.slots, kind) for kind in KINDS if kind.name not in some
    ]


@pytest.mark.parametrize(("workers", "kind"), workers_and_kinds(), ids=str)
def test_reproducible_runs_give_the_same_bits(kind: Kind, workers: int, tmp_path: Any) -> None:
    make = kind.make if kind.slots == workers else functools.partial(kind.make.func, workers, **kind.make.keywords)
    sums = {functools.reduce(operator.add, map(rough, order)) for order in (range(2000), range(1999, -1, -1))}
    assert len(sums) == 2, "order matters"
    with entered(kind, make) as pool:
        for source in (range(2000), iter(range(2000))):
            assert aggregate(rough, source, Rough(), pool=pool, reproducible=True) == expected_bits()
        flaky = Flaky(tmp_path, dict.fromkeys((0, 70, 71, 1999), "raise"), times=1)
        retried = aggregate(lambda x: rough(flaky(x)), range(2000), Rough(), pool=pool, reproducible=True, retries=1)
        assert retried == expected_bits()


def test_reproducible_with_skips_gives_the_same_bits(pool: Any) -> None:
    def some(x: int) -> float:
        if x % 97 == 5:
            raise ValueError(x)
        return rough(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedItems)
        expected = aggregate(some, range(1000), Rough(), pool=SerialPool(), reproducible=True, on_error="skip")
        assert aggregate(some, range(1000), Rough(), pool=pool, reproducible=True, on_error="skip") == expected
