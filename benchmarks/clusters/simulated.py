"""A run on a cluster, with a simulated clock: poolagg's real scheduler, a driver, the engine's scheduler, and workers.

    driver ──▶ scheduler ──▶ the first worker that is free ──▶ scheduler ──▶ driver

The driver is `Simulation`'s parent (`harness/simulated.py`). Each worker has a few slots, as in `DaskPool` and
`RayPool`. The engine's scheduler does one thing at a time: it takes each task, and its end.
"""

import heapq
from collections import deque
from dataclasses import dataclass
from functools import cache, partial

from benchmarks.harness.simulated import NOTHING, Costs, Job, Simulation, cost_of_telling
from poolagg import Collect, aggregate
from poolagg._scheduler.scheduler import SchedulerOptions

EVENTS = 3
"""Events of a task for poolagg's scheduler: it is pulled, it is finished, and its state is merged."""

FEW, MANY = 4, 2000
"""Numbers of slots at which the cost of an event is measured."""


@dataclass(frozen=True)
class ClusterCosts:
    """Measured seconds: of driver and scheduler for a task, and of an event with few workers and with
    many."""

    driver: float
    scheduler: float
    event_few: float
    event_many: float

    def lease(self, slots):
        """Return the driver's time for a task with `slots` slots: only poolagg's scheduler slows down with more."""
        slope = (self.event_many - self.event_few) / (MANY - FEW)
        return self.driver + EVENTS * slope * max(0, slots - FEW)

    def of_parent(self, slots):
        """Return the same as costs of the simulated parent: half for sending a task, half for receiving its event."""
        half = self.lease(slots) / 2
        return Costs(**{**vars(NOTHING), **dict.fromkeys(vars(NOTHING), 0.0), "send": half, "receive": half})


@dataclass(frozen=True)
class ClusterJob(Job):
    """`items` items of `item` seconds, in tasks of `lease` seconds or more, on `workers` workers of several slots."""

    lease: float = 0.0
    workers: int = 1
    sized: bool = True
    """Whether the scheduler knows the number of items beforehand."""

    def terms(self):
        """Return the scheduler's options, as `aggregate` makes them for a cluster's pool."""
        total = self.items if self.sized else None
        return SchedulerOptions(self.slots, total=total, chunksize=self.chunksize, in_flight=1, one_failure_domain=True,
                     chunk_seconds=self.lease)  # fmt: skip


@dataclass(frozen=True)
class ClusterOutcome:
    """The outcome of a job: the shares of the time in which workers were in `func`, and driver and scheduler busy."""

    seconds: float
    efficiency: float
    driver: float
    scheduler: float
    leases: int
    items: int
    """Items in the task that the middle item was in."""
    result: tuple[int, int]


class ClusterSimulation(Simulation):
    """Each entry of `ends` has the method that handles it; the driver catches up with them at its own pace."""

    def __init__(self, job, costs):
        super().__init__(job, costs.of_parent(job.slots))
        self.idle, self.queue = job.workers, deque()
        self.half = costs.scheduler / 2
        self.scheduler_free = self.scheduled = 0.0

    def send(self, instruction):
        """Send a task to the scheduler."""
        self.spend(self.costs.send)
        self.later(self.now, self.submitted, instruction)

    def catch_up(self):
        """Handle all events up to the driver's time."""
        while self.ends and self.ends[0][0] <= self.now:
            at, _, happens, what = heapq.heappop(self.ends)
            happens(at, what)

    def later(self, at, happens, what):
        """Schedule an event."""
        heapq.heappush(self.ends, (at, next(self.instruction), happens, what))

    def through_scheduler(self, at, happens, what):
        """Schedule an event for when the scheduler has had time for it."""
        self.scheduler_free = max(at, self.scheduler_free) + self.half
        self.scheduled += self.half
        self.later(self.scheduler_free, happens, what)

    def submitted(self, at, instruction):
        """Give the scheduler a task."""
        self.through_scheduler(at, self.place, instruction)

    def place(self, at, instruction):
        """Queue a task for the next free worker. Both engines queue at workers, which then continue without a pause."""
        self.queue.append(instruction)
        self.take_next(at)

    def take_next(self, at):
        """Start the oldest task if a worker is idle."""
        if self.idle and self.queue:
            self.idle -= 1
            instruction = self.queue.popleft()
            event, seconds = self.run_chunk(self.slots[instruction.slot], instruction, at)
            self.later(at + seconds, self.worked, event)

    def worked(self, at, event):
        """Free the worker, and tell the scheduler."""
        self.idle += 1
        self.take_next(at)
        self.through_scheduler(at, lambda _, event: self.events.append(event), event)

    def outcome(self):
        """Return the outcome."""
        seconds = min(self.now, self.job.horizon)
        return ClusterOutcome(
            seconds,
            self.work / (seconds * self.job.workers),
            min(1.0, self.busy / seconds),
            min(1.0, self.scheduled / seconds),
            len(self.chunks),
            middle(self.chunks),
            self.parent_fold.value(),
        )


def middle(sizes):
    """Return the size of the chunk that holds the middle item, with chunks in order of size.

    >>> middle([1, 1, 1, 1, 8, 8])      # of 20 items, most are in the large ones
    8
    """
    passed, sizes = 0, sorted(sizes)
    for size in sizes:
        passed += size
        if 2 * passed >= sum(sizes):
            return size
    return 0


def simulated(job, costs):
    """Simulate a job."""
    return ClusterSimulation(job, costs).run().outcome()


@cache
def outcomes(jobs, costs):
    """Simulate many jobs in parallel, the large ones first."""
    jobs = sorted(jobs, key=lambda job: -job.slots)
    found = aggregate(partial(by_costs, costs=costs), jobs, Collect())
    return dict(zip(jobs, found, strict=True))


def by_costs(job, costs):
    """Simulate a job in a worker."""
    return simulated(job, costs)


def event_cost(slots, events):
    """Measure the CPU seconds of poolagg's scheduler per event, with `slots` slots of a cluster."""
    job = ClusterJob(slots, 0.1, lease=1.0, workers=slots // 2)
    log = ClusterSimulation(job, ClusterCosts(1e-6, 1e-6, 0.0, 0.0)).run(most_events=events).log
    return cost_of_telling(job.terms(), log)
