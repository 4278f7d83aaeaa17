"""What does a chunk cost on a cluster, which program is faster there, and where would the driver saturate?

**A chunk** is a unit of work for which a program of plain tasks submits one task. poolagg puts many chunks into one of
its tasks, a *lease* in the tables, and combines their results where it runs. "Chunks of no work" measures the cost of a
chunk with 20 in a lease (`chunksize=20`; each item is a chunk): the time of the run divided by the number of chunks.
The targets are for these 20. The table also has plain tasks in the idiom of each engine's documentation, and the leases
of poolagg's default settings, which hold a quarter of a second of work on dask and a tenth on Ray: very many empty
chunks.

**Word count** is one job for all contestants, on the same two workers, from files that all can read.

The clusters start before the clock, on this machine, with two workers of one thread each. Each contestant runs a part
of its job before, so that workers have imported their modules.

**The cost model** predicts larger clusters. Runs with 20 chunks in a lease measure the CPU seconds that a lease costs
the driver and the engine's scheduler. A replay of the events of a run measures the cost of an event for poolagg's
scheduler, with few workers and with many. With these constants poolagg's real scheduler runs on simulated workers
(`clusters/simulated.py`): the driver does one thing at a time, and so does the engine's scheduler; workers run in
parallel. The model has no network, and states are numbers unless stated otherwise.

Real runs check the model where they can: items that sleep need no core, so up to 32 workers fit on this machine. The
events of these runs tell the pool's real leases, which stand next to those of the model.
"""

import functools
import operator
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.clusters import shown
from benchmarks.clusters.engines import DASK, ENGINES, RAY, Meter
from benchmarks.clusters.shown import CHUNKS, EVENT, IN_A_LEASE, NAPPERS, SCHEDULERS, WORDS, Told, napping, told
from benchmarks.clusters.simulated import event_cost, middle
from benchmarks.harness import Case, Diagnosis, Suite, Timed, jobs
from poolagg import Count, Frequencies, Sum, aggregate
from poolagg.events import ChunkDone, StateMerged

# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job(Case):
    """`units` items of `source(units)`, for `workers` workers of an engine."""

    engine: str = DASK
    workers: int = 2
    source: Callable[[int], Any] = range
    right: Callable[[int, Any], bool]


def is_sum(count, result):
    return result == count * (count - 1) // 2


def is_time(count, result):
    del count
    return result > 0


DISTINCT, LENGTH = 50_000, 54_688
"""Words of the corpus, and of a file."""


def cases(scale):
    """Return the same cases for both engines; naps on more workers where these can be threads."""
    chunks, files, naps, events, limit = {
        "full": (20_000, 64, 600, 5000, 180),
        "quick": (8_000, 16, 300, 3000, 60),
        "tiny": (400, 4, 40, 100, 60),
    }[scale]
    sizes = DISTINCT * files // 64, LENGTH * files // 64
    corpus, right = partial(jobs.corpus, *sizes), partial(jobs.is_count_of_words, *sizes)
    return [
        *(Job(CHUNKS[engine], chunks, limit, engine=engine, right=is_sum) for engine in ENGINES),
        *(Job(WORDS[engine], files, limit, engine=engine, source=corpus, right=right) for engine in ENGINES),
        Job(EVENT, events, limit, right=is_time),
        *(
            Job(
                napping(engine, count),
                naps * count,
                limit,
                engine=engine,
                workers=count,
                source=jobs.from_generator,
                right=operator.eq,
            )
            for engine in ENGINES
            for count in NAPPERS[engine][scale]
        ),
    ]


# -- what is measured --------------------------------------------------------------------------------------------------


def check(job, outcome):
    """Compare with a loop; note the CPU time of tasks where it is known."""
    result, note = outcome
    return Diagnosis(job.right(job.units, result), note)


suite = Suite(
    __name__,
    "What does a chunk cost on a cluster, which program is faster there, and where would the driver saturate?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    unit=("µs per chunk", 1e-6),
    tables=shown.all_tables,
    charts=shown.all_charts,
)


def contestant(engine, name, names, *needs, part=1.0, warm=40, **options):
    """Add a function of a job's items as a contestant. poolagg's also takes the pool and a watcher.

    It is run on `warm` items before the clock starts; `options` are the engine's.
    """

    def enter(perform):
        @functools.wraps(perform)
        def run(job):
            items = job.source(job.units)
            with ENGINES[engine](job.workers, **options) as cluster:
                call(perform, cluster, job.source(warm))
                meter, began = Meter(cluster), time.perf_counter()
                result, heard = call(perform, cluster, items)
                seconds = time.perf_counter() - began
                note = note_of(job, heard, *meter.read())
            return Timed((result, note), seconds)

        suite.contestant(name, needs=needs, cases=names, part=part, patience=30)(run)
        return perform

    def call(perform, cluster, items):
        heard = []
        result = perform(cluster.pool, items, heard.append) if name.startswith("poolagg") else perform(items)
        return result, heard

    return enter


def note_of(job, heard, driver, scheduler):
    """Note poolagg's tasks, from the events of the run, or plain tasks; the tasks of dask's bags are unknown."""
    if leases := [event for event in heard if isinstance(event, ChunkDone)]:
        states = sum(isinstance(event, StateMerged) for event in heard)
        sizes = {lease.stop - lease.start: lease.seconds for lease in leases}
        items = middle([lease.stop - lease.start for lease in leases])
        each = sum(lease.seconds for lease in leases) / job.units
        return told(Told(len(leases), states, driver / len(leases), scheduler / len(leases), items, sizes[items], each))
    if job.name in CHUNKS.values():
        return told(Told(job.units, job.units, driver / job.units, scheduler / job.units, 1, 0.0, 0.0))
    return ""


