"""The scheduler, in a world where everything fails: whatever the schedule, each item counts once and the run ends."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_workers import ALWAYS, Faults
from simulation import Rough, Timed, World
from toy_reducers import Bag, Listing, Shape

from poolagg._scheduler.messages import (
    Cancel,
    Cancelled,
    ChunkRan,
    ChunkResult,
    Commit,
    Fail,
    Failure,
    Flush,
    FlushAll,
    Flushed,
    Lost,
    Merged,
    PartialState,
    Pulled,
    RestartWorker,
    Retiring,
    RunChunk,
    Skip,
    SourceEnded,
)
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import LeafGrid, RangeSet
from poolagg._scheduler.scheduler import Scheduler
from poolagg.strategies import Combine, Ordered, Stream, Tree

thorough = settings(max_examples=500, print_blob=True, suppress_health_check=[HealthCheck.too_slow])

KINDS = [(Stream(), Bag()), (Ordered(), Listing()), (Combine(), Bag()), (Tree(), Listing()), (Tree(), Shape())]
TIMES = st.sampled_from([1, 2, 3, ALWAYS])


@st.composite
def troubles(draw, n, shared=False):
    """Some of `n` items that raise, kill, hang, or do not pickle; workers that share their fate hold nothing to
    sink."""
    items = st.integers(0, max(0, n - 1))
    some = st.dictionaries(items, TIMES, max_size=3) if n else st.just({})
    few = st.dictionaries(items, TIMES, max_size=2) if n else st.just({})
    unpackable = frozenset(draw(st.sets(items, max_size=2)) if n else ())
    return Faults(draw(some), draw(some), draw(some), unpackable, draw(few), {} if shared else draw(few))


@st.composite
def worlds(draw, types_of=KINDS, faulty=True, **fixed):
    """A random world, with a random schedule of its own."""
    n = draw(st.sampled_from([0, 1, 3, 10, 40, 120]))
    strategy, reducer = draw(st.sampled_from(types_of))
    shared = faulty and draw(st.booleans())
    costs = draw(st.lists(st.sampled_from([1e-5, 1e-3, 0.04, 0.3]), min_size=1, max_size=7))
    terms = {
        "slots": draw(st.integers(1, 4)),
        "in_flight": draw(st.integers(1, 3)),
        "most_items": draw(st.sampled_from([None, None, 1, 2, 7, 30])),
        "chunksize": draw(st.sampled_from([None, None, 1, 2, 5])),
        "total": draw(st.sampled_from([None, n, n // 2, 2 * n])),
        "retries": draw(st.sampled_from([None, 0, 1, 3])),
        "skip": draw(st.booleans()) or draw(st.booleans()),
        "one_failure_domain": shared,
        "guarded": draw(st.booleans()),
        "packing_kills": draw(st.booleans()),
        "leaves": draw(st.sampled_from([0, 1, 2, 16])),
        "window_chunks": draw(st.integers(1, 8)),
        "window_bytes": draw(st.sampled_from([0, 60, 1 << 20])),
        "kept_bytes": draw(st.sampled_from([20, 1 << 20])),
        "naming": "chunk" if shared else draw(st.sampled_from(["item", "some", "chunk"])),
        "faults": draw(troubles(n, shared)) if faulty else None,
        "chaos": draw(st.sampled_from([0, 0.01, 0.1])) if faulty else 0,
        "most_kills": draw(st.sampled_from([3, 10])),
        "cost": lambda index: costs[index % len(costs)],
        "seed": draw(st.integers(0, 2**32)),
    } | fixed
    return Rough(strategy, reducer, (i * 10 for i in range(n)), **terms), n


def expression(leaves):
    """The tree that the leaves with these numbers make: a node without a sibling climbs as it is."""
    nodes = dict(leaves)
    while len(nodes) > 1 or 0 not in nodes:
        if not nodes:
            return ()
        above: dict = {}
        for place in sorted(nodes):
            left = above.get(place // 2)
            above[place // 2] = nodes[place] if left is None else (left, nodes[place])
        nodes = above
    return nodes[0]


def shape(items, grid):
    """The expression tree of these item indices."""
    leaves = {n: ("leaf", *run) for n, run in itertools.groupby(items, lambda index: grid.leaf(index)[0])}
    return expression(leaves)


def assert_exact(world, n):
    kept = [index for index in range(n) if index not in world.skipped]
    if isinstance(world.reducer, Bag):
        assert world.value == Counter(kept)
    elif isinstance(world.reducer, Listing):
        assert world.value == kept
    else:
        assert world.value == shape(kept, world.grid)


def hopeless(faults):
    """The items that never succeed."""
    types_of = faults.raises, faults.kills, faults.hangs, faults.silences, faults.sinks
    always = {i for times in types_of for i, n in times.items() if n > 1000}
    return always | faults.unpackable


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
    """Nothing is run again, given up or replaced, however chunks are cut, cancelled and given back."""
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
    """With no retries at all, only the killer is skipped: also if it is not named and takes all workers along."""
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
    """The item stays unknown, and nothing is ever covered: an error, not a loop."""
    world = one_bad_item("kills", ALWAYS, strategy, naming="none", n=20, chunksize=20, skip=True)
    assert world.failure.index is None
    assert world.silent_deaths < 20


def test_a_chunk_that_is_lost_without_a_word_each_time_ends_an_endless_run():
    """Others get through all the time, so that deaths in a row say nothing: those of one chunk do."""
    faults = Faults(kills={7: ALWAYS})
    items = (i * 10 for i in itertools.count())
    world = Timed(Stream(), Bag(), items, faults=faults, naming="none", slots=3, skip=True)
    assert world.run().failure.index is None


# -- the pace ----------------------------------------------------------------------------------------------------------


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


def test_chunks_shrink_towards_the_end_so_that_workers_end_together():
    """When the total is known, the last chunks are short, and no worker works a whole chunk longer than another."""
    world = Timed(Stream(), Bag(), (i * 10 for i in range(8000)), cost=lambda i: 1e-3, slots=4, total=8000).run()
    sizes = [stop - start for _, _, start, stop in world.timeline]
    assert max(sizes) >= 40
    assert max(sizes[-4:]) <= 8
    assert 2.0 <= world.now < 2.02


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


def test_an_idle_worker_takes_over_a_waiting_chunk():
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


def flushes(world):
    return sum(isinstance(instruction, Commit) for instruction in world.instructions)


@pytest.mark.parametrize(("price", "seconds"), [(0.01, 40), (0.1, 120), (10.0, 150)])
def test_states_are_shipped_when_that_is_cheap_against_the_work(price, seconds):
    """A state that costs p to flush is flushed each 20 p of work, and at 30 s of work whatever it costs.

    Except for the second flush: after one item of work, the growth of a state's cost is unknown.
    """
    slots, item = 2, 0.04
    n = int(seconds / item)
    world = Dear(Combine(), Bag(), (i * 10 for i in range(n)), cost=lambda i: item, slots=slots)
    world.price = price
    world.run()
    due = min(20 * price, 30.0)
    put_off = min(8 * due, 30.0) * slots
    assert (seconds - put_off) / due * 0.8 <= flushes(world) <= seconds / due * 1.2 + 4 * slots


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
    assert 4 <= flushes(world) <= 60


def test_a_tick_asks_those_who_have_something():
    """A worker that holds nothing and runs nothing is left alone."""
    scheduler = Scheduler(SchedulerOptions(slots=2, stateful=True))
    assert scheduler.handle(FlushAll()) == []
    (run,) = scheduler.handle(Pulled(0, 1, 8))
    assert scheduler.handle(FlushAll()) == [Flush(run.slot)]
    assert scheduler.handle(FlushAll()) == []


# -- odd moments, event by event ---------------------------------------------------------------------------------------


def finished(run, states=True, **more):
    states = (PartialState(((run.start, run.stop),)),) if states else None
    return ChunkResult(run.slot, run.chunk, run.stop, 0.1, states=states, **more)


def ordered(scheduler, event):
    """Return the scheduler's instructions, without those for watchers only."""
    return [instruction for instruction in scheduler.handle(event) if not isinstance(instruction, ChunkRan)]


