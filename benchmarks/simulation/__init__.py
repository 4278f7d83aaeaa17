"""How many workers can one parent feed? The scheduler, on up to 1,000 simulated workers, with costs measured here.

Which items go where is decided by a pure state machine, `poolagg._scheduler.scheduler.Scheduler`, so nobody needs a
thousand cores to see what it does with a thousand workers. Here the scheduler itself runs, with the real halves of the
real strategies, while the clock is simulated: every order, every answer and every merge takes the time that it was
measured to take, by small real runs of the same session (the table "Measured constants"). What the parent does, it does
one after another; workers work beside each other. Given the constants, the outcome is always the same.

What is not simulated: cores that are shared (each worker has one of its own), a network, and contention for memory.
Whether the simulation is to be believed is checked where it can be: items that sleep need no core, so a real pool
can have many workers here, and its dots should lie on the simulated line.
"""

import os
import pickle
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.harness import Case, Diagnosis, Suite, Timed
from benchmarks.harness.simulated import (
    CONSTANTS,
    FEW,
    KEYS,
    MANY,
    NAP,
    NOTHING,
    TITLES,
    Job,
    Simulation,
    cost_of_telling,
)
from benchmarks.simulation.shown import REAL, REAL_LANES, all_charts, all_tables, nap_case
from poolagg import Collect, Count, MergeCounts, ProcessPool, SerialPool, Sum, aggregate
from poolagg._input.source import Source
from poolagg._scheduler.chunk_sizing import BATCH_BYTES, TARGET
from poolagg.events import ChunkDone, StateMerged
from poolagg.strategies import Stream, Tree


@dataclass(frozen=True)
class Naps(Case):
    """Items that sleep, on so many workers."""

    workers: int = 1


def cases(scale):
    """The constants, and real runs to hold the simulation against."""
    workers = {"full": REAL_LANES, "quick": REAL_LANES[:5], "tiny": (2,)}[scale]
    chunks = {"full": 1000, "quick": 400, "tiny": 40}[scale]
    naps = {"full": 500, "quick": 300, "tiny": 50}[scale]
    return [
        Case(CONSTANTS, chunks, limit=120),
        *(Naps(nap_case(count), naps * count, 60, count) for count in workers),
    ]


def check(case, result):
    """A constant is a time; of the naps, none was left out or taken twice."""
    return Diagnosis(result > 0 if case.name == CONSTANTS else result == case.units)


# -- the constants -----------------------------------------------------------------------------------------------------

suite = Suite(
    __name__,
    "How many workers can one parent feed?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    unit=("µs", 1e-6),
    tables=all_tables,
    charts=all_charts,
)


def constant(name):
    """Enter a function that gives the seconds of one constant."""

    def enter(measure):
        def run(case):
            seconds = measure(case.units)
            return Timed(seconds, seconds * case.units)

        run.__doc__ = measure.__doc__
        suite.contestant(TITLES[name], cases=[CONSTANTS])(run)
        return measure

    return enter


@constant("pull")
def pull(count):
    """`Source`, as the engine uses it: so many chunks of a `range`; CPU time, as for all of the parent's."""
    source = Source(range(10**12), pickle.dumps)
    began = time.thread_time()
    for _ in range(count):
        source.pull(1000, BATCH_BYTES, time.monotonic, 0.0)
        source.seal(1000)
    return (time.thread_time() - began) / count


class Metered(ProcessPool):
    """A pool that knows what CPU time each order and answer took the parent."""

    def __init__(self, workers):
        super().__init__(workers)
        self.sending, self.receiving = [], []

    def perform(self, order, input_batch):
        """Carry out an order, on the meter."""
        began = time.thread_time()
        super().perform(order, input_batch)
        self.sending.append(time.thread_time() - began)

    def wait(self, timeout):
        """Wait, on the meter: waiting itself takes no CPU time."""
        began = time.thread_time()
        answers = super().wait(timeout)
        self.receiving += [(time.thread_time() - began) / len(answers) for _ in answers]
        return answers


def metered(func, items, reducer, **options):
    """A real run on two workers: the pool, which has the meter, and what the run told its watcher."""
    told = []
    with Metered(2) as pool:
        aggregate(func, range(items), reducer, pool=pool, watch=told.append, **options)
    return pool, told


def times(told, kind, name):
    """What the events of a kind say under a name, where it isn't nothing."""
    return [getattr(event, name) for event in told if isinstance(event, kind) and getattr(event, name)]


def same(number):
    return number


def table(number):
    del number
    return dict.fromkeys(range(KEYS), 1)


@constant("send")
def send(count):
    """The median in a real run with chunks of one item."""
    return median(metered(same, count, Sum(), chunksize=1, strategy=Stream())[0].sending)


@constant("receive")
def receive(count):
    """The same run: answers come one by one, as they do when the parent is not behind."""
    return median(metered(same, count, Sum(), chunksize=1, strategy=Stream())[0].receiving)


