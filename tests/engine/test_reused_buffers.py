"""A function may fill one buffer again and again: what a plain loop makes of it is what every pool makes of it."""

from __future__ import annotations

import contextlib
import functools
import operator
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import buffers
import numpy as np
import pytest
from buffers import FUNCTIONS, add, alternating, cleared, drawn_at_random, out, total, totals, yields_one
from hypothesis import given
from hypothesis import strategies as st
from tasks import short

from poolagg import (
    ArraySum,
    Collect,
    Count,
    Fold,
    GroupBy,
    Into,
    Max,
    MergeCounts,
    ProcessPool,
    Reduce,
    SerialPool,
    SkippedItems,
    ThreadPool,
    Top,
    aggregate,
)
from poolagg._input.reused_buffers import copied, mutable
from poolagg.strategies import Ordered, Stream, Tree

N = 200

POOLS: dict[str, Callable[[], Any]] = {
    "serial": SerialPool,
    "threads": lambda: ThreadPool(2),
    "processes": lambda: ProcessPool(2),
    "thread executor": lambda: ThreadPoolExecutor(2),
    "process executor": lambda: ProcessPoolExecutor(2),
}


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every kind of pool, kept for all tests."""
    made = POOLS[request.param]()
    with made if hasattr(made, "__enter__") else contextlib.nullcontext(made) as entered:
        assert aggregate(short, range(50), Count(), pool=entered) == 50  # all its workers have started
        yield entered


@pytest.mark.parametrize("func", FUNCTIONS, ids=lambda func: func.__name__)
def test_a_buffer_that_is_filled_again_gives_what_a_plain_loop_gives(pool: Any, func: Any) -> None:
    if func is buffers.window and isinstance(pool, (ProcessPool, ProcessPoolExecutor)):
        pytest.skip("a memoryview does not pickle")
    expected = [total(func(x)) for x in range(N)]
    run = functools.partial(aggregate, func, range(N), pool=pool)
    assert run(add_up) == pytest.approx(functools.reduce(operator.add, expected))
    assert run(Fold(add, init=float)) == sum(expected)
    assert run(Fold(add, init=float, merge=operator.add)) == sum(expected)
    assert run(Collect().then(totals)) == expected
    assert sorted(run(Collect().then(totals), strategy=Stream())) == sorted(expected)
    assert run(Collect().then(totals), strategy=Ordered()) == expected
    assert run(Collect().then(totals), reproducible=True) == expected
    assert run(Collect().then(totals), chunksize=1) == expected
    assert run(Collect().of(total)) == expected
    seen: list[float] = []
    run(Into(functools.partial(into, seen), ordered=True))
    assert seen == expected
    if func is not buffers.sometimes_nothing:
        assert total(run(Max(key=total))) == max(expected)
        assert sorted(totals(run(Top(5, key=total)))) == sorted(expected)[-5:]


def add_up(a: Any, b: Any) -> Any:
    """For `functools.reduce` without a start: the first partial is the first state."""
    return (a if isinstance(a, float) else total(a)) + total(b)


def into(seen: list[float], partial: Any) -> None:
    seen.append(total(partial))


@pytest.mark.parametrize("func", [out, alternating])
@pytest.mark.parametrize("how", [{}, {"strategy": Stream()}, {"strategy": Tree()}, {"chunksize": 1}, {"chunksize": 64}])
def test_arrays_that_are_filled_again_are_added_once_each(pool: Any, func: Any, how: dict[str, Any]) -> None:
    expected = np.sum([func(x).copy() for x in range(N)], axis=0)
    reducers = {"sum": ArraySum(), "groups": GroupBy(ArraySum()).of(lambda a: (int(a[1]) % 3, a)), "n": Count()}
    result = aggregate(func, range(N), reducers, pool=pool, **how)
    assert result["n"] == N
    assert np.array_equal(result["sum"], expected)
    assert np.array_equal(sum(result["groups"].values()), expected)


def test_counts_that_are_filled_again_are_added_once_each(pool: Any) -> None:
    assert aggregate(Counting(), range(N), MergeCounts(), pool=pool) == {"even": N // 2, "odd": N // 2, "all": N}


class Counting:
    """Fills one dict."""

    def __call__(self, x: int) -> Any:
        counts = buffers.buffers.__dict__.setdefault("counts", {})
        counts.clear()
        counts.update({"all": 1, "odd" if x % 2 else "even": 1})
        return counts


def test_functions_of_a_reducer_may_fill_a_buffer_too(pool: Any) -> None:
    expected = [total(cleared(x)) for x in range(N)]
    assert aggregate(int, range(N), Collect().of(cleared).then(totals), pool=pool) == expected
    assert aggregate(twice, range(N), Collect().of(cleared).flat().then(totals), pool=pool) == [
        value for value in expected for _ in range(2)
    ]


def twice(x: int) -> list[int]:
    return [x, x]


def test_an_iterable_of_your_own_may_yield_one_buffer(pool: Any) -> None:
    expected = [total(out(x + k)) for x in range(50) for k in range(3)]
    assert aggregate(Rows, range(50), Collect().flat().then(totals), pool=pool) == expected


class Rows:
    """Yields one buffer, each time it is iterated."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Any]:
        return yields_one(self.x)


