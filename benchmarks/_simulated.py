"""The plan of a run, with a simulated clock: what the suite `simulation` measures goes in, what would happen comes out.

`Costs` are the measured constants. A `Job` is what is asked of so many lanes. `Simulation` is one parent and its
lanes: the plan and the strategies are the real ones, and only time is made up, from the constants.
"""

import heapq
import time
from collections import deque
from dataclasses import dataclass, fields
from functools import cache, partial
from itertools import count

from benchmarks.harness.results import standings
from poolagg import Collect, aggregate
from poolagg import _orders as orders
from poolagg._plan import Plan, Terms
from poolagg.reducers import Reducer
from poolagg.strategies import Combine, Strategy, Stream

CONSTANTS = "measured constants"
KEYS = 100_000
NAP = 0.002
FEW, MANY = 2, 1000
COMBINE = Combine()


def in_words(seconds):
    """A time, as people say it.

    >>> in_words(1e-5), in_words(0.1), in_words(2.0)
    ('10 µs', '100 ms', '2 s')
    """
    unit, name = next((unit, name) for unit, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if seconds >= unit * 0.999)
    return f"{seconds / unit:,.3g} {name}"


TITLES = {
    "pull": "poolagg's parent: pull and pickle a chunk of a range",
    "send": "poolagg's parent: send an order to a lane",
    "receive": "poolagg's parent: receive an answer",
    "plan_few": f"poolagg's parent: tell the plan of an event, {FEW} lanes",
    "plan_many": f"poolagg's parent: tell the plan of an event, {MANY:,} lanes",
    "whole": "poolagg's parent: all of a chunk; what is not told above is the loop's",
    "merge": "poolagg's parent: merge a number",
    "step": "poolagg's parent: receive and step a number (Stream)",
    "receive_table": f"poolagg's parent: receive a table of {KEYS:,} keys",
    "merge_table": f"poolagg's parent, or a worker: merge a table of {KEYS:,} keys",
    "chunk": "poolagg's worker: a chunk, beside its items",
    "item": "poolagg's worker: an item, beside func",
    "pack": "poolagg's worker: pack a number",
    "pack_partial": "poolagg's worker: pack one of many numbers (Stream)",
    "pack_table": f"poolagg's worker: pack a table of {KEYS:,} keys",
    "nap": f"poolagg's worker: an item that sleeps {in_words(NAP)}",
}

# -- the constants ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Seconds that go with what is reduced: in a worker `fold` (a partial) and `pack`, the others in the parent."""

    fold: float
    pack: float
    pack_partial: float
    unpack: float
    merge: float
    step: float


@dataclass(frozen=True)
class Costs:
    """Measured seconds, by what takes them; see `TITLES` for what they are."""

    pull: float
    send: float
    receive: float
    plan_few: float
    plan_many: float
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

    def plan(self, lanes):
        """Telling the plan of one event: on the line through the two numbers of lanes that were measured."""
        slope = (self.plan_many - self.plan_few) / (MANY - FEW)
        return max(0.0, self.plan_few + slope * (lanes - FEW))

    def parent(self, lanes):
        """All that a chunk takes the parent: `EVENTS` go with it. Merges come on top."""
        return self.pull + self.loop + self.send + self.receive + EVENTS * self.plan(lanes)

    @property
    def loop(self):
        """What a chunk takes the engine itself: the whole, less all that was measured on its own."""
        parts = self.pull + self.send + self.receive + EVENTS * self.plan_few + self.merge
        return max(0.0, self.whole - parts)

    def state(self, table):
        """What a state costs: a number, or a table."""
        if not table:
            return State(0.0, self.pack, self.pack_partial, 0.0, self.merge, self.step)
        step = self.receive_table + self.merge_table
        return State(self.merge_table, self.pack_table, self.pack_table, self.receive_table, self.merge_table, step)

    @classmethod
    def found(cls, results):
        """Those that were measured, the medians; None if some were not."""
        medians = {one.entrant.name: one.median for one in standings(results, CONSTANTS) if one.times and one.correct}
        there = set(TITLES.values()) <= set(medians)
        return cls(**{field.name: medians[TITLES[field.name]] for field in fields(cls)}) if there else None


EVENTS = 3
"""It is pulled, it is finished, and what it shipped is merged."""

NOTHING = Costs(*[1e-6] * 16)
"""What a run is simulated with before anything is measured."""

