"""How near to the ideal do poolagg and its peers bring the same job?

The ideal is the time of a loop on one core, divided by the number of cores. Each peer gets the same input, the same
function and the same reduction of its results (`harness/jobs.py`), and runs them in the idiom of its own
documentation, with as many workers as cores.

The time of a job includes making the pool. dask.distributed and Ray are clusters that run for days, so their start
counts in "start-up" only. A peer that is slow with tiny items gets a part of them (see "units"), and its time per item
counts.

Memory is the peak over the run: of the parent, and of all its children together; a page that several of them share by
fork counts for each.
"""

import contextlib
import functools
from itertools import islice
from os import getpid
from time import perf_counter

from benchmarks.harness import Diagnosis, Suite, Timed
from benchmarks.harness.jobs import SLOW, STARTUP, Ahead, jobs
from benchmarks.harness.processes import peak_memory
from benchmarks.peers import shown
from poolagg.pools import usable_cpus

CORES = usable_cpus()


def check(job, outcome):
    """Compare with a loop; where the reducer is slow, also note how many results waited for it."""
    result, growth = outcome
    if not job.right(job.units, result):
        return Diagnosis(False, "not what a loop gives")
    waiting = f"parent +{growth / 2**20:.0f} MiB, at most {Ahead.most} of {job.units} inputs ahead"
    return Diagnosis(True, waiting if job.name == SLOW else "")


# -- the peers ---------------------------------------------------------------------------------------------------------
#
# Each is a context manager, which holds the pool, and gives a function of a job and its input that returns the result.

ABSENT = {}
"""By contestant and job: the reason for not running it."""


def peer(name, *needs, part=1.0, cluster=False, patience=0, absent=()):
    """Add the decorated context manager as a contestant.

    `part`: its part of the tiny items, if it is slow with them. `cluster`: it starts before the clock. `absent`: the
    jobs that it does not run, each with the reason.
    """

    def enter(session):
        @functools.wraps(session)
        def run(job):
            items, memory = job.source(job.units), peak_memory(getpid()) or 0
            began = perf_counter()
            with session() as perform:
                began = perf_counter() if cluster and job.name != STARTUP else began
                result = perform(job, items)
                seconds = perf_counter() - began
            return Timed((result, (peak_memory(getpid()) or 0) - memory), seconds)

        ABSENT[name] = dict(absent)
        present = [job.name for job in jobs("full") if job.name not in ABSENT[name]]
        suite.contestant(name, needs=needs, cases=present, part=part, patience=patience)(run)
        return session

    return enter


def chunks_of_one(reason):
    """Say why a contestant that is tuned by its chunks leaves out the jobs whose best chunk is one item."""
    return {job.name: reason for job in jobs("full") if job.chunksize == 1}


suite = Suite(
    __name__,
    "How near to the ideal do poolagg and its peers bring the same job?",
    about=__doc__.partition("\n")[2],
    cases=jobs,
    check=check,
    unit=("µs per item", 1e-6),
    given=(peer, chunks_of_one),
    memory=True,
    tables=lambda results: [shown.overview(results, jobs("full")), *shown.compared(results, jobs("full"), ABSENT)],
    charts=lambda results: shown.pictures(results, jobs("full")),
)


@peer("poolagg", absent={SLOW: "there only the parent can reduce"})
@contextlib.contextmanager
def poolagg():
    """README: `aggregate` with a reducer, and no setting."""
    from poolagg import aggregate

    yield lambda job, items: aggregate(job.func, items, job.reducer())


@peer("poolagg, Into")
@contextlib.contextmanager
def poolagg_into():
    """README: each result is applied, in the parent, to an object of its own."""
    from poolagg import Into, aggregate

    def run(job, items):
        total = job.start()

        def add(result):
            nonlocal total
            total = job.step(total, result)

        aggregate(job.func, items, Into(add))
        return total

    yield run


@peer("serial")
@contextlib.contextmanager
def serial():
    """Loop."""
    yield lambda job, items: job.fold(map(job.func, items))


@peer("Pool.imap_unordered", part=1 / 50)
@contextlib.contextmanager
def pool_default():
    """Follow the documentation of multiprocessing: loop over `imap_unordered`, whose default chunk is one item."""
    from multiprocessing import Pool

    with Pool(CORES) as pool:
        yield lambda job, items: job.fold(pool.imap_unordered(job.func, items))


@peer("Pool.imap_unordered, tuned chunks", absent=chunks_of_one("chunks of one, the default, are best"))
@contextlib.contextmanager
def pool_tuned():
    """Follow the same documentation: "using a large value for chunksize can make the job complete much faster"."""
    from multiprocessing import Pool

    with Pool(CORES) as pool:
        yield lambda job, items: job.fold(pool.imap_unordered(job.func, items, job.chunksize))


