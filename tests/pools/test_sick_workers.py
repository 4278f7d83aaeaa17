"""Workers that have had their day: too many items, or too much memory. Replaced or stopped, and nothing is lost for it.

The memory is real, and so are the kills. What workers run is made inside functions, so that it travels by value: a
worker that imported this file would be larger than some of the limits.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tasks import METHODS, Attempts

from poolagg import (
    Collect,
    GroupBy,
    Into,
    ProcessPool,
    Reduce,
    Reducer,
    Report,
    SkippedItems,
    Sum,
    TaskError,
    WorkerLost,
    aggregate,
    events,
)
from poolagg._scheduler.chunk_sizing import ChunkSizer
from poolagg.pools.process import memory as memory_module
from poolagg.pools.process.memory import own_memory
from poolagg.pools.process.recycling import Recycling
from poolagg.pools.process.worker_handle import Handle
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree

STRATEGIES = [Combine(), Stream(), Ordered(), Tree()]
MB = 1 << 20
SPARE = 48 * MB
"""Memory that workers of these tests may use beyond that of their start."""


def limit_for(method: str) -> int:
    """A limit with `SPARE` in it: a forked worker starts with all that this process has."""
    return SPARE + 32 * MB + (own_memory() if method == "fork" else 0)


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are never asked to flush because it pays: what they have done, they hold."""
    monkeypatch.setattr(ChunkSizer, "worth_flushing", lambda sizer, seconds: False)


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """A test that hangs ends the test run, with a traceback."""
    import faulthandler

    faulthandler.dump_traceback_later(100, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class Watch:
    """Keeps the events of a run."""

    def __init__(self) -> None:
        self.seen: list[events.RunEvent] = []

    def __call__(self, event: events.RunEvent) -> None:
        self.seen.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        """Those of one kind."""
        return [event for event in self.seen if isinstance(event, kind)]


# -- what workers run --------------------------------------------------------------------------------------------------


def taking() -> Callable[[int], mmap.mmap]:
    """A function that takes memory from the system; on its heap a forked worker may have much that is free."""

    def take(size: int) -> mmap.mmap:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1
        return memory

    return take


def leaking(folder: Path, size: int = 8 * MB) -> Callable[[int], tuple[int, int]]:
    """Leaves memory behind with each item."""
    attempts, take, left = Attempts(folder), taking(), []

    def leak(x: int) -> tuple[int, int]:
        attempts.another(x)
        left.append(take(size))
        return x, os.getpid()

    return leak


def growing(folder: Path, *bad: int, while_missing: Path | None = None) -> Callable[[int], int]:
    """Grows within the item, on bad ones, until it is four times what it may be, and never comes back."""
    attempts, take = Attempts(folder), taking()

    def grow(x: int) -> int:
        attempts.another(x)
        if x in bad and not (while_missing and while_missing.exists()):
            held = []
            for _ in range(4 * SPARE // MB):
                held.append(take(MB))
                time.sleep(0.001)
            time.sleep(100)
        return x

    return grow


def attempts_at(folder: Path, count: int) -> set[int]:
    """How often items were run: all that occurs."""
    return {Attempts(folder).at(x) for x in range(count)}


# -- above the limit after a chunk -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "strategy"), [*((method, Combine()) for method in METHODS), *((METHODS[0], s) for s in STRATEGIES[1:])]
)
def test_workers_that_leak_are_replaced_and_nothing_runs_twice(
    method: str, strategy: Any, tmp_path: Path, unflushed: None
) -> None:
    """With state that they had not flushed, too: they flush it before they go."""
    watch = Watch()
    pool = ProcessPool(2, start_method=method, memory_limit=limit_for(method))
    results = aggregate(leaking(tmp_path), range(40), Collect(), pool=pool, strategy=strategy, watch=watch)
    assert [x for x, _ in results] == list(range(40))
    assert attempts_at(tmp_path, 40) == {1}
    assert not watch.of(events.WorkerDied)
    assert len({pid for _, pid in results}) >= 3
    reasons = [event.reason for event in watch.of(events.WorkerRetired)]
    assert reasons
    assert all("MB of memory, above memory_limit=" in reason for reason in reasons)


def test_a_worker_above_the_limit_gives_back_the_rest_of_its_chunk(tmp_path: Path, unflushed: None) -> None:
    """However large a chunk was asked for, a worker has no more than the limit and what a few items leave."""
    pool = ProcessPool(1, memory_limit=limit_for("forkserver"))
    results = aggregate(leaking(tmp_path), range(40), Collect(), pool=pool, chunksize=40)
    assert [x for x, _ in results] == list(range(40))
    assert attempts_at(tmp_path, 40) == {1}
    pids = [pid for _, pid in results]
    assert max(map(pids.count, pids)) < 20


@pytest.mark.parametrize("strategy", [Combine(), Tree()], ids=repr)
def test_a_state_that_is_larger_than_the_limit_is_flushed_in_parts(
    strategy: Any, tmp_path: Path, unflushed: None
) -> None:
    """A state that grows in `step`, and in merges of workers, goes to the parent; each chunk is progress."""
    attempts = Attempts(tmp_path)

    def make(x: int) -> bytes:
        attempts.another(x)
        return bytes([x]) * (4 * MB)

    watch = Watch()
    pool = ProcessPool(2, memory_limit=limit_for("forkserver"))
    state = aggregate(make, range(64), Collect(), pool=pool, strategy=strategy, watch=watch)
    assert [(part[0], len(part)) for part in state] == [(x, 4 * MB) for x in range(64)]
    assert attempts_at(tmp_path, 64) == {1}
    assert not watch.of(events.WorkerDied)
    if isinstance(strategy, Combine):
        assert watch.of(events.WorkerRetired)


def test_borrowed_arrays_stay_as_they_were_when_their_worker_is_replaced() -> None:
    left: list[bytes] = []

    def make(x: int) -> Any:
        left.append(b"x" * (4 * MB))
        return np.full(MB, x, "u1")

    kept: list[Any] = []
    watch = Watch()
    pool = ProcessPool(2, memory_limit="100MiB")
    aggregate(make, range(60), Into(kept.append), pool=pool, watch=watch)
    assert watch.of(events.WorkerRetired)
    assert sorted(int(array[0]) for array in kept) == list(range(60))
    assert all((array == array[0]).all() for array in kept)


# -- outgrown within an item -------------------------------------------------------------------------------------------


def test_an_item_that_always_grows_is_named_with_the_figures(method: str, tmp_path: Path) -> None:
    report = Report()
    with ProcessPool(2, start_method=method, memory_limit=limit_for(method)) as pool:
        with pytest.raises(WorkerLost, match=r"grew to .* MB .* above memory_limit=.* MB, .* item 17") as caught:
            aggregate(growing(tmp_path, 17), range(30), Sum(), pool=pool, watch=report)
        assert (caught.value.index, caught.value.item, caught.value.signal) == (17, 17, "SIGKILL")
        text = " ".join(str(report).split())
        assert "died (it grew to" in text
        assert "above memory_limit=" in text
        assert aggregate(abs, range(100), Sum(), pool=pool) == 4950, "the pool is as good as new"


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_an_item_that_grows_can_be_skipped_and_its_neighbours_are_kept(strategy: Any, tmp_path: Path) -> None:
    pool = ProcessPool(2, memory_limit=limit_for("forkserver"))
    with pytest.warns(SkippedItems, match="above memory_limit"):
        got = aggregate(
            growing(tmp_path, 9), range(20), Collect(), pool=pool, strategy=strategy, on_error="skip", retries=0
        )
    assert got == [x for x in range(20) if x != 9]


@pytest.mark.parametrize(("retries", "runs"), [(0, 1), (1, 2), (None, 3)])
def test_growing_counts_as_an_attempt_as_any_death_does(retries: int | None, runs: int, tmp_path: Path) -> None:
    with ProcessPool(2, memory_limit=limit_for("forkserver")) as pool, pytest.raises(WorkerLost):
        aggregate(growing(tmp_path, 3), range(6), Sum(), pool=pool, chunksize=1, retries=retries)
    assert Attempts(tmp_path).at(3) == runs


def test_a_reducer_that_grows_in_step_is_stopped_and_the_item_named() -> None:
    class Hoarding(Reducer):
        def init(self) -> list[bytes]:
            return []

        def step(self, acc: list[bytes], prepared: int) -> list[bytes]:
            if prepared == 5:
                acc += [b"x" * MB for _ in range(200)]
                time.sleep(100)
            return acc

        def merge(self, acc: list[bytes], other: list[bytes]) -> list[bytes]:
            return acc + other

    pool = ProcessPool(2, memory_limit=limit_for("forkserver"))
    with pytest.raises(WorkerLost, match="above memory_limit") as caught:
        aggregate(abs, range(12), Hoarding(), pool=pool, chunksize=1)
    assert caught.value.index == 5


def test_parts_whose_merges_outgrow_the_limit_in_workers_are_merged_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merging was to be spread, and could not be; the result is the same."""
    monkeypatch.setattr(ChunkSizer, "worth_flushing", lambda sizer, seconds: True)
    here, watch = os.getpid(), Watch()

    def add(a: int, b: int) -> int:
        if os.getpid() != here:
            held = [b"x" * MB for _ in range(200)]
            time.sleep(100)
            del held
        return a + b

    pool = ProcessPool(2, memory_limit=limit_for("forkserver"))
    by_rest = aggregate(
        lambda x: (x % 3, x), range(30), GroupBy(Reduce(add)), pool=pool, strategy=Partition(2), chunksize=1,
        watch=watch,
    )  # fmt: skip
    assert by_rest == {rest: sum(range(rest, 30, 3)) for rest in range(3)}
    assert watch.of(events.FinalMergeStarted)


def test_an_item_does_not_fail_for_what_others_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they are above the limit, and are looked at while they are; alone the item is not."""
    looked = tmp_path / "looked"
    within_item = Recycling.within_item

    def look(wear: Recycling, pid: int, batch: Any) -> str:
        how = within_item(wear, pid, batch)
        if batch.start == 1 and own_memory(pid) > limit:
            looked.touch()
        return how

    left: list[bytes] = []

    def use(x: int) -> int:
        if x == 0:
            left.append(b"x" * (40 * MB))
        if x == 1:
            used = b"x" * (50 * MB)
            while not looked.exists():
                time.sleep(0.001)
            assert used
        return x

    monkeypatch.setattr(Recycling, "within_item", look)
    limit, watch = limit_for("forkserver"), Watch()
    pool = ProcessPool(1, memory_limit=limit)
    assert aggregate(use, range(4), Sum(), pool=pool, chunksize=1, retries=0, watch=watch) == 6
    assert looked.exists()
    assert not watch.of(events.WorkerDied)


def test_who_runs_when_the_kill_comes_too_late_is_innocent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has just ended the item it was to be killed for lives on, with the next one."""
    stopped: list[Any] = []
    kill = Handle.kill

    def late(handle: Handle, cause: Any, how: str, batch: Any = None) -> None:
        while handle.cell.read() == batch:
            time.sleep(0.0001)
        stopped.append(batch)
        kill(handle, cause, how, batch)

    def twice(wear: Recycling, pid: int, batch: Any) -> str:
        return "grew to as much as a test wants" if len(stopped) < 2 else ""

    def slow(x: int) -> int:
        time.sleep(0.01)
        return x

    monkeypatch.setattr(Recycling, "within_item", twice)
    monkeypatch.setattr(Handle, "kill", late)
    watch = Watch()
    pool = ProcessPool(2, memory_limit="1GiB")
    assert aggregate(slow, range(100), Sum(), pool=pool, retries=0, watch=watch) == sum(range(100))
    assert stopped
    assert not watch.of(events.WorkerDied)


def test_a_run_that_failed_for_an_item_that_grows_is_continued(tmp_path: Path) -> None:
    enough = tmp_path / "enough"
    func = growing(tmp_path, 25, while_missing=enough)
    call = {"chunksize": 1, "checkpoint": tmp_path / "kept"}
    with pytest.raises(WorkerLost, match="item 25"):
        aggregate(func, range(30), Sum(), pool=ProcessPool(2, memory_limit=limit_for("forkserver")), **call)
    enough.touch()
    assert aggregate(func, range(30), Sum(), pool=ProcessPool(2), **call) == sum(range(30))


def test_memory_and_time_are_limited_at_once(tmp_path: Path) -> None:
    """Each item is told what it was stopped for."""

    def hang(x: int) -> int:
        if x == 8:
            time.sleep(100)
        return x

    with ProcessPool(2, memory_limit=limit_for("forkserver")) as pool:
        with pytest.raises(WorkerLost, match="above memory_limit"):
            aggregate(growing(tmp_path, 3), range(6), Sum(), pool=pool, item_timeout=90)
        with pytest.raises(TaskError, match=r"item 8.*it ran longer than item_timeout=1 s"):
            aggregate(hang, range(12), Sum(), pool=pool, item_timeout=1)


# -- at once -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["initializer", "func"])
def test_a_limit_that_a_fresh_worker_exceeds_is_an_error_at_once(where: str, tmp_path: Path) -> None:
    """There would be no end of replacing them."""
    attempts, large = Attempts(tmp_path), b"x" * (2 * SPARE)

    def initializer() -> None:
        sys.large = b"x" * (2 * SPARE)  # type: ignore[attr-defined]

    def func(x: int) -> int:
        attempts.another(0)
        return x + (len(large) if where == "func" else 0)

    options = {"initializer": initializer} if where == "initializer" else {}
    if where == "initializer":
        large = b""
    with ProcessPool(2, memory_limit=SPARE, **options) as pool:
        for _ in range(2):
            with pytest.raises(WorkerLost, match=r"run no item yet has \d+\.\d MB .* memory_limit=50\.3 MB: raise"):
                aggregate(func, range(10), Sum(), pool=pool)
    assert Attempts(tmp_path).at(0) == 0


@pytest.mark.parametrize("limit", ["much", "2 GB!", "", 0, -1, True, 1.5, "0"])
def test_a_limit_that_is_none_fails_at_the_call(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"memory_limit must be .* '2GiB'"):
        ProcessPool(1, memory_limit=limit)


def test_where_memory_cannot_be_looked_at_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_STATM", "/nowhere/{}/statm")
    with pytest.raises(ValueError, match=r"which Linux has.*max_items_per_worker works everywhere"):
        ProcessPool(1, memory_limit="2GiB")


# -- what counts -------------------------------------------------------------------------------------------------------


def test_own_memory_is_the_heap_and_not_what_is_shared_or_in_files(tmp_path: Path) -> None:
    """A process that is gone has none."""
    size = 32 * MB
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    def added(memory: mmap.mmap, *, write: bool = True) -> int:
        before = own_memory()
        with memory:
            for at in range(0, size, mmap.PAGESIZE):
                if write:
                    memory[at] = 1
                assert memory[at] == write
            return own_memory() - before

    assert added(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) > 0.9 * size
    assert added(mmap.mmap(-1, size)) < 0.1 * size
    with path.open("rb") as file:
        assert added(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), write=False) < 0.1 * size
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert own_memory(gone.pid) == 0


def test_memory_that_the_parent_borrows_does_not_count() -> None:
    """The parent holds 120 MB in slots of the worker's arena, and the worker stays."""
    kept: list[Any] = []
    watch = Watch()
    pool = ProcessPool(1, memory_limit="100MiB")
    aggregate(lambda x: np.full(4 * MB, x, "u1"), range(30), Into(kept.append), pool=pool, watch=watch)
    assert [int(array[0]) for array in kept] == list(range(30))
    assert not watch.of(events.WorkerRetired)


# -- too many items ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_workers_that_have_run_their_items_flush_their_states_and_are_replaced(
    strategy: Any, tmp_path: Path, unflushed: None
) -> None:
    report, watch = Report(), Watch()
    pool = ProcessPool(2, max_items_per_worker=10)
    results = aggregate(
        leaking(tmp_path, 1), range(60), Collect(), pool=pool, chunksize=3, strategy=strategy, watch=[watch, report]
    )
    assert [x for x, _ in results] == list(range(60))
    assert attempts_at(tmp_path, 60) == {1}
    assert not watch.of(events.WorkerDied)
    assert watch.of(events.WorkerRetired)[0].reason.endswith("items, and max_items_per_worker=10")
    assert "replaced" in str(report)


def test_a_worker_that_has_had_its_day_at_the_end_of_a_run_is_not_in_the_next(tmp_path: Path) -> None:
    with ProcessPool(1, max_items_per_worker=10) as pool:
        runs = [aggregate(leaking(tmp_path, 1), range(10), Collect(), pool=pool, chunksize=10) for _ in range(3)]
    assert len({pid for run in runs for _, pid in run}) == 3


def test_runs_that_fail_leave_no_worker_that_has_had_its_day(tmp_path: Path) -> None:
    """It is killed if it is busy, and the next run has another."""

    def func(x: int) -> int:
        if x == 5:
            raise ValueError(x)
        return os.getpid()

    with ProcessPool(2, max_items_per_worker=1) as pool:
        before = {handle.child.pid for handle in pool._handles.values()}
        for _ in range(3):
            with contextlib.suppress(TaskError):
                aggregate(func, range(8), Collect(), pool=pool, chunksize=1)
        assert not before & set(aggregate(func, range(4), Collect(), pool=pool, chunksize=1))
