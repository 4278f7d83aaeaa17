"""Large buffers in memory that a worker shares: what is seen never changes, nothing is lost, and memory comes back."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import pickle
import platform
import random
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
from arrays import are_full, full, kinds_of_arrays, properties
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks import Attempts, DoesNotUnpickle, square

from poolagg import ArraySum, Collect, Count, Into, Last, ProcessPool, Reducer, Sum, TaskError, aggregate, events
from poolagg.pools.process import arena as arena_module
from poolagg.pools.process.arena import KEPT, MOST, Arena, BorrowedSegments, Region, arena_fd
from poolagg.pools.process.progress_cell import SEGMENTS, ProgressCell
from poolagg.strategies import Combine, Ordered, Stream, Tree

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory here")

MB = 1 << 20


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Region]:
    """The slots that the parent has been lent."""
    places: list[Region] = []
    lent = BorrowedSegments.open
    monkeypatch.setattr(
        BorrowedSegments,
        "open",
        lambda borrowed_segments, region: places.append(region) or lent(borrowed_segments, region),
    )
    return places


def settle(pool: ProcessPool) -> None:
    """Wait until all workers have left their last run."""
    pool._release_busy()


def held(pool: ProcessPool) -> list[int]:
    """Bytes of memory behind each worker's arena."""
    return [os.fstat(handle.borrowed_segments.fd).st_blocks * 512 for handle in pool._handles.values()]


def open_handles(pool: ProcessPool) -> list[Any]:
    """The workers of the pool, which are started if they have not been."""
    pool.open()
    return list(pool._handles.values())


