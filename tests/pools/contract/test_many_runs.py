"""A pool serves many runs, one at a time, and is closed at any time."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import weakref
from typing import Any

import pytest
import tasks
from contract import Kind, kinds
from tasks import METHODS, short, square

from poolagg import (
    Collect,
    Into,
    PoolBusy,
    ProcessPool,
    Sum,
    TaskError,
    ThreadPool,
    Unique,
    WorkerLost,
    aggregate,
    events,
    snapshots,
)


@kinds(ours=True)
def test_a_pool_is_kept_for_many_runs_with_the_same_workers(kind: Kind, pool: Any) -> None:
    runs = [aggregate(tasks.pid_of, range(50), Unique(), pool=pool) for _ in range(5)]
    assert len(set.union(*runs)) <= pool.workers
    assert (os.getpid() in runs[0]) != kind.processes


@kinds(ours=True)
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


@kinds(ours=True)
def test_a_pool_without_with_keeps_its_workers_until_it_is_closed(kind: Kind) -> None:
    pool = kind.make()
    here = lambda x: (os.getpid(), threading.get_ident())
    workers = [aggregate(here, range(50), Unique(), pool=pool) for _ in range(3)]
    assert len(set.union(*workers)) <= pool.workers
    pool.close()
    with pytest.raises(ValueError, match="is closed"):
        aggregate(square, [3], Sum(), pool=pool)


@kinds(ours=True)
@pytest.mark.parametrize("left", ["idle", "in the middle of a run", "after an error"])
def test_a_pool_that_is_dropped_ends_its_workers(kind: Kind, left: str) -> None:
    """No collection of cycles is needed."""
    pool = kind.make()
    if left == "after an error":
        with contextlib.suppress(ZeroDivisionError):
            pool.map(tasks.inverse, [1, 0])
    elif left == "idle":
        assert aggregate(square, [3], Sum(), pool=pool) == 9
    else:
        results = pool.imap(short, itertools.count())
        next(results)
        del results
    dropped = weakref.ref(pool)
    del pool
    assert dropped() is None, "and the leak check finds no worker"


@kinds(ours=True)
def test_closing_a_pool_ends_the_run_that_is_left_hanging(kind: Kind) -> None:
    with kind.make() as pool:
        results = pool.imap_unordered(short, itertools.count())
        next(results)
    with pytest.raises(ValueError, match="is closed"):
        for _ in results:
            pass


@kinds(ours=True)
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


@kinds(ours=True)
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
        with ProcessPool(1, start_method=METHODS[-1]) as pool:
            return aggregate(lambda y: os._exit(3), [x], Sum(), pool=pool, retries=0)

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


@kinds(ours=True)
def test_twenty_pools_leave_no_more_than_one(kind: Kind) -> None:
    import leaks

    aggregate(square, range(10), Sum(), pool=kind.make())
    before = leaks.held()
    for _ in range(5 if kind.name in ("spawn", "portable") else 20):
        with kind.make() as pool:
            aggregate(square, range(10), Sum(), pool=pool)
    assert not leaks.left_behind(before)
