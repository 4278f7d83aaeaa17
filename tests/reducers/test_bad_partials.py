"""One bad partial is one bad item: it fails in the map phase, and `on_error` decides about it, with any reducer."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

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
    Reducer,
    ReducerError,
    SerialPool,
    SkippedItems,
    Std,
    Sum,
    TaskError,
    ThreadPool,
    Top,
    Unique,
    Variance,
    aggregate,
)
from poolagg.reducers import as_reducer, reduced
from poolagg.strategies import Combine, Ordered, Stream, Tree
from poolagg.testing.equality import alike

ITEMS = 120


class Hashless:
    """A partial whose hash raises something else than TypeError."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


def parity(x: Any) -> Any:
    return x % 2 if isinstance(x, int) else 0


def third_key(x: Any) -> Any:
    return {} if x is None else x % 3


def no_key(x: Any) -> Any:
    return x if isinstance(x, int) else None


def number(i: int) -> Any:
    return i


def half(i: int) -> Any:
    return i / 2


def pair(i: int) -> Any:
    return i % 5, i


def pairs(i: int) -> Any:
    return [i % 5, i % 3]


def long_and_short(i: int) -> Any:
    """Elements of which some stretches are folded as they are, and some joined."""
    return [*range(300)] if i % 4 == 0 else [i % 3]


def counts(i: int) -> Any:
    return {i % 5: 1}


def array(i: int) -> Any:
    return np.arange(3) + i


CASES: dict[str, tuple[Any, Callable[[int], Any], list[Any]]] = {
    "Sum": (Sum(), number, [None, "x", b"1", [1], {}, object(), np.ones(2)]),
    "Sum of floats": (Sum(), half, [None, "x", [0.5]]),
    "Mean": (Mean(), half, ["text", None, [1]]),
    "Variance": (Variance(), number, ["text", None, 1j]),
    "Std": (Std(), half, ["text", None, 1j]),
    "Max": (Max(), number, [None, {}, 1j, object(), np.ones(2)]),
    "Min": (Min(), half, [None, {}]),
    "Top": (Top(3), number, [None, {}, 1j]),
    "Top by a key": (Top(3, key=no_key), number, [None, "x"]),
    "Bottom, few": (Bottom(200), number, [None, {}]),
    "Frequencies": (Frequencies(), number, [[1], {}, set(), ([],), Hashless()]),
    "Unique": (Unique(), number, [[1], {}, set(), ([],), Hashless()]),
    "Unique of tuples": (Unique(), pair, [[1], ([],), (0, [])]),
    "MergeCounts": (MergeCounts(), counts, [None, [("a", 1)], {0: None}, {0: "1"}, {0: [1]}]),
    "GroupBy": (GroupBy(Count()), pair, [([], 1), ({}, 1), None, 3, (1, 2, 3)]),
    "GroupBy(Sum())": (GroupBy(Sum()), pair, [([], 1), (2, None), (2, "x")]),
    "GroupBy(Top)": (GroupBy(Top(2)), pair, [([], 1), (2, None)]),
    "GroupBy(Collect())": (GroupBy(Collect()), pair, [([], 1), ({}, 1)]),
    "GroupBy(Frequencies())": (GroupBy(Frequencies()), pair, [([], 1), (2, [])]),
    "Histogram": (Histogram([0, 50, 100]), number, [None, "x", [None], 1j]),
    "ArraySum": (ArraySum(), array, [None, "x", [None]]),
    "ArrayReduce": (ArrayReduce(np.maximum), array, [None, "x"]),
    "of": (Sum().of(abs), number, [None, "x"]),
    "of, to None": (Sum().of(no_key), number, ["x", None]),
    "where": (Sum().where(lambda x: x != 3), number, [None, "x"]),
    "where, of places": (Top(3).where(lambda x: x != 3), number, [None, {}]),
    "flat": (Sum().flat(), pairs, [None, 3, [1, None], [1, "x"]]),
    "flat, of places": (Max().flat(), pairs, [[7, None], None]),
    "flat, counted": (Frequencies().flat(), pairs, [[1, []], [{}], None]),
    "flat, counted in stretches": (Frequencies().flat(), long_and_short, [[1, []], [*range(300), []], None]),
    "flat, unique": (Unique().flat(), pairs, [["new", []], ["new", {}]]),
    "by": (Sum().by(parity), number, [None, "x"]),
    "by a key without a hash": (Count().by(third_key), number, [None]),
    "by, of places": (Top(2).by(parity), number, [None, {}]),
    "by, collected": (Collect().by(third_key), number, [None]),
    "then": (Sum().then(str), number, [None, "x"]),
    "Tee": ({"n": Count(), "mean": Mean(), "top": Top(2)}, number, [None, "x", {}]),
    "Tee that mutates": ({"all": Collect(), "seen": Frequencies(), "sum": Sum()}, number, [None, "x", [], {}]),
    "Tee of a Tee": ((Unique(), {"n": Count(), "by": Sum().by(parity)}), number, [None, "x", [1]]),
    "Tee in groups": (GroupBy(as_reducer((Sum(), Max()))), pair, [(2, None), (2, {}), ([], 1)]),
    "Tee with the parent": ({"sum": Sum(), "all": Fold(operator.add)}, number, [None, "x"]),
}  # fmt: skip
"""A reducer, a function that returns good partials, and bad ones: each of them cannot be folded even alone."""

STRATEGIES = [None, Stream(), Ordered(), Combine(), Tree()]


