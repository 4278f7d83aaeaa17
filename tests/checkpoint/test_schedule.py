"""Commits cost at most one percent of a run, or what `every` asks for."""

from __future__ import annotations

import functools
import time

from checkpointed import Started
from hypothesis import given
from hypothesis import strategies as st

from poolagg import Checkpoint, Max, ProcessPool, Sum, aggregate, events
from poolagg._checkpoint.schedule import COMMIT_SHARE, DEAR, SHORTEST_PAUSE, CheckpointSchedule
from poolagg.strategies import Stream


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=50))
def test_commits_cost_one_percent_at_most(costs):
    """Of any stretch of the run from the end of one commit to the end of the next of the same cost."""
    assert COMMIT_SHARE == 0.01
    schedule, now, spent = CheckpointSchedule(None, 0.0), 0.0, 0.0
    for cost in costs:
        assert schedule.next - now >= SHORTEST_PAUSE - 1e-9  # which is what a clock of floats takes from it
        began = schedule.next
        schedule.wrote(cost, began + cost)
        now = began + cost
        spent += cost
        assert spent <= COMMIT_SHARE * schedule.next + 1e-9


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=9))
def test_the_first_commit_waits_until_it_is_cheap(sizes):
    """By the size of the largest state that came; once a commit has shown what it costs, that counts alone."""
    schedule = CheckpointSchedule(None, 0.0)
    for nbytes in sizes:
        schedule.expect(nbytes)
    cost = max(sizes) * DEAR
    assert schedule.next >= SHORTEST_PAUSE
    assert cost <= COMMIT_SHARE * (schedule.next + cost) + 1e-9
    began = schedule.next
    schedule.wrote(0.001, began)
    schedule.expect(10**10)
    assert schedule.next == began + SHORTEST_PAUSE


def test_every_forces_the_first_commit_too():
    """However large the states are."""
    schedule = CheckpointSchedule(5.0, 0.0)
    schedule.expect(10**10)
    assert schedule.next == 5.0


def test_a_large_state_is_committed_once_by_a_short_run(path, monkeypatch):
    """What came from a worker says how large; a commit of 40 MB is not due at once, however often one may be made."""
    monkeypatch.setattr("poolagg._checkpoint.schedule.SHORTEST_PAUSE", 0.0)
    for size, few in ((40_000_000, True), (10, False)):
        seen = Started()
        with ProcessPool(1) as pool:
            call = functools.partial(aggregate, lambda _: bytes(size), reducer=Max(key=len), strategy=Stream())
            call(iterable=range(2), pool=pool, checkpoint=f"{path}-{size}", watch=seen, chunksize=1)
        assert (len(seen.of(events.Checkpointed)) == 1) == few


def test_every_forces_more():
    """But never fewer commits than are cheap."""
    schedule = CheckpointSchedule(5.0, 0.0)
    assert schedule.next == SHORTEST_PAUSE
    schedule.wrote(3.0, 10.0)
    assert schedule.next == 15.0
    assert CheckpointSchedule(0.1, 0.0).next == 0.1


def test_every_makes_workers_ship(path):
    """What a worker holds is in the file soon, though flushing is not yet due."""
    seen = []

    def watch(event):
        if isinstance(event, events.Checkpointed):
            seen.append(event)

    def nap(x):
        time.sleep(0.01)
        return x

    aggregate(nap, range(100), Sum(), workers=2, checkpoint=Checkpoint(path, every=0.1), watch=watch)
    assert len(seen) >= 2
    assert all(event.nbytes > 0 and event.seconds > 0 for event in seen)
