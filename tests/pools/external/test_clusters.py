"""States on a cluster, exactly once, on a cluster of no machines: its tasks run here, in any order, and all goes wrong.

What engines do with a task is a few lines: lose it, run it again, make a state again that was lost, or not. What dask
and Ray really do is in test_dask.py and test_ray.py.
"""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tasks

from poolagg import ArraySum, Collect, Reducer, Sum, aggregate, snapshots
from poolagg._input.batches import InputBatch
from poolagg._scheduler.messages import ChunkResult, Lost, RunChunk
from poolagg.errors import ReducerError
from poolagg.pools import Job
from poolagg.pools.external import external_pool
from poolagg.pools.external import item_timeout as item_timeout_module
from poolagg.pools.external import task as task_module
from poolagg.pools.external.backend import Backend, Result, Task, lost
from poolagg.pools.external.external_pool import ExternalPool
from poolagg.pools.external.item_timeout import run_with_timeout
from poolagg.pools.external.task import Call, Ended, Kept, Returned, Sent, State, halves, run_task
from poolagg.strategies import Combine

SEEDS = 50


class Bag(Reducer):
    """How often each partial was met; merges in place, and keeps what it is given as long as it has nothing itself."""

    def init(self) -> Counter[int]:
        return Counter()

    def step(self, acc: Counter[int], prepared: int) -> Counter[int]:
        acc[prepared] += 1
        return acc

    def merge(self, acc: Counter[int], other: Counter[int]) -> Counter[int]:
        if not acc:
            return other
        acc.update(other)
        return acc


class Troubled(Backend):
    """An engine at its worst: the next task to run is any; it may die, be run twice, or need states that were lost.

    `lineage`: a lost state is made again by itself, as on dask; else whoever needs it is lost, too, as on Ray.
    """

    workers = 2
    keeps_states = True

    def __init__(self, seed: int, lineage: bool, trouble: float = 0.1) -> None:
        self.random = random.Random(seed)
        self.lineage, self.trouble = lineage, trouble
        self.waiting: list[Task] = []
        self.states: dict[int, tuple[Call, Any]] = {}
        self.most_leaves = 0

    def place(self, name: str, job: Job) -> None:
        self.job = Sent.packed(job)

    def submit(self, task: Task) -> None:
        self.waiting.append(task)
        self.most_leaves = max(self.most_leaves, len(task.leaves) + isinstance(task.instruction, RunChunk))

    def wait(self, timeout: float | None) -> Iterator[Result]:
        """Run one of the tasks."""
        if self.waiting:
            task = self.waiting.pop(self.random.randrange(len(self.waiting)))
            result = None if self.strikes() else self.run(task.call(), task.states)
            facts, state = halves(result) if task.keep else (result, None)
            where = len(self.states)
            self.states[where] = task.call(), state
            died = lost(self, "lost a worker")
            yield Result(task, task.died(died) if facts is None else pickle.loads(pickle.dumps(facts, 5)), where)

    def strikes(self) -> bool:
        return self.random.random() < self.trouble

    def run(self, call: Call, leaves: Any = ()) -> Any:
        """Run it, and if it must be, what it needs; some do all they do, and then nobody hears of it: None."""
        states = []
        for where in leaves:
            made_by, state = self.states[where]
            if self.strikes():
                if not self.lineage:
                    return None
                state = getattr(self.run(made_by), "state", None)
            states.append(state)
        for _ in range(2 if self.strikes() else 1):
            result = run_task(call._replace(job=self.job), None, states)
        return result

    def cancel(self) -> None:
        self.waiting.clear()
        self.states.clear()


@pytest.fixture
def all_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a state is, it stays; and none is cheap to flush."""
    for room in (external_pool, task_module):
        monkeypatch.setattr(room, "LARGE", 0)
    monkeypatch.setattr("poolagg._scheduler.chunk_sizing.COST_MULTIPLE", 1_000_000)


@pytest.mark.usefixtures("all_stay")
@pytest.mark.parametrize("lineage", [True, False])
def test_whatever_is_lost_or_run_again_every_item_counts_once(lineage: bool) -> None:
    """Also where a state that is made again comes out differently, for an item fails that did not."""
    merged = 0
    for seed in range(SEEDS):
        engine = Troubled(seed, lineage)
        failed: list[int] = []

        def item(x: int, chance: random.Random = random.Random(seed)) -> int:
            if chance.random() < 0.03:
                raise ValueError(x)
            return x

        options = {"chunksize": 1 + seed % 3, "retries": 50 if seed % 2 else 0}
        result = aggregate(
            item, range(60), Bag(), pool=ExternalPool(engine), on_error=lambda e: failed.append(e.index), **options
        )
        assert set(result.values()) <= {1}, (seed, "an item was counted twice")
        assert sorted([*result, *failed]) == list(range(60)), seed
        merged = max(merged, engine.most_leaves)
    assert 2 <= merged <= external_pool.LEAVES


@pytest.mark.usefixtures("all_stay")
def test_snapshots_are_of_what_they_say_however_much_stays_on_the_cluster() -> None:
    """Slots are asked to flush, and each item that a snapshot tells of is in it once."""
    for seed in range(20):
        pool, last = ExternalPool(Troubled(seed, lineage=True)), 0
        for snapshot in snapshots(int, range(60), Bag(), every=1e-9, pool=pool, chunksize=2, retries=50):
            assert snapshot.value.total() == len(snapshot.value) == snapshot.done >= last
            last = snapshot.done
        assert last == 60


@pytest.mark.usefixtures("all_stay")
@pytest.mark.parametrize("func", [tasks.unpicklable_at(7), tasks.unopenable_at(7)], ids=["packing", "opening"])
def test_what_does_not_travel_costs_the_one_item_wherever_its_state_is(func: Any) -> None:
    """In a leaf, or in a root in which it has met others."""
    for seed in range(20):
        failed: list[int] = []
        pool = ExternalPool(Troubled(seed, lineage=True))
        options: dict[str, Any] = {"chunksize": 2, "on_error": lambda event, failed=failed: failed.append(event.index)}
        result = aggregate(func, range(40), Collect(), pool=pool, **options)
        assert (result, failed) == ([x for x in range(40) if x != 7], [7]), seed


def leases(strategy: Combine, reducer: Reducer, func: Any) -> Any:
    """What runs a lease of that job: of these items, or none, with these leaves."""
    sent = Sent.packed(Job(func, reducer, strategy))

    def lease(name: str, start: int, stop: int, *leaves: State, told: Any = None) -> Any:
        run = tuple(RunChunk(0, 0, start, stop, flush=False)) if start < stop else None
        covers = tuple(leaf.covers for leaf in leaves) if told is None else told
        return run_task(Call(name, sent, run, ("plain", pickle.dumps(range(start, stop)), 0), covers), None, leaves)

    return lease


class KeepsAndAdds(ArraySum):
    """Merges in place into whatever came first, though that is somebody else's."""

    retains_input = True

    def merge(self, acc: Any, other: Any) -> Any:
        return other if acc is None else super().merge(acc, other)