def with_bad(func: Callable[[int], Any], bad: list[Any], i: int) -> Any:
    """Return a bad partial for every 7th item, after some good ones."""
    return bad[i // 7 % len(bad)] if i % 7 == 5 else func(i)


BAD = [i for i in range(ITEMS) if i % 7 == 5]


def result_of_good(reducer: Any, func: Callable[[int], Any]) -> Any:
    """Reduce the good partials alone. Their positions do not decide, for no two that compare equal differ."""
    return reduced(as_reducer(reducer), [func(i) for i in range(ITEMS) if i not in BAD])


def strategies_of(reducer: Any) -> Iterator[Any]:
    for strategy in STRATEGIES:
        if strategy is None or strategy.refusal(as_reducer(reducer)) is None:
            yield strategy


@pytest.mark.parametrize("name", CASES)
def test_a_bad_partial_is_a_bad_item_in_every_strategy(name: str) -> None:
    reducer, func, bad = CASES[name]
    good = result_of_good(reducer, func)
    for strategy in strategies_of(reducer):
        for chunksize in (None, 40):
            failed: list[int] = []
            result = aggregate(
                functools.partial(with_bad, func, bad), range(ITEMS), reducer, pool=SerialPool(), strategy=strategy,
                chunksize=chunksize, on_error=lambda failure, failed=failed: failed.append(failure.index),
            )  # fmt: skip
            assert sorted(failed) == BAD, strategy
            assert alike(result, good), strategy


@pytest.mark.parametrize("name", CASES)
def test_each_bad_partial_alone_is_the_task_error_of_its_item(name: str) -> None:
    reducer, func, bad = CASES[name]
    for partial in bad:
        for only in (True, False):
            with pytest.raises(TaskError) as caught:
                aggregate(
                    lambda i, partial=partial, only=only: partial if only or i == 3 else func(i), range(5), reducer,
                    pool=SerialPool(),
                )  # fmt: skip
            assert caught.value.index == (0 if only else 3)
            assert caught.value.__cause__ is not None


@pytest.mark.parametrize("pool", [lambda: ProcessPool(2), lambda: ThreadPool(2)], ids=["processes", "threads"])
def test_a_bad_partial_is_a_bad_item_in_workers(pool: Callable[[], Any]) -> None:
    names = ["Sum", "Max", "Frequencies", "Unique", "GroupBy(Sum())", "flat, counted", "Tee that mutates"]
    with pool() as workers:
        for name in names:
            reducer, func, bad = CASES[name]
            bad = [partial for partial in bad if not isinstance(partial, Hashless)]
            with pytest.warns(SkippedItems, match=f"^{len(BAD)} of {ITEMS} "):
                result = aggregate(
                    functools.partial(with_bad, func, bad), range(ITEMS), reducer, pool=workers, on_error="skip"
                )
            assert alike(result, result_of_good(reducer, func)), name


def test_retries_run_the_item_again_and_it_counts_once() -> None:
    calls: Counter[int] = Counter()

    def at_first_none(i: int) -> Any:
        calls[i] += 1
        return None if i == 7 and calls[i] < 3 else i

    assert aggregate(at_first_none, range(20), Sum(), pool=SerialPool(), retries=2) == sum(range(20))
    assert calls[7] == 3


def test_text_among_numbers_is_the_reducers_error_and_names_the_items() -> None:
    with pytest.raises(ReducerError, match=r"as it folded items? (\d+ to )?\d+: TypeError: '<' not supported"):
        aggregate([1, 2, "a", 3].__getitem__, range(4), Max(), pool=SerialPool(), chunksize=4, on_error="skip")


@pytest.mark.parametrize("strategy", [None, Tree()])
def test_a_step_that_raises_is_the_reducers_error_and_names_the_items(strategy: Any) -> None:
    class Picky(Reducer[int]):
        def init(self) -> int:
            return 0

        def step(self, acc: int, prepared: int) -> int:
            if prepared == 3:
                raise ValueError("in step")
            return acc + prepared

        merge = step

    for reducer in (Picky(), as_reducer({"mine": Picky(), "sum": Sum()})):
        with pytest.raises(ReducerError, match=r"as it folded items? (\d+ to )?\d+: ValueError: in step"):
            aggregate(abs, range(9), reducer, pool=SerialPool(), chunksize=9, strategy=strategy, on_error="skip")


def test_a_subclass_that_folds_in_its_own_way_may_take_what_its_base_rejects() -> None:
    class NoneIsZero(Sum):
        def steps(self, acc: Any, prepareds: Any) -> Any:
            return super().steps(acc, [x or 0 for x in prepareds])

    for strategy in (None, Stream(), Tree()):
        partials = [1, None, 2, None]
        assert aggregate(partials.__getitem__, range(4), NoneIsZero(), pool=SerialPool(), strategy=strategy) == 3


def test_a_rejected_batch_leaves_the_accumulator_as_it_was() -> None:
    counts = Frequencies().steps(Frequencies().init(), ["a", "b", "a"])
    for bad in (["a", "c", "c", []], ("b", float("nan"), {}), [Hashless()]):
        with pytest.raises((TypeError, RuntimeError)):
            Frequencies().steps(counts, bad)
        assert list(counts.items()) == [("a", 2), ("b", 1)]
    unique = Unique().steps(Unique().init(), ["a"])
    with pytest.raises(TypeError):
        Unique().steps(unique, ["b", ([],)])
    assert unique == {"a"}