# -- the simulation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """So many items of so many seconds, on so many lanes; or what comes of endless ones up to `horizon`."""

    lanes: int
    item: float
    items: int = 10**12
    horizon: float = float("inf")
    strategy: Strategy = COMBINE
    chunksize: int | None = None
    table: bool = False

    def terms(self):
        """The plan's terms, as `aggregate` would make them."""
        grid = self.strategy.grid(self.chunksize)
        return Terms(self.lanes, self.strategy.carries, self.strategy.in_order, grid, self.chunksize, self.items)


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    seconds: float
    efficiency: float
    """Of the time of all lanes, the share that was spent in `func`."""
    parent: float
    """Of its time, the share in which the parent was busy."""
    chunk: float
    """Items in a chunk: the median over the later half."""
    result: tuple[int, int]
    """How many items the result has, and their sum."""


class Tally(Reducer):
    """Counts items and adds them up, without looking at each: partials are ranges. It knows how often it merged."""

    def __init__(self):
        self.merges = 0

    def init(self):
        """Nothing."""
        return 0, 0

    def steps(self, acc, prepareds):
        """The sum of a range is known from its ends."""
        count = len(prepareds)
        return acc[0] + count, acc[1] + (prepareds[0] + prepareds[-1]) * count // 2

    def merge(self, acc, other):
        """Both together."""
        self.merges += 1
        return acc[0] + other[0], acc[1] + other[1]

    def taken(self):
        """How many merges there were since this was last asked."""
        merges, self.merges = self.merges, 0
        return merges


class Lane:
    """What waits in a lane, and the answer to what it is doing."""

    def __init__(self, gather):
        self.gather = gather
        self.inbox = deque()
        self.answer = None


