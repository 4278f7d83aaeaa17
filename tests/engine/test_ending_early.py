"""A run that ends early has the result of a plain loop, stops its workers, and says how it ended."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolagg import (
    AllTrue,
    AnyTrue,
    Count,
    First,
    ProcessPool,
    Reducer,
    SerialPool,
    ThreadPool,
    aggregate,
    snapshots,
)
from poolagg.events import ChunkDone, Progressed, RunEnded, RunEvent
from poolagg.reducers import GroupBy, as_reducer
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree
from poolagg.testing import check_reducer

# -- against a plain loop ----------------------------------------------------------------------------------------------


class Sentence(Reducer[list[str]]):
    """The words up to the first full stop. Each item has one word."""

    ordered = True

    def init(self) -> list[str]:
        return []

    def step(self, acc: list[str], prepared: str) -> list[str]:
        return [*acc, prepared]

    def merge(self, acc: list[str], other: list[str]) -> list[str]:
        return acc + other

    def finish(self, acc: list[str]) -> list[str]:
        return acc[: acc.index(".")] if "." in acc else list(acc)

    def done(self, acc: list[str], settled: int) -> bool:
        return "." in acc[:settled]


class Bounded(GroupBy[Any]):
    """How often each key was met, until one was met three times."""

    def done(self, acc: dict[Any, int], settled: int) -> bool:
        return any(count >= 3 for count in acc.values())

    @property
    def ends_early(self) -> bool:
        return True


def even(x: int) -> bool:
    return x % 2 == 0


Loop = Callable[[list[list[int]]], Any]


def first(values: Iterable[int], keep: Callable[[int], Any] = lambda _: True) -> int | None:
    return next(filter(keep, values), None)


def first_of_each(values: list[int]) -> dict[int, int | None]:
    return {key: first((x for x in values if x % 3 == key), even) for key in {x % 3 for x in values}}


FORMS: list[tuple[Any, Loop]] = [
    (First().of(len), lambda xs: first(map(len, xs))),
    (First().of(sum).where(any), lambda xs: first(sum(x) for x in xs if any(x))),
    (First().where(even).flat(), lambda xs: first(flat(xs), even)),
    (First().where(even).flat().then(str), lambda xs: str(first(flat(xs), even))),
    (AnyTrue(), any),
    (AnyTrue().of(even).flat(), lambda xs: any(map(even, flat(xs)))),
    (AllTrue(), all),
    (AllTrue().of(even).where(bool).flat().then(str), lambda xs: str(all(map(even, filter(None, flat(xs)))))),
    ((First().of(len), {"any": AnyTrue().flat(), "all": AllTrue()}),
     lambda xs: (first(map(len, xs)), {"any": any(flat(xs)), "all": all(xs)})),
    ((First().of(sum).where(any), Count()), lambda xs: (first(sum(x) for x in xs if any(x)), len(xs))),
    (First().where(even).by(lambda x: x % 3).flat(), lambda xs: first_of_each(list(flat(xs)))),
    (Sentence().of(lambda x: "." if x == [9] else "a"),
     lambda xs: ["a" for _ in itertools.takewhile(lambda x: x != [9], xs)]),
]  # fmt: skip
flat = itertools.chain.from_iterable


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FORMS), st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=60), st.sampled_from([1, 3]),
    st.sampled_from([None, Stream(), Ordered(), Combine(), Tree()]), st.sampled_from([None, 1, 3, 10]),
    st.frozensets(st.integers(0, 60), max_size=5), st.booleans(),
)  # fmt: skip
def test_it_has_the_result_of_a_plain_loop(form, partials, workers, strategy, chunksize, bad, reproducible):
    """For every form of a reducer, whatever the strategy and the chunks are, and whichever items are left out."""
    spelled, loop = form
    if strategy in (Stream(), Combine()) and (reproducible or as_reducer(spelled).ordered):
        strategy = None

    def func(index: int) -> list[int]:
        if index in bad:
            raise ValueError(index)
        return partials[index]

    result = aggregate(
        func, range(len(partials)), spelled, pool=SerialPool() if workers == 1 else ThreadPool(workers),
        strategy=strategy, chunksize=chunksize, reproducible=reproducible, on_error=lambda _: None,
    )  # fmt: skip
    assert result == loop([partial for index, partial in enumerate(partials) if index not in bad])


def test_the_reducers_of_this_file_keep_the_laws():
    """Those of `done`, too, and when items are missing between those that came."""
    check_reducer(Sentence(), ["a", "b", ".", "c", "."])
    check_reducer(First().where(even), [1, 2, 3, 4])
    check_reducer({"any": AnyTrue(), "all": (AllTrue(), First())}, [0, 1, "", "a"])


@pytest.mark.parametrize("strategy", [None, Combine(), Partition(3), Stream()])
def test_a_keyed_reducer_of_the_users_own_may_end(strategy):
    """Also where its states arrive in parts."""
    reducer = Bounded(Count()).of(lambda x: (x, x))
    counts = aggregate(lambda x: x % 7, itertools.count(), reducer, pool=SerialPool(), strategy=strategy)
    assert max(counts.values()) >= 3


@pytest.mark.parametrize("pool", [SerialPool(), ThreadPool(2), ProcessPool(2)], ids=repr)
def test_a_reproducible_run_may_end(pool):
    """Over an endless input."""
    reducer = (First().where(lambda x: x > 500), AnyTrue().where(lambda x: x == 700))
    with pool:
        assert aggregate(abs, itertools.count(), reducer, pool=pool, reproducible=True) == (501, True)


# -- what runs in vain -------------------------------------------------------------------------------------------------


def test_workers_that_are_busy_with_later_items_are_let_go_of(tmp_path):
    """Within a second, and the pool serves the next run."""

    def func(x: int) -> int:
        while x:
            signal.pause()
        return x

    with ProcessPool(2) as pool:
        for _ in range(2):
            began = time.monotonic()
            assert aggregate(func, itertools.count(), First(), pool=pool, chunksize=1) == 0
            assert time.monotonic() - began < 1.0 + 2.0  # the machine may be busy
        assert aggregate(abs, range(10), AllTrue(), pool=pool) is False


@pytest.mark.parametrize("make", [lambda: ThreadPool(2), lambda: ProcessPool(2)], ids=["threads", "processes"])
def test_beyond_a_hit_less_than_a_second_of_work_is_pulled(make, tmp_path):
    """Though an item before the hit takes much longer."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    hit, pulled, before, opened = 40, 0, list[int](), False

    def source() -> Iterator[int]:
        nonlocal pulled
        for pulled in itertools.count(1):
            yield pulled - 1

    def func(x: int) -> int:
        if x == 0:
            gate.read_bytes()  # waits until the gate is opened
        time.sleep(0.001)
        return x

    def opens_when_nothing_more_is_pulled(event: RunEvent) -> None:
        nonlocal opened
        if isinstance(event, Progressed) and pulled > hit:
            before.append(pulled)
            if not opened and (before[-5:] == [pulled] * 5 or pulled > 10_000):
                opened = True
                os.close(os.open(gate, os.O_WRONLY))

    reducer = First().where(lambda x: x >= hit)
    with make() as pool:
        assert aggregate(func, source(), reducer, pool=pool, watch=opens_when_nothing_more_is_pulled) == hit
    assert pulled - hit < 1000


