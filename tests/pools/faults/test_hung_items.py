"""An item that hangs costs itself and no other."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from tasks import Flaky, short
from workers import SLOWNESS

from poolagg import Collect, Count, Into, ProcessPool, SkippedItems, Sum, TaskError, aggregate, events, snapshots
from poolagg.strategies import Combine, Ordered, Tree


def test_a_hung_item_is_a_timeout_error(pool: ProcessPool, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {7: "hang"})
    began = time.monotonic()
    with pytest.raises(TaskError, match=r"item_timeout=0\.3") as caught:
        aggregate(func, range(20), Sum(), pool=pool, item_timeout=0.3)
    assert time.monotonic() - began < 3 * SLOWNESS
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
            pool=pool, item_timeout=0.3, on_error="skip", strategy=strategy, watch=seen.append,
        )  # fmt: skip
    assert result == [x for x in range(40) if x not in (7, 8)]
    assert 1 <= len([event for event in seen if isinstance(event, events.WorkerDied)]) <= 2


def test_a_hung_item_may_be_retried(pool: ProcessPool, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {7: "hang"}, times=1)
    assert aggregate(func, range(20), Collect(), pool=pool, item_timeout=0.3, retries=1) == list(range(20))


def test_a_reducer_slower_than_the_timeout_blames_no_item(pool: ProcessPool) -> None:
    applied: list[int] = []

    def slow(partial: int) -> None:
        time.sleep(0.4 * (len(applied) < 4))
        applied.append(partial)

    def func(x: int) -> int:
        time.sleep(0.02)
        return x

    aggregate(func, range(30), Into(slow), pool=pool, item_timeout=0.3)
    assert sorted(applied) == list(range(30))


def test_a_timeout_is_not_inherited_from_the_run_before(pool: ProcessPool) -> None:
    """What a worker was doing when an earlier run was left is not held against the next run's items."""
    for _ in range(3):
        for snapshot in snapshots(short, itertools.count(), Count(), every=0.01, pool=pool, item_timeout=5):
            if snapshot.done:
                break
        time.sleep(0.35)
        assert aggregate(short, range(50), Sum(), pool=pool, item_timeout=0.3) == sum(range(50))