def started(*chunks, **terms):
    """Return a scheduler with these chunks pulled, and its RunChunk instructions."""
    scheduler = Scheduler(SchedulerOptions(**terms))
    instructions = [instruction for start, stop in chunks for instruction in scheduler.handle(Pulled(start, stop, 8))]
    return scheduler, instructions


def test_the_engine_has_five_questions():
    """All else that it learns arrives as an order."""
    questions = {"finished", "demand", "sealable", "divisible", "counts"}
    assert {name for name in vars(Scheduler) if not name.startswith("_")} == questions | {"handle", "stop", "check"}


def test_a_cancelled_chunk_runs_elsewhere_only_after_its_worker_confirms():
    """Until then it may be running; if it is, it stays."""
    for ok in (True, False):
        scheduler, (a, b, c) = started((0, 1), (1, 2), (2, 3), slots=2, chunksize=1)
        assert (a.slot, b.slot, c.slot) == (0, 1, 0)
        scheduler.handle(SourceEnded())
        instructions = scheduler.handle(finished(b))
        assert Cancel(0, c.chunk) in instructions
        assert not any(isinstance(instruction, RunChunk) for instruction in instructions)
        instructions = scheduler.handle(Cancelled(0, c.chunk, ok))
        assert [instruction.slot for instruction in instructions if isinstance(instruction, RunChunk)] == (
            [1] if ok else []
        )
        scheduler.check()


