"""A run with a simulated clock: it predicts the time of a job from the costs that the suite `simulation` measures.

`Costs` are the measured constants. A `Job` is the work of a run. `Simulation` is one parent and its workers: it uses
the real scheduler and the real strategies, and only its clock is simulated, from the constants.
"""

import heapq
import time
from collections import deque
from dataclasses import dataclass, fields
from functools import cache, partial
from itertools import count

from benchmarks.harness.results import standings
from poolagg import Collect, aggregate
from poolagg._scheduler import messages as instructions
from poolagg._scheduler.scheduler import Scheduler, SchedulerOptions
from poolagg.reducers import Reducer
from poolagg.strategies import Combine, Strategy, Stream

CONSTANTS = "measured constants"
KEYS = 100_000
NAP = 0.002
FEW, MANY = 2, 1000
COMBINE = Combine()


def in_words(seconds):
    """Format a time for people.

    >>> in_words(1e-5), in_words(0.1), in_words(2.0)
    ('10 µs', '100 ms', '2 s')
    """
    unit, name = next((unit, name) for unit, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if seconds >= unit * 0.999)
    return f"{seconds / unit:,.3g} {name}"


TITLES = {
    "pull": "poolagg's parent: pull and pickle a chunk of a range",
    "send": "poolagg's parent: send an instruction to a worker",
    "receive": "poolagg's parent: receive an event",
    "event_few": f"poolagg's parent: tell the scheduler of an event, {FEW} workers",
    "event_many": f"poolagg's parent: tell the scheduler of an event, {MANY:,} workers",
    "whole": "poolagg's parent: all of a chunk; the rest, not measured above, is the loop's",
    "merge": "poolagg's parent: merge a number",
    "step": "poolagg's parent: receive and step a number (Stream)",
    "receive_table": f"poolagg's parent: receive a table of {KEYS:,} keys",
    "merge_table": f"poolagg's parent, or a worker: merge a table of {KEYS:,} keys",
    "chunk": "poolagg's worker: a chunk, without its items",
    "item": "poolagg's worker: an item, without func",
    "pack": "poolagg's worker: pack a number",
    "pack_partial": "poolagg's worker: pack one of many numbers (Stream)",
    "pack_table": f"poolagg's worker: pack a table of {KEYS:,} keys",
    "nap": f"poolagg's worker: an item that sleeps {in_words(NAP)}",
}

# -- the constants -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Seconds of work on a state: `fold` (a partial) and `pack` in a worker, the others in the parent."""

    fold: float
    pack: float
    pack_partial: float
    unpack: float
    merge: float
    step: float


@dataclass(frozen=True)
class Costs:
    """Measured seconds, by kind of work; `TITLES` describes each."""

    pull: float
    send: float
    receive: float
    event_few: float
    event_many: float
    chunk: float
    item: float
    pack: float
    merge: float
    pack_partial: float
    step: float
    pack_table: float
    receive_table: float
    merge_table: float
    nap: float
    whole: float

    def scheduler(self, slots):
        """Return the cost of telling the scheduler of one event, interpolated between the two measured pool sizes."""
        slope = (self.event_many - self.event_few) / (MANY - FEW)
        return max(0.0, self.event_few + slope * (slots - FEW))

    def parent(self, slots):
        """Return the parent's time for a chunk, with its `EVENTS`; merges come on top."""
        return self.pull + self.loop + self.send + self.receive + EVENTS * self.scheduler(slots)

    @property
    def loop(self):
        """The engine's own time for a chunk: the whole, less all parts that were measured separately."""
        parts = self.pull + self.send + self.receive + EVENTS * self.event_few + self.merge
        return max(0.0, self.whole - parts)

    def state(self, table):
        """Return the costs of a state: a number, or a table."""
        if not table:
            return State(0.0, self.pack, self.pack_partial, 0.0, self.merge, self.step)
        step = self.receive_table + self.merge_table
        return State(self.merge_table, self.pack_table, self.pack_table, self.receive_table, self.merge_table, step)

    @classmethod
    def found(cls, results):
        """Return the medians of the measured constants; None if some are missing."""
        medians = {one.entrant.name: one.median for one in standings(results, CONSTANTS) if one.times and one.correct}
        there = set(TITLES.values()) <= set(medians)
        return cls(**{field.name: medians[TITLES[field.name]] for field in fields(cls)}) if there else None


EVENTS = 3
"""Events of a chunk: it is pulled, it is finished, and its state is merged."""

NOTHING = Costs(*[1e-6] * 16)
"""The costs of a simulated run before anything is measured."""

