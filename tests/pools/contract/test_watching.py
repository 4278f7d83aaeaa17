"""Watchers are told what happens, in order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tasks
from contract import kinds, ours
from tasks import Flaky, inverse, square

from poolagg import Count, Sum, TaskError, aggregate, events
from poolagg.strategies import Stream


def test_events_come_in_order_and_add_up(pool: Any, tmp_path: Any) -> None:
    seen: list[events.RunEvent] = []
    func = Flaky(tmp_path, {5: "raise"}, times=1)
    aggregate(func, range(100), Sum(), pool=pool, retries=1, watch=seen.append, strategy=Stream())
    assert isinstance(seen[0], events.RunStarted)
    assert seen[0].total == 100
    assert isinstance(seen[-1], events.RunEnded)
    assert (seen[-1].done, seen[-1].failed, seen[-1].error) == (100, 0, None)
    chunks = [event for event in seen if isinstance(event, events.ChunkDone)]
    ran = Counter(index for chunk in chunks for index in range(chunk.start, chunk.stop))
    assert set(ran) == set(range(100))
    assert sum(event.items for event in seen if isinstance(event, events.StateMerged)) == 100
    (failed,) = [event for event in seen if isinstance(event, events.ItemFailed)]
    assert (failed.index, failed.item, failed.attempt, failed.will_retry) == (5, 5, 1, True)


def test_the_last_event_tells_the_error(pool: Any) -> None:
    seen: list[events.RunEvent] = []
    with pytest.raises(TaskError) as caught:
        aggregate(inverse, [0], Sum(), pool=pool, watch=[seen.append])
    assert seen[-1].error is caught.value
    assert [event.will_retry for event in seen if isinstance(event, events.ItemFailed)] == [False]


def test_a_watcher_that_raises_is_dropped_with_one_warning(pool: Any) -> None:
    calls, seen = [], []

    def broken(event: Any) -> None:
        calls.append(event)
        raise ValueError("no terminal")

    with pytest.warns(RuntimeWarning, match="no terminal") as warned:
        assert aggregate(square, range(10), Sum(), pool=pool, watch=[broken, seen.append]) == 285
    assert len(ours(warned)) == len(calls) == 1
    assert isinstance(seen[-1], events.RunEnded)


@kinds(slots=2, ours=True)
def test_progress_moves_within_a_long_chunk(pool: Any, tmp_path: Path) -> None:
    """Neither chunk can end before its first half is seen."""
    seen: list[int] = []
    moved = tmp_path / "moved"

    def watch(event: Any) -> None:
        if isinstance(event, events.Progressed):
            seen.append(event.done)
            if 0 < event.done < 50:
                moved.touch()

    def item(x: int) -> None:
        if x in (20, 70):
            tasks.wait_for(moved.exists)

    aggregate(item, range(100), Count(), pool=pool, chunksize=50, watch=watch)
    assert seen == sorted(seen)
    assert seen[-1] == 100
