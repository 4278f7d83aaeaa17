"""The scheduler, in a world where everything fails: whatever the schedule, each item counts once and the run ends."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import assert_exact, hopeless, shape, thorough, worlds
from simulated_workers import ALWAYS, Faults
from simulation import Rough, Timed
from toy_reducers import Bag, Listing, Shape

from poolagg._scheduler.messages import Fail, FlushAll, RestartWorker, Skip
from poolagg._scheduler.ranges import RangeSet
from poolagg.strategies import Combine, Ordered, Stream, Tree

# -- any schedule ------------------------------------------------------------------------------------------------------


@thorough
@given(worlds())
def test_every_item_counts_exactly_once_whatever_dies(made):
    """The result is that of a loop over all items that were not skipped; only hopeless items are; the run ends."""
    world, n = made
    bad = hopeless(world.faults)
    world.run()
    if world.failure is None:
        assert_exact(world, n)
        assert bad <= set(world.skipped)
        assert len(world.scheduler._items.covered) == n == world.scheduler.counts().done + len(world.skipped)
        assert {i for start, stop in world.scheduler._items.failed for i in range(start, stop)} == set(world.skipped)
    else:
        assert world.failure.index is None or not world.terms.skip
        assert world.failure.index is not None or world.unexplained or world.grid


@settings(thorough, max_examples=150)
@given(worlds(faulty=False))
def test_without_faults_no_item_runs_twice(made):
    """Nothing is run again, given up or replaced, however chunks are cut, revoked and given back."""
    world, n = made
    world.run()
    assert_exact(world, n)
    assert world.ran == Counter(range(n))
    assert not any(isinstance(instruction, Skip | Fail) for instruction in world.instructions)
    assert world.terms.most_items or not any(
        isinstance(instruction, RestartWorker) for instruction in world.instructions
    )


@settings(thorough, max_examples=150)
@given(worlds([(Tree(), Shape())], skip=True), st.integers(1, 4))
def test_a_tree_has_one_shape_whatever_happens(made, slots):
    """The expression tree depends on which items count, and on nothing else."""
    world, n = made
    world.run()
    if world.failure is None:
        kept = (i for i in range(n) if i not in world.skipped)
        assert world.value == shape(kept, world.grid)


@settings(thorough, max_examples=150)
@given(worlds([(Stream(), Bag()), (Combine(), Bag()), (Ordered(), Listing())]), st.data())
def test_what_an_earlier_run_covered_is_not_run(made, data):
    """A continued run pulls and runs the items between the intervals it starts from, and no other."""
    _, n = made
    first = data.draw(st.sets(st.integers(0, n)))
    covered = RangeSet((i, i + 1) for i in sorted(first))
    failed = [(i, i + 1) for i in sorted(first) if i % 3 == 0]
    world = Rough(Stream(), Bag(), (i * 10 for i in range(n)), slots=2, covered=covered, failed=failed, seed=n)
    world.run()
    assert world.value == Counter(set(range(n)) - first)
    assert world.ran == world.value


@settings(thorough, max_examples=100)
@given(st.data())
def test_a_continued_tree_folds_the_leaves_that_are_missing(data):
    """A leaf that was committed stays, one that was not is folded whole, without what failed in it before."""
    n, size = data.draw(st.integers(0, 60)), data.draw(st.integers(1, 5))
    leaves = [(i, min(i + size, n)) for i in range(0, n, size)]
    done = [leaf for leaf in leaves if data.draw(st.booleans())]
    failed = {i for i in range(n) if data.draw(st.integers(0, 5)) == 0}
    covered = RangeSet((i, i + 1) for i in sorted(failed | {i for a, b in done for i in range(a, b)}))
    world = Rough(
        Tree(),
        Listing(),
        (i * 10 for i in range(n)),
        slots=2,
        chunksize=size,
        covered=covered,
        failed=[(i, i + 1) for i in sorted(failed)],
    )
    world.run()
    assert world.value == [i for i in range(n) if i not in covered]


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_an_endless_source_runs_until_it_is_stopped(strategy):
    """Nothing is ordered after `stop`, and look-ahead stayed bounded until then (`World.check_promises`)."""
    reducer = Bag() if strategy == Combine() else Listing() if strategy != Stream() else Bag()
    world = Rough(strategy, reducer, (i * 10 for i in itertools.count()), slots=3, kept_bytes=4000, seed=5)
    while len(world.scheduler._items.covered) < 500:
        world.step()
    assert world.scheduler._items.uncovered < 3 * 500 * 8
    world.scheduler.stop()
    assert world.scheduler.finished
    assert world.scheduler.handle(FlushAll()) == []


# -- retries and skips -------------------------------------------------------------------------------------------------


def one_bad_item(kind, times, strategy=None, naming="item", n=20, **terms):
    faults = Faults(**{kind: {7: times}}) if kind != "unpackable" else Faults(unpackable=frozenset({7}))
    strategy = strategy or Stream()
    reducer = Listing() if strategy in (Ordered(), Tree()) else Bag()
    items = (i * 10 for i in range(n))
    world = Timed(strategy, reducer, items, faults=faults, naming=naming, **({"slots": 2, "chunksize": 5} | terms))
    return world.run()


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
@pytest.mark.parametrize(
    ("kind", "retries", "attempts"),
    [
        ("raises", None, 1),
        ("hangs", None, 1),
        ("kills", None, 3),
        ("raises", 0, 1),
        ("hangs", 0, 1),
        ("kills", 0, 1),
        ("raises", 2, 3),
        ("hangs", 2, 3),
        ("kills", 2, 3),
    ],
)
def test_an_item_runs_as_often_as_retries_allow(strategy, kind, retries, attempts):
    """By default a death is forgiven twice and nothing else; a number is the re-runs for all three."""
    world = one_bad_item(kind, ALWAYS, strategy, retries=retries, skip=True)
    assert list(world.skipped) == [7]
    assert world.skipped[7].attempt == attempts
    assert_exact(world, 20)
    failing = one_bad_item(kind, ALWAYS, strategy, retries=retries)
    assert (failing.failure.index, failing.failure.attempt) == (7, attempts)
    if attempts > 1:
        healed = one_bad_item(kind, attempts - 1, strategy, retries=retries)
        assert healed.failure is None
        assert_exact(healed, 20)


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
@pytest.mark.parametrize("kind", ["kills", "hangs"])
@pytest.mark.parametrize("terms", [{"naming": "chunk"}, {"naming": "item"}], ids=str)
@pytest.mark.parametrize(
    "fate", [{}, {"one_failure_domain": True}, {"one_failure_domain": True, "guarded": True}], ids=str
)
def test_the_neighbours_of_a_killer_are_free_of_charge(strategy, kind, terms, fate):
    """With no retries at all, only the killer is skipped: also where nobody names it and it takes all workers along."""
    world = one_bad_item(kind, ALWAYS, strategy, retries=0, skip=True, **fate, **terms)
    assert list(world.skipped) == [7]
    assert_exact(world, 20)


def test_a_leaf_may_have_to_be_searched_more_than_once():
    """The killer was found, forgiven, and killed again: what was learnt about its leaf is out of date."""
    world = one_bad_item("kills", 8, Tree(), naming="chunk", retries=5)
    assert world.failure is None
    assert_exact(world, 20)


@pytest.mark.parametrize("chunksize", [1, 4, 20, None])
@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_a_partial_that_does_not_pickle_is_found_by_halving(strategy, chunksize):
    """It costs itself and no other, however many partials were flushed with it."""
    world = one_bad_item("unpackable", 1, strategy, skip=True, chunksize=chunksize, n=50)
    assert list(world.skipped) == [7]
    assert_exact(world, 50)
    assert max(world.ran.values()) <= 12


@pytest.mark.parametrize("chunksize", [5, 20, None])
@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_a_partial_that_kills_who_packs_its_state_is_found_by_halving(strategy, chunksize):
    """Whatever the worker held is suspect, and no other item is charged with the deaths."""
    terms = {"packing_kills": True, "retries": 0, "skip": True, "chunksize": chunksize, "n": 50}
    world = one_bad_item("unpackable", 1, strategy, **terms)
    assert list(world.skipped) == [7]
    assert_exact(world, 50)
    assert max(world.ran.values()) <= 12


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_all_may_be_skipped(strategy):
    """An input of which nothing is left gives the result of an empty one, leaf by leaf and in order."""
    reducer = Bag() if strategy == Combine() else Listing()
    if strategy == Stream():
        reducer = Bag()
    for kind in ("raises", "kills"):
        faults = Faults(**{kind: dict.fromkeys(range(9), ALWAYS)})
        world = Timed(strategy, reducer, (i * 10 for i in range(9)), faults=faults, slots=2, retries=0, skip=True)
        assert world.run().value == reducer.finish(reducer.init())
        assert len(world.skipped) == 9


def test_a_leaf_that_packs_in_parts_and_not_whole_ends_the_run():
    """No item is to blame, and no probe finds one: the error is the reducer's, and ends the run."""

    class Fickle(Listing):
        def step(self, acc, prepared):
            acc.append(prepared)
            return TooMany(acc) if len(acc) > 1 else acc

    class TooMany(list):
        def __reduce__(self):
            raise TypeError("too many")

    world = Timed(Tree(), Fickle(), (i * 10 for i in range(4)), slots=2, chunksize=4, skip=True).run()
    assert world.failure.index is None
    assert str(world.failure.error) == "too many"


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_a_pool_that_only_dies_ends_the_run(strategy):
    """Nobody can say which item it was, and nothing is ever covered: an error, not a loop."""
    world = one_bad_item("kills", ALWAYS, strategy, naming="none", n=20, chunksize=20, skip=True)
    assert world.failure.index is None
    assert world.silent_deaths < 20


def test_a_chunk_that_is_lost_without_a_word_each_time_ends_an_endless_run():
    """Others get through all the time, so that deaths in a row say nothing: those of one chunk do."""
    faults = Faults(kills={7: ALWAYS})
    items = (i * 10 for i in itertools.count())
    world = Timed(Stream(), Bag(), items, faults=faults, naming="none", slots=3, skip=True)
    assert world.run().failure.index is None
