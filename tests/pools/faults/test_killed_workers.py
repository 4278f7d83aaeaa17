"""Workers that are killed, in an item, while idle or in the middle of a message: each item counts once."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from tasks import KILL, Attempts, Flaky, Rough, identity, rough, short, square
from workers import workers_of

from poolagg import Collect, Count, Into, ProcessPool, Reducer, Sum, WorkerLost, aggregate, events
from poolagg.strategies import Combine, Ordered, Stream, Tree

STRATEGIES = [Combine(), Stream(), Ordered(), Tree()]


# -- killed in the middle of an item -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit"])
def test_a_worker_that_dies_once_costs_nothing(pool: ProcessPool, tmp_path: Any, how: str) -> None:
    for number, strategy in enumerate(STRATEGIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        func = Flaky(folder, {5: how, 50: how}, times=1)
        assert aggregate(func, range(80), Collect(), pool=pool, strategy=strategy) == list(range(80))
        assert func.attempts.at(5) >= 2


DEATHS = [("SIGKILL", -9, "SIGKILL"), ("SIGSEGV", -11, "SIGSEGV"), ("exit", 3, None)]
if sys.platform == "win32":
    DEATHS = [("SIGKILL", 15, None), ("SIGSEGV", 11, None), ("exit", 3, None)]


@pytest.mark.parametrize(("how", "exitcode", "name"), DEATHS)
def test_an_item_that_kills_every_worker_is_named(
    pool: ProcessPool, tmp_path: Any, how: str, exitcode: int, name: str | None
) -> None:
    func = Flaky(tmp_path, {31: how})
    with pytest.raises(WorkerLost) as caught:
        aggregate(func, range(60), Sum(), pool=pool)
    error = caught.value
    assert (error.index, error.item, error.exitcode, error.signal) == (31, 31, exitcode, name)
    # By default it runs again twice. The first death is charged to nobody if it was of several items at once.
    assert 3 <= func.attempts.at(31) <= 4
    assert "item 31" in str(error)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries_counts_the_deaths_too(pool: ProcessPool, tmp_path: Any, retries: int) -> None:
    func = Flaky(tmp_path, {7: "SIGKILL"})
    with pytest.raises(WorkerLost) as caught:
        # One item a chunk: it is named at once, and each attempt is a charge.
        aggregate(func, range(20), Sum(), pool=pool, retries=retries, chunksize=1)
    assert caught.value.index == 7
    assert func.attempts.at(7) == retries + 1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_skip_keeps_exactly_the_others(pool: ProcessPool, tmp_path: Any, strategy: Any) -> None:
    func = Flaky(tmp_path, {3: "SIGKILL", 17: "exit", 18: "raise", 39: "SIGKILL"})
    failed: list[events.ItemFailed] = []
    result = aggregate(func, range(40), Collect(), pool=pool, strategy=strategy, on_error=failed.append, retries=0)
    assert result == [x for x in range(40) if x not in func.faults]
    assert sorted(event.index for event in failed) == [3, 17, 18, 39]


def test_deaths_are_told_to_watchers(pool: ProcessPool, tmp_path: Any) -> None:
    seen: list[Any] = []
    func = Flaky(tmp_path, {4: "SIGKILL"}, times=1)
    aggregate(func, range(10), Sum(), pool=pool, chunksize=1, watch=seen.append)
    (death,) = [event for event in seen if isinstance(event, events.WorkerDied)]
    assert (death.exitcode, death.signal, death.suspect) == (*DEATHS[0][1:], 4)
    (again,) = [event for event in seen if isinstance(event, events.ItemFailed)]
    assert (again.index, again.attempt, again.will_retry) == (4, 1, True)


def test_unflushed_state_that_dies_with_its_worker_is_made_again(pool: ProcessPool, tmp_path: Any) -> None:
    """Combine holds state across chunks; the items behind it run again, and none is counted twice."""
    attempts = Attempts(tmp_path)

    def func(x: int) -> int:
        first = attempts.another(x) == 1
        time.sleep(0.001)
        if x == 150 and first:
            os.kill(os.getpid(), KILL)
        return x

    assert aggregate(func, range(200), Sum(), pool=pool, strategy=Combine(), chunksize=5) == sum(range(200))


def test_same_bits_whatever_dies(pool: ProcessPool, tmp_path: Any) -> None:
    flaky = Flaky(tmp_path, {0: "SIGKILL", 333: "raise", 334: "SIGKILL", 999: "exit"}, times=1)
    undisturbed = aggregate(rough, range(1000), Rough(), pool=pool, reproducible=True)
    disturbed = aggregate(lambda x: rough(flaky(x)), range(1000), Rough(), pool=pool, reproducible=True, retries=2)
    assert disturbed == undisturbed


def test_a_random_worker_killed_every_100_ms_and_all_10_000_items_are_counted_once(method: str) -> None:
    with ProcessPool(2, start_method=method) as pool:
        stop, progress = threading.Event(), threading.Event()
        kills = 0

        def killing() -> None:
            nonlocal kills
            choose = random.Random(1)
            while not stop.wait(0.1):
                if not progress.is_set():  # on a busy machine a worker takes longer than that to start
                    continue
                progress.clear()
                with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                    choose.choice(workers_of(pool)).kill()
                    kills += 1

        def work(x: int) -> int:
            until = time.perf_counter() + 0.0001
            while time.perf_counter() < until:
                pass
            return x

        def merged(event: events.RunEvent) -> None:
            if isinstance(event, events.StateMerged):
                progress.set()

        thread = threading.Thread(target=killing)
        thread.start()
        try:
            result = aggregate(work, range(10_000), (Sum(), Count()), pool=pool, retries=50, watch=merged)
        finally:
            stop.set()
            thread.join()
        assert result == (sum(range(10_000)), 10_000)
        assert kills >= 3


def test_all_workers_killed_at_once(pool: ProcessPool) -> None:
    killed = []  # once: what they held runs again, and so would kill them again

    def watch(event: Any) -> None:
        if isinstance(event, events.ChunkDone) and event.start <= 30 < event.stop and not killed:
            killed.extend(workers_of(pool))
            for process in killed:
                process.kill()

    assert aggregate(short, range(100), Sum(), pool=pool, watch=watch, chunksize=2) == sum(range(100))


def test_a_pool_whose_workers_only_die_gives_up(method: str) -> None:
    def die() -> None:
        os._exit(7)

    with ProcessPool(2, start_method=method, initializer=die) as pool:
        with pytest.raises(WorkerLost, match="exit code 7"):
            aggregate(square, range(10), Sum(), pool=pool)


# -- killed while idle -------------------------------------------------------------------------------------------------


def test_workers_killed_between_two_runs_are_replaced(pool: ProcessPool) -> None:
    for _ in range(3):
        assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))
        for process in workers_of(pool):
            process.kill()
    seen: list[Any] = []
    assert aggregate(square, range(100), Sum(), pool=pool, watch=seen.append) == sum(map(square, range(100)))


def test_a_worker_killed_while_the_source_is_slow(pool: ProcessPool) -> None:
    def source() -> Iterator[int]:
        for i in range(10):
            yield i
            if i in (3, 6):
                time.sleep(0.05)
                for process in workers_of(pool):
                    process.kill()
                time.sleep(0.05)

    assert aggregate(identity, source(), Collect(), pool=pool) == list(range(10))


def test_an_unentered_pool_recovers_too(method: str, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {5: "SIGKILL"}, times=2)
    pool = ProcessPool(2, start_method=method)
    assert aggregate(func, range(10), Collect(), pool=pool) == list(range(10))


# -- killed in the middle of a message ---------------------------------------------------------------------------------


@pytest.mark.orphans
def test_a_worker_killed_while_it_writes_a_large_result(pool: ProcessPool, tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)

    def large(x: int) -> bytes:
        if x == 0 and attempts.another("large") == 1:
            threading.Timer(0.06, os.kill, (os.getpid(), KILL)).start()  # its 64 MB are being written then
            return bytes(64_000_000)
        return b"small"

    def slow(partial: bytes) -> None:
        sizes[len(partial)] += 1
        time.sleep(0.1)  # the parent reads nothing meanwhile, so that a large message waits half written

    sizes: Counter[int] = Counter()
    aggregate(large, range(3), Into(slow), pool=pool, chunksize=1)
    assert sizes.total() == 3
    assert sizes[5] >= 2


def test_large_results_and_items_go_both_ways_whole(pool: ProcessPool) -> None:
    items = [os.urandom(1) * size for size in (0, 1, 10**5, 5 * 10**6, 3, 2 * 10**7)]
    assert aggregate(identity, items, Collect(), pool=pool) == items


def test_a_worker_killed_with_a_large_item_half_sent(pool: ProcessPool, tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)

    def func(item: bytes) -> int:
        if item == b"kills" and attempts.another("kills") == 1:
            time.sleep(0.05)  # the next item, waiting behind this one, fills the pipe meanwhile
            os.kill(os.getpid(), KILL)
        return len(item)

    items = [b"kills", *[bytes(3_000_000)] * 5]
    assert aggregate(func, items, Collect(), pool=pool) == [5, *[3_000_000] * 5]


# -- grandchildren -----------------------------------------------------------------------------------------------------


@pytest.mark.orphans
def test_a_grandchild_that_lives_on_delays_nobody(pool: ProcessPool, tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)

    def func(x: int) -> int:
        if x == 3 and attempts.another(x) == 1:
            pid = os.fork()  # holds all descriptors of its parent
            if pid == 0:
                time.sleep(100)
            attempts.another(f"pid {pid}")
            os.kill(os.getpid(), KILL)
        return x

    began = time.monotonic()
    assert aggregate(func, range(10), Collect(), pool=pool) == list(range(10))
    assert time.monotonic() - began < 5
    (path,) = tmp_path.glob("pid *")
    os.kill(int(path.name.split()[1]), KILL)
    time.sleep(0.05)


# -- the reducer, the input, the consumer ------------------------------------------------------------------------------


class Slow(Reducer):
    """A count whose merge takes its time."""

    def init(self) -> int:
        return 0

    def step(self, acc: int, prepared: Any) -> int:
        return acc + 1

    def merge(self, acc: int, other: int) -> int:
        time.sleep(0.01)
        return acc + other


def test_workers_killed_while_the_parent_merges(pool: ProcessPool) -> None:
    def watch(event: Any) -> None:
        if isinstance(event, events.StateMerged) and next(merges) == 3:
            for process in workers_of(pool):
                process.kill()

    merges = itertools.count()
    assert aggregate(short, range(100), Slow(), pool=pool, chunksize=3, watch=watch) == 100