# -- the simulation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """`items` items of `item` seconds each on `slots` workers, simulated up to `horizon` seconds."""

    slots: int
    item: float
    items: int = 10**12
    horizon: float = float("inf")
    strategy: Strategy = COMBINE
    chunksize: int | None = None
    table: bool = False
    state: State | None = None
    """The costs of a worker's state; None: those of a number, or of a table."""

    def terms(self):
        """Return the scheduler's options, as `aggregate` makes them."""
        grid = self.strategy.grid(self.chunksize)
        return SchedulerOptions(
            self.slots, self.strategy.stateful, self.strategy.in_order, grid, self.chunksize, self.items
        )


@dataclass(frozen=True)
class SimulatedRun:
    """The outcome of a simulated job."""

    seconds: float
    efficiency: float
    """The share of the workers' time spent in `func`."""
    parent: float
    """The share of its time in which the parent was busy."""
    chunk: float
    """Items in a chunk: the median over the later half."""
    result: tuple[int, int]
    """How many items the result has, and their sum."""


class CountAndSum(Reducer):
    """Counts items and adds them up, without a look at each: partials are ranges. Counts its merges, too."""

    def __init__(self):
        self.merges = 0

    def init(self):
        """Return an empty count and sum."""
        return 0, 0

    def steps(self, acc, prepareds):
        """Add a range, whose sum follows from its ends."""
        count = len(prepareds)
        return acc[0] + count, acc[1] + (prepareds[0] + prepareds[-1]) * count // 2

    def merge(self, acc, other):
        """Add both, and count the merge."""
        self.merges += 1
        return acc[0] + other[0], acc[1] + other[1]

    def taken(self):
        """Return the number of merges since the last call."""
        merges, self.merges = self.merges, 0
        return merges


class Slot:
    """A worker: its queue of instructions, and the event of the one it carries out."""

    def __init__(self, worker_fold):
        self.worker_fold = worker_fold
        self.inbox = deque()
        self.event = None


