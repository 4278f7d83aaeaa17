"""`max_items_per_worker` is a limit: no worker ever runs more items, whatever is asked of it."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tasks import METHODS, Diary
from toy_reducers import Listing

from poolagg import CheckpointMismatch, Collect, MergeCounts, ProcessPool, Sum, TaskError, aggregate, events, snapshots
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree

STRATEGIES = [Stream(), Ordered(), Combine(), Tree()]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("method", METHODS)
def test_no_worker_runs_more_items_than_it_may(method: str, strategy: Any, tmp_path: Path) -> None:
    cases = [(1, 1, 5), (7, None, 40), (3, 2, 9)] if method == "forkserver" else [(3, 2, 8)]
    for most, chunksize, n in cases:
        if strategy == Tree() and chunksize is None:
            chunksize = most
        func = Diary(tmp_path / "a")
        (tmp_path / "a").mkdir(exist_ok=True)
        Path(func.path).write_text("")
        pool = ProcessPool(2, start_method=method, max_items_per_worker=most)
        result = aggregate(func, range(n), Collect(), pool=pool, strategy=strategy, chunksize=chunksize)
        assert result == list(range(n))
        counts = func.of_each_worker()
        assert max(counts.values()) <= most, (most, chunksize)
        assert counts.total() == n, "nothing ran twice"


def test_one_item_a_worker_is_one_item_a_worker(tmp_path: Path) -> None:
    """No chunk waits behind the last: each item has a process of its own, and there are no more processes."""
    func = Diary(tmp_path)
    assert aggregate(func, range(12), Sum(), pool=ProcessPool(2, max_items_per_worker=1)) == 66
    assert sorted(func.of_each_worker().values()) == [1] * 12


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_attempts_that_fail_and_searches_for_the_item_at_fault_count(strategy: Any, tmp_path: Path) -> None:
    func = Diary(tmp_path, raises={3, 17, 18}, dies={8, 21})
    failed: list[int] = []
    result = aggregate(
        func, range(30), Collect(), pool=ProcessPool(2, max_items_per_worker=4), strategy=strategy, chunksize=4,
        retries=1, on_error=lambda event: failed.append(event.index),
    )  # fmt: skip
    assert sorted(failed) == [3, 8, 17, 18, 21]
    assert result == [x for x in range(30) if x not in failed]
    assert max(func.of_each_worker().values()) <= 4


def test_the_count_of_a_kept_worker_goes_on_from_run_to_run(tmp_path: Path) -> None:
    """However a run ends: completely, by an error, or because the caller stops early."""
    func, bad = Diary(tmp_path, seconds=0.001), Diary(tmp_path, raises={5}, seconds=0.001)
    with ProcessPool(2, max_items_per_worker=10) as pool:
        for _ in range(4):
            assert aggregate(func, range(7), Collect(), pool=pool) == list(range(7))
            with contextlib.suppress(TaskError):
                aggregate(bad, range(50), Sum(), pool=pool, chunksize=3)
            for _ in snapshots(func, range(100), Sum(), every=0.001, pool=pool):
                break
        assert aggregate(func, range(23), Sum(), pool=pool, strategy=Combine()) == sum(range(23))
    assert max(func.of_each_worker().values()) <= 10


def test_a_chunksize_above_the_limit_is_cut_to_it(tmp_path: Path) -> None:
    func, seen = Diary(tmp_path), list[Any]()
    pool = ProcessPool(2, max_items_per_worker=4)
    assert aggregate(func, range(40), Sum(), pool=pool, chunksize=25, watch=seen.append) == sum(range(40))
    assert max(func.of_each_worker().values()) <= 4
    assert [event for event in seen if isinstance(event, events.WorkerRetired)]
    assert not [event for event in seen if isinstance(event, events.WorkerDied)]


def test_leaves_of_an_ordered_result_are_cut_to_the_limit(tmp_path: Path) -> None:
    """By default leaves grow with the index, and a worker folds one alone; this run fixes no shape."""
    func = Diary(tmp_path)
    result = aggregate(func, range(400), Listing(), pool=ProcessPool(2, max_items_per_worker=50))
    assert result == list(range(400))
    assert max(func.of_each_worker().values()) <= 50


@pytest.mark.parametrize("call", [{"reproducible": True}, {"strategy": Tree()}, {"strategy": Tree(), "chunksize": 11}])
def test_leaves_that_a_worker_may_not_run_are_refused_where_their_shape_was_asked_for(call: dict[str, Any]) -> None:
    """At the call: the result depends on the leaves, and is to be the same on any pool."""
    with ProcessPool(1, max_items_per_worker=10) as pool:
        with pytest.raises(ValueError, match=r"max_items_per_worker=10 of them: pass chunksize=10 or less"):
            aggregate(abs, range(100), Sum(), pool=pool, **call)
        assert aggregate(abs, range(100), Sum(), pool=pool, reproducible=True, chunksize=10) == sum(range(100))
    pool = ProcessPool(1, max_items_per_worker=1024)
    assert aggregate(abs, range(3000), Sum(), pool=pool, reproducible=True) == sum(range(3000))


def test_a_run_is_not_continued_with_leaves_of_another_size(tmp_path: Path) -> None:
    def fails(x: int) -> int:
        if x == 250:
            raise ValueError(x)
        return x

    path = tmp_path / "kept"
    with pytest.raises(TaskError):
        aggregate(fails, range(300), Listing(), checkpoint=path, pool=ProcessPool(1, max_items_per_worker=60))
    with pytest.raises(CheckpointMismatch, match="the chunksize was 32 at most and is"):
        aggregate(fails, range(300), Listing(), checkpoint=path, pool=ProcessPool(1))


def test_parts_of_a_partition_are_items_too(tmp_path: Path) -> None:
    """They are merged in a second run of the same pool, where each is an item."""
    func = Diary(tmp_path)
    counts = aggregate(
        lambda x: {func(x) % 50: 1}, range(60), MergeCounts(),
        pool=ProcessPool(2, max_items_per_worker=9), strategy=Partition(4),
    )  # fmt: skip
    assert counts == Counter(x % 50 for x in range(60))
    assert max(func.of_each_worker().values()) <= 9