def descriptors() -> list[str]:
    """Return the files that the descriptors of this process refer to."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def workers_of(pool: ProcessPool) -> list[psutil.Process]:
    """The worker processes, for tests to kill."""
    return [psutil.Process(handle.child.pid) for handle in list(pool._handles.values())]


# -- both sides in one process -----------------------------------------------------------------------------------------


class Both:
    """A worker's side and a parent's side of one arena."""

    def __init__(self) -> None:
        self.cell = ProgressCell()
        self.fd = arena_fd()
        self.arena = Arena(self.fd, self.cell.lent_to_parent, 1)
        self.borrowed_segments = BorrowedSegments(os.dup(self.fd), self.cell.lent_to_parent)

    def send(self, *buffers: bytes) -> tuple[Region, list[memoryview]] | None:
        """Put the buffers into a slot and open it; None if there is none to be had."""
        self.borrowed_segments.take_back()
        put = self.arena.put(buffers)
        if put is None:
            return None
        borrowed = self.borrowed_segments.open(put[0])
        return put[0], [borrowed.view(span) for span in put[1]]

    def lent(self) -> list[int]:
        """The slots that are lent."""
        self.borrowed_segments.take_back()
        return [segment for segment in range(SEGMENTS) if segment in self.cell.lent_to_parent]

    def held(self) -> int:
        """Bytes of memory behind the arena."""
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        """As at the end of a worker and of its handle."""
        del self.arena
        self.borrowed_segments.close()
        os.close(self.borrowed_segments.fd)
        self.cell.close()
        os.close(self.fd)


@pytest.fixture
def both() -> Iterator[Both]:
    both = Both()
    yield both
    both.close()


PUT = st.tuples(st.just("put"), st.lists(st.integers(1, 600_000), min_size=1, max_size=3))
DROP = st.tuples(st.just("drop"), st.integers(0, 100))
SHRINK = st.tuples(st.just("shrink"), st.integers(0, 2 * MB))


@settings(max_examples=150)
@given(steps=st.lists(st.one_of(PUT, PUT, DROP, SHRINK), max_size=50))
def test_no_view_changes_no_segment_is_lent_twice_and_memory_is_bounded(steps: list[tuple[str, Any]]) -> None:
    """Whatever is put, kept, dropped and shrunk, in any order. The limit here is 1 MiB."""
    both, seen, largest = Both(), [], 0
    with mock.patch.object(arena_module, "MOST", MB), contextlib.closing(both):
        for number, (step, value) in enumerate(steps):
            if step == "put":
                buffers = [bytes([number + 1]) * size for size in value]
                idle = not both.lent()
                sent = both.send(*buffers)
                assert sent is not None or not idle, "when nothing is lent there is always room"
                if sent is not None:
                    largest = max(largest, sum(value))
                    # One view may outlive the others: it keeps the slot all the same.
                    seen.append((sent[0], list(zip(sent[1], buffers, strict=True))))
                del sent
            elif step == "drop" and seen:
                _, views = seen[value % len(seen)]
                views.pop(value % len(views))
                seen = [one for one in seen if one[1]]
                del views
            elif step == "shrink":
                both.borrowed_segments.take_back()
                both.arena.shrink(value)
                assert both.held() <= max(value, sum(region.size for region, _ in seen))
            assert both.lent() == sorted(region.segment for region, _ in seen)
            places = sorted(region[1:] for region, _ in seen)
            assert all(start + size <= after for (start, size), (after, _) in itertools.pairwise(places))
            assert all(view == buffer for _, views in seen for view, buffer in views)
            assert both.held() <= max(MB, 2 * (largest * 9 // 8 + 8192)), "two of the largest, with some room to spare"
        seen.clear()
        assert both.lent() == []
        both.arena.shrink(0)
        assert both.held() == 0


def test_a_slot_is_free_when_the_last_view_of_it_is_gone(both: Both) -> None:
    sent = both.send(b"a" * 5000, b"b" * 5000)
    assert sent is not None
    region, (first, second) = sent
    del sent
    part = np.frombuffer(second)[3:]
    del second
    first.release()
    assert both.lent() == [region.segment]
    del first, part
    assert both.lent() == []


def test_buffers_begin_at_cache_lines(both: Both) -> None:
    sent = both.send(b"a", b"b" * 1000, b"c")
    assert sent is not None
    assert [np.frombuffer(view, "u1").ctypes.data % 64 for view in sent[1]] == [0, 0, 0]


def test_views_outlive_the_arena() -> None:
    """Borrowed memory lives as long as a view of it, and returns by itself."""
    both = Both()
    sent = both.send(b"a" * 5000)
    both.close()
    del both
    assert sent is not None
    assert sent[1] == [b"a" * 5000]


def test_a_forked_child_gives_nothing_back(both: Both) -> None:
    sent = both.send(b"a" * 5000)
    assert sent is not None
    pid = os.fork()
    if pid == 0:
        del sent
        gc.collect()
        os._exit(sum(segment in both.cell.lent_to_parent for segment in range(SEGMENTS)))
    assert os.waitpid(pid, 0)[1] == 1 << 8, "it sees one slot that is lent, having dropped its view"
    assert len(both.lent()) == 1
    other = both.send(b"b" * 5000)
    assert other is not None
    assert sent[1] == [b"a" * 5000]


def test_a_full_arena_lends_no_segment(both: Both) -> None:
    """So that its worker sends through the pipe, until something is given back."""
    sent = [both.send(b"a" * MB) for _ in range(70)]
    lent = [one for one in sent if one is not None]
    assert 40 <= len(lent) < 64
    assert sent[len(lent) :] == [None] * (70 - len(lent))
    assert both.held() <= MOST
    lent.pop()
    sent.clear()
    assert both.send(b"b" * MB) is not None


def test_small_slots_make_way_for_larger_ones(both: Both) -> None:
    """Also when there are as many as there can be, and together they are far from the limit."""
    lent = [both.send(bytes(1000)) for _ in range(SEGMENTS)]
    assert None not in lent
    lent.clear()
    assert both.send(bytes(MB)) is not None


def test_a_slot_is_given_back_without_a_bytecode_that_can_be_interrupted(both: Both) -> None:
    """Ctrl-C and alarms strike between bytecodes; one that strikes in the callback of a weakref is lost."""
    sent = both.send(b"a" * 5000)
    assert sent is not None
    called: list[str] = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        del sent
    finally:
        sys.setprofile(None)
    assert called == []


def test_a_view_that_del_saves_does_not_change(both: Both) -> None:
    """An object in a cycle that holds a view, and is brought back to life by its `__del__`."""

    class Lazarus:
        def __init__(self, view: Any) -> None:
            self.view, self.me = view, self

        def __del__(self) -> None:
            saved.append(self.view)

    saved: list[memoryview] = []
    sent = both.send(b"a" * 5000)
    assert sent is not None
    Lazarus(sent[1][0])
    del sent
    gc.collect()
    both.send(b"b" * 5000)
    unchanged = saved == [b"a" * 5000]
    saved.clear()
    assert unchanged


# -- arrays of all kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arena", [True, False], ids=["arena", "pipe"])
def test_arrays_of_all_kinds_arrive_as_pickle_delivers_them(
    method: str, arena: bool, opened: list[Region], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Type, dtype, order, writeability and values, be they kept by the reducer or handed over as they are lent."""
    monkeypatch.setattr(arena_module, "LEAST_BUFFER", 1)
    if not arena:
        monkeypatch.setattr("poolagg.pools.process.worker_handle.arena_fd", lambda: -1)
    arrays = kinds_of_arrays(tmp_path)
    names = list(arrays)
    expected = [properties(pickle.loads(pickle.dumps(arrays[name], 5))) for name in names]
    with ProcessPool(2, start_method=method) as pool:
        kept = aggregate(lambda name: arrays[name], names, Collect(), pool=pool, chunksize=2)
        assert [properties(array) for array in kept] == expected
        seen: list[Any] = []
        apply = lambda array: seen.append(properties(array))
        aggregate(lambda name: arrays[name], names, Into(apply, ordered=True), pool=pool, chunksize=2)
        assert seen == expected
    assert bool(opened) == arena


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_arrays_are_made_in_memory_that_is_not_fresh(method: str) -> None:
    """A few pages for each of those that are made on the way to an array of 8 MB, and not all of their 4,000."""

    def make(x: int) -> Any:
        made = np.arange(1_000_000).astype(float)
        made[0] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        return made

    faults: list[float] = []
    with ProcessPool(1, start_method=method) as pool:
        aggregate(make, range(200), Into(lambda array: faults.append(array[0])), pool=pool, chunksize=5)
    assert faults[-1] - faults[100] < 100 * 400


