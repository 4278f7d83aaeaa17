"""A world without clock and process for the scheduler: workers send events in any legal order, and die.

`World` is what the engine is to the scheduler: it pulls, cuts input batches, sends orders, folds what is committed.
What its workers do is in `simulated_workers.py`; what happens next is up to the schedule.
`Rough` chooses the next thing that happens at random, among all that may; `Timed` does things in the order of a clock
of its own, for the claims about pace. Both check the scheduler after every event, and fail if nothing can happen any
more.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from simulated_workers import Faults, SimulatedWorkers, Worker

from poolagg._input.batches import RetryBuffer
from poolagg._input.source import Source
from poolagg._scheduler.messages import (
    Cancel,
    ChunkRan,
    Commit,
    Fail,
    Flush,
    FlushAll,
    Late,
    LeaveOut,
    Merged,
    PartialState,
    Pulled,
    Release,
    RestartWorker,
    Retiring,
    Retry,
    RunChunk,
    Skip,
    SourceEnded,
    Yield,
    Yielded,
)
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import RangeSet
from poolagg._scheduler.scheduler import Scheduler
from poolagg.reducers import Reducer
from poolagg.strategies import Strategy


class World(SimulatedWorkers):
    """A scheduler with its source, workers and result; `run()` drives it to its end."""

    def __init__(
        self,
        strategy: Strategy,
        reducer: Reducer,
        items: Iterable[Any],
        *,
        faults: Faults | None = None,
        cost: Callable[[int], float] = lambda index: 0.001,
        naming: str = "item",
        guarded: bool = False,
        packing_kills: bool = False,
        nbytes: int = 8,
        seed: int = 0,
        covered=(),
        failed=(),
        result=None,
        **terms: Any,
    ) -> None:
        grid = strategy.grid(terms.get("chunksize"))
        grid = grid and grid.within(terms.get("most_items"))
        stateful = strategy.stateful and not reducer.ends_early
        made = SchedulerOptions(stateful=stateful, in_order=strategy.in_order, grid=grid, **terms)
        super().__init__(
            strategy, reducer, made, faults=faults, cost=cost, naming=naming, guarded=guarded,
            packing_kills=packing_kills, seed=seed,
        )  # fmt: skip
        self.scheduler = Scheduler(made, covered, failed)
        self.source = Source(items, None)
        self.retry_buffer = RetryBuffer()
        self.parent_fold = strategy.parent_fold(reducer) if result is None else result
        self.nbytes = nbytes
        self.folded = RangeSet(covered)
        self.told_ended = False
        self.known = False
        self.pulled_when_near = 0
        self.committed = 0
        # what happened
        self.instructions: list[Any] = []
        self.events = 0
        self.failure: Fail | None = None
        self.skipped: dict[int, Skip] = {}

    # -- the engine's part ---------------------------------------------------------------------------------------------

    def run(self, most_events: int = 20_000) -> World:
        while not self.scheduler.finished:
            assert self.events < most_events, "the run does not end"
            self.step()
        if self.failure is None and not self.reducer.ends_early:
            assert all(not worker.in_flight for worker in self.workers)
            assert (len(self.retry_buffer), self.retry_buffer.nbytes) == (0, 0)
        return self

    def step(self) -> None:
        raise NotImplementedError

    @property
    def value(self) -> Any:
        return self.parent_fold.value()

    def tell(self, event: Any) -> None:
        """Give the scheduler an event, and carry out its instructions."""
        events = deque([event])
        while events:
            self.events += 1
            instructions = self.scheduler.handle(events.popleft())
            self.scheduler.check()
            todo = deque(instructions)
            while todo and not self.known:
                self.instructions.append(todo[0])
                self.obey(todo.popleft(), events)
            if self.known:
                self.scheduler.stop(todo)
        self.check_promises()

    def obey(self, instruction: Any, events: deque) -> None:
        match instruction:
            case RunChunk():
                self.check_run(instruction)
                self.send(instruction)
            case Flush():
                self.send(instruction)
            case Cancel(slot, _):
                if not self.workers[slot].dead:
                    self.workers[slot].cancels.append(instruction)
            case Yield(slot, chunk):
                events.append(Yielded(slot, chunk, self.divide(self.workers[slot], chunk)))
            case RestartWorker(slot, _):
                worker = self.workers[slot]
                assert worker.dead or not (worker.in_flight or worker.inbox or worker.running), instruction
                assert not worker.worker_fold.payloads() or worker.dead
                self.workers[slot] = self.new_worker()
            case Commit(state, settled):
                self.commit(state, settled, events)
            case LeaveOut(leaf):
                self.parent_fold.leave_out(leaf)
            case Skip(failure, _, settled):
                self.check_charge(failure.index, failure.cause)
                self.folded.add(failure.index, failure.index + 1)
                self.is_enough(settled)
                self.skipped[failure.index] = instruction
                self.retry_buffer.release(failure.index, failure.index + 1)
            case Fail(index, _, _, cause):
                if index is not None:
                    self.check_charge(index, cause)
                self.failure = instruction
            case Release(start, stop):
                self.retry_buffer.release(start, stop)
            case Retry() | ChunkRan():
                pass

    def send(self, instruction: Any) -> None:
        worker = self.workers[instruction.slot]
        worker.in_flight.append(instruction)
        if not worker.dead:  # else the death is unknown yet, and the instruction is lost
            worker.inbox.append(instruction)

    def commit(self, state: PartialState, settled: int, events: deque) -> None:
        assert state.error is None
        if self.strategy.in_order:
            assert state.covers[0][0] >= self.committed, "out of order"
            self.committed = state.covers[-1][1]
        self.parent_fold.commit(pickle.loads(state.data))
        for start, stop in state.covers:
            self.retry_buffer.release(start, stop)
            self.folded.add(start, stop)
        events.append(Merged(self.merge_seconds(state), self.is_enough(settled)))

    def is_enough(self, settled: int) -> bool:
        """Check what is said to be settled; end the run if the reducer is done, as the engine does."""
        assert self.folded.prefix >= settled, f"{self.folded} and not all items before {settled}"
        if not (self.reducer.ends_early and self.parent_fold.done(max(settled, self.scheduler.demand.start))):
            return False
        self.pulled_when_near = self.pulled_when_near or self.source.position
        self.known = self.parent_fold.done(settled)
        return True

    def merge_seconds(self, state: PartialState) -> float:
        return 1e-5

    def pull(self, most: int) -> None:
        """Pull at most so many items; seal what may be sealed."""
        scheduler, source = self.scheduler, self.source
        demand = scheduler.demand
        if demand.start > source.position:
            assert not source.in_hand
            for _ in source.skip(demand.start - source.position):
                pass
        while source.in_hand < demand.items and most and not source.ended:
            before = source.in_hand
            source.pull(source.in_hand + 1, 1 << 30, lambda: 0.0, 1.0)
            most -= 1
            if source.in_hand == before or (demand.urgent and scheduler.sealable(source.in_hand, False)):
                break
        count = scheduler.sealable(source.in_hand, source.ended)
        if count and demand.items and (source.in_hand >= demand.items or demand.urgent or source.ended):
            input_batch = source.seal(count)
            self.retry_buffer.add(input_batch)
            self.tell(Pulled(input_batch.start, input_batch.stop, self.nbytes * count))
        if source.ended and not source.in_hand and not self.told_ended:
            self.told_ended = True
            self.tell(SourceEnded())

    # -- the promises that hold at every moment ------------------------------------------------------------------------

    def check_run(self, run: RunChunk) -> None:
        input_batch = self.retry_buffer.find(run.start)
        assert run.stop <= input_batch.stop, f"{run} crosses the end of {input_batch}"
        if run.alone:
            assert not self.workers[run.slot].in_flight, f"{run} is not alone: {self.workers[run.slot].in_flight}"
            if self.terms.one_failure_domain:
                assert not any(worker.in_flight for worker in self.workers), f"{run} shares its fate"
            if not self.workers[run.slot].dead:
                assert self.holds_nothing(self.workers[run.slot]), f"{run} is to run beside other items' state"
        elif self.terms.one_failure_domain:
            assert not any(o.alone for w in self.workers for o in w.in_flight if isinstance(o, RunChunk))

    def holds_nothing(self, worker: Worker) -> bool:
        return not getattr(worker.worker_fold, "_covers", ())

    def check_charge(self, index: int, cause: str) -> None:
        """Check that no item is skipped, or ends the run, for the faults of others."""
        retries = self.terms.retries
        allowed = retries if retries is not None else 2 if cause == "died" else 0
        assert self.offences[index] > allowed, f"item {index} offended {self.offences[index]} times only"

    def check_promises(self) -> None:
        scheduler = self.scheduler
        if self.failure is not None:
            return
        idle = [n for n, w in enumerate(self.workers) if not w.in_flight and not scheduler._slots[n].retiring]
        calm = (
            not scheduler._items.waiting
            and not scheduler._suspects.suspects
            and not self.alone_anywhere()
            and not self.told_ended
        )
        if idle and calm and not self.terms.in_order and not scheduler._enough:
            assert scheduler.demand.urgent, "a worker is idle and an item in hand would be kept"
            assert scheduler.demand.items > 0, "a worker is idle and nothing is wanted"
        if not self.strategy.stateful:
            chunks = (
                max(2, self.terms.in_flight) * self.terms.slots
                + (self.terms.window_chunks * self.terms.slots + 1) * self.terms.in_order
            )
            _, start, stop = (0, 0, 0) if self.grid is None else self.grid.leaf(scheduler.demand.start)
            most = (chunks + 2) * (8 * scheduler.sizer.largest + stop - start)
            assert scheduler._items.uncovered <= most, f"{scheduler._items.uncovered} items ahead"

    def alone_anywhere(self) -> bool:
        return any(isinstance(o, RunChunk) and o.alone for worker in self.workers for o in worker.in_flight)


class Rough(World):
    """Let any possible next event happen, at random; `chaos` is the rate of unrequested ones."""

    def __init__(self, *args: Any, chaos: float = 0.0, most_kills: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chaos = chaos
        self.kills_left = most_kills
        self.reluctance = self.random.choice([0.0, 0.5, 1.0])

    def step(self) -> None:
        if self.random.random() < self.chaos:
            self.disturb()
            return
        steps: list[Callable[[], None]] = []
        for worker in self.workers:
            if worker.outbox:
                steps.append(lambda w=worker: self.deliver(w))
            if worker.dead:
                continue
            if worker.running is not None:
                steps.append(lambda w=worker: self.end(w))
                if self.scheduler._starving and self.terms.chunksize is None:
                    steps += [lambda w=worker: self.tell(Late(self.workers.index(w), w.running.chunk))] * 3
            elif worker.inbox:
                steps.append(lambda w=worker: self.begin(w))
            if worker.cancels:
                steps.append(lambda w=worker: self.cancel(w))
        if self.scheduler.demand.items or self.source.in_hand or (self.source.ended and not self.told_ended):
            steps.append(lambda: self.pull(self.random.choice([1, 2, 10, 1000])))
        assert steps, f"stuck: {vars(self.scheduler)}"
        self.random.choice(steps)()

    def disturb(self) -> None:
        worker = self.random.choice(self.workers)
        slot = self.workers.index(worker)
        match self.random.choice(["kill", "retiring", "tick", "tick"]):
            case "tick":
                self.tell(FlushAll())
            case "retiring" if not worker.dead:
                worker.outbox.append(Retiring(slot))
            case "kill" if not worker.dead and self.kills_left:
                self.kills_left -= 1
                run = worker.running
                index = None if run is None or run.stop == run.start else self.random.choice(range(run.start, run.stop))
                if run is not None and (index is None or index in run.without or self.random.random() < 0.1):
                    index = None
                self.die(worker, run, index, "died")


class Timed(World):
    """Things take the time they take: items `cost`, the source `sizer` seconds an item, everything else none."""

    def __init__(self, *args: Any, sizer: Callable[[int], float] = lambda index: 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.source_pace = sizer
        self.next_item = 0.0
        self.timeline: list[tuple[float, int, int, int]] = []  # when a chunk began, its worker, start and stop

    def step(self) -> None:
        for worker in self.workers:
            if worker.outbox:
                return self.deliver(worker)
            if not worker.dead and worker.cancels:
                return self.cancel(worker)
            if not worker.dead and worker.running is None and worker.inbox:
                instruction = worker.inbox[0]
                if isinstance(instruction, RunChunk):
                    self.timeline.append((self.now, instruction.slot, instruction.start, instruction.stop))
                return self.begin(worker)
        wants = self.scheduler.demand.items or (self.source.ended and not self.told_ended)
        if wants and self.next_item <= self.now:
            before = self.source.position
            self.pull(1 if self.source_pace(before) else 1 << 30)
            self.next_item = self.now + self.source_pace(self.source.position)
            return None
        busy = [worker for worker in self.workers if worker.running is not None]
        first = min(busy, key=lambda worker: worker.until, default=None)
        if wants and (first is None or self.next_item < first.until):
            self.now = self.next_item
            return None
        assert first is not None, "stuck"
        self.now = max(self.now, first.until)
        return self.end(first)
