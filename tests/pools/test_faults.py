"""Real faults: workers that are killed, hang, or are robbed of their descriptors, with every start method.

Nothing here is simulated. A run ends with its exact result or with an error that names what happened; it never hangs.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import tasks
from tasks import METHODS, Attempts, Failing, Flaky, Rough, identity, inverse, rough, short, square

from poolagg import (
    Collect,
    Count,
    Into,
    ProcessPool,
    Reducer,
    ReducerError,
    SkippedItems,
    Sum,
    TaskError,
    WorkerLost,
    aggregate,
    events,
    snapshots,
)
from poolagg.pools.process import arena
from poolagg.pools.process.arena import BorrowedSegments, Region
from poolagg.pools.process.launch.forkserver import ForkserverLauncher
from poolagg.pools.process.launch.launchers import Child
from poolagg.pools.process.worker_handle import Handle
from poolagg.strategies import Combine, Ordered, Stream, Tree

SAFE = ["forkserver", "spawn"]
STRATEGIES = [Combine(), Stream(), Ordered(), Tree()]


@pytest.fixture(params=[*METHODS, *(["slots"] if hasattr(os, "memfd_create") else [])])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessPool]:
    """A kept pool of two workers, which must be as good as new after whatever the test did to it.

    "slots": of the default start method, and whatever its workers flush, however small, lies in their arenas.
    """
    slots = request.param == "slots"
    opened: list[Region] = []
    lent = BorrowedSegments.open
    if slots:
        monkeypatch.setattr(arena, "LEAST_BUFFER", 1)
        monkeypatch.setattr(
            BorrowedSegments,
            "open",
            lambda borrowed_segments, region: opened.append(region) or lent(borrowed_segments, region),
        )
    method, initializer = (METHODS[0], ship_in_slots()) if slots else (request.param, None)
    with ProcessPool(2, start_method=method, initializer=initializer) as pool:
        yield pool
        opened.clear()
        assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))
        assert bool(opened) == slots


def ship_in_slots() -> Any:
    """An initializer after which everything that a worker flushes is a large buffer."""

    class ArenaBuffers:
        def __init__(self, data: Any) -> None:
            self.data = data

        def __reduce_ex__(self, protocol: Any) -> Any:
            from poolagg.pools.serialization.pickling import dumps

            return pickle.loads, (pickle.PickleBuffer(dumps(self.data)),)

    def initializer() -> None:
        from poolagg.pools.serialization import outbox, wire

        dumps = wire.dumps
        in_slots = lambda value, out_of_band=None, *rest: dumps(
            value if out_of_band is None else ArenaBuffers(value), out_of_band, *rest
        )
        outbox.dumps = wire.dumps = in_slots

    return initializer


def workers_of(pool: ProcessPool) -> list[psutil.Process]:
    """The worker processes, for tests to kill."""
    return [psutil.Process(handle.child.pid) for handle in list(pool._handles.values())]


def template_of(pool: ProcessPool) -> psutil.Process:
    """The process that forks the workers."""
    return psutil.Process(pool._workers.launcher._process.pid)  # type: ignore[union-attr]


# -- killed in the middle of an item -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "exit"])
def test_a_worker_that_dies_once_costs_nothing(pool: ProcessPool, tmp_path: Any, how: str) -> None:
    for number, strategy in enumerate(STRATEGIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        func = Flaky(folder, {5: how, 50: how}, times=1)
        assert aggregate(func, range(80), Collect(), pool=pool, strategy=strategy) == list(range(80))
        assert func.attempts.at(5) >= 2


@pytest.mark.parametrize(
    ("how", "exitcode", "name"), [("SIGKILL", -9, "SIGKILL"), ("SIGSEGV", -11, "SIGSEGV"), ("exit", 3, None)]
)
def test_an_item_that_kills_every_worker_is_named(
    pool: ProcessPool, tmp_path: Any, how: str, exitcode: int, name: str | None
) -> None:
    func = Flaky(tmp_path, {31: how})
    with pytest.raises(WorkerLost) as caught:
        aggregate(func, range(60), Sum(), pool=pool)
    error = caught.value
    assert (error.index, error.item, error.exitcode, error.signal) == (31, 31, exitcode, name)
    # By default it runs again twice. The first death of several items at once is charged to none of them.
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
    assert (death.exitcode, death.signal, death.suspect) == (-9, "SIGKILL", 4)
    (again,) = [event for event in seen if isinstance(event, events.ItemFailed)]
    assert (again.index, again.attempt, again.will_retry) == (4, 1, True)


def test_state_that_dies_with_its_worker_before_a_flush_is_made_again(pool: ProcessPool, tmp_path: Any) -> None:
    """Combine holds state across chunks; the items behind it run again, and none is counted twice."""
    attempts = Attempts(tmp_path)

    def func(x: int) -> int:
        first = attempts.another(x) == 1
        time.sleep(0.001)
        if x == 150 and first:
            os.kill(os.getpid(), signal.SIGKILL)
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
            me = os.getpid()  # dies while its 64 MB are being written, since no reader is that fast
            subprocess.Popen(["sh", "-c", f"sleep 0.06; kill -9 {me}"])
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
            os.kill(os.getpid(), signal.SIGKILL)
        return len(item)

    items = [b"kills", *[bytes(3_000_000)] * 5]
    assert aggregate(func, items, Collect(), pool=pool) == [5, *[3_000_000] * 5]


# -- grandchildren -----------------------------------------------------------------------------------------------------


@pytest.mark.orphans
def test_a_grandchild_that_lives_on_delays_nothing(pool: ProcessPool, tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)

    def func(x: int) -> int:
        if x == 3 and attempts.another(x) == 1:
            pid = os.fork()  # holds all descriptors of its parent
            if pid == 0:
                time.sleep(100)
            attempts.another(f"pid {pid}")
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    began = time.monotonic()
    assert aggregate(func, range(10), Collect(), pool=pool) == list(range(10))
    assert time.monotonic() - began < 5
    (path,) = tmp_path.glob("pid *")
    os.kill(int(path.name.split()[1]), signal.SIGKILL)
    time.sleep(0.05)


# -- hung items --------------------------------------------------------------------------------------------------------


def test_a_hung_item_is_a_timeout_error(pool: ProcessPool, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {7: "hang"})
    began = time.monotonic()
    with pytest.raises(TaskError, match=r"item_timeout=0\.5") as caught:
        aggregate(func, range(20), Sum(), pool=pool, item_timeout=0.5)
    assert time.monotonic() - began < 3
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert (caught.value.index, caught.value.attempts) == (7, 1)
    assert func.attempts.at(7) <= 2, "once more at most, alone, if a batch was stopped and not an item"


@pytest.mark.parametrize("strategy", [Combine(), Tree(), Ordered()], ids=repr)
def test_a_hung_item_costs_only_itself(pool: ProcessPool, tmp_path: Any, strategy: Any) -> None:
    func = Flaky(tmp_path, {7: "hang", 8: "raise"})
    seen: list[Any] = []
    with pytest.warns(SkippedItems, match="2 of 40"):
        result = aggregate(
            func, range(40), Collect(),
            pool=pool, item_timeout=0.5, on_error="skip", strategy=strategy, watch=seen.append,
        )  # fmt: skip
    assert result == [x for x in range(40) if x not in (7, 8)]
    assert 1 <= len([event for event in seen if isinstance(event, events.WorkerDied)]) <= 2


def test_a_hung_item_may_be_retried(pool: ProcessPool, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {7: "hang"}, times=1)
    assert aggregate(func, range(20), Collect(), pool=pool, item_timeout=0.5, retries=1) == list(range(20))


def test_a_reducer_slower_than_the_timeout_blames_no_item(pool: ProcessPool) -> None:
    applied: list[int] = []

    def slow(partial: int) -> None:
        time.sleep(0.6 * (len(applied) < 4))
        applied.append(partial)

    def func(x: int) -> int:
        time.sleep(0.02)
        return x

    aggregate(func, range(30), Into(slow), pool=pool, item_timeout=0.5)
    assert sorted(applied) == list(range(30))


def test_a_timeout_is_not_inherited_from_the_run_before(pool: ProcessPool) -> None:
    """A worker's unfinished work of an earlier run does not count against the next run's items."""
    for _ in range(3):
        for snapshot in snapshots(short, itertools.count(), Count(), every=0.01, pool=pool, item_timeout=5):
            if snapshot.done:
                break
        time.sleep(0.55)
        assert aggregate(short, range(50), Sum(), pool=pool, item_timeout=0.5) == sum(range(50))


# -- robbed of its descriptors -----------------------------------------------------------------------------------------


def test_a_task_that_closes_all_descriptors_gets_no_bytes_of_ours_in_its_file(pool: ProcessPool, tmp_path: Any) -> None:
    path = tmp_path / "mine"
    attempts = Attempts(tmp_path)

    def rob(x: int) -> int:
        if x == 2 and attempts.another(x) == 1:
            os.closerange(3, 1000)
            files = [open(path, "ab") for _ in range(8)]
            for file in files:
                file.write(b"mine")
                file.flush()
        return x

    assert aggregate(rob, range(10), Collect(), pool=pool) == list(range(10))
    assert set(path.read_bytes().split(b"mine")) <= {b""}


def test_a_task_that_closes_standard_output_is_a_task_like_any_other(pool: ProcessPool) -> None:
    def quiet(x: int) -> int:
        import sys

        sys.stdout.close()
        sys.stderr = None  # type: ignore[assignment]
        return x

    seen: list[Any] = []
    assert aggregate(quiet, range(10), Sum(), pool=pool, chunksize=1, watch=seen.append) == 45
    assert not [event for event in seen if isinstance(event, events.WorkerDied)]


# -- locks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SAFE)
def test_a_lock_held_by_a_thread_when_workers_start_stops_no_worker(method: str) -> None:
    held, release = threading.Event(), threading.Event()
    handler = logging.StreamHandler()
    logging.getLogger("poolagg.test").addHandler(handler)
    assert handler.lock is not None

    def hold() -> None:
        with tasks.LOCK, handler.lock:  # type: ignore[union-attr]
            held.set()
            release.wait()

    def needs_both(x: int) -> int:
        with tasks.LOCK:
            logging.getLogger("poolagg.test").debug("item %s", x)
        return x

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert aggregate(needs_both, range(10), Sum(), pool=ProcessPool(2, start_method=method)) == 45
    finally:
        release.set()
        thread.join()
        logging.getLogger("poolagg.test").removeHandler(handler)


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


def test_a_worker_still_busy_with_an_older_run_is_replaced(pool: ProcessPool) -> None:
    def stuck(x: int) -> int:
        if x == 1:
            time.sleep(100)
        return 1 // x

    with pytest.raises(TaskError):
        aggregate(stuck, [1, 0], Sum(), pool=pool, chunksize=1)
    began = time.monotonic()
    assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))
    assert time.monotonic() - began < 3


def test_events_of_an_older_run_are_not_taken_for_the_next_ones(pool: ProcessPool) -> None:
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


# -- the forkserver ----------------------------------------------------------------------------------------------------


@pytest.mark.orphans
def test_a_killed_forkserver_is_replaced() -> None:
    with ProcessPool(2, start_method="forkserver") as pool:
        assert aggregate(square, range(10), Sum(), pool=pool) == 285
        for _ in range(2):
            template_of(pool).kill()
            assert aggregate(square, range(10), Sum(), pool=pool) == 285, "workers outlive it"
            for process in workers_of(pool):
                process.kill()
            assert aggregate(square, range(10), Sum(), pool=pool) == 285


@pytest.mark.orphans
def test_forkserver_and_workers_killed_in_the_middle_of_a_run() -> None:
    with ProcessPool(2, start_method="forkserver") as pool:
        killed = False

        def watch(event: Any) -> None:
            nonlocal killed
            if isinstance(event, events.ChunkDone) and not killed:
                killed = True
                for process in psutil.Process().children(recursive=True):
                    process.kill()

        assert aggregate(short, range(100), Sum(), pool=pool, watch=watch, chunksize=3) == sum(range(100))
        assert killed


@pytest.mark.orphans
def test_threads_that_start_workers_by_one_forkserver_get_each_its_own() -> None:
    """And each the end of its own: a pid and a wait status look alike."""
    launcher = ForkserverLauncher(os.environ, by_value=False)
    seen: list[int] = []

    def start_and_end_some() -> None:
        for slot in range(20):
            handle = Handle(slot, launcher)
            seen.append(handle.child.pid)
            handle.child.kill()
            assert handle.child.ends_within(10)
            assert handle.child.reap() == -signal.SIGKILL
            handle.close()

    try:
        with ThreadPoolExecutor(8) as threads:
            for future in [threads.submit(start_and_end_some) for _ in range(8)]:
                future.result()
    finally:
        launcher.close()
    assert len(set(seen)) == 160


@pytest.mark.orphans
def test_an_interrupted_wait_for_a_forkserver_leaves_no_reply_to_the_next() -> None:
    launcher = ForkserverLauncher(os.environ, by_value=False)
    choose, interrupted = random.Random(1), 0
    usual = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while interrupted < 20:
            handle = Handle(0, launcher)
            handle.child.kill()
            assert handle.child.ends_within(10), "it was a worker"
            try:
                signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-6, 2e-4))
                assert handle.child.reap() == -signal.SIGKILL
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
                assert handle.child.reap() in (-signal.SIGKILL, None), "None: the first call has reaped it"
            handle.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
        launcher.close()


@pytest.mark.parametrize("pid", [0, -1, -7])
def test_a_number_that_is_not_a_pid_is_not_killed(pid: int) -> None:
    """`kill(-1)` would end every process of the user's, and `kill(0)` all of the terminal's job."""
    with pytest.raises(ValueError, match="no process"):
        Child(pid, os.abort)


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


# -- the limits of the machine -----------------------------------------------------------------------------------------


def test_more_descriptors_than_select_can_count(method: str) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("not so many descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert aggregate(square, range(10), Sum(), pool=ProcessPool(1, start_method=method)) == 285
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptors_left_is_an_error_and_no_leak(method: str) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    for spare in range(1, 17):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                aggregate(square, range(10), Sum(), pool=ProcessPool(3, start_method=method))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_signals_that_the_parent_ignores_or_blocks_change_nothing(method: str, tmp_path: Any) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGIO})
    try:
        func = Flaky(tmp_path, {5: "SIGKILL"}, times=1)
        assert aggregate(func, range(10), Sum(), pool=ProcessPool(2, start_method=method)) == 45
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, before)
