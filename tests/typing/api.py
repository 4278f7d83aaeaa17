"""The types of the public API, under mypy strict and pyright strict: `assert_type` for what holds, comments for errors.

Both checkers report an `ignore` comment on a line without the error it names. No function here is ever called.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from poolagg import (
    AllTrue,
    AnyTrue,
    ArrayMean,
    ArrayStd,
    Bottom,
    Collect,
    Concat,
    Count,
    Distinct,
    Fold,
    Frequencies,
    GroupBy,
    HeavyHitters,
    Histogram,
    Into,
    Mean,
    MergeCounts,
    Min,
    ProcessPool,
    Quantiles,
    Reduce,
    Reducer,
    Sample,
    SerialPool,
    Snapshot,
    Std,
    Sum,
    Tee,
    ThreadPool,
    Top,
    Unique,
    Variance,
    aggregate,
    per_worker,
    share,
    snapshots,
    star,
    with_item,
    worker_index,
)
from poolagg.reducers import ReducerLike, as_reducer, reduced
from poolagg.testing import check_reducer

NUMBERS = range(10)
WORDS = ["to", "fold"]


def square(x: int) -> int:
    return x * x


def half(x: float) -> float:
    return x / 2


def letters(word: str) -> list[str]:
    return list(word)


def counts(word: str) -> dict[str, int]:
    return dict(Counter(word))


def power(base: int, exponent: int) -> int:
    return int(base**exponent)


class Product(Reducer[int]):
    """A reducer of the user's own, with parameter names of the user's own."""

    def init(self) -> int:
        return 1

    def step(self, acc: int, x: int) -> int:
        return acc * x

    def merge(self, a: int, b: int) -> int:
        return a * b


class Longest(Reducer):
    """A reducer that names no type of its result, as every reducer could before there were types."""

    ordered = True

    def init(self) -> str:
        return ""

    def prepare(self, word: str) -> str:
        return word.strip()

    def steps(self, longest: str, words: Sequence[str]) -> str:
        return max(longest, *words, key=len)

    def finish(self, longest: str) -> str:
        return longest


class Positions(Reducer[list[int]]):
    """A placed reducer of the user's own."""

    def init(self) -> list[int]:
        return []

    def step_at(self, acc: list[int], where: tuple[int, ...], x: object) -> list[int]:
        return [*acc, *where[:1]]

    def finish(self, positions: list[int]) -> list[int]:
        return sorted(positions)

    def done(self, positions: list[int], settled: int) -> bool:
        return len(positions) > 9


def results_of_reducers() -> None:
    assert_type(aggregate(square, NUMBERS, Count()), int)
    assert_type(aggregate(square, NUMBERS, Sum()), Any)
    assert_type(aggregate(square, NUMBERS, Mean()), float)
    assert_type(aggregate(square, NUMBERS, AnyTrue()), bool)
    assert_type(aggregate(square, NUMBERS, AllTrue().where(bool)), bool)
    assert_type(aggregate(square, NUMBERS, {"any": AnyTrue(), "all": AllTrue()}), dict[str, bool])
    assert_type(aggregate(square, NUMBERS, Variance(ddof=0)), float)
    assert_type(aggregate(square, NUMBERS, Std()), float)
    assert_type(aggregate(square, NUMBERS, Concat()), Any)
    assert_type(aggregate(square, NUMBERS, ArrayMean()), NDArray[Any] | Any)
    assert_type(aggregate(square, NUMBERS, ArrayStd(ddof=0)), NDArray[Any] | Any)
    assert_type(aggregate(square, NUMBERS, Quantiles(0.5)), float)
    assert_type(aggregate(square, NUMBERS, Quantiles([0.1, 0.9], k=400)), list[float])
    assert_type(aggregate(square, NUMBERS, Distinct()), float)
    assert_type(aggregate(square, NUMBERS, HeavyHitters(10)), list[tuple[Any, int]])
    assert_type(aggregate(letters, WORDS, Frequencies().flat()), Counter[Any])
    assert_type(aggregate(counts, WORDS, MergeCounts()), Counter[Any])
    assert_type(aggregate(letters, WORDS, Collect()), list[Any])
    assert_type(aggregate(letters, WORDS, Unique().flat()), set[Any])
    assert_type(aggregate(square, NUMBERS, Top(3, key=abs)), list[Any])
    assert_type(aggregate(square, NUMBERS, Bottom(3)), list[Any])
    assert_type(aggregate(square, NUMBERS, Sample(3, seed=1)), list[Any])
    assert_type(aggregate(square, NUMBERS, Min()), Any)
    assert_type(aggregate(half, NUMBERS, Histogram([0, 1, 2])), NDArray[np.int64])
    assert_type(aggregate(square, NUMBERS, GroupBy(Mean())), dict[Any, float])
    assert_type(aggregate(square, NUMBERS, GroupBy(max)), dict[Any, Any])
    assert_type(aggregate(square, NUMBERS, Product()), int)
    assert_type(aggregate(str, NUMBERS, Longest()), Any)
    assert_type(aggregate(str, NUMBERS, Positions()), list[int])
    into: None = aggregate(square, NUMBERS, Into(print))
    assert_type(into, None)