def test_a_cancelled_chunk_may_no_longer_be_the_last_of_its_slot():
    """The one before it finished, and another was sent, before the event came."""
    scheduler, (a, b, c) = started((0, 1), (1, 2), (2, 3), slots=2, chunksize=1, in_order=True, window_chunks=1)
    assert Cancel(0, c.chunk) in scheduler.handle(finished(b))
    scheduler.handle(finished(a))
    (d,) = (instruction for instruction in scheduler.handle(Pulled(3, 4, 8)) if isinstance(instruction, RunChunk))
    (e,) = (instruction for instruction in scheduler.handle(Pulled(4, 5, 8)) if isinstance(instruction, RunChunk))
    assert {d.slot, e.slot} == {0, 1}
    instructions = scheduler.handle(Cancelled(0, c.chunk, True))
    scheduler.check()
    assert [
        (instruction.start, instruction.stop) for instruction in instructions if isinstance(instruction, RunChunk)
    ] == [(2, 3)]


def test_an_acknowledgement_from_the_dead_is_ignored():
    """The worker was lost first, and its chunks have been given out again."""
    for ok in (True, False):
        scheduler, (_, b, c) = started((0, 1), (1, 2), (2, 3), slots=2, chunksize=1)
        scheduler.handle(SourceEnded())
        scheduler.handle(finished(b))
        scheduler.handle(Lost(0, None, "died", RuntimeError()))
        scheduler.check()
        assert scheduler.handle(Cancelled(0, c.chunk, ok)) == []
        scheduler.check()


def test_one_idle_worker_cancels_one_chunk():
    """Not one more at each event until the worker confirms."""
    scheduler, runs = started(*((i, i + 1) for i in range(5)), slots=3, chunksize=1)
    scheduler.handle(SourceEnded())
    instructions = scheduler.handle(finished(runs[2]))
    instructions += scheduler.handle(FlushAll())
    assert sum(isinstance(instruction, Cancel) for instruction in instructions) == 1


def test_a_worker_lost_while_it_flushes_loses_its_states():
    """Its items run again, and the scheduler does not wait for the flush."""
    scheduler, (a,) = started((0, 3), slots=1, chunksize=3, stateful=True)
    scheduler.handle(finished(a, states=False))
    assert scheduler.handle(SourceEnded()) == [Flush(0)]
    replace, again = scheduler.handle(Lost(0, None, "died", RuntimeError()))
    assert replace == RestartWorker(0)
    assert (again.start, again.stop) == (0, 3)
    scheduler.handle(finished(again))
    assert scheduler.finished


