"""How a run is cut into chunks, which worker runs them, and when it flushes its states."""

from __future__ import annotations

from collections import Counter

import pytest
from schedules import assert_exact
from simulated_workers import Faults
from simulation import Timed
from toy_reducers import Bag, Listing

from poolagg._scheduler.messages import Cancel, Commit, Flush, FlushAll, Pulled
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.scheduler import Scheduler
from poolagg.strategies import Combine, Ordered, Stream

# -- how large chunks are, and where they run -------------------------------------------------------------------------


def test_chunks_reach_fifty_milliseconds_within_a_few():
    """From one item on, each chunk grows at most eightfold; and each is sent before the last was timed."""
    world = Timed(Stream(), Bag(), (i * 10 for i in range(20_000)), cost=lambda i: 1e-4, slots=2).run()
    seconds = [(stop - start) * 1e-4 for _, slot, start, stop in world.timeline if slot == 0]
    assert all(0.03 < s < 0.075 for s in seconds[6:-1]), seconds


def test_a_slow_source_flows():
    """An item runs the moment it was pulled: none is kept in hand while a worker is idle."""
    for strategy in (Stream(), Ordered(), Combine()):
        reducer = Listing() if strategy == Ordered() else Bag()
        items = (i * 10 for i in range(30))
        world = Timed(strategy, reducer, items, cost=lambda i: 1e-3, slots=2, sizer=lambda i: 1.0).run()
        assert [(began, start, stop) for began, _, start, stop in world.timeline] == [
            (float(i), i, i + 1) for i in range(30)
        ]


def test_chunks_shrink_towards_the_end_so_that_lanes_end_together():
    """When the total is known, the last chunks are short, and no worker works a whole chunk longer than another."""
    world = Timed(Stream(), Bag(), (i * 10 for i in range(8000)), cost=lambda i: 1e-3, slots=4, total=8000).run()
    sizes = [stop - start for _, _, start, stop in world.timeline]
    assert max(sizes) >= 40
    assert max(sizes[-4:]) <= 8
    assert 2.0 <= world.now < 2.02


@pytest.mark.parametrize("total", [2, 3, 4])
def test_a_run_of_few_items_takes_one_message_each_way_for_each_worker(total):
    """Each worker gets its share as one chunk, and flushes its state with it."""
    scheduler = Scheduler(SchedulerOptions(slots=2, stateful=True, total=total))
    runs = []
    while (start := scheduler.demand.start) < total:
        runs += scheduler.handle(Pulled(start, min(total, start + scheduler.demand.items), 0))
    assert [(run.slot, run.flush) for run in runs] == [(0, True), (1, True)]


@pytest.mark.parametrize("total", [10, 100_000])
def test_a_wrong_total_costs_little(total):
    """Too small, it is ignored once it is passed; too large, it is not reached and the run ends."""
    world = Timed(Stream(), Bag(), (i * 10 for i in range(4000)), cost=lambda i: 1e-3, slots=2, total=total).run()
    assert_exact(world, 4000)
    assert max(stop - start for _, _, start, stop in world.timeline) >= 40
    assert 2.0 <= world.now < 2.1


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine()], ids=repr)
def test_a_chunk_that_turned_out_too_long_runs_elsewhere(strategy):
    """Cheap items, then heavy ones: the chunk that met them gives the rest back, and all workers share it."""
    reducer = Listing() if strategy == Ordered() else Bag()
    cost = dict.fromkeys(range(3000, 3040), 1.0)
    items = (i * 10 for i in range(3040))
    world = Timed(strategy, reducer, items, cost=lambda i: cost.get(i, 1e-4), slots=4).run()
    assert_exact(world, 3040)
    heavy = Counter(slot for _, slot, start, stop in world.timeline if stop > 3000)
    assert len(heavy) == 4
    assert world.now < 0.3 + 10 + 4


def test_a_lane_without_work_takes_over_a_chunk_that_waits():
    """Item 0 takes ten seconds: what had been sent to wait behind it runs on the other worker at once."""
    cost = {0: 10.0}
    items = (i * 10 for i in range(50))
    world = Timed(Stream(), Bag(), items, cost=lambda i: cost.get(i, 0.01), slots=2, chunksize=1).run()
    assert any(isinstance(instruction, Cancel) for instruction in world.instructions)
    assert world.now == pytest.approx(10.0)


