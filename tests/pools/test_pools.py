"""One contract, many pools: whatever runs the chunks, the result and the errors are the same.

A pool is one line in `KINDS`. Its traits say what it cannot do, and nothing else may differ.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import math
import multiprocessing.pool
import operator
import os
import pickle
import queue
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask_cluster
import faults_elsewhere
import numpy as np
import pytest
import tasks
from tasks import Attempts, Failing, Flaky, Rough, Until, identity, inverse, rough, short, square

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
    PoolBusy,
    ProcessPool,
    Reduce,
    ReducerError,
    RemoteError,
    Report,
    Sample,
    SerialPool,
    SkippedItems,
    Std,
    Sum,
    TaskError,
    ThreadPool,
    Top,
    Unique,
    Variance,
    WorkerLost,
    aggregate,
    events,
    per_worker,
    rng,
    share,
    snapshots,
    star,
    with_item,
)
from poolagg.reducers import as_reducer, reduced
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree


@dataclass(frozen=True)
class Kind:
    """A way to make a pool, and its traits."""

    name: str
    make: Callable[..., Any]
    pickles: bool = True
    """Items and partials are copied on the way, so they must pickle."""
    processes: bool = True
    """Workers are processes of our own, which can be killed, and have an initializer, an environment, ..."""
    slots: int = 2
    """Workers."""
    far: bool = False
    """A chunk costs some milliseconds: a test of many runs sends few."""
    cluster: bool = False
    """Workers may be on other machines, and can end items all the same."""
    ours: bool = True
    """A pool of ours: it runs one job at a time and has `imap_unordered`."""

    def __str__(self) -> str:
        return self.name


@pytest.fixture(scope="module", autouse=True)
def clusters() -> Iterator[None]:
    """A cluster for all tests of this file, there before anybody counts what a test leaves."""
    with contextlib.ExitStack() as stack:
        if ONLY == "dask":
            cluster = stack.enter_context(dask_cluster.running(workers=2))
            stack.enter_context(dask_cluster.client(cluster.address))
            ADDRESSES["dask"] = cluster.address
        if ONLY in ON_RAY:
            from poolagg.pools import RayPool

            stack.enter_context(RayPool(workers=2))
        if ONLY in faults_elsewhere.POOLS:
            KEPT[ONLY] = stack.enter_context(faults_elsewhere.POOLS[ONLY]())
            aggregate(square, range(100), Sum(), pool=KEPT[ONLY])  # its threads are there
        yield


ADDRESSES: dict[str, str] = {}

KEPT: dict[str, Any] = {}
"""An executor that is kept for all tests of a process of its own."""

ONLY = os.environ.get("POOLAGG_ONLY")
"""The kind that needs a separate process, since it has threads, which a fork would break."""

ON_RAY = ("ray", "ray.util.multiprocessing.Pool")

if ONLY in ON_RAY:

    @pytest.fixture(autouse=True)
    def nothing_left_behind() -> None:
        """Ray's workers and its connections to them come and go; others count what it leaves in the end."""


def on_ray() -> Any:
    from poolagg.pools import RayPool

    return RayPool()


_theirs: list[Any] = []


def theirs(make: Callable[[], Any]) -> Any:
    """Somebody else's pool, to be shut down after the test: poolagg leaves it as it is."""
    _theirs.append(make())
    return _theirs[-1]


