"""Large items, in memory that the parent shares with a worker: each is what it was, and memory comes back."""

from __future__ import annotations

import gc
import os
import pickle
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import kinds_of_arrays, properties
from tasks import Attempts, square

from poolagg import Collect, Count, ProcessPool, Sum, TaskError, Unique, aggregate, events, snapshots
from poolagg.pools.process import arena as arena_module
from poolagg.pools.process.arena import KEPT, MOST, Arena, Region
from poolagg.pools.process.progress_cell import SEGMENTS
from poolagg.pools.process.systems.linux import Linux
from poolagg.pools.process.systems.posix import Posix
from poolagg.pools.serialization import pickling

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory here")

MB = 1 << 20


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[Region]:
    """The slots that workers are lent."""
    places: list[Region] = []
    put = Arena.put

    def noted(arena: Arena, buffers: Any) -> Any:
        found = put(arena, buffers)
        places.extend([found[0]] if found else [])
        return found

    monkeypatch.setattr(Arena, "put", noted)
    return places


def arrays(count: int, size: int = MB) -> Iterator[Any]:
    """Arrays full of their index; it is the same array again and again."""
    array = np.empty(size, "u1")
    for x in range(count):
        array[:] = x % 251
        yield array


def whole(array: Any) -> int:
    """Return the value that fills an array."""
    assert (array == array[0]).all()
    return int(array[0])


def still_lent(pool: ProcessPool) -> int:
    """How many slots workers hold when they have left their last run."""
    pool._release_busy()
    lent = [handle.cell.lent_to_worker for handle in pool._handles.values()]
    return sum(segment in segments for segments in lent for segment in range(SEGMENTS))


def held(pool: ProcessPool) -> int:
    """Bytes of memory behind the parent's largest arena."""
    arenas = [handle._arena for handle in pool._handles.values()]
    return max(os.fstat(arena.shared.fd).st_blocks * 512 for arena in arenas if arena is not None)


