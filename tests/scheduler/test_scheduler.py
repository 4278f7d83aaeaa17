"""The scheduler at odd moments, event by event."""

from __future__ import annotations

import itertools

import pytest
from schedules import shape
from simulated_workers import Faults
from simulation import Timed, World
from toy_reducers import Bag, Shape

from poolagg._scheduler.messages import (
    Cancel,
    Cancelled,
    ChunkRan,
    ChunkResult,
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
    SourceEnded,
)
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import LeafGrid
from poolagg._scheduler.scheduler import Scheduler
from poolagg.strategies import Combine, Stream, Tree


def finished(run, states=True, **more):
    states = (PartialState(((run.start, run.stop),)),) if states else None
    return ChunkResult(run.slot, run.chunk, run.stop, 0.1, states=states, **more)


def ordered(scheduler, event):
    """What the scheduler orders, but for what is only told to watchers."""
    return [instruction for instruction in scheduler.handle(event) if not isinstance(instruction, ChunkRan)]


def started(*chunks, **terms):
    """A plan with these chunks pulled, and the runs it ordered."""
    scheduler = Scheduler(SchedulerOptions(**terms))
    instructions = [instruction for start, stop in chunks for instruction in scheduler.handle(Pulled(start, stop, 8))]
    return scheduler, instructions


def test_the_engine_has_five_questions():
    """All else that it learns arrives as an order."""
    questions = {"finished", "demand", "sealable", "divisible", "counts"}
    assert {name for name in vars(Scheduler) if not name.startswith("_")} == questions | {"handle", "stop", "check"}


def test_a_revoked_chunk_runs_elsewhere_only_after_its_holder_let_go():
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


def test_a_revoked_chunk_may_no_longer_be_the_last_of_its_lane():
    """The one before it finished, and another was sent, before the answer came."""
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


def test_one_idle_lane_revokes_one_chunk():
    """Not one more at each event until the answer comes."""
    scheduler, runs = started(*((i, i + 1) for i in range(5)), slots=3, chunksize=1)
    scheduler.handle(SourceEnded())
    instructions = scheduler.handle(finished(runs[2]))
    instructions += scheduler.handle(FlushAll())
    assert sum(isinstance(instruction, Cancel) for instruction in instructions) == 1


def test_a_lane_lost_while_it_ships_loses_what_it_held():
    """What was on its way runs again, and nobody waits for the flush."""
    scheduler, (a,) = started((0, 3), slots=1, chunksize=3, stateful=True)
    scheduler.handle(finished(a, states=False))
    assert scheduler.handle(SourceEnded()) == [Flush(0)]
    replace, again = scheduler.handle(Lost(0, None, "died", RuntimeError()))
    assert replace == RestartWorker(0)
    assert (again.start, again.stop) == (0, 3)
    scheduler.handle(finished(again))
    assert scheduler.finished


def test_a_worn_lane_ships_before_it_is_replaced():
    """Replacing it costs nothing: all workers may be worn at once, and no item runs again."""
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


def test_a_lane_that_wears_out_while_a_suspect_runs_alone_keeps_it_alone():
    """With shared fate nothing runs beside a suspect, on worn workers or on others."""
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
    """Its pool knows who it was, so it is charged at once, and nobody else runs alone."""
    scheduler, _ = started((0, 1), (1, 2), slots=2, one_failure_domain=True, retries=0)
    (*_, fail) = scheduler.handle(Lost(0, (0, 1), "timeout", RuntimeError(), certain=True))
    assert (fail.index, fail.cause) == (0, "timeout")


def test_a_lane_that_keeps_its_states_apart_ships_them_before_there_are_many():
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


def test_a_piece_that_is_dropped_for_one_of_its_leaves_is_run_again_whole():
    """A strategy may merge leaves as it likes: what is not committed runs."""
    scheduler, (a,) = started((0, 6), slots=1, chunksize=6, grid=LeafGrid(3), retries=1)
    failure = Failure(1, "raised", ValueError())
    instructions = scheduler.handle(ChunkResult(0, a.chunk, 6, 0.1, (failure,), (PartialState(((0, 1), (2, 6))),)))
    scheduler.check()
    assert [(o.start, o.stop) for o in instructions if isinstance(o, RunChunk)] == [(0, 3), (3, 6)]


def test_a_suspect_that_names_nothing_that_runs_is_no_suspect():
    """A name from an older chunk charges nobody."""
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


def test_the_plan_refuses_to_count_an_item_twice():
    """A worker that flushes what it did not hold is an error at once, not a wrong result later."""
    scheduler, (a,) = started((0, 3), slots=1, chunksize=3, stateful=True)
    with pytest.raises(AssertionError, match="held"):
        scheduler.handle(ChunkResult(0, a.chunk, 3, 0.1, states=(PartialState(((0, 4),)),)))


def test_the_world_finds_a_stuck_plan():
    """The simulation itself: a scheduler that orders nothing is found out, so that a passing test means something."""

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
