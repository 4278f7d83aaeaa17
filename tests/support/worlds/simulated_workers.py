"""The workers' half of the simulated world: they run chunks, flush their states, give chunks back, and die.

Each does its orders first in, first out, with the real half of the strategy. `SimulatedWorkers` is a part of `World`
(`simulation.py`), which decides what happens next.
"""

from __future__ import annotations

import contextlib
import pickle
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from toy_reducers import Unpackable

from poolagg._input.batches import RetryBuffer, open_batch
from poolagg._scheduler.messages import (
    Cancelled,
    ChunkResult,
    Failure,
    Flush,
    Flushed,
    Lost,
    PartialState,
    Retiring,
    RunChunk,
)
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import LeafGrid, without
from poolagg._scheduler.scheduler import Scheduler
from poolagg.reducers import Reducer
from poolagg.strategies import Strategy

ALWAYS = 10**9


@dataclass
class Faults:
    """How many times an item raises, kills its worker or hangs, before it succeeds; and which do not pickle.

    `silences`: it kills its worker when its chunk is done, and `sinks` when its state is packed: then nobody is named.
    """

    raises: dict[int, int] = field(default_factory=dict)
    kills: dict[int, int] = field(default_factory=dict)
    hangs: dict[int, int] = field(default_factory=dict)
    unpackable: frozenset[int] = frozenset()
    silences: dict[int, int] = field(default_factory=dict)
    sinks: dict[int, int] = field(default_factory=dict)

    def next(self, index: int) -> str:
        """Return the outcome of the next attempt at the item."""
        for outcome in ("raises", "kills", "hangs"):
            left = getattr(self, outcome)
            if left.get(index, 0) > 0:
                left[index] -= 1
                return outcome
        return "ok"

    def strikes(self, kind: str, intervals: Iterable[tuple[int, int]]) -> bool:
        """Tell whether one of these items kills its worker without being named, and count that for it."""
        left = getattr(self, kind)
        for index in sorted(left):
            if left[index] > 0 and any(start <= index < stop for start, stop in intervals):
                left[index] -= 1
                return True
        return False


class Died(Exception):
    """The worker is gone."""


class DiedPacking(Exception):
    """A worker died while it packed its state."""


@dataclass
class Worker:
    """One worker's worker, and what is on the way to and from it."""

    worker_fold: Any
    inbox: deque = field(default_factory=deque)
    outbox: deque = field(default_factory=deque)
    cancels: deque = field(default_factory=deque)
    running: RunChunk | None = None
    until: float = 0.0
    dead: bool = False
    begun: int = -1  # the chunk it has begun last
    items: int = 0  # that it was given and did not give back
    in_flight: list = field(default_factory=list)  # instructions whose event the scheduler has not seen