def test_an_iterable_that_yields_one_buffer_and_is_used_up_is_that_items_failure() -> None:
    with pytest.warns(SkippedItems, match="again and again"):
        result = aggregate(Once, range(3), Count().flat(), pool=SerialPool(), on_error="skip")
    assert result == 0


class Once(Rows):
    """Can be iterated only once, and is not an iterator."""

    def __init__(self, x: int) -> None:
        self.rows = yields_one(x)

    def __iter__(self) -> Iterator[Any]:
        return self.rows  # type: ignore[no-any-return]


def test_an_item_that_fails_next_to_a_buffer_fails_alone_and_once(pool: Any) -> None:
    failed: list[int] = []
    result = aggregate(
        fails_at_times,
        range(N),
        Collect().then(totals),
        pool=pool,
        on_error=lambda failure: failed.append(failure.index),
    )
    assert sorted(failed) == [x for x in range(N) if x % 10 == 3]
    assert result == [total(cleared(x)) for x in range(N) if x % 10 != 3]


def fails_at_times(x: int) -> Any:
    if x % 10 == 3:
        raise ValueError(x)
    return cleared(x)


def test_an_item_that_is_mapped_again_draws_the_same_random_numbers(pool: Any) -> None:
    expected = [float(np.random.default_rng((7, x)).random()) for x in range(N)]
    result = aggregate(drawn_at_random, range(N), Collect().of(operator.itemgetter(0)), pool=pool)
    assert result == expected
    kept = aggregate(drawn_at_random, range(N), Collect().then(lambda lists: [x[0] for x in lists]), pool=pool)
    assert kept == expected


def test_what_is_fresh_is_neither_copied_nor_made_twice() -> None:
    made: list[int] = []

    def fresh(x: int) -> list[int]:
        result = [x]
        made.append(id(result))
        return result

    kept = aggregate(fresh, range(N), Collect(), pool=SerialPool())
    assert [id(result) for result in kept] == made


def test_what_is_folded_at_once_is_not_copied() -> None:
    copies: list[int] = []

    class Large(list[int]):
        def __deepcopy__(self, memo: Any) -> Any:
            copies.append(1)
            return Large(self)

    same = Large()
    assert aggregate(lambda x: same, range(N), Count(), pool=SerialPool()) == N
    buffer = np.zeros(3)

    class Counted(np.ndarray):
        __module__ = "numpy"

        def __deepcopy__(self, memo: Any) -> Any:
            copies.append(1)
            return super().__deepcopy__(memo)

    view = buffer.view(Counted)
    result = aggregate(lambda x: np.add(x, 0, out=view), range(N), ArraySum(), pool=SerialPool())
    assert result.tolist() == [sum(range(N))] * 3
    assert not copies


@pytest.mark.parametrize("part", [lambda item: item, operator.itemgetter("tags"), lambda item: (item["tags"], 1)])
def test_parts_of_items_go_by_reference_where_a_pool_says_so(part: Any) -> None:
    items = [{"tags": [x]} for x in range(N)]
    calls: list[int] = []

    def counted(item: Any) -> Any:
        calls.append(item["tags"][0])
        return part(item)

    kept = aggregate(counted, items, Collect(), pool=SerialPool())
    first = [result[0] if isinstance(result, tuple) else result for result in kept]
    assert all(result is part(item) or result is item["tags"] for result, item in zip(first, items, strict=True))
    assert calls == list(range(N))


@given(
    st.lists(st.sampled_from(["fresh", 0, 1, 2, 3, None]), min_size=2, max_size=60),
    st.integers(1, 20),
    st.sampled_from([None, Stream(), Ordered(), Tree()]),
)
def test_whichever_buffers_are_returned_when_no_value_is_lost(pattern: Any, chunksize: int, strategy: Any) -> None:
    ring: list[list[int]] = [[], [], [], []]

    def func(x: int) -> Any:
        which = pattern[x]
        if which is None:
            return None
        result = [] if which == "fresh" else ring[which]
        result[:] = [x, x * x]
        return result

    result = aggregate(func, range(len(pattern)), Collect(), pool=SerialPool(), chunksize=chunksize, strategy=strategy)
    assert result == [None if which is None else [x, x * x] for x, which in enumerate(pattern)]


def test_reduce_takes_the_first_buffer_as_its_state(pool: Any) -> None:
    expected = np.sum([out(x).copy() for x in range(N)], axis=0)
    assert np.array_equal(aggregate(out, range(N), Reduce(operator.add), pool=pool), expected)
    assert np.array_equal(aggregate(out, range(N), operator.add, pool=pool), expected)
    assert np.array_equal(aggregate(out, range(N), operator.iadd, pool=pool), expected)


def test_mutable_is_what_can_change_and_a_copy_is_another() -> None:
    class Slots:
        __slots__ = ("x",)

    class Sealed(tuple):
        __slots__ = ()

    for value in ([], {}, set(), bytearray(), np.zeros(1), buffers.State(), Slots(), memoryview(bytearray(4))):
        assert mutable(type(value)), value
        assert copied(value) is not value
    for value in (1, "a", (), None, np.float64(1), frozenset(), object(), len, list, Sealed(), operator, lambda: 0):
        assert not mutable(type(value)), value
    beside = (operator, threading.Lock(), [[1]])
    assert copied(beside)[1] is beside[1]
    assert copied(beside)[2][0] is not beside[2][0]
    grid = memoryview(bytearray(8)).cast("i", (1, 2))
    assert copied(grid).tolist() == grid.tolist()