def results_of_derived_forms() -> None:
    assert_type(aggregate(letters, WORDS, Count().by(len)), dict[int, int])
    assert_type(aggregate(str, NUMBERS, Mean().of(len).by(str.lower)), dict[str, float])
    assert_type(aggregate(square, NUMBERS, Mean().then(round)), int)
    assert_type(aggregate(letters, WORDS, Mean().of(len).where(bool).flat()), float)
    assert_type(aggregate(square, NUMBERS, Count().by(str).then(len)), int)
    assert_type(aggregate(square, NUMBERS, Product().by(str)), dict[str, int])


def results_of_several_reducers() -> None:
    assert_type(aggregate(square, NUMBERS, {"n": Count()}), dict[str, int])
    assert_type(aggregate(square, NUMBERS, {1: Mean(), 2: Mean()}), dict[int, float])
    assert_type(aggregate(square, NUMBERS, (Count(), Mean())), tuple[int, float])
    assert_type(aggregate(square, NUMBERS, (Count(), Mean(), Product())), tuple[int, float, int])
    assert_type(aggregate(str, NUMBERS, (Count(), Collect(), Mean(), Unique())), tuple[int, list[Any], float, set[Any]])
    assert_type(aggregate(square, NUMBERS, Tee({"n": Count()})), dict[str, int])
    assert_type(aggregate(square, NUMBERS, Tee((Count(), Mean()))), tuple[int, float])
    # Members whose results differ: a dict has one type of value, and longer or nested tuples have no overload.
    assert_type(aggregate(square, NUMBERS, {"n": Count(), "words": Frequencies()}), dict[str, Any])
    assert_type(aggregate(square, NUMBERS, {"n": Count(), "more": {"mean": Mean()}}), dict[str, Any])
    assert_type(aggregate(square, NUMBERS, (max, min)), tuple[Any, ...])
    assert_type(aggregate(square, NUMBERS, (Count(), {"mean": Mean()})), tuple[Any, ...])
    named: dict[str, Reducer] = {"n": Count(), "words": Frequencies()}
    assert_type(aggregate(square, NUMBERS, named), dict[str, Any])


def results_of_functions() -> None:
    def longer(a: str, b: str) -> str:
        return max(a, b, key=len)

    def add(total: float, x: int) -> float:
        return total + x

    def extend(acc: list[str], more: list[str]) -> list[str]:
        return [*acc, *more]

    assert_type(aggregate(str, NUMBERS, longer), str)
    assert_type(aggregate(square, NUMBERS, add), float)
    assert_type(aggregate(square, NUMBERS, max), int)
    total: int = aggregate(square, NUMBERS, operator.add)
    total = aggregate(square, NUMBERS, lambda a, b: a + b)
    assert_type(total, int)
    assert_type(aggregate(square, NUMBERS, Fold(add, init=float)), float)
    assert_type(aggregate(square, NUMBERS, Reduce(power)), int)
    assert_type(aggregate(letters, WORDS, Fold(extend, init=list, merge=extend, ordered=True)), list[str])
    some: list[int] = aggregate(square, NUMBERS, Fold(lambda acc, x: [*acc, x], init=list[int]))
    assert_type(some, list[int])