def test_an_array_larger_than_an_arena_arrives(opened: list[Region]) -> None:
    size = MOST + 1000
    seen: list[Any] = []
    aggregate(full(size), range(3), Into(lambda a: seen.append((a.shape, a.min(), a.max()))), workers=1)
    assert seen == [((size,), x, x) for x in range(3)]
    assert [region.size > size for region in opened] == [True] * 3


@pytest.mark.skipif(psutil.virtual_memory().available < 16 << 30, reason="takes 16 GB of free memory")
def test_an_array_of_more_than_2_gb_arrives(opened: list[Region]) -> None:
    size = 2**31 + 8
    seen: list[Any] = []

    def make(x: int) -> Any:
        array = np.zeros(size, "u1")
        array[2**31 :] = x
        return array

    def look(array: Any) -> None:
        seen.extend((array.shape, array[: 2**31].any(), array[2**31 :].tolist()))

    aggregate(make, [7], Into(look), workers=1)
    assert seen == [(size,), False, [7] * 8]
    assert len(opened) == 1


def test_small_and_large_buffers_are_sent_together(opened: list[Region]) -> None:
    """Arrays of sizes that grow and shrink, several to an item; only those that are worth it lie in a slot."""
    sizes = [0, 1, 1000, 70_000, 3_000_000, 10, 200_000, 1_000_000, 65_535, 65_536, 5]

    def several(x: int) -> list[Any]:
        return [np.full(sizes[(x + k) % len(sizes)], x % 251, "u1") for k in range(3)]

    result = aggregate(several, range(100), Collect(), workers=2)
    assert all(np.array_equal(a, b) for x, arrays in enumerate(result) for a, b in zip(arrays, several(x), strict=True))
    assert opened


# -- who keeps what it is given ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_a_reducer_that_keeps_though_it_says_that_it_does_not_is_right(strategy: Any, opened: list[Region]) -> None:
    """It keeps the memory; the worker sends through the pipe when it has no more to lend."""

    class Keeper(Reducer):
        retains_input = False

        def init(self) -> list[Any]:
            return []

        def step(self, acc: list[Any], prepared: Any) -> list[Any]:
            acc.append(prepared)
            return acc

        def merge(self, acc: list[Any], other: list[Any]) -> list[Any]:
            acc.extend(other)
            return acc

    result = aggregate(full(MB), range(200), Keeper(), workers=2, strategy=strategy, chunksize=1)
    assert are_full(result, MB, 200)
    assert opened


def test_arrays_that_are_kept_stay_as_they_were(opened: list[Region]) -> None:
    """Collect, Last, Into a list, `imap_unordered` into a list: also after the next run, and after the pool."""
    with ProcessPool(2) as pool:
        lists = [aggregate(full(MB), range(100), Collect(), pool=pool), list(pool.imap_unordered(full(MB), range(100)))]
        last = aggregate(full(MB), range(100), Last(), pool=pool)
        into: list[Any] = []
        aggregate(full(MB), range(100), Into(into.append), pool=pool)
        lists.append(into)
        total = aggregate(full(MB, "i8"), range(50), ArraySum(), pool=pool, strategy=Stream(), chunksize=1)
        assert (total == sum(range(50))).all()
    assert all(are_full(arrays, MB, 100) for arrays in lists)
    assert (last == 99).all()
    assert opened


