"""How near to the ideal do poolagg and its peers bring the same job?

The ideal is the time of a loop on one core, divided by the number of cores. Each peer gets the same input, the same
function and the same reduction of its results (`harness/jobs.py`), and runs them in the idiom of its own
documentation, with as many workers as cores.

Each job is measured twice: with workers to be started, where the time includes making the pool, and with workers that
are there, where a few items ran in the pool before the clock starts. dask.distributed and Ray are clusters that run for
days, so their start counts in "start-up" only. A pool of the standard library, or on top of it, is named with its start
method: "forkserver" is the default of Python 3.14 on Linux, and "fork" that of older Pythons. A peer that is slow with
tiny items gets a part of them (see "units"), and its time per item counts.

Memory is the peak over the run: of the parent, and of all its children together; a page that several of them share by
fork counts for each.
"""

import contextlib
import functools
import operator
import sys
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context, set_start_method
from os import getpid
from time import perf_counter

from benchmarks.harness import Diagnosis, Suite, Timed
from benchmarks.harness.jobs import SLOW, STARTUP, THERE, Ahead, jobs
from benchmarks.harness.processes import peak_memory
from benchmarks.harness.work import square_after_a_nap
from benchmarks.peers import shown
from poolagg import Sum
from poolagg.pools import usable_cpus

CORES = usable_cpus()
FORK, FORKSERVER = "fork", "forkserver"


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

WARMING = {"func": square_after_a_nap, "start": int, "step": operator.add, "reducer": Sum}
"""The job that runs in a pool before the clock starts, where the workers are there."""

RESTARTS = "it starts its workers for each run"

ABSENT = {}
"""By contestant and job: the reason for not running it."""


def peer(name, *needs, part=1.0, cluster=False, patience=0, absent=(), python=(3, 11), keeps=True):
    """Add the decorated context manager as a contestant.

    `part`: its part of the tiny items, if it is slow with them. `cluster`: it starts before the clock. `absent`: the
    jobs that it does not run, each with the reason. `python`: an older one is without it. `keeps`: whether its workers
    are there for another run.
    """

    def enter(session):
        @functools.wraps(session)
        def run(job):
            items, memory = job.source(job.units), peak_memory(getpid()) or 0
            began = perf_counter()
            with session() as perform:
                if job.warm:
                    warm_up(perform, job)
                began = perf_counter() if job.warm or (cluster and job.name != STARTUP) else began
                result = perform(job, items)
                seconds = perf_counter() - began
            return Timed((result, (peak_memory(getpid()) or 0) - memory), seconds)

        if sys.version_info < python:
            return session
        ABSENT[name] = {
            job.name: reason
            for job in jobs("full")
            if (reason := dict(absent).get(job.name.removesuffix(THERE)) or (job.warm and not keeps and RESTARTS))
        }
        present = [job.name for job in jobs("full") if job.name not in ABSENT[name]]
        suite.contestant(name, needs=needs, cases=present, part=part, patience=patience)(run)
        return session

    return enter


NUMPY = {
    job.name: "numpy cannot be imported in such an interpreter"
    for job in jobs("full")
    if job.func.__module__.endswith("jobs")
}
"""The jobs whose function is from a module that imports numpy."""


def warm_up(perform, job):
    """Occupy all workers, so that each is there, and run a few items of the job, so that each has what it imports."""
    few = replace(job, units=4 * CORES, least=0, chunksize=1)
    perform(replace(few, **WARMING), range(few.units))
    perform(few, job.source(few.units))


def by_both_methods(session, name, *needs, **options):
    """Add a peer by the start method that is the default of the newest Python, and by fork."""
    for method in (FORKSERVER, FORK):
        enter = contextlib.contextmanager(session)
        bound = functools.update_wrapper(functools.partial(enter, method), session)
        peer(f"{name}, {method}", *needs, **options)(bound)


suite = Suite(
    __name__,
    "How near to the ideal do poolagg and its peers bring the same job?",
    about=__doc__.partition("\n")[2],
    cases=jobs,
    check=check,
    unit=("µs per item", 1e-6),
    given=(peer, warm_up, by_both_methods),
    memory=True,
    tables=lambda results: [*shown.overviews(results, jobs("full")), *shown.compared(results, jobs("full"), ABSENT)],
    charts=lambda results: shown.pictures(results, jobs("full")),
)


@peer("poolagg", absent={SLOW: "there only the parent can reduce"})
@contextlib.contextmanager
def poolagg():
    """README: `aggregate` with a reducer, and no setting of the run."""
    from poolagg import ProcessPool, aggregate

    with ProcessPool() as pool:
        yield lambda job, items: aggregate(job.func, items, job.reducer(), pool=pool)