def test_a_retiring_worker_flushes_before_it_is_replaced():
    """Replacing it costs nothing: all workers may retire at once, and no item runs again."""
    scheduler, (a, b) = started((0, 3), (3, 6), slots=2, chunksize=3, stateful=True)
    for run in (a, b):
        scheduler.handle(Retiring(run.slot))
    assert scheduler.demand.items == 0
    assert ordered(scheduler, finished(a, states=False)) == [Flush(0)]
    assert ordered(scheduler, finished(b, states=False)) == [Flush(1)]
    instructions = scheduler.handle(Flushed(0, (PartialState(((0, 3),)),)))
    assert instructions[-1] == RestartWorker(0)
    assert scheduler.demand.items
    assert scheduler.handle(Flushed(1, (PartialState(((3, 6),)),)))[-1] == RestartWorker(1)


def test_a_worker_that_retires_while_a_suspect_runs_alone_keeps_it_alone():
    """In one failure domain nothing runs next to a suspect, on retiring workers or on others."""
    scheduler, _ = started((0, 3), (3, 6), slots=2, chunksize=3, one_failure_domain=True)
    scheduler.handle(Lost(0, (0, 3), "died", RuntimeError()))
    (_, alone) = scheduler.handle(Lost(1, (3, 6), "died", RuntimeError()))
    assert alone.alone
    assert scheduler.handle(Retiring(alone.slot)) == []
    instructions = scheduler.handle(finished(alone))
    assert RestartWorker(alone.slot) in instructions
    assert [instruction.start for instruction in instructions if isinstance(instruction, RunChunk)] == [3]


def test_an_item_that_was_a_chunk_of_its_own_may_be_innocent_where_fate_is_shared():
    """It is charged only when it dies alone."""
    scheduler, _ = started((0, 1), (1, 2), slots=2, one_failure_domain=True, retries=0)
    scheduler.handle(Lost(0, (0, 1), "died", RuntimeError()))
    (_, alone) = scheduler.handle(Lost(1, (1, 2), "died", RuntimeError()))
    assert (alone.start, alone.alone) == (0, True)
    (_, other) = ordered(scheduler, finished(alone))
    assert (other.start, other.alone) == (1, True)
    assert any(
        isinstance(instruction, Fail)
        for instruction in scheduler.handle(Lost(other.slot, (1, 2), "died", RuntimeError()))
    )


def test_where_fate_is_shared_an_items_own_death_is_its_own():
    """Its pool names the item, so it is charged at once, and no other runs alone."""
    scheduler, _ = started((0, 1), (1, 2), slots=2, one_failure_domain=True, retries=0)
    (*_, fail) = scheduler.handle(Lost(0, (0, 1), "timeout", RuntimeError(), certain=True))
    assert (fail.index, fail.cause) == (0, "timeout")


def test_a_worker_that_keeps_separate_states_flushes_them_before_there_are_many():
    """However dear it is to flush: the third chunk flushes what the first two have left."""
    scheduler = Scheduler(SchedulerOptions(slots=1, chunksize=3, stateful=True, leaves=3, in_flight=1))
    flushed, since = [], 0
    for start in range(0, 30, 3):
        (run,) = scheduler.handle(Pulled(start, start + 3, 8))
        flushed.append(run.flush)
        states = (PartialState(((since, run.stop),)),) if run.flush else None
        since = run.stop if run.flush else since
        scheduler.handle(ChunkResult(run.slot, run.chunk, run.stop, 0.1, states=states))
        scheduler.handle(Merged(10.0))
    assert flushed == [True, *[False, False, True] * 3]


