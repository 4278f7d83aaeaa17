"""A run on a cluster, with a simulated clock: the real plan, one driver, one scheduler, and workers that run leases.

    driver ──▶ scheduler ──▶ the first worker that is free ──▶ scheduler ──▶ driver

The driver is `Simulation`'s parent (`harness/simulated.py`). Its workers are places in a queue here, a few for each
worker, as they are in `DaskPool` and `RayPool`. The scheduler does one thing after another: it takes in each lease, and
its end.
"""

import heapq
from collections import deque
from dataclasses import dataclass
from functools import cache, partial

from benchmarks.harness.simulated import NOTHING, Costs, Job, Simulation, cost_of_telling
from poolagg import Collect, aggregate
from poolagg._scheduler.scheduler import SchedulerOptions

EVENTS = 3
"""That the scheduler is told for each lease: it is pulled, it is finished, and what it flushed is merged."""

FEW, MANY = 4, 2000
"""Slots with which telling the scheduler is measured."""


@dataclass(frozen=True)
class ClusterCosts:
    """Measured seconds: of driver and scheduler for a lease, and of the scheduler for an event, with few workers and
    many."""

    driver: float
    scheduler: float
    plan_few: float
    plan_many: float

    def lease(self, slots):
        """What a lease takes the driver, with so many workers: only the scheduler can have more to do for more."""
        slope = (self.plan_many - self.plan_few) / (MANY - FEW)
        return self.driver + EVENTS * slope * max(0, slots - FEW)

    def of_parent(self, slots):
        """The same for the simulated parent: half of it sends a lease, and half receives its answer."""
        half = self.lease(slots) / 2
        return Costs(**{**vars(NOTHING), **dict.fromkeys(vars(NOTHING), 0.0), "send": half, "receive": half})


@dataclass(frozen=True)
class ClusterJob(Job):
    """So many items of so many seconds, in leases of `lease` seconds or more, for workers who share the workers."""

    lease: float = 0.0
    workers: int = 1
    sized: bool = True
    """Whether the scheduler is told beforehand how many items there are."""

    def terms(self):
        """The scheduler's terms, as `aggregate` would make them for a cluster's pool."""
        total = self.items if self.sized else None
        return SchedulerOptions(self.slots, total=total, chunksize=self.chunksize, in_flight=1, one_failure_domain=True,
                     chunk_seconds=self.lease)  # fmt: skip


@dataclass(frozen=True)
class ClusterOutcome:
    """What came of a job: shares of the time in which workers were in `func`, and driver and scheduler were busy."""

    seconds: float
    efficiency: float
    driver: float
    scheduler: float
    leases: int
    items: int
    """In the lease that the middle item was in."""
    result: tuple[int, int]


class ClusterSimulation(Simulation):
    """What happens next is in `ends`, with the method that does it; the driver catches up with it at its own pace."""

    def __init__(self, job, costs):
        super().__init__(job, costs.of_parent(job.slots))
        self.idle, self.queue = job.workers, deque()
        self.half = costs.scheduler / 2
        self.scheduler_free = self.scheduled = 0.0

    def send(self, instruction):
        """On its way to the scheduler."""
        self.spend(self.costs.send)
        self.later(self.now, self.submitted, instruction)

    def catch_up(self):
        """Have all happen that happens up to now."""
        while self.ends and self.ends[0][0] <= self.now:
            at, _, happens, what = heapq.heappop(self.ends)
            happens(at, what)

    def later(self, at, happens, what):
        """It will."""
        heapq.heappush(self.ends, (at, next(self.instruction), happens, what))

    def through_scheduler(self, at, happens, what):
        """When the scheduler has had time for it."""
        self.scheduler_free = max(at, self.scheduler_free) + self.half
        self.scheduled += self.half
        self.later(self.scheduler_free, happens, what)

    def submitted(self, at, instruction):
        """The scheduler is told of a lease."""
        self.through_scheduler(at, self.positional, instruction)

    def positional(self, at, instruction):
        """A worker begins it, or it waits for one: beside a worker, as both engines have it, which then goes on."""
        self.queue.append(instruction)
        self.take_next(at)

    def take_next(self, at):
        """Whoever is idle."""
        if self.idle and self.queue:
            self.idle -= 1
            instruction = self.queue.popleft()
            event, seconds = self.run_chunk(self.slots[instruction.slot], instruction, at)
            self.later(at + seconds, self.worked, event)

    def worked(self, at, event):
        """The worker goes on, and the scheduler is told."""
        self.idle += 1
        self.take_next(at)
        self.through_scheduler(at, lambda _, event: self.events.append(event), event)

    def outcome(self):
        """What came of it."""
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
    """The size of the chunk that the middle item is in, if they are put in the order of their sizes.

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
    """What comes of a job."""
    return ClusterSimulation(job, costs).run().outcome()


@cache
def outcomes(jobs, costs):
    """What comes of many: the large ones first, beside each other."""
    jobs = sorted(jobs, key=lambda job: -job.slots)
    found = aggregate(partial(by_costs, costs=costs), jobs, Collect())
    return dict(zip(jobs, found, strict=True))


def by_costs(job, costs):
    """In a worker."""
    return simulated(job, costs)


def event_cost(slots, events):
    """CPU seconds that an event takes the scheduler, with so many workers of a cluster."""
    job = ClusterJob(slots, 0.1, lease=1.0, workers=slots // 2)
    log = ClusterSimulation(job, ClusterCosts(1e-6, 1e-6, 0.0, 0.0)).run(most_events=events).log
    return cost_of_telling(job.terms(), log)