def test_a_killed_worker_does_not_change_the_result(tmp_path):
    """An item before the hit that takes its worker down runs again."""

    def func(x: int) -> int:
        if x == 20 and not Path(tmp_path, "killed").exists():
            Path(tmp_path, "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    reducer = First().where(lambda x: x >= 20)
    assert aggregate(func, itertools.count(), reducer, pool=ProcessPool(2), chunksize=4) == 20
    assert Path(tmp_path, "killed").exists()


# -- what is told ------------------------------------------------------------------------------------------------------


class UntilThirty(Reducer[int]):
    """The number of partials, of which thirty are enough."""

    def init(self) -> int:
        return 0

    def step(self, acc: int, prepared: Any) -> int:
        return acc + 1

    def merge(self, acc: int, other: int) -> int:
        return acc + other

    def done(self, acc: int, settled: int) -> bool:
        return acc >= 30


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
@pytest.mark.parametrize("total", [None, 10**6])
def test_the_last_snapshot_is_final_and_counts_the_items_in_the_result(strategy, total):
    """Whatever else has run, and whatever the total is."""
    items = itertools.count() if total is None else range(total)
    with snapshots(abs, items, UntilThirty(), 1e-9, pool=ThreadPool(3), strategy=strategy, chunksize=7) as looks:
        *growing, last = looks
    assert last.final
    assert last.value == last.done >= 30
    assert last.total == total
    assert all(look.value == look.done <= last.done and not look.final for look in growing)


@pytest.mark.parametrize("items", [range(9), itertools.count()], ids=["finite", "endless"])
def test_watchers_are_told_that_a_run_ended_early(items):
    """And how many items are in the result; a run that needed all items did not end early."""
    ends: list[RunEnded] = []
    watch = lambda event: ends.append(event) if isinstance(event, RunEnded) else None
    aggregate(abs, items, First(), pool=SerialPool(), chunksize=3, watch=watch)
    aggregate(abs, range(9), First().where(lambda x: x > 9), pool=SerialPool(), chunksize=3, watch=watch)
    assert [(end.done, end.early, end.error) for end in ends] == [(3, True, None), (9, False, None)]


def test_a_done_of_old_is_refused_at_the_call():
    """Before anything is pulled, in whatever reducer it is, and the new form is shown."""

    class Old(First):
        def done(self, acc: Any) -> bool:  # type: ignore[override]
            return acc is not None

    pulled = iter(range(3))
    for reducer in (Old(), Old().where(bool).flat(), {"n": Count(), "parts": (Count(), Old())}):
        with pytest.raises(TypeError, match=r"Old\(\).done cannot be .* write done\(self, acc, settled\)"):
            aggregate(abs, pulled, reducer)
    assert next(pulled) == 0


def test_chunks_that_ran_are_told_until_the_end():
    """Each chunk whose items are in the result has its event."""
    told: list[int] = []
    watch = lambda event: told.extend(range(event.start, event.stop)) if isinstance(event, ChunkDone) else None
    aggregate(abs, itertools.count(), First().where(lambda x: x == 20), pool=ThreadPool(2), chunksize=5, watch=watch)
    assert set(told) >= set(range(21))