class SimulatedWorkers:
    """The workers of all workers, and what is known of what they did."""

    scheduler: Scheduler
    retry_buffer: RetryBuffer
    now: float = 0.0

    def __init__(
        self,
        strategy: Strategy,
        reducer: Reducer,
        terms: SchedulerOptions,
        *,
        faults: Faults | None,
        cost: Callable[[int], float],
        naming: str,
        guarded: bool,
        packing_kills: bool,
        seed: int,
    ) -> None:
        self.random = random.Random(seed)
        self.strategy, self.reducer, self.terms = strategy, reducer, terms
        self.grid: LeafGrid | None = terms.grid
        self.faults = faults or Faults()
        self.cost, self.naming, self.guarded = cost, naming, guarded
        self.packing_kills = packing_kills and not terms.one_failure_domain
        self.workers = [self.new_worker() for _ in range(terms.slots)]
        self.reluctance = 0.0  # how often a chunk is not given back although it has not begun
        self.offences: Counter[int] = Counter()
        self.silent_deaths = 0
        self.yields = 0
        self.unexplained = 0  # deaths of workers that had not begun to work, or had nothing
        self.ran: Counter[int] = Counter()

    def new_worker(self) -> Worker:
        return Worker(self.strategy.worker_fold(self.reducer, self.grid))

    def tell(self, event: Any) -> None:
        """Give the scheduler an event, and carry out its instructions."""
        raise NotImplementedError

    def begin(self, worker: Worker) -> None:
        """Take up the next order; flushes are done at once, runs by `end`."""
        instruction = worker.inbox.popleft()
        if isinstance(instruction, Flush):
            with contextlib.suppress(Died, DiedPacking):
                worker.outbox.append(Flushed(instruction.slot, self.pack(worker), 0.0, self.ship_seconds(worker)))
            return
        worker.running, worker.begun = instruction, instruction.chunk
        worker.until = self.now + self.expected(instruction)

    def expected(self, run: RunChunk) -> float:
        """How long it will take."""
        seconds = 0.0
        for index in range(run.start, run.stop):
            if seconds > run.budget and (self.grid is None or self.grid.floor(index) == index):
                break
            seconds += self.cost(index)
        return seconds

    def ship_seconds(self, worker: Worker) -> float:
        return 1e-5

    def pack(self, worker: Worker, suspect: tuple[int, int] | None = None) -> tuple[PartialState, ...]:
        states = []
        payloads = worker.worker_fold.payloads()
        if self.faults.strikes("sinks", [interval for state in payloads for interval in state.covers]):
            self.die(worker, None, None, "died")
            raise Died
        for covers, data, *_ in payloads:
            try:
                packed = pickle.dumps(data)
            except TypeError as error:
                bad = {i for start, stop in covers for i in range(start, stop)} & self.faults.unpackable
                self.offences.update(bad)
                if self.packing_kills:
                    cause = self.random.choice(["died", "timeout"])
                    self.lose(worker, suspect, cause, packing=True)
                    raise DiedPacking from None
                states.append(PartialState(covers, error=error))
            else:
                states.append(PartialState(covers, packed, len(packed)))
        return tuple(states)

    def end(self, worker: Worker) -> None:
        """Run the chunk that was begun, to its end or the worker's."""
        run, worker.running = worker.running, None
        with contextlib.suppress(Died, DiedPacking):
            stop, seconds, failures = self.run_items(worker, run)
            worker.worker_fold.close(stop)
            ran = without((run.start, stop), [*run.without, *(failure.index for failure in failures)])
            if self.faults.strikes("silences", ran):
                self.die(worker, run, None, "died")
                return
            states = self.pack(worker, (run.start, stop)) if run.flush else None
            assert states is not None or self.strategy.stateful
            times = 0.0, 0.0, self.ship_seconds(worker)
            worker.outbox.append(ChunkResult(run.slot, run.chunk, stop, seconds, failures, states, *times))

    def run_items(self, worker: Worker, run: RunChunk) -> tuple[int, float, tuple[Failure, ...]]:
        """Run the items of a chunk, as far as its budget goes: where it stopped, what it took, what failed."""
        input_batch = self.retry_buffer.find(run.start)
        items, _ = open_batch(input_batch.kind, input_batch.data, run.start - input_batch.start, run.stop - run.start)
        batch: list[Any] = []
        failures: list[Failure] = []
        seconds = 0.0
        for index, item in enumerate(items, run.start):
            boundary = self.grid is None or self.grid.floor(index) == index
            if index > run.start and seconds > run.budget and boundary:
                self.worker_fold(worker, batch, index)
                return index, seconds, tuple(failures)
            if index in run.without:
                self.worker_fold(worker, batch, index)
                continue
            assert item == index * 10
            seconds += self.cost(index)
            if self.attempt(worker, run, index):
                batch.append(Unpackable(index) if index in self.faults.unpackable else index)
                if run.alone or self.random.random() < 0.2:
                    self.worker_fold(worker, batch, index + 1)
            else:
                failures.append(Failure(index, "raised", ValueError(index)))
                self.worker_fold(worker, batch, index)
        self.worker_fold(worker, batch, run.stop)
        return run.stop, seconds, tuple(failures)

    def attempt(self, worker: Worker, run: RunChunk, index: int) -> bool:
        """Run an item once; return whether it gave a partial. It may end its worker."""
        self.ran[index] += 1
        worker.items += 1
        assert worker.items <= (self.terms.most_items or worker.items), "the worker has run all it may"
        outcome = self.faults.next(index)
        if outcome in ("kills", "hangs"):
            self.die(worker, run, index, "died" if outcome == "kills" else "timeout")
            raise Died
        self.offences[index] += outcome == "raises"
        return outcome == "ok"

    def worker_fold(self, worker: Worker, batch: list[Any], stop: int) -> None:
        """Have the strategy take the partials of the items before `stop`."""
        if batch:
            worker.worker_fold.add(stop - len(batch), list(batch))
            batch.clear()

    def cancel(self, worker: Worker) -> None:
        """Reply to the oldest Cancel or Yield."""
        instruction = worker.cancels.popleft()
        about_to_begin = self.random.random() < self.reluctance
        for run in worker.inbox:
            if isinstance(run, RunChunk) and run.chunk == instruction.chunk and not about_to_begin:
                worker.inbox.remove(run)
                worker.outbox.append(Cancelled(instruction.slot, instruction.chunk, True))
                return
        worker.outbox.append(Cancelled(instruction.slot, instruction.chunk, False))

    def divide(self, worker: Worker, chunk: int) -> int | None:
        """End the running chunk early, before or after the current item."""
        run = worker.running
        if worker.dead or run is None or run.chunk != chunk or run.stop == run.start or self.random.random() < 0.1:
            return None
        at = self.random.randrange(run.start, run.stop)
        stop = self.random.choice([at, at + 1])
        stop = min(run.stop, stop if self.grid is None else self.grid.ceil(stop))
        worker.running = run._replace(stop=stop)
        worker.in_flight[worker.in_flight.index(run)] = worker.running
        self.yields += 1
        return at + 1

    def deliver(self, worker: Worker) -> None:
        """Give the scheduler the worker's oldest event."""
        reply = worker.outbox.popleft()
        match reply:
            case ChunkResult():
                run = worker.in_flight.pop(0)
                assert isinstance(run, RunChunk), (run, reply)
                assert run.chunk == reply.chunk, (run, reply)
            case Flushed():
                assert isinstance(worker.in_flight.pop(0), Flush)
            case Cancelled(_, chunk, True):
                worker.in_flight = [o for o in worker.in_flight if not (isinstance(o, RunChunk) and o.chunk == chunk)]
            case Lost(slot, suspect, _, _, _, _, _, packing):
                had = self.scheduler._slots[slot]
                if suspect is None and packing:
                    self.unexplained += not had.held
                elif suspect is None:
                    self.silent_deaths += 1
                    self.unexplained += not reply.silent or (not had.held and all(run.alone for run in had.chunks))
        self.tell(reply)

    # -- death ---------------------------------------------------------------------------------------------------------

    def die(self, worker: Worker, run: RunChunk | None, index: int | None, cause: str) -> None:
        """Lose the worker; in one failure domain lose all, except an item's own process, where workers have one."""
        slot = self.workers.index(worker)
        own = self.guarded and run is not None and index is not None
        if self.terms.one_failure_domain and not own:
            for other in self.workers:
                if not other.dead:
                    self.lose(other, None, cause)
            return
        suspect = None
        if run is not None and index is not None:
            self.offences[index] += 1
            suspect = self.name(run, index)
        self.lose(self.workers[slot], suspect, cause, certain=own)

    def first_in_flight(self, worker: Worker) -> RunChunk | None:
        """Return the oldest chunk without an event: in one failure domain no more is known."""
        answered = sum(isinstance(reply, ChunkResult | Flushed) for reply in worker.outbox)
        return next((o for o in worker.in_flight[answered:] if isinstance(o, RunChunk)), None)

    def name(self, run: RunChunk, index: int) -> tuple[int, int] | None:
        """Return the known suspect."""
        if self.naming == "item" and run.alone:
            return index, index + 1
        how = self.random.choice(["item", "some", "some"]) if self.naming == "item" else self.naming
        if how == "none":
            return None
        if how == "item":
            return index, index + 1
        if how == "some":
            return self.random.randint(run.start, index), self.random.randint(index + 1, run.stop)
        return run.start, run.stop

    def lose(
        self,
        worker: Worker,
        suspect: tuple[int, int] | None,
        cause: str,
        certain: bool = False,
        packing: bool = False,
    ) -> None:
        for _ in range(self.random.randint(0, len(worker.outbox))):  # what it had not quite written is gone
            if not isinstance(worker.outbox[-1], Retiring) or self.random.random() < 0.5:
                worker.outbox.pop()
        if self.terms.one_failure_domain and not certain:
            run = self.first_in_flight(worker)
            if run is not None:
                suspect = run.start, run.stop
                items = set(range(run.start, run.stop)) - set(run.without)
                self.offences.update(items if len(items) == 1 else ())
        silent = suspect is None and self.naming != "none" and not self.terms.one_failure_domain
        oldest = self.first_in_flight(worker) if silent else None
        if oldest is not None and worker.begun == oldest.chunk:
            suspect = oldest.start, oldest.stop
            if oldest.alone:  # it died while it ran alone: that is held against it
                items = set(range(oldest.start, oldest.stop)) - set(oldest.without)
                self.offences.update(items if len(items) == 1 else ())
        worker.inbox.clear()
        worker.cancels.clear()
        worker.running = None
        worker.dead = True
        slot = self.workers.index(worker)
        lost = Lost(slot, suspect, cause, RuntimeError("died"), certain=certain, silent=silent, packing=packing)
        worker.outbox.append(lost)