# -- what arrives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arena", [True, False], ids=["arena", "pipe"])
def test_items_of_all_kinds_arrive_as_pickle_delivers_them(
    method: str, arena: bool, lent: list[Region], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Type, dtype, order, writeability and values; large and small ones in one chunk."""
    monkeypatch.setattr(arena_module, "LEAST_BUFFER", 1)
    monkeypatch.setattr(pickling, "LEAST_BUFFER", 1)
    if not arena:
        for system in (Posix, Linux):
            monkeypatch.setattr(system, "arenas", lambda *_: [])
    items = [[array, name] for name, array in kinds_of_arrays(tmp_path).items()]
    expected = [properties(pickle.loads(pickle.dumps(array, 5))) for array, _ in items]
    with ProcessPool(2, start_method=method) as pool:
        assert aggregate(lambda item: properties(item[0]), items, Collect(), pool=pool, chunksize=3) == expected
    assert bool(lent) == arena


def test_a_generator_may_yield_one_buffer_again_and_again(method: str, lent: list[Region]) -> None:
    pool = ProcessPool(2, start_method=method)
    assert aggregate(whole, arrays(100), Collect(), pool=pool) == [x % 251 for x in range(100)]
    assert lent


def test_rows_of_an_array_arrive(lent: list[Region]) -> None:
    """The parent sends it as slices."""
    rows = np.repeat(np.arange(200.0), 20_000).reshape(200, 20_000)
    assert aggregate(whole, rows, Collect(), workers=2) == list(range(200))
    assert lent


def test_an_item_larger_than_an_arena_arrives(lent: list[Region]) -> None:
    assert aggregate(whole, arrays(3, MOST + 1000), Collect(), workers=1) == [0, 1, 2]
    assert [region.size > MOST for region in lent] == [True] * 3


# -- who keeps or changes what it is given -----------------------------------------------------------------------------


def test_an_item_that_func_changed_runs_again_as_it_was(method: str, tmp_path: Path) -> None:
    """After an error or a death of its worker; the error shows the item as it was, and may be written to."""
    attempts = Attempts(tmp_path)

    def spoil(array: Any) -> int:
        x = whole(array)
        array += 100
        if x in (3, 7) and attempts.another(x) == 1:
            if x == 3:
                raise ValueError("the first time")
            os.kill(os.getpid(), 9)
        return x

    pool = ProcessPool(2, start_method=method)
    assert aggregate(spoil, arrays(20), Collect(), pool=pool, retries=1) == list(range(20))
    with pytest.raises(TaskError) as caught:
        aggregate(lambda array: 1 // whole(array), arrays(3), Sum(), workers=1)
    caught.value.item[:] = 9
    assert caught.value.index == 0


def test_items_that_a_worker_keeps_do_not_change(method: str) -> None:
    """It keeps the memory; what it can't be lent goes through the pipe."""

    def keep(array: Any) -> Any:
        kept = np.__dict__.setdefault("kept_by_a_test", [])
        kept.append((array, whole(array)))
        assert all(whole(array) == x for array, x in kept)
        return array

    with ProcessPool(2, start_method=method) as pool:
        result = aggregate(keep, arrays(150), Collect(), pool=pool)
        assert [whole(array) for array in result] == list(range(150))
        assert held(pool) <= MOST


def test_an_item_that_a_forked_child_of_func_looks_at_does_not_change(tmp_path: Path) -> None:
    """`func` forks a process that looks at it when all other items are done, and returns."""

    def fork(array: Any) -> int:
        x = whole(array)
        if x not in (5, 20):
            return 0
        os.mkfifo(fifo := tmp_path / str(x))
        if pid := os.fork():
            return pid
        status = 1
        try:
            fifo.read_bytes()
            status = 0 if whole(array) == x else 2
        finally:
            os._exit(status)

    def reap(pid: int) -> int:
        return os.waitpid(pid, 0)[1]

    with ProcessPool(1) as pool:
        pids = sorted(aggregate(fork, arrays(100), Unique(), pool=pool))[1:]
        for fifo in tmp_path.iterdir():
            fifo.write_bytes(b"over")
        assert len(pids) == 2
        assert aggregate(reap, pids, Collect(), pool=pool) == [0, 0]


# -- memory that comes back --------------------------------------------------------------------------------------------


def test_slots_are_used_again_and_again(lent: list[Region]) -> None:
    """300 items of 1 MB take the memory of a few, and all is given back when the run is over."""
    with ProcessPool(2) as pool:
        assert aggregate(whole, arrays(300), Count(), pool=pool) == 300
        assert held(pool) <= 12 * MB
        assert still_lent(pool) == 0
    assert len(lent) > 100


def test_slots_of_chunks_that_never_ran_come_back(lent: list[Region]) -> None:
    """Taken back from behind a slow one, left alone by a loop that was left, or by an error."""

    def slow(array: Any) -> int:
        x = whole(array)
        if x == 0:
            import time

            time.sleep(0.3)
        return 1 // (x - 100)

    with ProcessPool(2) as pool:
        for _ in range(2):
            assert aggregate(slow, arrays(90), Count(), pool=pool, chunksize=1) == 90
            for snapshot in snapshots(slow, arrays(90), Count(), every=0.001, pool=pool, chunksize=1):
                if snapshot.done > 10:
                    break
            with pytest.raises(TaskError):
                aggregate(slow, arrays(150), Count(), pool=pool, chunksize=1)
        aggregate(square, range(10), Sum(), pool=pool)
        gc.collect()
        assert still_lent(pool) == 0
    assert lent


def test_an_idle_pool_keeps_little_memory() -> None:
    with ProcessPool(2) as pool:
        aggregate(whole, arrays(8, 30 * MB), Count(), pool=pool)
        pool._release_busy()
        aggregate(square, range(10), Sum(), pool=pool)
        assert held(pool) <= KEPT


def test_without_memory_for_an_arena_the_pipe_serves(lent: list[Region]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ProcessPool(2) as pool:
        pool.open()
        resource.setrlimit(resource.RLIMIT_FSIZE, (MB // 2, hard))
        try:
            assert aggregate(whole, arrays(20), Collect(), pool=pool) == list(range(20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not lent


# -- workers that die --------------------------------------------------------------------------------------------------


def test_workers_killed_again_and_again_lose_no_item(method: str, lent: list[Region]) -> None:
    """While items of 2 MB are written, sent and read."""
    choose = random.Random(2)
    kills = 0

    def watch(event: events.RunEvent) -> None:
        nonlocal kills
        if isinstance(event, events.ChunkDone) and kills < 10 and choose.random() < 0.3:
            handles = list(pool._handles.values())
            if handles:
                choose.choice(handles).child.kill()
                kills += 1

    with ProcessPool(2, start_method=method) as pool:
        result = aggregate(whole, arrays(80, 2 * MB), Collect(), pool=pool, retries=100, chunksize=1, watch=watch)
    assert result == list(range(80))
    assert kills >= 5
    assert lent


def test_a_task_that_closes_all_descriptors_borrows_no_memory(method: str, tmp_path: Path) -> None:
    """It is ended, and the items that it was to have are another worker's."""
    path = tmp_path / "mine"
    attempts = Attempts(tmp_path)

    def rob(array: Any) -> int:
        x = whole(array)
        if x == 2 and attempts.another(x) == 1:
            os.closerange(3, 1000)
            np.files = [open(path, "ab+") for _ in range(30)]  # type: ignore[attr-defined] # which stay open
        return x

    pool = ProcessPool(2, start_method=method)
    assert aggregate(rob, arrays(10), Collect(), pool=pool, chunksize=1) == list(range(10))
    assert path.read_bytes() == b""
