"""Memory and descriptors of arenas come back."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import are_full, full
from tasks import square

from poolagg import ArraySum, Collect, Into, ProcessPool, Sum, TaskError, aggregate, events
from poolagg.pools.process.arena import KEPT, Region
from poolagg.pools.process.progress_cell import SEGMENTS
from poolagg.strategies import Stream

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory here")

MB = 1 << 20


def settle(pool: ProcessPool) -> None:
    """Wait until all workers have left their last run."""
    pool._release_busy()


def held(pool: ProcessPool) -> list[int]:
    """Bytes of memory behind each worker's arena."""
    return [os.fstat(handle.borrowed_segments.shared.fd).st_blocks * 512 for handle in pool._handles.values()]


def open_handles(pool: ProcessPool) -> list[Any]:
    """The workers of the pool, which are started if they have not been."""
    pool.open()
    return list(pool._handles.values())


def descriptors() -> list[str]:
    """What the descriptors of this process refer to."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


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
        arenas = [os.dup(handle.borrowed_segments.shared.fd) for handle in open_handles(pool)]
        kept = list(pool.imap_unordered(full(MB), range(100)))
        del kept[1:]
    blocks = sum(os.fstat(arena).st_blocks * 512 for arena in arenas)
    kept.clear()
    for arena in arenas:
        os.close(arena)
    assert blocks <= 4 * MB


def test_memory_that_could_not_be_mapped_is_given_back() -> None:
    """The worker's address space has no room for a slot beside its array of 100 MB, which goes through the pipe."""

    def make(x: int) -> Any:

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

        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        size = 200 * MB if x == large else 10
        array = np.ones(size, "u1") if kind is None else "x" * size
        if x == large:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 50 * MB, resource.RLIM_INFINITY))
        return array

    return make


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_64_workers_take_few_descriptors_each() -> None:
    """Pipe, claims, death, cell, pidfd, arenas, two streams; and one for each slot that is mapped, three or four."""
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
        assert most - before <= 64 * 14 + 10
    assert len(descriptors()) == before


def test_kept_arrays_hold_a_descriptor_for_each_slot_and_no_more() -> None:
    """They are gone with the arrays, be the pool closed or not."""
    with ProcessPool(2) as pool:  # the forkserver stays
        pool.map(abs, range(2))
    gc.collect()
    before = sorted(descriptors())
    with ProcessPool(2) as pool:
        kept = list(pool.imap_unordered(full(MB), range(300)))
    assert len(descriptors()) - len(before) <= 2 * SEGMENTS
    kept.clear()
    assert sorted(descriptors()) == before


def test_a_parent_that_keeps_arrays_can_do_with_few_descriptors() -> None:

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