def test_a_partial_that_is_changed_in_place_changes_nothing_else() -> None:
    """The receiver of an array may write to it, as to any other."""
    seen: list[tuple[int, int]] = []

    def apply(array: Any) -> None:
        seen.append((int(array.min()), int(array.max())))
        array += 100

    aggregate(full(MB), range(100), Into(apply), workers=2, chunksize=1)
    assert sorted(seen) == [(x, x) for x in range(100)]


def test_an_array_that_a_forked_child_looks_at_does_not_change(tmp_path: Path) -> None:
    """`apply` forks a process that saves the array, and returns."""
    reader, writer = os.pipe()
    pids: list[int] = []

    def save(array: Any) -> None:
        x = int(array[0])
        if x in (5, 20, 35):
            pids.append(os.fork())
            if pids[-1] == 0:
                status = 1
                try:
                    os.close(writer)
                    os.read(reader, 1)  # until the run is over
                    status = int(not (array == x).all())
                finally:
                    os._exit(status)

    try:
        aggregate(full(MB), range(100), Into(save), workers=2, chunksize=1)
    finally:
        os.close(writer)
        os.close(reader)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]


def test_arrays_of_workers_that_are_replaced_stay_as_they_were() -> None:
    kept: list[Any] = []
    aggregate(full(MB), range(60), Into(kept.append), pool=ProcessPool(2, max_items_per_worker=7), chunksize=1)
    assert are_full(kept, MB, 60)


def test_a_partial_that_does_not_unpickle_keeps_no_slot() -> None:
    """Keeping the error, as a run with on_error="skip" does, keeps no memory."""

    def make(x: int) -> Any:
        return np.full(MB, x, "u1"), DoesNotUnpickle()

    failed: list[events.ItemFailed] = []
    with ProcessPool(2) as pool:
        aggregate(make, range(20), Into(lambda partial: None), pool=pool, on_error=failed.append, chunksize=1)
        assert len(failed) == 20
        lent = [
            segment
            for handle in pool._handles.values()
            for segment in range(SEGMENTS)
            if segment in handle.cell.lent_to_parent
        ]
    failed.clear()
    gc.collect()
    assert not lent


# -- memory that comes back --------------------------------------------------------------------------------------------


def test_slots_are_used_again_and_again() -> None:
    """200 arrays of 1 MB take the memory of a few."""
    with ProcessPool(2) as pool:
        most: list[int] = []
        aggregate(full(MB), range(200), Into(lambda array: most.append(max(held(pool)))), pool=pool, chunksize=1)
        assert len(most) == 200
        assert 0 < max(most) <= 12 * MB


def test_an_idle_worker_keeps_little_memory() -> None:
    """However much it lent while it worked."""
    with ProcessPool(2) as pool:
        kept = list(pool.imap_unordered(full(MB), range(200)))
        settle(pool)
        assert max(held(pool)) > KEPT, "what is looked at stays"
        kept.clear()
        assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))
        settle(pool)
        assert max(held(pool)) <= KEPT


def test_an_idle_worker_keeps_little_memory_after_a_reproducible_run() -> None:
    with ProcessPool(2) as pool:
        aggregate(full(6 * MB, "f8"), range(8), ArraySum(), pool=pool, reproducible=True)
        settle(pool)
        assert max(held(pool)) <= KEPT


def test_an_array_that_is_kept_does_not_keep_the_memory_of_others() -> None:
    """When the other arrays are gone, and the pool is closed."""
    with ProcessPool(2) as pool:
        arenas = [os.dup(handle.borrowed_segments.fd) for handle in open_handles(pool)]
        kept = list(pool.imap_unordered(full(MB), range(100)))
        del kept[1:]
    blocks = sum(os.fstat(arena).st_blocks * 512 for arena in arenas)
    kept.clear()
    for arena in arenas:
        os.close(arena)
    assert blocks <= 4 * MB


def test_memory_that_could_not_be_mapped_is_given_back() -> None:
    """The worker has no address space for a segment next to its array of 100 MB, which goes through the pipe."""

    def make(x: int) -> Any:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        array = np.ones(100 * MB if x == 0 else 10, "u1")
        if x == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 50 * MB, resource.RLIM_INFINITY))
        return array

    with ProcessPool(1) as pool:
        assert len(aggregate(make, range(3), Collect(), pool=pool, chunksize=1)) == 3
        settle(pool)
        assert max(held(pool)) <= KEPT


