"""Large buffers in memory that a worker shares arrive whole, and never change for whoever keeps them."""

from __future__ import annotations

import gc
import os
import pickle
import platform
import resource
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from arrays import are_full, full, kinds_of_arrays, properties
from tasks import DoesNotUnpickle, wait_for
from workers import workers_of

from poolagg import ArraySum, Collect, Into, Last, Max, ProcessPool, Reducer, Sum, aggregate, events
from poolagg.pools.process import arena as arena_module
from poolagg.pools.process.arena import MOST, Region
from poolagg.pools.process.memory import own_memory
from poolagg.pools.process.progress_cell import SEGMENTS
from poolagg.pools.process.systems.linux import Linux
from poolagg.pools.process.systems.posix import Posix
from poolagg.strategies import Combine, Ordered, Stream, Tree

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory here")

MB = 1 << 20


# -- arrays of all kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arena", [True, False], ids=["arena", "pipe"])
def test_arrays_of_all_kinds_arrive_as_pickle_delivers_them(
    method: str, arena: bool, opened: list[Region], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Type, dtype, order, writeability and values, be they kept by the reducer or handed over as they are lent."""
    monkeypatch.setattr(arena_module, "LEAST_BUFFER", 1)
    if not arena:
        for system in (Posix, Linux):
            monkeypatch.setattr(system, "arenas", lambda *_: [])
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_the_next_run_makes_its_arrays_in_the_memory_of_the_last(method: str) -> None:
    """And the system has that memory back soon after the last run."""

    def faults(_: int) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    with ProcessPool(1, start_method=method) as pool:
        (worker,) = workers_of(pool)

        def run() -> int:
            aggregate(lambda x: np.full(1_000_000, float(x)), range(20), ArraySum(), pool=pool)
            return aggregate(faults, [0], Max(), pool=pool)

        aggregate(abs, [1], Sum(), pool=pool)
        usual = own_memory(worker.pid)
        run()
        before, after = run(), run()
        assert after - before < 300, "an array has 2,000 pages"
        wait_for(lambda: own_memory(worker.pid) < usual + 16 * MB)


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


def test_small_and_large_buffers_travel_together(opened: list[Region]) -> None:
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


def test_whoever_keeps_arrays_has_them_as_they_were(opened: list[Region]) -> None:
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
    """Whoever is handed an array may write to it, as to any other."""
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
    """Who keeps the error, as a run with on_error="skip" does, keeps no memory with it."""

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