def results_of_snapshots() -> None:
    for one in snapshots(square, NUMBERS, Mean(), every=1.0, workers=2):
        assert_type(one, Snapshot[float])
        assert_type(one.value, float)
    with snapshots(letters, WORDS, Frequencies().flat()) as looks:
        assert_type(next(looks), Snapshot[Counter[Any]])
    assert_type(next(snapshots(square, NUMBERS, {"n": Count()})).value, dict[str, int])
    assert_type(next(snapshots(square, NUMBERS, {"n": Count(), "all": Collect()})).value, dict[str, Any])
    assert_type(next(snapshots(square, NUMBERS, (Count(), Mean()))).value, tuple[int, float])
    assert_type(next(snapshots(square, NUMBERS, (Count(), Mean(), Count()))).value, tuple[int, float, int])
    assert_type(next(snapshots(square, NUMBERS, Count().by(str))).value, dict[str, int])
    assert_type(next(snapshots(square, NUMBERS, Mean().then(round))).value, int)
    assert_type(next(snapshots(square, NUMBERS, power)).value, int)
    total: int = next(snapshots(square, NUMBERS, operator.add)).value
    assert_type(total, int)


def what_goes_around_func() -> None:
    def best(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return max(a, b)

    assert_type(with_item(square)(3), tuple[int, int])
    assert_type(aggregate(with_item(square), NUMBERS, best), tuple[int, int])
    assert_type(star(power)((2, 3)), int)
    assert_type(aggregate(star(pow), [(2, 3)], Count()), int)
    assert_type(per_worker(dict, [(1, "a")])(), dict[int, str])
    assert_type(per_worker(power, 2, 3)(), int)
    assert_type(worker_index(), int)
    assert_type(share(WORDS).value, list[str])


def what_pools_yield() -> None:
    with ProcessPool(2) as processes, ThreadPool(2) as threads:
        assert_type(processes.imap_unordered(square, NUMBERS), Iterator[int])
        assert_type(threads.imap_unordered(with_item(len), WORDS), Iterator[tuple[str, int]])
        assert_type(SerialPool().imap_unordered(star(power), [(2, 3)]), Iterator[int])
        assert_type(processes.imap(square, NUMBERS, chunksize=10), Iterator[int])
        assert_type(processes.map(with_item(len), WORDS, 10), list[tuple[str, int]])
        assert_type(threads.starmap(power, [(2, 3)]), list[int])
        assert_type(ProcessPool(2, print, ("ready",)).map(letters, WORDS), list[list[str]])
        aggregate(square, NUMBERS, Sum(), pool=processes, on_error="skip", checkpoint="run.ckpt", watch=print)


def what_takes_reducers() -> None:
    anything: list[ReducerLike] = [Count(), {"n": Count()}, (max, {"mean": Mean()}), operator.add]
    for reducer in anything:
        check_reducer(reducer, [1, 2])
        aggregate(square, NUMBERS, reducer)
    assert_type(as_reducer(Mean()), Reducer[float])
    assert_type(as_reducer({"n": Count()}), Reducer[Any])
    assert_type(reduced(Mean(), NUMBERS), float)


def errors() -> None:
    # `func` takes something else than the items.
    aggregate(letters, NUMBERS, Count())  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    aggregate(letters, NUMBERS, {"n": Count()})  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    aggregate(letters, NUMBERS, operator.add)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    snapshots(letters, NUMBERS, Count())  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    SerialPool().imap_unordered(letters, NUMBERS)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SerialPool().map(letters, NUMBERS)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # The standard library's names, and its methods that are not there.
    ProcessPool(processes=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ProcessPool(maxtasksperchild=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ThreadPool(processes=2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ProcessPool(2).apply_async(print)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    # A class in the place of a reducer.
    aggregate(square, NUMBERS, Sum)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    aggregate(square, NUMBERS, list)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    aggregate(square, NUMBERS, {"n": Count})  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    aggregate(square, NUMBERS, (Count, Mean()))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    snapshots(square, NUMBERS, Sum)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    GroupBy(Sum)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    # Neither a reducer nor something that stands for one.
    aggregate(square, NUMBERS, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    aggregate(square, NUMBERS, len)  # type: ignore[arg-type, misc]  # pyright: ignore[reportCallIssue, reportArgumentType]
    snapshots(square, NUMBERS, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    # An option that does not exist, and a value that an option does not take.
    aggregate(square, NUMBERS, Sum(), worker=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    aggregate(square, NUMBERS, Sum(), workers="2")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    # Arguments that the factory does not take.
    per_worker(power, "2", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
