"""How many workers can one parent feed? The scheduler, on up to 1,000 simulated workers, with costs measured here.

A pure state machine, `poolagg._scheduler.scheduler.Scheduler`, decides which items go where, so a test of it with a
thousand workers needs no thousand cores. This suite runs the real scheduler and the real strategies on a simulated
clock: every instruction, event and merge takes the time that small real runs of the same session measure (the table
"Measured constants"). The parent does one thing at a time; workers run in parallel. Given the constants, the outcome is
deterministic.

The simulation leaves out shared cores (each worker has its own), the network, and contention for memory. Real runs
check it where they can: items that sleep need no core, so a real pool can have many workers on this machine, and its
dots should lie on the simulated line.

One table asks the question of the title for items of 10 µs to 10 s and for workers whose states have 1 kB to 100 MB
(`saturation.py`). The costs of states come from real runs that sum arrays of these sizes.
"""

import os
import pickle
import time
from dataclasses import dataclass
from functools import partial
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
from benchmarks.simulation.saturation import STATES, state_title
from benchmarks.simulation.shown import REAL, REAL_WORKERS, all_charts, all_tables, nap_case
from poolagg import ArraySum, Collect, Count, MergeCounts, ProcessPool, SerialPool, Sum, aggregate
from poolagg._input.source import Source
from poolagg._scheduler.chunk_sizing import BATCH_BYTES, TARGET
from poolagg.events import ChunkDone, StateMerged
from poolagg.strategies import Stream, Tree


@dataclass(frozen=True)
class Naps(Case):
    """Items that sleep, on `workers` workers."""

    workers: int = 1


def cases(scale):
    """Return the constants, and the real runs that the simulation is compared with."""
    workers = {"full": REAL_WORKERS, "quick": REAL_WORKERS[:5], "tiny": (2,)}[scale]
    chunks = {"full": 1000, "quick": 400, "tiny": 40}[scale]
    naps = {"full": 500, "quick": 300, "tiny": 50}[scale]
    return [
        Case(CONSTANTS, chunks, limit=120),
        *(Naps(nap_case(count), naps * count, 60, count) for count in workers),
    ]


def check(case, result):
    """Check that a constant is a time; that no nap is missing or counted twice."""
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


def constant(title):
    """Add the decorated function, which returns the seconds of one constant."""

    def enter(measure):
        def run(case):
            seconds = measure(case.units)
            return Timed(seconds, seconds * case.units)

        run.__doc__ = measure.__doc__
        suite.contestant(title, cases=[CONSTANTS])(run)
        return measure

    return enter


@constant(TITLES["pull"])
def pull(count):
    """Use `Source` as the engine does: chunks of a `range`; CPU time, as for all of the parent's constants."""
    source = Source(range(10**12), pickle.dumps)
    began = time.thread_time()
    for _ in range(count):
        source.pull(1000, BATCH_BYTES, time.monotonic, 0.0)
        source.seal(1000)
    return (time.thread_time() - began) / count


class Metered(ProcessPool):
    """A pool that measures the parent's CPU time for each instruction and event."""

    def __init__(self, workers):
        super().__init__(workers)
        self.sending, self.receiving = [], []

    def perform(self, order, input_batch):
        """Carry out an instruction, and measure it."""
        began = time.thread_time()
        super().perform(order, input_batch)
        self.sending.append(time.thread_time() - began)

    def wait(self, timeout):
        """Wait, and measure it: waiting itself takes no CPU time."""
        began = time.thread_time()
        answers = super().wait(timeout)
        self.receiving += [(time.thread_time() - began) / len(answers) for _ in answers]
        return answers


def metered(func, items, reducer, **options):
    """Run on two real workers; return the pool, which measures, and the events."""
    told = []
    with Metered(2) as pool:
        aggregate(func, range(items), reducer, pool=pool, watch=told.append, **options)
    return pool, told


def times(told, kind, name):
    """Return the values of one field of the events of one type, without zeros."""
    return [getattr(event, name) for event in told if isinstance(event, kind) and getattr(event, name)]


def same(number):
    return number


def table(number):
    del number
    return dict.fromkeys(range(KEYS), 1)


@constant(TITLES["send"])
def send(count):
    """Return the median in a real run with chunks of one item."""
    return median(metered(same, count, Sum(), chunksize=1, strategy=Stream())[0].sending)


@constant(TITLES["receive"])
def receive(count):
    """Return the median in the same run: events come one by one, as when the parent keeps up."""
    return median(metered(same, count, Sum(), chunksize=1, strategy=Stream())[0].receiving)


@constant(TITLES["event_few"])
def event_few(count):
    """Replay the events of a simulated run on the real scheduler and the real clock."""
    return cost_of_event(FEW, 10 * count)


@constant(TITLES["event_many"])
def event_many(count):
    """Replay the events of a simulated run with many workers."""
    return cost_of_event(MANY, 3 * count)


def cost_of_event(workers, events):
    """Return seconds per event."""
    job = Job(workers, TARGET)
    log = Simulation(job, NOTHING).run(most_events=events).log
    return cost_of_telling(job.terms(), log)