# -- chunks of no work -------------------------------------------------------------------------------------------------


def same(number):
    return number


def by_twenty(pool, items, watch):
    """README: `aggregate` with a reducer and the cluster as pool; `chunksize=20`."""
    return aggregate(same, items, Sum(), pool=pool, chunksize=IN_A_LEASE, watch=watch)


def own_leases(pool, items, watch):
    """README: `aggregate` with a reducer and the cluster as pool, and no setting."""
    return aggregate(same, items, Sum(), pool=pool, watch=watch)


contestant(DASK, shown.LEASES[DASK], [CHUNKS[DASK]], "distributed")(by_twenty)
contestant(RAY, shown.LEASES[RAY], [CHUNKS[RAY]], "ray")(by_twenty)
contestant(DASK, "poolagg on dask, leases as it picks them", [CHUNKS[DASK]], "distributed")(own_leases)
contestant(RAY, "poolagg on Ray, leases as it picks them", [CHUNKS[RAY]], "ray")(own_leases)


@contestant(DASK, shown.PLAIN[DASK], [CHUNKS[DASK]], "distributed", part=1 / 10)
def dask_tasks(items):
    """Follow dask's documentation: `client.map`, and `as_completed` in batches, with the results."""
    from distributed import Client, as_completed

    futures = Client.current().map(same, items, pure=False)
    batches = as_completed(futures, with_results=True).batches()
    return sum(result for batch in batches for _, result in batch)


@contestant(RAY, shown.PLAIN[RAY], [CHUNKS[RAY]], "ray", part=1 / 5)
def ray_tasks(items):
    """Follow Ray's documentation: a remote function, and one `ray.get` for all, after all are submitted."""
    import ray

    remote = ray.remote(same)
    return sum(ray.get([remote.remote(item) for item in items]))


# -- word count --------------------------------------------------------------------------------------------------------


def words_of(path):
    return Path(path).read_text("utf-8").split()


def count_words(pool, items, watch):
    """README: a function that returns words, and `Frequencies().flat()`."""
    return aggregate(words_of, items, Frequencies().flat(), pool=pool, watch=watch)


contestant(DASK, shown.COUNT[DASK], [WORDS[DASK]], "distributed", warm=2)(count_words)
contestant(RAY, shown.COUNT[RAY], [WORDS[RAY]], "ray", warm=2)(count_words)


@contestant(DASK, shown.FREQUENCIES, [WORDS[DASK]], "dask.bag", "distributed", warm=2)
def bag_frequencies(items):
    """Follow dask's documentation: `frequencies` of a bag of words."""
    from dask import bag

    return dict(bag.read_text(items).map(str.split).flatten().frequencies().compute())


@contestant(DASK, "dask.bag, fold", [WORDS[DASK]], "dask.bag", "distributed", warm=2)
def bag_fold(items):
    """Follow dask's documentation: `fold` by a binary operator; a Counter of each line first, so that it adds few."""
    from dask import bag

    return bag.read_text(items).map(str.split).map(Counter).fold(operator.add).compute()


@contestant(RAY, "Ray, map and reduce tasks", [WORDS[RAY]], "ray", warm=2)
def ray_map_reduce(items):
    """Follow Ray's documentation, "A Simple MapReduce Example with Ray Core": map tasks give parts to reduce tasks.

    In the example a map task has a third of the corpus; here a twelfth.
    """
    import ray

    share = max(1, len(items) // 12)
    documents = [items[start : start + share] for start in range(0, len(items), share)]
    mapping = ray.remote(num_returns=REDUCERS)(map_documents)
    parts = [mapping.remote(paths) for paths in documents]
    counts = {}
    for found in ray.get([ray.remote(reduce_parts).remote(*part) for part in zip(*parts, strict=True)]):
        counts.update(found)
    return counts


REDUCERS = 3


def map_documents(paths):
    """Count the words of a few documents, in parts by the first letters' hash."""
    parts = [Counter() for _ in range(REDUCERS)]
    for path in paths:
        for word, times in Counter(words_of(path)).items():
            parts[sum(word.encode()) % REDUCERS][word] += times
    return parts


def reduce_parts(*parts):
    total = Counter()
    for part in parts:
        total.update(part)
    return total


# -- the scheduler -----------------------------------------------------------------------------------------------------


def measure_event(workers, case):
    """Replay the events of a simulated run on the real scheduler and the real clock."""
    seconds = event_cost(workers, case.units)
    return Timed((seconds, ""), seconds * case.units)


for workers, name in SCHEDULERS.items():
    suite.contestant(name, cases=[EVENT])(functools.wraps(measure_event)(partial(measure_event, workers)))


# -- what leases it picks ----------------------------------------------------------------------------------------------


def doze(number):
    time.sleep(shown.NAP)
    return number


def doze_all(pool, items, watch):
    """Count items that sleep; no setting. They come from a generator, so that tasks do not shrink at the end."""
    return aggregate(doze, items, Count(), pool=pool, watch=watch)


def all_naps(engine):
    return [napping(engine, workers) for workers in NAPPERS[engine]["full"]]


contestant(DASK, shown.NAPS[DASK], all_naps(DASK), "distributed", threads=True)(doze_all)
contestant(RAY, shown.NAPS[RAY], all_naps(RAY), "ray")(doze_all)