@peer("poolagg, fork", absent={SLOW: "there only the parent can reduce"})
@contextlib.contextmanager
def poolagg_by_fork():
    """README: the same, with workers that are forked from the program."""
    from poolagg import ProcessPool, aggregate

    with ProcessPool(start_method=FORK) as pool:
        yield lambda job, items: aggregate(job.func, items, job.reducer(), pool=pool)


@peer("poolagg, Into")
@contextlib.contextmanager
def poolagg_into():
    """README: each result is applied, in the parent, to an object of its own."""
    from poolagg import Into, ProcessPool, aggregate

    def run(job, items):
        total = job.start()

        def add(result):
            nonlocal total
            total = job.step(total, result)

        aggregate(job.func, items, Into(add), pool=pool)
        return total

    with ProcessPool() as pool:
        yield run


@peer("serial")
@contextlib.contextmanager
def serial():
    """Loop."""
    yield lambda job, items: job.fold(map(job.func, items))


@peer("Pool.imap_unordered, forkserver", part=1 / 50)
@contextlib.contextmanager
def pool_default():
    """Follow the documentation of multiprocessing: loop over `imap_unordered`, whose default chunk is one item."""
    with get_context(FORKSERVER).Pool(CORES) as pool:
        yield lambda job, items: job.fold(pool.imap_unordered(job.func, items))


def pool_tuned(method):
    """Follow the same documentation: "using a large value for chunksize can make the job complete much faster"."""
    with get_context(method).Pool(CORES) as pool:
        yield lambda job, items: job.fold(pool.imap_unordered(job.func, items, job.chunksize))


def executor_map(method):
    """Follow the documentation of concurrent.futures: `map`, with the large chunksize advised for long inputs."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(CORES, get_context(method)) as executor:
        yield lambda job, items: job.fold(executor.map(job.func, items, chunksize=job.chunksize))


def pebble(method):
    """Follow pebble's documentation: `map` with a `chunksize`, and a loop over its result."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=CORES, context=get_context(method)) as pool:
        yield lambda job, items: job.fold(pool.map(job.func, items, chunksize=job.chunksize).result())


by_both_methods(pool_tuned, "Pool.imap_unordered, tuned chunks")
by_both_methods(executor_map, "ProcessPoolExecutor.map, tuned chunks")
by_both_methods(pebble, "pebble, tuned chunks", "pebble", part=1 / 5)


@peer("ProcessPoolExecutor.map, buffersize, forkserver", python=(3, 14))
@contextlib.contextmanager
def executor_map_buffered():
    """Follow the documentation of Python 3.14: `map` with a `buffersize`, so that not all of the input is pulled."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(CORES, get_context(FORKSERVER)) as executor:

        def run(job, items):
            chunks = {"chunksize": job.chunksize, "buffersize": 8 * CORES * job.chunksize}
            return job.fold(executor.map(job.func, items, **chunks))

        yield run


@peer("InterpreterPoolExecutor.map, tuned chunks", python=(3, 14), absent=NUMPY)
@contextlib.contextmanager
def interpreters():
    """Follow the documentation of Python 3.14: interpreters of one process, and `map` with a large chunksize."""
    from concurrent.futures import InterpreterPoolExecutor

    with InterpreterPoolExecutor(CORES) as executor:
        yield lambda job, items: job.fold(executor.map(job.func, items, chunksize=job.chunksize))


@peer("ProcessPoolExecutor, as_completed, forkserver", part=1 / 100)
@contextlib.contextmanager
def executor_as_completed():
    """Follow the documentation of concurrent.futures: a future for each item, and a loop over `as_completed`."""
    from concurrent.futures import ProcessPoolExecutor, as_completed

    with ProcessPoolExecutor(CORES, get_context(FORKSERVER)) as executor:

        def run(job, items):
            futures = [executor.submit(job.func, item) for item in items]
            return job.fold(future.result() for future in as_completed(futures))

        yield run


@peer("tqdm, process_map, forkserver", "tqdm.contrib.concurrent", keeps=False)
@contextlib.contextmanager
def tqdm():
    """Follow tqdm's documentation: `process_map` with a chunksize; its bar is written nowhere."""
    from tqdm.contrib.concurrent import process_map

    set_start_method(FORKSERVER, force=True)  # of the lock that tqdm makes, too
    options = {"max_workers": CORES, "disable": True}
    yield lambda job, items: job.fold(process_map(job.func, items, chunksize=job.chunksize, **options))


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


@peer("mpire, fork", "mpire", part=1 / 5)
@contextlib.contextmanager
def mpire():
    """Follow mpire's documentation: `imap_unordered`, with `iterable_len`, from which it makes 64 chunks a worker."""
    from mpire import WorkerPool

    with WorkerPool(n_jobs=CORES, start_method=FORK, keep_alive=True) as pool:
        yield lambda job, items: job.fold(pool.imap_unordered(job.func, items, iterable_len=job.units))


@peer("dask.bag", "dask.bag", part=1 / 20, patience=10, keeps=False, absent={SLOW: "its reduction runs in the workers"})
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