def test_a_chunk_that_is_not_given_back_is_not_asked_for_again():
    """A worker that refuses each time is not asked at each event for ever."""
    cost = {0: 10.0}
    items = (i * 10 for i in range(50))
    world = Timed(Stream(), Bag(), items, cost=lambda i: cost.get(i, 0.01), slots=2, chunksize=1)
    world.reluctance = 1.0
    assert_exact(world.run(most_events=1000), 50)


def test_an_ordered_run_looks_ahead_within_its_window():
    """While the oldest item is slow, others run up to the window in items, and up to the window in bytes."""
    cost = {0: 100.0}
    for terms, most in [({"window_chunks": 3}, 3 * 2 + 2), ({"window_bytes": 300}, 20)]:
        items = (i * 10 for i in range(400))
        world = Timed(Ordered(), Listing(), items, cost=lambda i: cost.get(i, 0.01), slots=2, chunksize=1, **terms)
        while world.now < 99:
            world.step()
        assert 4 <= world.scheduler.demand.start <= most
        assert world.scheduler._items.arrived_bytes <= 300 + 2 * 60
        world.run()
        assert_exact(world, 400)


def test_a_window_of_no_bytes_still_lets_the_oldest_through():
    """The oldest is always admitted: also as a suspect, after others filled the window."""
    for kind in ("kills", "raises"):
        faults = Faults(**{kind: {0: 2, 5: 2}})
        world = Timed(
            Ordered(), Listing(), (i * 10 for i in range(30)), faults=faults, slots=3, window_bytes=0, retries=2
        )
        assert_exact(world.run(), 30)


# -- when states are flushed -------------------------------------------------------------------------------------------


class Dear(Timed):
    """States that cost `price` seconds to flush, half of it in the parent."""

    price = 0.0

    def ship_seconds(self, worker):
        return self.price / 2

    def merge_seconds(self, state):
        return self.price / 2


def ships(world):
    return sum(isinstance(instruction, Commit) for instruction in world.instructions)


@pytest.mark.parametrize(("price", "seconds"), [(0.01, 40), (0.1, 120), (10.0, 150)])
def test_states_are_flushed_when_that_is_cheap_against_the_work(price, seconds):
    """A state that costs p to flush is flushed each 20 p of work, and at 30 s of work whatever it costs.

    But for the second time: after an item's worth of work, nobody knows how the cost of a state will grow.
    """
    slots, item = 2, 0.04
    n = int(seconds / item)
    world = Dear(Combine(), Bag(), (i * 10 for i in range(n)), cost=lambda i: item, slots=slots)
    world.price = price
    world.run()
    due = min(20 * price, 30.0)
    put_off = min(8 * due, 30.0) * slots
    assert (seconds - put_off) / due * 0.8 <= ships(world) <= seconds / due * 1.2 + 4 * slots


def test_states_are_flushed_when_much_input_is_kept_for_a_rerun():
    """With more than `kept_bytes` of input un-flushed, workers flush with their next chunk."""
    items = (i * 10 for i in range(4000))
    world = Dear(Combine(), Bag(), items, cost=lambda i: 1e-3, slots=2, nbytes=1000, kept_bytes=500_000)
    world.price = 10.0
    most = 0
    while not world.scheduler.finished:
        world.step()
        most = max(most, world.retry_buffer.nbytes, world.scheduler._items.uncovered * 1000)
    assert most < 500_000 + 2 * 3 * 60_000
    assert 4 <= ships(world) <= 60


def test_a_tick_asks_those_who_have_something():
    """A worker that holds nothing and runs nothing is left alone."""
    scheduler = Scheduler(SchedulerOptions(slots=2, stateful=True))
    assert scheduler.handle(FlushAll()) == []
    (run,) = scheduler.handle(Pulled(0, 1, 8))
    assert scheduler.handle(FlushAll()) == [Flush(run.slot)]
    assert scheduler.handle(FlushAll()) == []
