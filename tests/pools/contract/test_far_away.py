"""On clusters: items end in time, states stay there, what is shared is sent once."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks
from contract import kinds
from tasks import Attempts, wait_for

from poolagg import Collect, Report, Sum, TaskError, aggregate, events, share


@kinds(cluster=True)
def test_an_item_over_its_time_is_ended_and_its_neighbours_are_kept(pool: Any, tmp_path: Any) -> None:
    """Also one that never lets go of the interpreter's lock; and what it shares with others comes along."""
    attempts = Attempts(tmp_path)
    text = share("a" * 40 + "b")

    def item(x: int) -> int:
        if x == 7:
            attempts.another(x)
            re.match("(a+)+$", text.value)  # for years
        if x == 23 and attempts.another(x) == 1:
            time.sleep(100)
        return x

    seen: list[Any] = []
    failed: list[Any] = []
    options: dict[str, Any] = {"on_error": failed.append, "watch": seen.append}
    result = aggregate(item, range(40), Collect(), pool=pool, item_timeout=0.5, retries=1, chunksize=20, **options)
    assert result == [x for x in range(40) if x != 7]
    assert [(event.index, event.attempt) for event in failed] == [(7, 2)]
    assert isinstance(failed[0].error, TimeoutError)
    assert (
        "ran longer than item_timeout=0.5 s"
        in {event.reason for event in seen if isinstance(event, events.WorkerDied)}.pop()
    )
    assert attempts.at(7) <= 3, "once more at most, alone, if a batch was stopped and not an item"


@kinds(cluster=True)
def test_large_states_stay_on_the_cluster_and_only_roots_travel(pool: Any) -> None:
    """Where the parent takes long to merge: it gets few, and each item is in them once."""
    states: list[int] = []
    flushed: list[bool] = []

    def watch(event: Any) -> None:
        if isinstance(event, events.StateMerged):
            states.append(event.items)
        elif isinstance(event, events.ChunkDone):
            flushed.append(event.sent > 0)

    reducer = tasks.SlowHere(os.getpid())
    result = aggregate(tasks.row, range(160), reducer, pool=pool, chunksize=1, watch=watch)
    assert (result.sum(), result.max()) == (160, 1)
    assert sum(states) == 160
    # At first nobody knows; from then on one for each sixteen chunks, and what the workers have in the end.
    assert len(states) <= 2 * 8 + 160 // 16 + 8, states
    assert sum(flushed) <= len(states)


@kinds(cluster=True)
def test_what_is_shared_is_sent_to_each_worker_once_wherever_it_is(pool: Any, tmp_path: Any) -> None:
    """And not looked for in the memory of the machine that shares it."""
    told = share(tasks.TellsWhereItIsOpened(tmp_path))
    numbers, nothing = share(np.arange(100_000.0)), share([np.empty(0), np.ones(1)])

    def item(x: int) -> tuple[bool, float]:
        assert told.value
        assert not numbers.value.flags.writeable
        assert list(map(len, nothing.value)) == [0, 1]
        return "poolagg-share" in Path("/proc/self/maps").read_text(), numbers.value[x]

    assert aggregate(item, range(40), Collect(), pool=pool, chunksize=2) == [(False, float(x)) for x in range(40)]
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {1}


@kinds(far=True)
def test_a_checkpoint_is_continued_a_bar_moves_and_a_report_is_made(pool: Any, tmp_path: Any) -> None:
    """As on one machine."""
    attempts, report = Attempts(tmp_path), Report()

    def item(x: int) -> int:
        if x == 150 and attempts.another("all") == 1:
            wait_for(covered.exists)
            raise ValueError(x)
        attempts.another(x)
        return x

    def look(event: Any) -> None:
        if isinstance(event, events.ChunkDone) and event.start == 0:
            covered.touch()

    covered = tmp_path / "covered"
    options: dict[str, Any] = {"pool": pool, "chunksize": 10, "checkpoint": tmp_path / "kept.ckpt"}
    with pytest.raises(TaskError, match="item 150"):
        aggregate(item, iter(range(200)), Sum(), **options, watch=look)
    assert aggregate(item, iter(range(200)), Sum(), **options, watch=report, progress=True) == sum(range(200))
    assert attempts.at(0) == 1, "what was covered did not run again"
    assert "200 items" in str(report)