def test_without_memory_for_an_arena_the_pipe_serves(method: str, opened: list[Region]) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (MB, MB))

    pool = ProcessPool(2, start_method=method, initializer=limit)
    assert are_full(aggregate(full(2 * MB), range(20), Collect(), pool=pool), 2 * MB, 20)
    assert not opened


def test_a_partial_that_does_not_fit_into_memory_a_second_time_is_an_error_of_its_item(method: str) -> None:
    """A text has no buffer that could be sent without a copy. The others, and the worker, are as good as before."""
    make_array = without_room_for_another(3)
    make = lambda x: make_array(x) if x != 3 else make_array(3, str)
    with ProcessPool(2, start_method=method) as pool:
        died: list[Any] = []
        watch = lambda event: died.append(event) if isinstance(event, events.WorkerDied) else None
        run = functools.partial(aggregate, make, range(6), Collect(), pool=pool, watch=watch)
        run = functools.partial(run, strategy=Stream(), chunksize=1)  # flushed before the next item has its turn
        with pytest.raises(TaskError) as caught:
            run()
        assert caught.value.index == 3
        assert isinstance(caught.value.__cause__, MemoryError)
        assert len(run(on_error=lambda event: None)) == 5
        assert not died


def test_an_array_that_does_not_fit_into_memory_a_second_time_goes_through_the_pipe(method: str) -> None:
    with ProcessPool(2, start_method=method) as pool:
        options = {"pool": pool, "strategy": Stream(), "chunksize": 1}
        arrays = aggregate(without_room_for_another(3), range(6), Collect(), **options)
    assert [len(array) for array in arrays] == [10, 10, 10, 200 * MB, 10, 10]
    assert all(array[0] == array[-1] == 1 for array in arrays)


def without_room_for_another(large: int) -> Any:
    """A function that makes one large object, and leaves its process no room for another."""

    def make(x: int, kind: type | None = None) -> Any:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        size = 200 * MB if x == large else 10
        array = np.ones(size, "u1") if kind is None else "x" * size
        if x == large:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 50 * MB, resource.RLIM_INFINITY))
        return array

    return make


# -- workers that die --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reducer", "size"), [("ArraySum", MB), ("Into", 2 * MB)])
def test_workers_killed_again_and_again_lose_nothing(method: str, reducer: str, size: int) -> None:
    """At random, while arrays of 2 or 8 MB are written, sent and read."""
    progress, stop = threading.Event(), threading.Event()
    kills, count = 0, 60
    sums: list[int] = []

    def killing(pool: ProcessPool) -> None:
        nonlocal kills
        choose = random.Random(1)
        while not stop.is_set():
            if not progress.wait(0.1):
                continue
            progress.clear()
            stop.wait(choose.random() * 0.02)
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                choose.choice(workers_of(pool)).kill()
                kills += 1

    def watch(event: events.RunEvent) -> None:
        if isinstance(event, events.StateMerged) and kills < 10:
            progress.set()

    with ProcessPool(2, start_method=method) as pool:
        thread = threading.Thread(target=killing, args=[pool])
        thread.start()
        try:
            if reducer == "ArraySum":
                result = aggregate(
                    full(size, "i8"), range(count), (ArraySum(), Count()),
                    pool=pool, retries=100, watch=watch, chunksize=1, strategy=Stream(),
                )  # fmt: skip
                assert (result[0] == sum(range(count))).all()
                assert result[1] == count
            else:
                apply = lambda array: sums.append(int(array.sum()))
                aggregate(full(size), range(count), Into(apply), pool=pool, retries=100, watch=watch, chunksize=1)
                assert sorted(sums) == [size * x for x in range(count)]
        finally:
            stop.set()
            thread.join()
    assert kills >= 2


def test_a_slot_outlives_its_worker(method: str, opened: list[Region]) -> None:
    """`apply` kills the workers, waits until they are gone, and reads what one of them sent."""
    seen: list[int] = []

    def apply(array: Any) -> None:
        if len(seen) in (0, 5):
            children = [handle.child for handle in pool._handles.values()]
            for child in children:
                child.kill()
            assert all(child.ends_within(10) for child in children)
        assert (array == array[0]).all()
        seen.append(int(array[0]))

    with ProcessPool(2, start_method=method) as pool:
        aggregate(full(MB), range(20), Into(apply), pool=pool, retries=10, chunksize=1)
    assert sorted(seen) == list(range(20))
    assert opened