class Simulation:
    """One parent and its workers: drives the scheduler as the engine does, with a simulated clock.

    `ends` is the queue of the times at which workers finish their work. The parent's time is `now`; the workers catch
    up with it before the parent sends them an instruction.
    """

    def __init__(self, job, costs):
        self.job, self.costs, self.state = job, costs, job.state or costs.state(job.table)
        self.terms = job.terms()
        self.scheduler, self.cost_of_event = Scheduler(self.terms), costs.scheduler(job.slots)
        self.reducer = CountAndSum()
        self.parent_fold = job.strategy.parent_fold(self.reducer)
        self.slots = [Slot(job.strategy.worker_fold(self.reducer, self.terms.grid)) for _ in range(job.slots)]
        self.ends, self.instruction = [], count()
        self.events = deque()
        self.now = self.busy = self.work = 0.0
        self.pulled, self.told_ended = 0, False
        self.chunks, self.log = [], []

    def run(self, most_events=float("inf")):
        """Run to the end of the job, or to the horizon."""
        while not self.scheduler.finished and self.now < self.job.horizon and len(self.log) < most_events:
            self.pull()
            if not self.scheduler.finished:
                self.wait()
        return self

    def outcome(self):
        """Return the outcome."""
        seconds = min(self.now, self.job.horizon)
        later = sorted(self.chunks[len(self.chunks) // 2 :])
        return SimulatedRun(
            seconds,
            self.work / (seconds * self.job.slots),
            min(1.0, self.busy / seconds),
            later[len(later) // 2],
            self.parent_fold.value(),
        )

    # -- the parent ----------------------------------------------------------------------------------------------------

    def spend(self, seconds):
        """Keep the parent busy for `seconds`."""
        self.now += seconds
        self.busy += seconds

    def pull(self):
        """Pull chunks of a range while the scheduler wants any."""
        while self.pulled < self.job.items and (wanted := self.scheduler.demand.items):
            in_hand = min(wanted, self.job.items - self.pulled)
            size = self.scheduler.sealable(in_hand, self.pulled + in_hand == self.job.items)
            self.spend(self.costs.pull + self.costs.loop)
            self.pulled += size
            self.tell(instructions.Pulled(self.pulled - size, self.pulled, 60))
        if self.pulled == self.job.items and not self.told_ended:
            self.told_ended = True
            self.tell(instructions.SourceEnded())

    def wait(self):
        """Take all pending events; if there are none, wait for the next."""
        self.catch_up()
        if not self.events:
            self.now = self.ends[0][0]
            self.catch_up()
        for _ in range(len(self.events)):
            self.take(self.events.popleft())

    def take(self, event):
        """Receive one event."""
        if not isinstance(event, instructions.Cancelled):
            states = event.states or ()
            unpack = 0.0 if self.steps else self.state.unpack
            self.spend(self.costs.receive + unpack * len(states))
        self.tell(event)

    @property
    def steps(self):
        """Whether workers send partials and the parent steps them."""
        return isinstance(self.job.strategy, Stream)

    def tell(self, event):
        """Tell the scheduler of an event, and carry out its instructions."""
        todo = deque(self.handle(event))
        while todo:
            todo.extend(self.obey(todo.popleft()))

    def handle(self, event):
        """Return the scheduler's instructions."""
        self.log.append(event)
        self.spend(self.cost_of_event)
        return self.scheduler.handle(event)

    def obey(self, instruction):
        """Carry out an instruction, and return those that follow from it."""
        if isinstance(instruction, instructions.Commit):
            return self.commit(instruction.state)
        if isinstance(instruction, instructions.Cancel):
            self.cancel(instruction)
        elif not isinstance(instruction, instructions.ChunkRan):
            self.send(instruction)
        return ()

    def commit(self, state):
        """Fold a state."""
        self.parent_fold.commit(state.data)
        seconds = self.state.merge * self.reducer.taken() + (self.state.step * state.items if self.steps else 0.0)
        self.spend(seconds)
        return self.handle(instructions.Merged(seconds))

    def send(self, instruction):
        """Send an instruction, which arrives at once."""
        self.spend(self.costs.send)
        self.catch_up()
        slot = self.slots[instruction.slot]
        slot.inbox.append(instruction)
        if slot.event is None:
            self.begin(instruction.slot, self.now)

    def cancel(self, instruction):
        """Cancel a chunk that is still in the inbox."""
        self.spend(self.costs.send)
        self.catch_up()
        inbox = self.slots[instruction.slot].inbox
        waiting = [run for run in inbox if isinstance(run, instructions.RunChunk) and run.chunk == instruction.chunk]
        for run in waiting:
            inbox.remove(run)
        self.events.append(instructions.Cancelled(instruction.slot, instruction.chunk, bool(waiting)))

    # -- the workers ---------------------------------------------------------------------------------------------------

    def catch_up(self):
        """Advance the workers to the parent's time."""
        while self.ends and self.ends[0][0] <= self.now:
            at, _, number = heapq.heappop(self.ends)
            slot = self.slots[number]
            self.events.append(slot.event)
            slot.event = None
            if slot.inbox:
                self.begin(number, at)

    def begin(self, number, at):
        """Start the oldest instruction in the inbox."""
        slot = self.slots[number]
        instruction = slot.inbox.popleft()
        if isinstance(instruction, instructions.RunChunk):
            slot.event, seconds = self.run_chunk(slot, instruction, at)
        else:
            states, seconds = self.packed(slot)
            slot.event = instructions.Flushed(number, states, seconds)
        heapq.heappush(self.ends, (at + seconds, next(self.instruction), number))

    def run_chunk(self, slot, run, at):
        """Return the event of a chunk, and the seconds until it arrives."""
        fold = 0.0 if self.steps else self.state.fold
        each = self.job.item + self.costs.item + fold
        stop = min(run.stop, run.start + 1 + int(min(run.budget / each, 1e15)))
        if self.terms.grid is not None:
            stop = min(run.stop, self.terms.grid.ceil(stop))
        items = stop - run.start
        slot.worker_fold.add(run.start, range(run.start, stop))
        slot.worker_fold.close(stop)
        work = items * each + self.reducer.taken() * self.state.merge
        states, packing = self.packed(slot) if run.flush else (None, 0.0)
        self.chunks.append(items)
        self.work += max(0.0, min(items * self.job.item, self.job.horizon - at))
        event = instructions.ChunkResult(run.slot, run.chunk, stop, work, (), states, 0.0, packing)
        return event, self.costs.chunk + work + packing

    def packed(self, slot):
        """Return the states that the worker flushes, and the seconds that packing them takes."""
        states = tuple(state._replace(nbytes=60) for state in slot.worker_fold.payloads())
        if self.steps:
            return states, self.state.pack_partial * sum(state.items for state in states)
        return states, self.state.pack * len(states)


def simulated(job, costs):
    """Simulate a job."""
    return Simulation(job, costs).run().outcome()


@cache
def outcomes(jobs, costs):
    """Simulate many jobs in parallel, with poolagg, the large ones first."""
    jobs = sorted(jobs, key=lambda job: -job.slots)
    return dict(zip(jobs, aggregate(partial(simulated, costs=costs), jobs, Collect()), strict=True))


def cost_of_telling(terms, log):
    """Measure the CPU seconds of the real scheduler per event: replay the log of a simulated run on it.

    Between two events it asks the scheduler the same two questions as the engine.
    """
    scheduler = Scheduler(terms)
    began = time.thread_time()
    for event in log:
        scheduler.handle(event)
        assert not scheduler.finished
        assert scheduler.demand.items >= 0
    return (time.thread_time() - began) / len(log)