class Simulation:
    """One parent and its lanes: it is to the plan what the engine is, and has a clock that is only added to.

    `ends` is the queue of what ends when, in lanes. The parent is at `now`; what lanes do up to then is caught up
    with before anything is given to them, or taken back.
    """

    def __init__(self, job, costs):
        self.job, self.costs, self.state = job, costs, costs.state(job.table)
        self.terms = job.terms()
        self.plan, self.plan_cost = Plan(self.terms), costs.plan(job.lanes)
        self.tally = Tally()
        self.folding = job.strategy.folding(self.tally)
        self.lanes = [Lane(job.strategy.gather(self.tally, self.terms.grid)) for _ in range(job.lanes)]
        self.ends, self.order = [], count()
        self.answers = deque()
        self.now = self.busy = self.work = 0.0
        self.pulled, self.told_ended = 0, False
        self.chunks, self.log = [], []

    def run(self, most_events=float("inf")):
        """To the end of the job, or to the horizon."""
        while not self.plan.finished and self.now < self.job.horizon and len(self.log) < most_events:
            self.pull()
            if not self.plan.finished:
                self.wait()
        return self

    def outcome(self):
        """What came of it."""
        seconds = min(self.now, self.job.horizon)
        later = sorted(self.chunks[len(self.chunks) // 2 :])
        return Outcome(
            seconds,
            self.work / (seconds * self.job.lanes),
            min(1.0, self.busy / seconds),
            later[len(later) // 2],
            self.folding.value(),
        )

    # -- the parent ------------------------------------------------------------------------------------------------

    def spend(self, seconds):
        """The parent is busy."""
        self.now += seconds
        self.busy += seconds

    def pull(self):
        """Pull chunks of a range, while the plan wants any."""
        while self.pulled < self.job.items and (wanted := self.plan.demand.items):
            in_hand = min(wanted, self.job.items - self.pulled)
            size = self.plan.sealable(in_hand, self.pulled + in_hand == self.job.items)
            self.spend(self.costs.pull + self.costs.loop)
            self.pulled += size
            self.tell(orders.Pulled(self.pulled - size, self.pulled, 60))
        if self.pulled == self.job.items and not self.told_ended:
            self.told_ended = True
            self.tell(orders.SourceEnded())

    def wait(self):
        """Take in all answers there are; if there is none, the next."""
        self.catch_up()
        if not self.answers:
            self.now = self.ends[0][0]
            self.catch_up()
        for _ in range(len(self.answers)):
            self.take(self.answers.popleft())

    def take(self, answer):
        """Receive one."""
        if not isinstance(answer, orders.Revoked):
            pieces = answer.pieces or ()
            unpack = 0.0 if self.steps else self.state.unpack
            self.spend(self.costs.receive + unpack * len(pieces))
        self.tell(answer)

    @property
    def steps(self):
        """Whether partials travel, and the parent steps them."""
        return isinstance(self.job.strategy, Stream)

    def tell(self, event):
        """Tell the plan, and do what it orders."""
        todo = deque(self.handle(event))
        while todo:
            todo.extend(self.obey(todo.popleft()))

    def handle(self, event):
        """What the plan orders."""
        self.log.append(event)
        self.spend(self.plan_cost)
        return self.plan.handle(event)

    def obey(self, order):
        """Carry out an order; give those that follow from it."""
        if isinstance(order, orders.Commit):
            return self.commit(order.piece)
        if isinstance(order, orders.Revoke):
            self.revoke(order)
        elif not isinstance(order, orders.ChunkRan):
            self.send(order)
        return ()

    def commit(self, piece):
        """Fold it."""
        self.folding.commit(piece.data)
        seconds = self.state.merge * self.tally.taken() + (self.state.step * piece.items if self.steps else 0.0)
        self.spend(seconds)
        return self.handle(orders.Merged(seconds))

    def send(self, order):
        """It is in its lane at once."""
        self.spend(self.costs.send)
        self.catch_up()
        lane = self.lanes[order.lane]
        lane.inbox.append(order)
        if lane.answer is None:
            self.begin(order.lane, self.now)

    def revoke(self, order):
        """Nobody has begun what is still in the inbox."""
        self.spend(self.costs.send)
        self.catch_up()
        inbox = self.lanes[order.lane].inbox
        waiting = [run for run in inbox if isinstance(run, orders.Run) and run.chunk == order.chunk]
        for run in waiting:
            inbox.remove(run)
        self.answers.append(orders.Revoked(order.lane, order.chunk, bool(waiting)))

    # -- the lanes -------------------------------------------------------------------------------------------------

    def catch_up(self):
        """Have lanes do all that they do up to now."""
        while self.ends and self.ends[0][0] <= self.now:
            at, _, number = heapq.heappop(self.ends)
            lane = self.lanes[number]
            self.answers.append(lane.answer)
            lane.answer = None
            if lane.inbox:
                self.begin(number, at)

    def begin(self, number, at):
        """The lane turns to what has waited longest."""
        lane = self.lanes[number]
        order = lane.inbox.popleft()
        if isinstance(order, orders.Run):
            lane.answer, seconds = self.run_chunk(lane, order, at)
        else:
            pieces, seconds = self.packed(lane)
            lane.answer = orders.Shipped(number, pieces, seconds)
        heapq.heappush(self.ends, (at + seconds, next(self.order), number))

    def run_chunk(self, lane, run, at):
        """The answer, and the seconds until it is there."""
        fold = 0.0 if self.steps else self.state.fold
        each = self.job.item + self.costs.item + fold
        stop = min(run.stop, run.start + 1 + int(min(run.budget / each, 1e15)))
        if self.terms.grid is not None:
            stop = min(run.stop, self.terms.grid.ceil(stop))
        items = stop - run.start
        lane.gather.add(run.start, range(run.start, stop))
        lane.gather.close(stop)
        work = items * each + self.tally.taken() * self.state.merge
        pieces, packing = self.packed(lane) if run.ship else (None, 0.0)
        self.chunks.append(items)
        self.work += max(0.0, min(items * self.job.item, self.job.horizon - at))
        answer = orders.Finished(run.lane, run.chunk, stop, work, (), pieces, 0.0, packing)
        return answer, self.costs.chunk + work + packing

    def packed(self, lane):
        """The pieces that the lane ships, and how long packing them takes."""
        pieces = tuple(piece._replace(nbytes=60) for piece in lane.gather.payloads())
        if self.steps:
            return pieces, self.state.pack_partial * sum(piece.items for piece in pieces)
        return pieces, self.state.pack * len(pieces)


def simulated(job, costs):
    """What comes of a job."""
    return Simulation(job, costs).run().outcome()


@cache
def outcomes(jobs, costs):
    """What comes of many, beside each other: this is a job for poolagg. The large ones first."""
    jobs = sorted(jobs, key=lambda job: -job.lanes)
    return dict(zip(jobs, aggregate(partial(simulated, costs=costs), jobs, Collect()), strict=True))


def cost_of_telling(terms, log):
    """CPU seconds that an event takes the real plan: it is told again what a simulated run has told it.

    The engine asks the plan two things in between, and so is it here.
    """
    plan = Plan(terms)
    began = time.thread_time()
    for event in log:
        plan.handle(event)
        assert not plan.finished
        assert plan.demand.items >= 0
    return (time.thread_time() - began) / len(log)
