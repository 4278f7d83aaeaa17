"""An error of the reducer, the input or the consumer ends the run, and leaves the pool good."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tasks import Failing, identity, inverse, short, square
from workers import SLOWNESS

from poolagg import Collect, Count, Into, ProcessPool, ReducerError, Sum, TaskError, aggregate, events, snapshots
from poolagg.strategies import Combine, Stream

# -- the reducer, the input, the consumer ------------------------------------------------------------------------------


def test_an_error_anywhere_else_ends_the_run_and_leaves_the_pool_good(pool: ProcessPool) -> None:
    def bad_input() -> Iterator[int]:
        yield from range(30)
        raise LookupError("midway")

    def bad_apply(partial: int) -> None:
        if partial == 20:
            raise LookupError("in apply")

    with pytest.raises(ReducerError, match="in step"):
        aggregate(short, range(50), Failing("step"), pool=pool)
    with pytest.raises(ValueError, match="in merge"):
        aggregate(short, range(200), Failing("merge"), pool=pool, strategy=Combine(), chunksize=1)
    with pytest.raises(ValueError, match="in finish"):
        aggregate(short, range(50), Failing("finish"), pool=pool)
    with pytest.raises(LookupError, match="in apply") as caught:
        aggregate(short, range(50), Into(bad_apply), pool=pool)
    assert any("item 20" in note for note in caught.value.__notes__)
    with pytest.raises(LookupError, match="midway") as caught:
        aggregate(short, bad_input(), Sum(), pool=pool)
    assert any("item 30" in note for note in caught.value.__notes__)
    with pytest.raises(TaskError):
        aggregate(inverse, range(-50, 50), Sum(), pool=pool)
    for snapshot in snapshots(short, itertools.count(), Count(), every=0.01, pool=pool):
        if snapshot.done:
            break
    for _ in pool.imap_unordered(short, itertools.count()):
        break
    assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))


def test_a_lane_still_busy_with_an_older_run_is_replaced(pool: ProcessPool) -> None:
    def stuck(x: int) -> int:
        if x == 1:
            time.sleep(100)
        return 1 // x

    with pytest.raises(TaskError):
        aggregate(stuck, [1, 0], Sum(), pool=pool, chunksize=1)
    began = time.monotonic()
    assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))
    assert time.monotonic() - began < 3 * SLOWNESS


def test_answers_of_an_older_run_are_not_taken_for_the_next_ones(pool: ProcessPool) -> None:
    for _ in range(5):
        with pytest.raises(TaskError):
            aggregate(lambda x: time.sleep(0.002) or 1 / (x - 5), range(100), Sum(), pool=pool, chunksize=1)
        assert aggregate(square, range(30), Collect(), pool=pool, chunksize=1) == [x * x for x in range(30)]


@pytest.mark.timeout(30, method="thread")  # the other method is an alarm as well
def test_a_signal_handler_that_raises_leaves_the_pool_good(pool: ProcessPool) -> None:
    """`signal.alarm` with a handler that raises is how people put a limit on a call: it may strike anywhere."""

    class Enough(Exception):
        pass

    def enough(*_: Any) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, enough)
    try:
        for delay in (0.01, 0.02, 0.03, 0.05, 0.08):
            with pytest.raises(Enough):
                signal.setitimer(signal.ITIMER_REAL, delay)
                aggregate(identity, map(bytes, itertools.repeat(20_000)), Count(), pool=pool, strategy=Stream())
            assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- the template ------------------------------------------------------------------------------------------------------


def test_a_busy_pool_closed_by_another_thread_ends_at_once(method: str) -> None:
    """Whatever its items are at: the run is a ValueError in its own thread."""
    pool, under_way = ProcessPool(2, start_method=method).__enter__(), threading.Event()

    def hang(x: int) -> int:
        return x if x < 10 else time.sleep(100) or x

    with ThreadPoolExecutor(1) as threads:
        watch = lambda event: isinstance(event, events.ChunkDone) and under_way.set()
        future = threads.submit(aggregate, hang, range(20), Sum(), pool=pool, chunksize=5, watch=watch)
        under_way.wait()
        pool.close()
        with pytest.raises(ValueError, match="is closed"):
            future.result(20)