@pytest.mark.parametrize("reducer", [KeepsAndAdds(), ArraySum()])
def test_a_merge_in_place_that_is_run_again_does_not_count_twice(reducer: Any) -> None:
    """The leaves it is given are as they were, for it opens each anew."""
    lease = leases(Combine(), reducer, lambda x: np.full(100_000, x))
    first, second = (lease("again", start, start + 2).state for start in (0, 2))
    before = [pickle.dumps(leaf, 5) for leaf in (first, second)]
    for items in (range(4, 4), range(4, 5)) * 2:
        (partial_state,) = task_module.open_state(
            lease("again", items.start, items.stop, first, second).state, retains_input=True
        )
        assert partial_state.items == 4 + len(items)
        assert set(partial_state.data) == {0 + 1 + 2 + 3 + sum(items)}
    assert [pickle.dumps(leaf, 5) for leaf in (first, second)] == before


def test_a_leaf_that_came_out_differently_is_not_merged() -> None:
    """The driver was told of other items."""
    lease = leases(Combine(), ArraySum(), lambda x: np.full(100_000, x))
    leaf = lease("changed", 0, 3).state
    ended = lease("changed", 3, 4, leaf, told=(((0, 2),),))
    assert isinstance(ended, Ended)
    event = ended.open(7)
    assert isinstance(event, Lost)
    assert (event.slot, event.suspect, event.certain) == (7, None, True)
    assert isinstance(lease("changed", 3, 4, leaf), Returned)


def test_large_buffers_are_moved_and_not_copied_into_what_is_pickled() -> None:
    """They are the accumulator's own memory, which an engine may hand on; with an old pickle they are in it."""
    made = []
    lease = leases(Combine(), ArraySum(), lambda x: made.append(np.full(1_000_000, x)) or made[-1])
    facts, state = halves(returned := lease("out_of_band", 0, 1))
    assert isinstance(facts, Kept)
    assert facts.nbytes >= 8_000_000 > 1000 > len(pickle.dumps(facts))
    buffers: list[pickle.PickleBuffer] = []
    assert len(pickle.dumps(state, 5, buffer_callback=buffers.append)) < 1000
    (opened,) = task_module.open_state(
        returned.state._replace(out_of_band=state.out_of_band.only_here()), retains_input=True
    )
    assert np.shares_memory(opened.data, np.frombuffer(buffers[0], opened.data.dtype))
    assert len(pickle.dumps(state, 4)) > 8_000_000


@pytest.mark.timeout(60)
def test_a_reducer_that_breaks_in_a_process_of_the_workers_own_breaks_the_next_lease_there_too() -> None:
    """Nobody waits for a process that has given up; that of another run is not concerned."""
    job = Job(int, tasks.Failing("step"), Combine(), item_timeout=60)
    for _ in range(2):
        with pytest.raises(ReducerError, match="in step"):
            run_with_timeout(
                "broken", job, RunChunk(0, 0, 0, 3, flush=True), InputBatch(0, 3, "plain", pickle.dumps([1, 2, 3]), 0)
            )


@pytest.mark.timeout(60)
def test_a_process_of_the_workers_own_ends_when_no_lease_has_come_to_it_for_a_while() -> None:
    """It is ended by another thread than the lease's, and nothing of it is left: as of every test."""
    job, input_batch = (
        Job(abs, Sum(), Combine(), item_timeout=60),
        InputBatch(0, 3, "plain", pickle.dumps([1, 2, 3]), 0),
    )
    assert isinstance(run_with_timeout("idle", job, RunChunk(0, 0, 0, 3, flush=True), input_batch), ChunkResult)
    tasks.wait_for(lambda: not item_timeout_module._idle)


def test_a_small_state_comes_along() -> None:
    """It is not worth a message of its own."""
    returned = leases(Combine(), Bag(), int)("small", 0, 3)
    assert halves(returned) == (returned, None)