@constant("plan_few")
def plan_few(count):
    """The real plan is told again, on the real clock, what a simulated run has told it."""
    return plan_cost(FEW, 10 * count)


@constant("plan_many")
def plan_many(count):
    """The same, where the simulated run has many workers."""
    return plan_cost(MANY, 3 * count)


def plan_cost(workers, events):
    """Seconds per event."""
    job = Job(workers, TARGET)
    log = Simulation(job, NOTHING).run(most_events=events).log
    return cost_of_telling(job.terms(), log)


@constant("whole")
def whole(count):
    """A real run with chunks of one item, on workers that are there before the clock starts: CPU time by chunk."""
    with ProcessPool(FEW) as pool:
        aggregate(same, range(FEW), Sum(), pool=pool, chunksize=1)
        began = time.thread_time()
        aggregate(same, range(count), Sum(), pool=pool, chunksize=1, strategy=Stream())
        return (time.thread_time() - began) / count


@constant("merge")
def merge(count):
    """What `StateMerged` says, in a run that flushes after every item."""
    return median(times(metered(same, count, Sum(), strategy=Tree(), chunksize=1)[1], StateMerged, "seconds"))


@constant("step")
def step(count):
    """Long chunks of numbers: the parent's time from the arrival of the bytes on, by the number of numbers."""
    pool, told = metered(same, 1000 * count, Sum(), strategy=Stream(), chunksize=50 * count)
    return (sum(pool.receiving) + sum(times(told, StateMerged, "seconds"))) / (1000 * count)


@constant("receive_table")
def receive_table(count):
    """The median of a few; every item's partial is a table, which the parent steps."""
    del count
    return median(metered(table, 8, MergeCounts(), chunksize=1, strategy=Stream())[0].receiving)


@constant("merge_table")
def merge_table(count):
    """What `StateMerged` says in that run."""
    del count
    _, told = metered(table, 8, MergeCounts(), chunksize=1, strategy=Stream())
    return median(times(told, StateMerged, "seconds"))


@constant("chunk")
def chunk(count):
    """The worker's CPU time from one item to the next, in chunks of one item."""
    told = aggregate(worker_clock, range(count), Collect(), workers=2, chunksize=1)
    clocks = {}
    for worker, at in told:
        clocks.setdefault(worker, []).append(at)
    return sum(max(at) - min(at) for at in clocks.values()) / max(1, len(told) - len(clocks))


def worker_clock(number):
    del number
    return os.getpid(), time.process_time()


@constant("item")
def item(count):
    """A `SerialPool` does with an item what a worker does; less what a loop with the same function takes."""
    items = range(1000 * count)
    began = time.thread_time()
    aggregate(same, items, Sum(), pool=SerialPool())
    between = time.thread_time()
    sum(map(same, items))
    return max(1e-9, 2 * between - began - time.thread_time()) / len(items)


@constant("pack")
def pack(count):
    """What `ChunkDone` says, in a run that flushes after every item."""
    return median(times(metered(same, count, Sum(), strategy=Tree(), chunksize=1)[1], ChunkDone, "open_seconds"))


@constant("pack_partial")
def pack_partial(count):
    """What `ChunkDone` says of long chunks of numbers, by the number of numbers."""
    _, told = metered(same, 1000 * count, Sum(), strategy=Stream(), chunksize=50 * count)
    return sum(times(told, ChunkDone, "open_seconds")) / (1000 * count)


@constant("pack_table")
def pack_table(count):
    """What `ChunkDone` says, where every item's partial is a table."""
    del count
    _, told = metered(table, 8, MergeCounts(), chunksize=1, strategy=Stream())
    return median(times(told, ChunkDone, "open_seconds"))


@constant("nap")
def nap(count):
    """The median of many a `time.sleep`: it sleeps longer than it is told to."""
    took = []
    for number in range(count // 2):
        began = time.perf_counter()
        doze(number)
        took.append(time.perf_counter() - began)
    return median(took)


def doze(number):
    time.sleep(NAP)
    return number


REAL_CASES = [nap_case(workers) for workers in REAL_LANES]


@suite.contestant(REAL[None], cases=REAL_CASES)
def real_naps(case):
    """A real pool, whose workers are there before the clock starts; items that sleep need no core."""
    return real_run(case, None)


@suite.contestant(REAL[1], cases=REAL_CASES)
def real_naps_one_by_one(case):
    """The same with `chunksize=1`: so that the parent has something to do."""
    return real_run(case, 1)


def real_run(case, chunksize):
    with ProcessPool(case.workers) as pool:
        aggregate(same, range(4 * case.workers), Count(), pool=pool)
        began = time.perf_counter()
        done = aggregate(doze, range(case.units), Count(), pool=pool, chunksize=chunksize)
        return Timed(done, time.perf_counter() - began)