def test_a_suspect_runs_where_nothing_is_held():
    """It goes to the new worker, its neighbours to the worker that holds."""
    scheduler, (a, _) = started((0, 3), (3, 6), slots=2, chunksize=3, stateful=True)
    scheduler.handle(finished(a, states=False))
    instructions = scheduler.handle(Lost(1, (4, 6), "died", RuntimeError()))
    assert [(o.slot, o.start, o.stop, o.alone) for o in instructions if isinstance(o, RunChunk)] == [
        (1, 4, 6, True),
        (0, 3, 4, False),
    ]


def test_a_suspect_is_not_starved():
    """One worker is kept free for it, however much there is to run: an endless source has it done soon."""
    for slots in (1, 2):
        faults, items = Faults(unpackable=frozenset({7})), (i * 10 for i in itertools.count())
        world = Timed(Stream(), Bag(), items, faults=faults, slots=slots, chunksize=1, retries=3, skip=True)
        while world.scheduler._items.covered.prefix < 8:
            world.step()
            assert world.events < 1000
        assert world.scheduler.demand.start < 8 + 40


def test_a_state_that_is_dropped_for_one_of_its_leaves_is_run_again_whole():
    """A strategy may merge leaves as it likes: what is not committed runs."""
    scheduler, (a,) = started((0, 6), slots=1, chunksize=6, grid=LeafGrid(3), retries=1)
    failure = Failure(1, "raised", ValueError())
    instructions = scheduler.handle(ChunkResult(0, a.chunk, 6, 0.1, (failure,), (PartialState(((0, 1), (2, 6))),)))
    scheduler.check()
    assert [(o.start, o.stop) for o in instructions if isinstance(o, RunChunk)] == [(0, 3), (3, 6)]


def test_a_suspect_that_names_nothing_that_runs_is_ignored():
    """A name from an older chunk charges no item."""
    scheduler, _ = started((0, 3), slots=1, chunksize=3, retries=0)
    instructions = scheduler.handle(Lost(0, (7, 8), "died", RuntimeError()))
    assert [type(instruction) for instruction in instructions] == [RestartWorker, RunChunk]


def test_a_failure_in_a_part_that_was_given_back_is_charged_as_any():
    """The rest of a chunk is an ordinary chunk."""
    world = Timed(
        Tree(),
        Shape(),
        (i * 10 for i in range(12)),
        cost=lambda i: 1.0,
        faults=Faults(kills={9: 2}, raises={10: 1}),
        slots=1,
        chunksize=None,
        retries=2,
    )
    world.run()
    assert world.value == shape(range(12), LeafGrid())


def test_the_scheduler_refuses_to_count_an_item_twice():
    """A worker that flushes what it did not hold is an error at once, not a wrong result later."""
    scheduler, (a,) = started((0, 3), slots=1, chunksize=3, stateful=True)
    with pytest.raises(AssertionError, match="held"):
        scheduler.handle(ChunkResult(0, a.chunk, 3, 0.1, states=(PartialState(((0, 4),)),)))


def test_the_simulation_finds_a_stuck_scheduler():
    """The simulation itself detects a scheduler without instructions, so that a passing test means something."""

    world = World.__new__(Timed)
    Timed.__init__(world, Combine(), Bag(), (i * 10 for i in range(100)), cost=lambda i: 1e-6, slots=1)
    world.scheduler = Scheduler(world.terms)
    world.scheduler._flushing.of_idle = lambda: None
    world.merge_seconds = lambda state: 1.0
    with pytest.raises(AssertionError, match="stuck"):
        world.run()


def test_an_ordered_run_learns_the_size_of_partials_that_it_cannot_merge_yet():
    """While item 0 takes its time, others arrive; they must not make chunks of a hundred large arrays."""
    scheduler = Scheduler(SchedulerOptions(slots=2, in_order=True))
    first, second = scheduler.handle(Pulled(0, 1, 8)) + scheduler.handle(Pulled(1, 2, 8))
    state = PartialState(((1, 2),), "large", 1 << 20)
    instructions = ordered(scheduler, ChunkResult(second.slot, second.chunk, 2, 1e-6, (), (state,)))
    assert (first.start, first.stop, instructions) == (0, 1, [])
    assert scheduler.demand.items == 1