@pytest.fixture(autouse=True)
def shut_down_theirs(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    request.node.funcargs.pop("pool", None)
    while _theirs:
        pool = _theirs.pop()
        if isinstance(pool, Executor):
            pool.shutdown(wait=True, cancel_futures=True)
        elif isinstance(pool, multiprocessing.pool.Pool):
            pool.close()
            pool.join()
        else:
            pool.close()
        del pool
        gc.collect()  # a multiprocessing.Pool holds its pipes until it is collected


KINDS = [
    Kind("forkserver", functools.partial(ProcessPool, 2, start_method="forkserver")),
    Kind("spawn", functools.partial(ProcessPool, 2, start_method="spawn")),
    Kind("fork", functools.partial(ProcessPool, 2, start_method="fork")),
    Kind("threads", functools.partial(ThreadPool, 2), pickles=False, processes=False),
    Kind("serial", SerialPool, pickles=False, processes=False, slots=1),
    Kind("executor of processes", lambda: theirs(lambda: ProcessPoolExecutor(2)), processes=False, ours=False),
    Kind("executor of threads", lambda: theirs(lambda: ThreadPoolExecutor(2)), False, processes=False, ours=False),
    Kind("multiprocessing.Pool", lambda: theirs(lambda: multiprocessing.Pool(2)), processes=False, ours=False),
]


ELSEWHERE = {
    "dask": functools.partial(Kind, make=lambda: theirs(lambda: dask_cluster.client(ADDRESSES["dask"])), cluster=True),
    "ray": functools.partial(Kind, make=on_ray, cluster=True),
}

for name in ("loky", "executorlib", "mpi4py.futures", "ray.util.multiprocessing.Pool"):
    ELSEWHERE[name] = functools.partial(Kind, make=functools.partial(KEPT.get, name))
if ONLY is not None:
    KINDS = [ELSEWHERE[ONLY](ONLY, processes=False, ours=False, far=True)]


def types_of(**traits: bool) -> Callable[[Any], Any]:
    """Run the test for the kinds with these traits only; where there is none of them it is no test."""
    fit = [kind for kind in KINDS if all(getattr(kind, name) == value for name, value in traits.items())]
    if not fit:
        return lambda test: None
    return pytest.mark.parametrize("kind", fit, ids=[kind.name for kind in fit])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test is for all kinds unless it says which."""
    if "kind" in metafunc.fixturenames and not any(
        "kind" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")
    ):
        metafunc.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def entered(kind: Kind, make: Callable[[], Any]) -> contextlib.AbstractContextManager[Any]:
    """A pool of that kind, closed in the end, unless it is kept for other tests."""
    if kind.name in KEPT:
        return contextlib.nullcontext(KEPT[kind.name])
    pool = make()
    # Leaving its context would kill its workers, and it waits for ever if one was writing a result just then.
    return contextlib.closing(pool) if isinstance(pool, multiprocessing.pool.Pool) else pool


@pytest.fixture
def pool(kind: Kind) -> Iterator[Any]:
    """A pool that is kept for the test's runs."""
    with entered(kind, kind.make) as pool:
        yield pool


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


# -- the input ---------------------------------------------------------------------------------------------------------


def test_an_endless_generator_and_a_reducer_that_is_done(pool: Any) -> None:
    assert len(aggregate(short, itertools.count(), Until(20), pool=pool)) >= 20
    assert aggregate(identity, itertools.count(5), First(), pool=pool) == 5


def test_the_input_is_pulled_on_the_callers_thread_and_not_far_ahead(pool: Any, kind: Kind) -> None:
    pulled = applied = furthest = 0
    threads = set()

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in range(400):
            threads.add(threading.get_ident())
            pulled += 1
            yield i

    def slow(partial: int) -> None:
        nonlocal applied, furthest
        furthest = max(furthest, pulled - applied)
        applied += 1
        time.sleep(0.0005)

    for ordered in (False, True):
        pulled = applied = furthest = 0
        aggregate(identity, source(), Into(slow, ordered=ordered), pool=pool, chunksize=5)
        assert applied == 400
        # Two chunks in each worker, one in hand, one being merged; in order, a window of eight a worker.
        slots = kind.slots if kind.ours else 2 * kind.slots
        assert furthest <= 5 * (8 * slots + 2 if ordered else 2 * slots + 2)
    assert threads == {threading.get_ident()}


def test_nothing_is_pulled_after_a_failure(pool: Any) -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in itertools.count():
            pulled += 1
            yield i

    with pytest.raises(TaskError):
        aggregate(lambda x: 1 / (3 - x), source(), Sum(), pool=pool, chunksize=1)
    before = pulled
    time.sleep(0.01)
    assert pulled == before


@types_of(pickles=True)
def test_a_generator_may_reuse_its_buffer(pool: Any) -> None:
    def source() -> Iterator[Any]:
        buffer, items, array = bytearray(1), [0], np.zeros(1)
        for i in range(200):
            buffer[0] = items[0] = array[0] = i
            yield (buffer, items, array)

    def total(item: Any) -> int:
        return int(item[0][0] + item[1][0] + item[2][0])

    assert aggregate(total, source(), Collect(), pool=pool) == [3 * i for i in range(200)]


def test_what_the_input_raises_propagates_with_a_note_and_the_pool_lives_on(pool: Any) -> None:
    def source() -> Iterator[int]:
        yield from range(25)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        aggregate(square, source(), Sum(), pool=pool)
    assert "item 25" in caught.value.__notes__[0]
    assert aggregate(square, range(10), Sum(), pool=pool) == 285


def test_iter_is_called_once_on_the_input(kind: Kind) -> None:
    class Source:
        calls = 0

        def __iter__(self) -> Iterator[int]:
            self.calls += 1
            return iter(range(5))

    source = Source()
    assert aggregate(identity, source, Sum(), pool=kind.make()) == 10
    assert source.calls == 1


# -- failing items -----------------------------------------------------------------------------------------------------


def test_by_default_an_item_that_raises_runs_once_and_ends_the_run(pool: Any, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {7: "raise"})
    with pytest.raises(TaskError) as caught:
        aggregate(func, range(20), Sum(), pool=pool)
    assert func.attempts.at(7) == 1
    error = caught.value
    assert (error.index, error.item, error.attempts) == (7, 7, 1)
    assert isinstance(error.__cause__, ValueError)
    assert "as told" in str(error)
    assert 'on_error="skip"' in str(error)


@types_of(pickles=True)
def test_the_cause_carries_the_workers_traceback(pool: Any) -> None:
    with pytest.raises(TaskError) as caught:
        aggregate(inverse, [1, 0], Sum(), pool=pool)
    (note,) = caught.value.__cause__.__notes__
    assert "In the worker" in note
    assert "in inverse" in note
    assert "return 1 / x" in note


def test_retries_is_the_number_of_reruns(pool: Any, tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    twice = Flaky(tmp_path / "a", {3: "raise", 11: "raise"}, times=2)
    assert aggregate(twice, range(20), Collect(), pool=pool, retries=2) == list(range(20))
    assert twice.attempts.at(3) == twice.attempts.at(11) == 3
    always = Flaky(tmp_path / "b", {3: "raise"})
    with pytest.raises(TaskError, match="3 times") as caught:
        aggregate(always, range(20), Sum(), pool=pool, retries=2)
    assert caught.value.attempts == always.attempts.at(3) == 3


def ours(warned: Any) -> list[Any]:
    """Of some warnings: from 3.12 on Python warns of its executors' forks where there are threads."""
    return [warning for warning in warned if warning.category is not DeprecationWarning]


def test_skip_leaves_out_what_failed_and_warns_once(pool: Any, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {3: "raise", 4: "raise", 90: "raise", 99: "raise"})
    for number, strategy in enumerate([None, Stream(), Ordered(), Tree()], 1):
        with pytest.warns(SkippedItems) as warned:
            result = aggregate(func, range(100), Collect(), pool=pool, on_error="skip", strategy=strategy)
        assert result == [x for x in range(100) if x not in func.faults]
        (told,) = ours(warned)
        assert told.category is SkippedItems
        assert "4 of 100 items failed" in str(told.message)
        assert told.filename == __file__
        if strategy is None:
            assert func.attempts.at(3) == number


def test_skip_after_retries(pool: Any, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {5: "raise"})
    with pytest.warns(SkippedItems):
        assert aggregate(func, range(10), Sum(), pool=pool, on_error="skip", retries=1) == 40
    assert func.attempts.at(5) == 2


def test_a_callable_gets_each_failed_item_instead_of_a_warning(pool: Any) -> None:
    failed: list[events.ItemFailed] = []
    result = aggregate(inverse, [1, 0, 2, 0], Sum(), pool=pool, on_error=failed.append)
    assert result == 1.5
    assert sorted(event.index for event in failed) == [1, 3]
    assert all(isinstance(event.error, ZeroDivisionError) and event.item == 0 for event in failed)
    assert not any(event.will_retry for event in failed)


def test_all_items_skipped_is_the_result_of_nothing(pool: Any) -> None:
    with pytest.warns(SkippedItems):
        assert aggregate(inverse, [0] * 30, Sum(), pool=pool, on_error="skip") == 0


def test_exceptions_that_do_not_pickle_are_reported_by_name_and_traceback(kind: Kind, pool: Any) -> None:
    def two_arguments(x: int) -> None:
        raise tasks.TwoArguments(4, "two")

    def holds_a_lock(x: int) -> None:
        raise tasks.HoldsALock("locked")

    for func, name in [(two_arguments, "TwoArguments"), (holds_a_lock, "HoldsALock")]:
        with pytest.raises(TaskError, match=name) as caught:
            aggregate(func, [1], Sum(), pool=pool)
        cause = caught.value.__cause__
        if kind.pickles:
            assert isinstance(cause, RemoteError)
            assert cause.kind == name
            assert f"in {func.__name__}" in cause.trace
        else:
            assert type(cause).__name__ == name


@pytest.mark.parametrize(
    "error", [StopIteration, SystemExit, MemoryError, GeneratorExit, KeyboardInterrupt, tasks.Root, RecursionError]
)
def test_whatever_func_raises_is_the_items_failure_and_no_more(kind: Kind, pool: Any, error: Any) -> None:
    def func(x: int) -> int:
        if x == 2:
            raise error("in the task")
        return x

    if error is KeyboardInterrupt and kind.name == "serial":  # there it is the user's Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            aggregate(func, range(5), Sum(), pool=pool)
        return
    with pytest.raises(TaskError) as caught:
        aggregate(func, range(5), Sum(), pool=pool)
    assert caught.value.index == 2
    if error is StopIteration:
        assert "StopIteration" in str(caught.value.__cause__)
    else:
        assert isinstance(caught.value.__cause__, error)
    with pytest.warns(SkippedItems):
        assert aggregate(func, range(5), Collect(), pool=pool, on_error="skip") == [0, 1, 3, 4]


@types_of(pickles=True)
@pytest.mark.parametrize("strategy", [None, Stream(), Ordered(), Tree()], ids=repr)
def test_a_partial_that_does_not_pickle_costs_one_item(pool: Any, strategy: Any) -> None:
    others = [x for x in range(60) if x not in (13, 14, 59)]
    items = [threading.Lock() if x in (13, 14, 59) else x for x in range(60)]
    unopenable = [tasks.DoesNotUnpickle() if x in (13, 14, 59) else x for x in range(60)]
    for func, source in [
        (identity, items),
        (identity, unopenable),
        (tasks.unpicklable_at(13, 14, 59), range(60)),
        (tasks.unopenable_at(13, 14, 59), range(60)),
    ]:
        failed: list[events.ItemFailed] = []
        result = aggregate(func, source, Collect(), pool=pool, strategy=strategy, on_error=failed.append)
        assert result == others
        assert sorted(event.index for event in failed) == [13, 14, 59]
    with pytest.raises(TaskError, match="does not pickle") as caught:
        aggregate(identity, items[:20], Collect(), pool=pool, strategy=strategy)
    assert caught.value.index in (13, 14), "whichever comes first, if they are in two chunks"
    with pytest.raises(TaskError) as caught:
        aggregate(tasks.unpicklable_at(3), range(20), Collect(), pool=pool, strategy=strategy)
    assert caught.value.index == 3


@types_of(pickles=True)
def test_a_func_or_reducer_that_does_not_pickle_is_refused_in_words(pool: Any) -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"func.*can't be sent"):
        aggregate(lambda x: lock, [1], Sum(), pool=pool)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


@types_of(pickles=True)
def test_an_accumulator_that_never_pickles_is_the_reducers_fault(pool: Any) -> None:
    locks = Fold(lambda acc, x: acc, init=threading.Lock, merge=lambda a, b: a)
    with pytest.raises(ReducerError, match="does not pickle"):
        aggregate(identity, range(10), locks, pool=pool)


@pytest.mark.parametrize("error", [ValueError, SystemExit, tasks.Root])
def test_a_reducer_that_raises_in_step_ends_the_run(kind: Kind, pool: Any, error: Any) -> None:
    if kind.name != "serial":
        with pytest.raises(ReducerError, match="in step"):
            aggregate(identity, range(10), Failing("step", error), pool=pool)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_what_a_fold_in_the_parent_raises_propagates_with_a_note(pool: Any) -> None:
    def apply(partial: int) -> None:
        if partial == 16:
            raise LookupError("no row 16")

    with pytest.raises(LookupError, match="no row 16") as caught:
        aggregate(square, range(10), Into(apply), pool=pool)
    assert any("item 4" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="in finish"):
        aggregate(square, range(10), Failing("finish"), pool=pool)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_stop_iteration_in_apply_is_an_error_like_any_other(pool: Any) -> None:
    """It does not end the run early, as if it were done."""

    def apply(partial: int) -> None:
        if partial == 4:
            next(iter(()))

    with pytest.raises(StopIteration) as caught:
        aggregate(square, range(10), Into(apply), pool=pool)
    assert any("item 2" in note for note in caught.value.__notes__)


def test_an_error_in_on_error_ends_the_run(pool: Any) -> None:
    def strict(failed: events.ItemFailed) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        aggregate(inverse, [0, 1], Sum(), pool=pool, on_error=strict)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_a_failing_prepare_is_the_items_failure(pool: Any) -> None:
    with pytest.raises(TaskError) as caught:
        aggregate(identity, [1, 2, "x"], Sum().of(math.sqrt), pool=pool)
    assert caught.value.index == 2


# -- one pool, many runs -----------------------------------------------------------------------------------------------


@types_of(ours=True)
def test_a_pool_is_kept_for_many_runs_with_the_same_workers(kind: Kind, pool: Any) -> None:
    runs = [aggregate(tasks.pid_of, range(50), Unique(), pool=pool) for _ in range(5)]
    assert len(set.union(*runs)) <= pool.workers
    assert (os.getpid() in runs[0]) != kind.processes


@types_of(ours=True)
def test_a_pool_runs_one_job_at_a_time_and_says_so_at_once(pool: Any) -> None:
    def apply(partial: int) -> None:
        aggregate(square, [1], Sum(), pool=pool)

    with pytest.raises(PoolBusy, match="running another job"):
        aggregate(square, range(10), Into(apply), pool=pool)
    first = snapshots(short, range(100), Sum(), every=0.001, pool=pool)
    second = snapshots(short, range(100), Sum(), every=0.001, pool=pool)
    next(first)
    with pytest.raises(PoolBusy):
        next(second)
    with pytest.raises(PoolBusy):
        aggregate(square, [1], Sum(), pool=pool)
    assert list(first)[-1].value == sum(range(100)), "and the first goes on"
    assert aggregate(square, [3], Sum(), pool=pool) == 9


@types_of(ours=True)
def test_a_pool_that_was_not_entered_serves_one_run(kind: Kind) -> None:
    pool = kind.make()
    assert aggregate(square, [3], Sum(), pool=pool) == 9
    with pytest.raises(ValueError, match="closed"):
        aggregate(square, [3], Sum(), pool=pool)


@types_of(ours=True)
def test_closing_a_pool_ends_the_run_that_is_left_hanging(kind: Kind) -> None:
    with kind.make() as pool:
        results = pool.imap_unordered(short, itertools.count())
        next(results)
    with pytest.raises(ValueError, match="is closed"):
        for _ in results:
            pass


@types_of(ours=True)
def test_a_pool_closed_by_another_thread_ends_its_run_there(kind: Kind) -> None:
    pool, under_way, told = kind.make().__enter__(), threading.Event(), queue.SimpleQueue[str]()

    def watch(event: Any) -> None:
        if isinstance(event, events.ChunkDone):
            under_way.set()

    def run() -> None:
        try:
            aggregate(short, itertools.count(), Sum(), pool=pool, watch=watch)
        except ValueError as error:
            told.put(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    under_way.wait()
    pool.close()
    assert "is closed" in told.get(timeout=20)
    thread.join()


@types_of(ours=True)
def test_a_pool_closed_in_the_middle_of_its_own_run_ends_it(kind: Kind) -> None:
    with kind.make() as pool, pytest.raises(ValueError, match="is closed"):
        aggregate(short, itertools.count(), Into(lambda partial: pool.close()), pool=pool)


def test_pools_within_pools(pool: Any) -> None:
    def inner(x: int) -> int:
        with ThreadPool(2) as threads:
            return aggregate(square, range(x), Sum(), pool=threads)

    assert aggregate(inner, [3, 4], Collect(), pool=pool) == [5, 14]


def test_process_pools_within_pools(pool: Any) -> None:
    def inner(x: int) -> int:
        return aggregate(square, range(x), Sum(), workers=2)

    assert aggregate(inner, [3, 4], Collect(), pool=pool) == [5, 14]


def test_an_error_of_a_pool_within_a_pool_is_the_items_own(pool: Any) -> None:
    def inner(x: int) -> Any:
        return aggregate(lambda y: os._exit(3), [x], Sum(), pool=ProcessPool(1, start_method="fork"), retries=0)

    with pytest.raises(TaskError) as caught:
        aggregate(inner, [8], Sum(), pool=pool)
    assert isinstance(caught.value.__cause__, WorkerLost)
    assert caught.value.index == 0


def test_a_run_may_be_driven_from_any_thread(kind: Kind) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(aggregate(square, range(100), Sum(), pool=kind.make())))
    thread.start()
    thread.join()
    assert results == [sum(map(square, range(100)))]


@types_of(ours=True)
def test_twenty_pools_leave_no_more_than_one(kind: Kind) -> None:
    import leaks

    aggregate(square, range(10), Sum(), pool=kind.make())
    before = leaks.held()
    for _ in range(5 if kind.name == "spawn" else 20):
        with kind.make() as pool:
            aggregate(square, range(10), Sum(), pool=pool)
    assert not leaks.left_behind(before)


# -- workers' own state ------------------------------------------------------------------------------------------------


@types_of(processes=True)
def test_what_an_initializer_sets_func_sees(kind: Kind) -> None:
    def start(n: int) -> None:
        tasks.setting = n  # type: ignore[attr-defined]

    def read(x: int) -> int:
        return tasks.setting + x  # type: ignore[attr-defined]

    with kind.make(initializer=start, initargs=(10,)) as pool:
        assert aggregate(read, range(3), Collect(), pool=pool) == [10, 11, 12]
        assert aggregate(read, range(3), Collect(), pool=pool) == [10, 11, 12]
    assert not hasattr(tasks, "setting")


@types_of(processes=True)
@pytest.mark.parametrize("error", [ConnectionError, SystemExit, tasks.TwoArguments, EOFError])
def test_an_initializer_that_raises_is_named_at_once_and_every_time(kind: Kind, error: Any) -> None:
    def start() -> None:
        raise error(*("no", "database")[: 2 if error is tasks.TwoArguments else 1])

    with kind.make(initializer=start) as pool:
        for _ in range(2):
            with pytest.raises(WorkerLost, match=f"initializer failed.*{error.__name__}"):
                aggregate(square, range(100), Sum(), pool=pool)


def test_an_initializer_of_threads_that_raises_is_named() -> None:
    def start() -> None:
        raise ValueError("no database")

    with ThreadPool(2, initializer=start) as pool, pytest.raises(WorkerLost, match=r"initializer failed.*no database"):
        aggregate(square, range(100), Sum(), pool=pool)


@types_of(ours=True)
def test_per_worker_is_made_once_in_each_worker(pool: Any, tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)

    def make(name: str) -> str:
        attempts.another(os.getpid())
        return name

    model = per_worker(make, "model")
    assert aggregate(lambda x: model(), range(200), Frequencies(), pool=pool) == {"model": 200}
    assert aggregate(lambda x: model(), range(200), Frequencies(), pool=pool) == {"model": 200}
    made = list(tmp_path.iterdir())
    assert 1 <= len(made) <= pool.workers
    assert all(path.stat().st_size == 1 for path in made)


def test_rng_depends_on_the_item_alone(pool: Any) -> None:
    def draw(x: int) -> float:
        time.sleep(0.001 * (x % 2))
        return float(rng(7).random()) + float(rng(7).random())

    results = aggregate(draw, range(60), Collect(), pool=pool)
    assert results == aggregate(draw, range(60), Collect(), pool=SerialPool())
    assert len(set(results)) == 60
    nested = aggregate(lambda x: (draw(x), aggregate(draw, [1], Collect(), pool=SerialPool()), draw(x)), [5], Collect())
    assert nested[0][0] != nested[0][2], "the item's stream goes on after a run within it"
    with pytest.raises(RuntimeError, match="inside func"):
        rng()


@types_of(processes=True)
def test_workers_are_replaced_after_max_items(kind: Kind, tmp_path: Any) -> None:
    with kind.make(max_items_per_worker=10) as pool:
        pids = aggregate(tasks.pid_of, range(60), Frequencies(), pool=pool, chunksize=5)
        assert pids.total() == 60
        assert len(pids) >= 3
        assert max(pids.values()) <= 10 + 2 * 5
        func = Flaky(tmp_path, {})
        for strategy in (Combine(), Stream(), Tree()):
            assert aggregate(func, range(30), Collect(), pool=pool, chunksize=5, strategy=strategy) == list(range(30))
        assert all(func.attempts.at(x) == 3 for x in range(30)), "nothing is run twice for it"


@types_of(processes=True)
def test_workers_have_the_environment_and_folder_of_the_parent_at_their_start(
    kind: Kind, tmp_path: Any, monkeypatch: Any
) -> None:
    def look(x: int) -> dict[str, Any]:
        names = ("POOLAGG_LATE", "POOLAGG_GIVEN", "POOLAGG_GONE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return {"cwd": os.getcwd(), **{name: os.environ.get(name) for name in names}}

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.setenv("POOLAGG_GONE", "early")
    with kind.make(env={"POOLAGG_GIVEN": "given"}, max_items_per_worker=1) as pool:
        aggregate(look, [0], Collect(), pool=pool)
        monkeypatch.setenv("POOLAGG_LATE", "late")
        monkeypatch.delenv("POOLAGG_GONE")
        monkeypatch.chdir(tmp_path)
        for _ in range(3):
            seen = aggregate(look, range(4), Collect(), pool=pool, chunksize=1)
    cpus = len(os.sched_getaffinity(0))
    assert seen[-1] == {
        "cwd": str(tmp_path),
        "POOLAGG_LATE": "late",
        "POOLAGG_GIVEN": "given",
        "POOLAGG_GONE": None,
        "OMP_NUM_THREADS": str(max(1, cpus // 2)),
        "OPENBLAS_NUM_THREADS": "3",
    }


@types_of(processes=True)
def test_a_removed_folder_stops_no_run(kind: Kind, tmp_path: Any, monkeypatch: Any) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert aggregate(abs, range(10), Sum(), pool=kind.make()) == 45


# -- imap_unordered and snapshots --------------------------------------------------------------------------------------


@types_of(ours=True)
def test_imap_unordered_yields_every_result_once(pool: Any) -> None:
    assert sorted(pool.imap_unordered(square, range(300))) == [square(x) for x in range(300)]
    assert list(pool.imap_unordered(square, [])) == []


@types_of(ours=True)
def test_imap_unordered_can_be_left(pool: Any) -> None:
    for result in pool.imap_unordered(short, itertools.count()):
        if result > 5:
            break
    results = pool.imap_unordered(short, itertools.count())
    next(results)
    results.close()
    assert aggregate(square, [3], Sum(), pool=pool) == 9


@types_of(ours=True)
def test_imap_unordered_is_as_slow_as_its_consumer(pool: Any) -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in itertools.count():
            pulled += 1
            yield i

    def item(x: int) -> int:
        time.sleep(0.02)
        return x

    results = pool.imap_unordered(item, source())
    for taken in range(1, 8):
        next(results)
        time.sleep(0.01)
        assert pulled <= taken + 20
    results.close()


@types_of(ours=True)
def test_imap_unordered_raises_what_failed(pool: Any) -> None:
    with pytest.raises(TaskError) as caught:
        list(pool.imap_unordered(inverse, [1, 2, 0]))
    assert caught.value.index == 2


def test_snapshots_grow_and_the_last_is_final(pool: Any) -> None:
    """Values are live: the input goes on until three are seen, and ends."""
    seen: list[Any] = []
    values: set[int] = set()
    source = itertools.takewhile(lambda _: len(values) < 3, itertools.count())
    for snapshot in snapshots(short, source, Sum(), every=0.02, pool=pool):
        seen.append(snapshot)
        values.add(snapshot.value)
    assert [snapshot.final for snapshot in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].value == sum(range(seen[-1].done))
    assert len(seen) <= seen[-1].elapsed / 0.02 + 2
    assert [s.done for s in seen] == sorted(s.done for s in seen)


def test_snapshots_count_what_is_done_of_how_many(pool: Any) -> None:
    *_, last = snapshots(short, range(300), Sum(), every=0.02, pool=pool)
    assert (last.value, last.done, last.total) == (sum(range(300)), 300, 300)


def test_snapshots_can_be_left_and_are_a_context_manager(pool: Any) -> None:
    with snapshots(short, itertools.count(), Count(), every=0.01, pool=pool) as running:
        for snapshot in running:
            if snapshot.done >= 20:
                break
    for snapshot in snapshots(short, itertools.count(), Count(), every=0.01, pool=pool):
        if snapshot.done >= 20:
            break
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_snapshots_of_a_plain_function_wait_for_the_first_partial(pool: Any) -> None:
    def slow_start(x: int) -> int:
        time.sleep(0.05 * (x == 0))
        return x

    *_, last = snapshots(slow_start, range(10), operator.add, every=0.005, pool=pool)
    assert last.value == 45


def test_snapshots_of_what_only_fails_so_far_wait(pool: Any) -> None:
    def slow(x: int) -> int:
        time.sleep(0.02)
        return 1 // x

    *_, last = snapshots(slow, [0, 0, 1, 1], operator.add, every=0.005, pool=pool, on_error=lambda failed: None)
    assert last.value == 2


def test_snapshots_raise_what_aggregate_raises(pool: Any) -> None:
    with pytest.raises(TaskError):
        list(snapshots(inverse, [1, 0], Sum(), pool=pool))
    with pytest.raises(ValueError, match="every"):
        snapshots(inverse, [1, 0], Sum(), every=0, pool=pool)


# -- watching ----------------------------------------------------------------------------------------------------------


def test_events_come_in_order_and_add_up(pool: Any, tmp_path: Any) -> None:
    seen: list[events.RunEvent] = []
    func = Flaky(tmp_path, {5: "raise"}, times=1)
    aggregate(func, range(100), Sum(), pool=pool, retries=1, watch=seen.append, strategy=Stream())
    assert isinstance(seen[0], events.RunStarted)
    assert seen[0].total == 100
    assert isinstance(seen[-1], events.RunEnded)
    assert (seen[-1].done, seen[-1].failed, seen[-1].error) == (100, 0, None)
    chunks = [event for event in seen if isinstance(event, events.ChunkDone)]
    ran = Counter(index for chunk in chunks for index in range(chunk.start, chunk.stop))
    assert set(ran) == set(range(100))
    assert sum(event.items for event in seen if isinstance(event, events.StateMerged)) == 100
    (failed,) = [event for event in seen if isinstance(event, events.ItemFailed)]
    assert (failed.index, failed.item, failed.attempt, failed.will_retry) == (5, 5, 1, True)


def test_the_last_event_tells_the_error(pool: Any) -> None:
    seen: list[events.RunEvent] = []
    with pytest.raises(TaskError) as caught:
        aggregate(inverse, [0], Sum(), pool=pool, watch=[seen.append])
    assert seen[-1].error is caught.value
    assert [event.will_retry for event in seen if isinstance(event, events.ItemFailed)] == [False]


def test_a_watcher_that_raises_is_dropped_with_one_warning(pool: Any) -> None:
    calls, seen = [], []

    def broken(event: Any) -> None:
        calls.append(event)
        raise ValueError("no terminal")

    with pytest.warns(RuntimeWarning, match="no terminal") as warned:
        assert aggregate(square, range(10), Sum(), pool=pool, watch=[broken, seen.append]) == 285
    assert len(ours(warned)) == len(calls) == 1
    assert isinstance(seen[-1], events.RunEnded)


@types_of(slots=2, ours=True)
def test_progress_moves_within_a_long_chunk(pool: Any, tmp_path: Path) -> None:
    """Neither chunk can end before its first half is seen."""
    seen: list[int] = []
    moved = tmp_path / "moved"

    def watch(event: Any) -> None:
        if isinstance(event, events.Progressed):
            seen.append(event.done)
            if 0 < event.done < 50:
                moved.touch()

    def item(x: int) -> None:
        if x in (20, 70):
            tasks.wait_for(moved.exists)

    aggregate(item, range(100), Count(), pool=pool, chunksize=50, watch=watch)
    assert seen == sorted(seen)
    assert seen[-1] == 100


# -- clusters ----------------------------------------------------------------------------------------------------------


@types_of(cluster=True)
def test_an_item_over_its_time_is_ended_and_its_neighbours_are_kept(pool: Any, tmp_path: Any) -> None:
    """Also one that never lets go of the interpreter's lock; and what it shares with others comes along."""
    attempts = Attempts(tmp_path)
    text = share("a" * 40 + "b")

    def item(x: int) -> int:
        if x == 7:
            attempts.another(x)
            re.match("(a+)+$", text.value)  # for years
        if x == 23 and attempts.another(x) == 1:
            time.sleep(100)
        return x

    seen: list[Any] = []
    failed: list[Any] = []
    options: dict[str, Any] = {"on_error": failed.append, "watch": seen.append}
    result = aggregate(item, range(40), Collect(), pool=pool, item_timeout=0.5, retries=1, chunksize=20, **options)
    assert result == [x for x in range(40) if x != 7]
    assert [(event.index, event.attempt) for event in failed] == [(7, 2)]
    assert isinstance(failed[0].error, TimeoutError)
    assert (
        "ran longer than item_timeout=0.5 s"
        in {event.reason for event in seen if isinstance(event, events.WorkerDied)}.pop()
    )
    assert attempts.at(7) <= 3, "once more at most, alone, if a batch was stopped and not an item"


@types_of(cluster=True)
def test_large_states_stay_on_the_cluster_and_only_roots_are_sent(pool: Any) -> None:
    """Where the parent takes long to merge: it gets few, and each item is in them once."""
    states: list[int] = []
    flushed: list[bool] = []

    def watch(event: Any) -> None:
        if isinstance(event, events.StateMerged):
            states.append(event.items)
        elif isinstance(event, events.ChunkDone):
            flushed.append(event.sent > 0)

    reducer = tasks.SlowHere(os.getpid())
    result = aggregate(tasks.row, range(160), reducer, pool=pool, chunksize=1, watch=watch)
    assert (result.sum(), result.max()) == (160, 1)
    assert sum(states) == 160
    # At first the size is unknown; from then on one for each sixteen chunks, and what the workers have in the end.
    assert len(states) <= 2 * 8 + 160 // 16 + 8, states
    assert sum(flushed) <= len(states)


@types_of(cluster=True)
def test_what_is_shared_is_sent_to_each_worker_once_wherever_it_is(pool: Any, tmp_path: Any) -> None:
    """And not looked for in the memory of the machine that shares it."""
    told = share(tasks.TellsWhereItIsOpened(tmp_path))
    numbers, nothing = share(np.arange(100_000.0)), share([np.empty(0), np.ones(1)])

    def item(x: int) -> tuple[bool, float]:
        assert told.value
        assert not numbers.value.flags.writeable
        assert list(map(len, nothing.value)) == [0, 1]
        return "poolagg-share" in Path("/proc/self/maps").read_text(), numbers.value[x]

    assert aggregate(item, range(40), Collect(), pool=pool, chunksize=2) == [(False, float(x)) for x in range(40)]
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {1}


@types_of(far=True)
def test_a_checkpoint_is_continued_a_bar_moves_and_a_report_is_made(pool: Any, tmp_path: Any) -> None:
    """As on one machine."""
    attempts, report = Attempts(tmp_path), Report()

    def item(x: int) -> int:
        if x == 150 and attempts.another("all") == 1:
            raise ValueError(x)
        attempts.another(x)
        return x

    options: dict[str, Any] = {"pool": pool, "chunksize": 10, "checkpoint": tmp_path / "kept.ckpt"}
    with pytest.raises(TaskError, match="item 150"):
        aggregate(item, iter(range(200)), Sum(), **options)
    assert aggregate(item, iter(range(200)), Sum(), **options, watch=report, progress=True) == sum(range(200))
    assert attempts.at(0) == 1, "what was covered did not run again"
    assert "200 items" in str(report)


# -- reproducible ------------------------------------------------------------------------------------------------------


@functools.cache
def expected_bits() -> float:
    return aggregate(rough, range(2000), Rough(), pool=SerialPool(), reproducible=True)


def workers_and_kinds() -> list[tuple[int, Kind]]:
    several = [(workers, kind) for workers in (1, 2, 3) for kind in KINDS if kind.ours and kind.slots > 1]
    return several + [(kind.slots, kind) for kind in KINDS if not kind.ours or kind.slots == 1]


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


# -- bad arguments -----------------------------------------------------------------------------------------------------


def none_pulled() -> Iterator[int]:
    raise AssertionError("the input was pulled")
    yield 1


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((3, none_pulled(), Sum()), {}, TypeError, "func must be"),
        ((abs, 3, Sum()), {}, TypeError, "iterable"),
        ((abs, none_pulled(), Sum), {}, TypeError, r"Sum\(\)"),
        ((abs, none_pulled(), list), {}, TypeError, r"Collect\(\)"),
        ((abs, none_pulled(), len), {}, TypeError, r"Count\(\)"),
        ((abs, none_pulled(), 7), {}, TypeError, "7"),
        ((abs, none_pulled(), Sum()), {"workers": 0}, ValueError, "workers"),
        ((abs, none_pulled(), Sum()), {"workers": 2.0}, ValueError, "workers"),
        ((abs, none_pulled(), Sum()), {"chunksize": 0}, ValueError, "chunksize"),
        ((abs, none_pulled(), Sum()), {"retries": -1}, ValueError, "retries"),
        ((abs, none_pulled(), Sum()), {"retries": True}, ValueError, "retries"),
        ((abs, none_pulled(), Sum()), {"item_timeout": 0}, ValueError, "item_timeout"),
        ((abs, none_pulled(), Sum()), {"item_timeout": float("nan")}, ValueError, "item_timeout"),
        ((abs, none_pulled(), Sum()), {"on_error": "ignore"}, ValueError, "on_error"),
        ((abs, none_pulled(), Sum()), {"total": -1}, ValueError, "total"),
        ((abs, none_pulled(), Sum()), {"watch": 3}, TypeError, "watch"),
        ((abs, none_pulled(), Sum()), {"watch": [3]}, TypeError, "watch"),
        ((abs, none_pulled(), Sum()), {"strategy": "combine"}, TypeError, "strategy"),
        ((abs, none_pulled(), Sum()), {"strategy": Combine}, TypeError, "strategy"),
        ((abs, none_pulled(), Into(print)), {"strategy": Combine()}, ValueError, "no merge"),
        ((abs, none_pulled(), operator.add), {"strategy": Stream()}, ValueError, "input order"),
        ((abs, none_pulled(), Sum()), {"strategy": Stream(), "reproducible": True}, ValueError, "reproducible"),
        ((abs, none_pulled(), Sum()), {"pool": 3}, TypeError, "pool must be"),
        ((abs, none_pulled(), Sum()), {"pool": ProcessPool}, TypeError, "pool must be"),
        ((abs, none_pulled(), Sum()), {"pool": SerialPool(), "workers": 2}, ValueError, "workers"),
        ((abs, none_pulled(), Sum()), {"pool": SerialPool(), "item_timeout": 1}, ValueError, "item_timeout"),
        ((abs, none_pulled(), Sum()), {"pool": ThreadPool(2), "item_timeout": 1}, ValueError, "item_timeout"),
    ],
    ids=lambda value: None,
)
def test_a_bad_argument_fails_at_the_call(arguments: Any, options: Any, error: Any, words: str) -> None:
    for call in (aggregate, snapshots):
        with pytest.raises(error, match=words):
            call(*arguments, **options)


def test_bad_pool_arguments_fail_at_the_call() -> None:
    for options in (
        {"workers": 0},
        {"workers": True},
        {"start_method": "thread"},
        {"max_items_per_worker": 0},
        {"initializer": 3},
    ):
        with pytest.raises((ValueError, TypeError), match=next(iter(options))):
            ProcessPool(**options)
    with pytest.raises(ValueError, match="workers"):
        ThreadPool(0)
    for pool in (SerialPool(), ThreadPool(1)):
        with pytest.raises(TypeError):
            pool.imap_unordered(3, [1])
