"""A pool runs one job at a time: other threads wait in line, and the thread of the current job is refused."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tasks
from contract import Kind, kinds
from tasks import short, square

from poolagg import Into, PoolBusy, Sum, ThreadPool, aggregate, events, prefetch, snapshots


class Waiting:
    """A thread whose call waits for its turn, and what became of it."""

    def __init__(self, pool: Any, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self._call = call
        before = len(pool._turns._line)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        tasks.wait_for(lambda: len(pool._turns._line) > before)

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as error:
            self.result = error

    def ended(self) -> Any:
        """Its result, or its exception."""
        self._thread.join()
        return self.result


@kinds(ours=True)
def test_threads_take_turns_first_come_first_served(pool: Any) -> None:
    order: list[str] = []

    def called(name: str) -> int:
        return aggregate(square, range(10), Into(lambda partial: order.append(name)), pool=pool)

    first = pool.imap(square, range(3))
    next(first)
    waiting = [Waiting(pool, lambda name=name: called(name)) for name in "abc"]
    assert order == []
    assert list(first) == [1, 4]
    assert [one.ended() for one in waiting] == [None] * 3
    assert order == [*"a" * 10, *"b" * 10, *"c" * 10]


@kinds(ours=True)
def test_many_threads_share_a_pool(pool: Any) -> None:
    def serve(n: int) -> list[int]:
        return [sum(pool.imap_unordered(square, range(n))), aggregate(square, range(n), Sum(), pool=pool)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(serve, range(40)))
    assert answers == [[sum(map(square, range(n)))] * 2 for n in range(40)]


@kinds(ours=True)
def test_the_thread_of_the_current_job_is_refused(pool: Any) -> None:
    """From the reducer, the input, a watcher, and the body of a loop over snapshots or results."""
    refused: list[bool] = []

    def again(*_: Any) -> None:
        with pytest.raises(PoolBusy, match="running another job"):
            pool.map(square, [1])
        refused.append(True)

    def items() -> Iterator[int]:
        again()
        yield 3

    aggregate(square, [3], Into(again), pool=pool)
    assert pool.map(square, items()) == [9]
    aggregate(square, [3], Sum(), pool=pool, watch=lambda event: again() if type(event) is events.ChunkDone else None)
    for _ in snapshots(short, range(10), Sum(), every=1e-3, pool=pool):
        again()
        break
    for _ in pool.imap(square, range(10)):
        again()
        break
    assert len(refused) == 5
    assert pool.map(square, [3]) == [9]


def test_func_in_a_worker_thread_is_refused_the_pool_that_waits_for_it() -> None:
    """Also from within another pool."""
    with ThreadPool(2) as pool, ThreadPool(2) as inner:

        def func(x: int) -> list[int]:
            return pool.map(square, [x])

        with pytest.raises(PoolBusy):
            pool.map(func, range(4))
        with pytest.raises(PoolBusy):
            pool.map(lambda x: inner.map(func, [x]), range(4))
        assert inner.map(func, range(4)) == [[0], [1], [4], [9]], "there it waits for its turn"


@kinds(ours=True)
def test_a_prefetched_input_counts_as_its_thread(pool: Any) -> None:
    """Else the run would wait for its input, and the input for the run."""
    with prefetch(pool.imap(square, range(100)), 2) as items, pytest.raises(PoolBusy):
        pool.map(square, items)


@kinds(ours=True)
@pytest.mark.parametrize("end", ["exhausted", "dropped", "closed", "func raised", "reducer raised", "interrupted"])
def test_the_next_thread_begins_however_the_run_before_it_ends(pool: Any, end: str) -> None:
    waiting: list[Waiting] = []

    def wait_once(x: Any) -> Any:
        if not waiting:
            waiting.append(Waiting(pool, lambda: pool.map(square, [3])))
        if end == "reducer raised":
            raise LookupError
        if end == "interrupted":
            raise KeyboardInterrupt
        return x

    if end == "func raised":
        with pytest.raises(ZeroDivisionError):
            pool.map(tasks.inverse, map(wait_once, [1, 0]))
    elif end in ("reducer raised", "interrupted"):
        with pytest.raises((LookupError, KeyboardInterrupt)):
            aggregate(square, [1], Into(wait_once), pool=pool)
    else:
        results = pool.imap(short, range(20))
        wait_once(next(results))
        if end == "exhausted":
            list(results)
        elif end == "closed":
            results.close()
        del results
    assert waiting[0].ended() == [9]


@kinds(ours=True)
def test_closing_a_pool_ends_the_wait_of_other_threads(kind: Kind) -> None:
    with kind.make() as pool:
        first = pool.imap(short, itertools.count())
        next(first)
        waiting = [Waiting(pool, lambda: pool.map(square, [3])) for _ in range(3)]
        pool.close()
        for one in waiting:
            assert isinstance(error := one.ended(), ValueError)
            assert "is closed" in str(error)


@kinds(ours=True)
def test_ctrl_c_ends_the_wait(pool: Any) -> None:
    holds, go_on = threading.Event(), threading.Event()

    def first() -> list[int]:
        results = pool.imap(square, range(3))
        taken = [next(results)]
        holds.set()
        go_on.wait()
        return taken + list(results)

    waiting = Waiting(pool, first)
    holds.wait()

    def interrupt() -> None:
        tasks.wait_for(lambda: len(pool._turns._line) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        pool.map(square, [3])
    thread.join()
    go_on.set()
    assert waiting.ended() == [0, 1, 4], "the other run has noticed nothing"
    assert pool.map(square, [3]) == [9]


@kinds(ours=True)
def test_results_may_be_taken_by_another_thread_than_the_one_that_began(pool: Any) -> None:
    results = pool.imap(square, range(5))
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(next, results).result() == 0
        assert next(results) == 1
        with pytest.raises(PoolBusy):
            pool.map(square, [3])
        waiting = threads.submit(pool.map, square, [3])
        tasks.wait_for(lambda: len(pool._turns._line) == 2)
        assert list(results) == [4, 9, 16]
        assert waiting.result() == [9]


@kinds(ours=True)
@pytest.mark.orphans  # the child leaves by `os._exit`, and its forkserver ends after it
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_run_of_its_parent(pool: Any) -> None:
    results = pool.imap(square, range(5))
    next(results)
    waiting = Waiting(pool, lambda: pool.map(square, [3]))
    if (child := os.fork()) == 0:
        code = 1
        try:
            code = 0 if pool.map(square, [4]) == [16] and not pool.close() and not pool.join() else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert list(results) == [1, 4, 9, 16]
    assert waiting.ended() == [9]


@kinds(ours=True)
def test_join_within_the_job_that_it_would_wait_for_is_refused(kind: Kind) -> None:
    def apply(partial: int) -> None:
        pool.close()
        pool.join()

    pool = kind.make()
    with pytest.raises(PoolBusy, match="join"):
        aggregate(square, [1], Into(apply), pool=pool)
    pool.join()
