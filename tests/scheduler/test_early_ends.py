"""A run ends as soon as the settled items decide the result, and runs and pulls little beyond them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from schedules import thorough, worlds
from simulation import Timed
from toy_reducers import Hit

from poolagg.strategies import Combine, Ordered, Stream, Tree

STRATEGIES = [Stream(), Ordered(), Combine(), Tree()]
HITS = Hit(lambda index: index % 50 == 30)


@settings(thorough, max_examples=200)
@given(worlds([(strategy, HITS) for strategy in STRATEGIES]))
def test_the_result_is_that_of_a_loop_whatever_dies(made):
    """The simulation also checks, at each commit, that all items said to be settled are in the result or failed."""
    world, n = made
    world.run()
    if world.failure is None:
        hits = (index for index in range(n) if index % 50 == 30 and index not in world.skipped)
        assert world.value == next(hits, None)


@settings(thorough, max_examples=100)
@given(worlds([(strategy, Hit(lambda index: index > 80)) for strategy in STRATEGIES], faulty=False))
def test_items_that_a_run_did_not_need_are_not_counted(made):
    """The counts after an early end are those of the items that are in the result."""
    world, _ = made
    while not world.scheduler.finished:
        world.step()
    assert world.scheduler.counts().merged == len(world.folded)


def with_a_slow_item(strategy, slots, hit, **terms):
    """A world without end in which the first item takes ten seconds, and every other one a millisecond."""
    reducer, cost = Hit(lambda index: index >= hit), lambda index: 0.001 if index else 10.0
    items = (index * 10 for index in itertools.count())
    return Timed(strategy, reducer, items, slots=slots, cost=cost, **terms).run()


@pytest.mark.parametrize("slots", [2, 4, 16])
@pytest.mark.parametrize("strategy", [Stream(), Combine(), Tree()], ids=repr)
@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_once_a_hit_is_known_no_item_is_pulled(strategy, slots, chunksize):
    """Beyond it at most the items in flight run, two chunks a worker, however long an item before it takes."""
    world = with_a_slow_item(strategy, slots, 40, chunksize=chunksize)
    assert world.now == pytest.approx(10.0, abs=0.1)
    assert world.source.position == world.pulled_when_near
    beyond = world.source.position - 40
    assert beyond <= 2 * slots * world.scheduler.sizer.largest
    assert 0.001 * beyond < 1.0 * slots


@pytest.mark.parametrize("slots", [2, 4])
def test_in_input_order_the_window_bounds_what_runs_beyond_a_hit(slots):
    """The parent hears of a hit only when all items before it are folded."""
    world = with_a_slow_item(Ordered(), slots, 40)
    assert 0.001 * (world.source.position - 40) < 1.0 * slots