@constant(TITLES["whole"])
def whole(count):
    """Run chunks of one item on warm workers, and return the CPU time for each chunk."""
    with ProcessPool(FEW) as pool:
        aggregate(same, range(FEW), Sum(), pool=pool, chunksize=1)
        began = time.thread_time()
        aggregate(same, range(count), Sum(), pool=pool, chunksize=1, strategy=Stream())
        return (time.thread_time() - began) / count


@constant(TITLES["merge"])
def merge(count):
    """Read `StateMerged` in a run that flushes after every item."""
    return median(times(metered(same, count, Sum(), strategy=Tree(), chunksize=1)[1], StateMerged, "seconds"))


@constant(TITLES["step"])
def step(count):
    """Run long chunks of numbers: the parent's time from the arrival of the bytes, divided by the number of numbers."""
    pool, told = metered(same, 1000 * count, Sum(), strategy=Stream(), chunksize=50 * count)
    return (sum(pool.receiving) + sum(times(told, StateMerged, "seconds"))) / (1000 * count)


@constant(TITLES["receive_table"])
def receive_table(count):
    """Return the median of a few; every item's partial is a table, which the parent steps."""
    del count
    return median(metered(table, 8, MergeCounts(), chunksize=1, strategy=Stream())[0].receiving)


@constant(TITLES["merge_table"])
def merge_table(count):
    """Read `StateMerged` in that run."""
    del count
    _, told = metered(table, 8, MergeCounts(), chunksize=1, strategy=Stream())
    return median(times(told, StateMerged, "seconds"))


def array_of(nbytes, number):
    import numpy as np

    return np.full(nbytes // 8, float(number))


def parents_time_for_a_state(nbytes):
    """Run items whose arrays are flushed one by one; return the medians of receiving and of merging, added."""
    items = max(6, min(40, 10**8 // nbytes))
    pool, told = metered(partial(array_of, nbytes), items, ArraySum(), strategy=Tree(), chunksize=1)
    return median(pool.receiving) + median(times(told, StateMerged, "seconds"))


for size in STATES:

    @constant(state_title(size))
    def receive_and_merge(count, size=size):
        """Run a few items whose arrays are flushed one by one, and add the medians of receiving and of merging."""
        del count
        return parents_time_for_a_state(size)


@constant(TITLES["chunk"])
def chunk(count):
    """Return the worker's CPU time from one item to the next, in chunks of one item."""
    told = aggregate(worker_clock, range(count), Collect(), workers=2, chunksize=1)
    clocks = {}
    for worker, at in told:
        clocks.setdefault(worker, []).append(at)
    return sum(max(at) - min(at) for at in clocks.values()) / max(1, len(told) - len(clocks))


def worker_clock(number):
    del number
    return os.getpid(), time.process_time()


@constant(TITLES["item"])
def item(count):
    """Run a `SerialPool`, which treats an item as a worker does, and subtract the time of a loop."""
    items = range(1000 * count)
    began = time.thread_time()
    aggregate(same, items, Sum(), pool=SerialPool())
    between = time.thread_time()
    sum(map(same, items))
    return max(1e-9, 2 * between - began - time.thread_time()) / len(items)


@constant(TITLES["pack"])
def pack(count):
    """Read `ChunkDone` in a run that flushes after every item."""
    return median(times(metered(same, count, Sum(), strategy=Tree(), chunksize=1)[1], ChunkDone, "open_seconds"))


@constant(TITLES["pack_partial"])
def pack_partial(count):
    """Read `ChunkDone` of long chunks of numbers, and divide by the number of numbers."""
    _, told = metered(same, 1000 * count, Sum(), strategy=Stream(), chunksize=50 * count)
    return sum(times(told, ChunkDone, "open_seconds")) / (1000 * count)


@constant(TITLES["pack_table"])
def pack_table(count):
    """Read `ChunkDone`, where every item's partial is a table."""
    del count
    _, told = metered(table, 8, MergeCounts(), chunksize=1, strategy=Stream())
    return median(times(told, ChunkDone, "open_seconds"))


@constant(TITLES["nap"])
def nap(count):
    """Return the median of many calls of `time.sleep`, which sleeps longer than it is told to."""
    took = []
    for number in range(count // 2):
        began = time.perf_counter()
        doze(number)
        took.append(time.perf_counter() - began)
    return median(took)


def doze(number):
    time.sleep(NAP)
    return number


REAL_CASES = [nap_case(workers) for workers in REAL_WORKERS]


@suite.contestant(REAL[None], cases=REAL_CASES)
def real_naps(case):
    """Run on a real, warm pool; items that sleep need no core."""
    return real_run(case, None)


@suite.contestant(REAL[1], cases=REAL_CASES)
def real_naps_one_by_one(case):
    """Run on a real, warm pool with `chunksize=1`, so that the parent is busy."""
    return real_run(case, 1)


def real_run(case, chunksize):
    with ProcessPool(case.workers) as pool:
        aggregate(same, range(4 * case.workers), Count(), pool=pool)
        began = time.perf_counter()
        done = aggregate(doze, range(case.units), Count(), pool=pool, chunksize=chunksize)
        return Timed(done, time.perf_counter() - began)