def test_a_task_that_closes_all_descriptors_gets_no_array_of_ours_in_its_file(method: str, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    attempts = Attempts(tmp_path)

    def rob(x: int) -> Any:
        if x == 2 and attempts.another(x) == 1:
            os.closerange(3, 1000)
            files = [open(path, "ab+") for _ in range(30)]
            for file in files:
                file.write(b"mine")
                file.flush()
            np.files = files  # type: ignore[attr-defined] # which stay open
            return np.full(10 * MB, x, "u1")
        return np.full(MB, x, "u1")

    with ProcessPool(2, start_method=method) as pool:
        result = aggregate(rob, range(10), Collect(), pool=pool, chunksize=1)
    assert [int(array[0]) for array in result] == list(range(10))
    assert path.read_bytes() == b"mine" * 30


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_64_workers_take_few_descriptors_each() -> None:
    """Pipe, claims, death, cell, pidfd and arena; and one for each slot that is mapped, three or four."""
    gc.collect()
    before = len(descriptors())
    most = 0

    def apply(array: Any) -> None:
        nonlocal most
        assert (array == array[0]).all()
        seen.append(int(array[0]))
        if len(seen) % 50 == 0:
            most = max(most, len(descriptors()))

    seen: list[int] = []
    with ProcessPool(64, start_method="fork") as pool:
        aggregate(full(MB), range(400), Into(apply), pool=pool, chunksize=1)
        assert sorted(seen) == sorted(x % 251 for x in range(400))
        assert most - before <= 64 * 12 + 10
    assert len(descriptors()) == before


def test_kept_arrays_hold_a_descriptor_for_each_slot_and_no_more() -> None:
    """They are gone with the arrays, be the pool closed or not."""
    gc.collect()
    before = sorted(descriptors())
    with ProcessPool(2) as pool:
        kept = list(pool.imap_unordered(full(MB), range(300)))
    assert len(descriptors()) - len(before) <= 2 * SEGMENTS
    kept.clear()
    assert sorted(descriptors()) == before


def test_a_parent_that_keeps_arrays_can_do_with_few_descriptors() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ProcessPool(3) as pool:
        aggregate(square, range(10), Sum(), pool=pool)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + 20, hard))
        try:
            kept = list(pool.imap_unordered(full(100_000), range(300)))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert are_full(kept, 100_000, 300)


def test_a_forked_child_holds_no_arena() -> None:
    with ProcessPool(2) as pool:
        aggregate(full(MB), range(20), Into(lambda array: None), pool=pool)
        pid = os.fork()
        if pid == 0:
            os._exit(sum("poolagg-arena" in path for path in descriptors()))
        assert os.waitpid(pid, 0)[1] == 0


def test_a_forked_worker_holds_no_arenas_but_its_own() -> None:
    """And its parent's. Else the memory of a worker that is gone would stay as long as those forked after it."""

    def arenas(x: int) -> int:
        found = set()
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if "poolagg-arena" in os.readlink(f"/proc/self/fd/{fd}"):
                    found.add(os.fstat(fd).st_ino)
        return len(found)

    pool = ProcessPool(4, start_method="fork")
    assert set(aggregate(arenas, range(40), Collect(), pool=pool, chunksize=1)) == {2}


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_arrays_that_live_until_the_interpreter_ends_are_let_go_of_in_silence(closed: bool, tmp_path: Path) -> None:
    """In globals of the script and of other modules, and in a cycle; after the pool, or with it. A child, too."""
    script = f"""
        import builtins, os, sys
        import numpy as np
        from poolagg import Into, ProcessPool, aggregate
        import poolagg.pools.process.arena, poolagg.pools.process.progress_cell

        class Cycle:
            def __init__(self, array): self.array, self.me = array, self

        keep = []
        pool = ProcessPool(2)
        pool.__enter__()
        aggregate(lambda x: np.full(1_000_000, x, "u1"), range(20), Into(keep.append), pool=pool)
        if {closed}:
            pool.__exit__(None, None, None)
        cycle = Cycle(keep[0])
        modules = builtins, os, sys, np, poolagg.pools.process.arena, poolagg.pools.process.progress_cell
        for array, module in zip(keep[1:], modules):
            module.kept_by_a_test = array
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        assert all((array == array[0]).all() for array in keep)
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