@peer("ProcessPoolExecutor.map, tuned chunks")
@contextlib.contextmanager
def executor_map():
    """Follow the documentation of concurrent.futures: `map`, with the large chunksize advised for long inputs."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(CORES) as executor:
        yield lambda job, items: job.fold(executor.map(job.func, items, chunksize=job.chunksize))


@peer("ProcessPoolExecutor, as_completed", part=1 / 100)
@contextlib.contextmanager
def executor_as_completed():
    """Follow the documentation of concurrent.futures: a future for each item, and a loop over `as_completed`."""
    from concurrent.futures import ProcessPoolExecutor, as_completed

    with ProcessPoolExecutor(CORES) as executor:

        def run(job, items):
            futures = [executor.submit(job.func, item) for item in items]
            return job.fold(future.result() for future in as_completed(futures))

        yield run


@peer("joblib, generator_unordered", "joblib", part=1 / 20)
@contextlib.contextmanager
def joblib():
    """Follow joblib's documentation: `return_as="generator_unordered"`; it sizes its batches itself."""
    from joblib import Parallel, delayed

    def run(job, items):
        return job.fold(Parallel(n_jobs=CORES, return_as="generator_unordered")(delayed(job.func)(x) for x in items))

    yield run


@peer("loky, tuned chunks", "loky")
@contextlib.contextmanager
def loky():
    """Follow loky's documentation: `get_reusable_executor`, and `map` as in concurrent.futures."""
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=CORES)
    yield lambda job, items: job.fold(executor.map(job.func, items, chunksize=job.chunksize))


@peer("mpire", "mpire", part=1 / 5)
@contextlib.contextmanager
def mpire():
    """Follow mpire's documentation: `imap_unordered`, with `iterable_len`, from which it makes 64 chunks a worker."""
    from mpire import WorkerPool

    with WorkerPool(n_jobs=CORES) as pool:
        yield lambda job, items: job.fold(pool.imap_unordered(job.func, items, iterable_len=job.units))


@peer("pebble, tuned chunks", "pebble", part=1 / 5)
@contextlib.contextmanager
def pebble():
    """Follow pebble's documentation: `map` with a `chunksize`, and a loop over its result."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=CORES) as pool:
        yield lambda job, items: job.fold(pool.map(job.func, items, chunksize=job.chunksize).result())


@peer("dask.bag", "dask.bag", part=1 / 20, patience=10, absent={SLOW: "its reduction runs in the workers"})
@contextlib.contextmanager
def dask_bag():
    """Follow dask's documentation: `from_sequence`, `map`, and `reduction`, of partitions and then of their results."""
    from dask import bag

    def run(job, items):
        results = bag.from_sequence(items).map(job.func)
        return results.reduction(job.fold, job.fold).compute(scheduler="processes", num_workers=CORES)

    yield run


@peer("dask.distributed, tuned batches", "distributed", part=1 / 20, cluster=True, patience=20)
@contextlib.contextmanager
def dask_distributed():
    """Follow dask's documentation: `client.map`, `as_completed`; tiny tasks in batches, as in its best practices."""
    from distributed import Client, LocalCluster, as_completed

    with (
        LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(job, items):
            futures = client.map(functools.partial(run_batch, job.func), list(batches(job, items)), pure=False)
            done = as_completed(futures, with_results=True)
            return job.fold(result for _, results in done for result in results)

        yield run


@peer("Ray, tuned batches", "ray", cluster=True, patience=30)
@contextlib.contextmanager
def ray():
    """Follow Ray's documentation: remote functions, a bounded number pending, by `ray.wait`; tiny tasks in batches."""
    import ray

    ray.init(address="local", num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    remote = ray.remote(run_batch)

    def results(job, items):
        pending = []
        for batch in batches(job, items):
            if len(pending) == 4 * CORES:
                ready, pending = ray.wait(pending)
                yield from ray.get(ready[0])
            pending.append(remote.remote(job.func, batch))
        while pending:
            ready, pending = ray.wait(pending)
            yield from ray.get(ready[0])

    try:
        yield lambda job, items: job.fold(results(job, items))
    finally:
        ray.shutdown()


def batches(job, items):
    """Yield lists of `chunksize` items."""
    items = iter(items)
    return iter(lambda: list(islice(items, job.chunksize)), [])


def run_batch(func, batch):
    """Run a batch in a worker."""
    return list(map(func, batch))
