"""What does each peer do when something goes wrong?

Every peer gets forty items, two workers, and one fault. The suite observes its behaviour and assumes nothing: whether
all results arrive, each once; whether there is an error that names the item; how many results arrive before it; how
many inputs the peer pulls ahead; which processes stay. A hang is a result: the harness kills the run at its time limit.

Each peer runs as in its documentation, with its own time limit for an item that hangs, if it has one.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.harness import Case, Diagnosis, Suite, charts, tables
from benchmarks.harness.measuring import ROOT
from benchmarks.harness.processes import adopt_orphans, descendants, wait_until_gone

WORKERS = 2
ITEMS = range(7001, 7041)
CULPRIT = 7021

TIMEOUT = 2.0
"""The time limit of an item, or of a wait for one, for peers; only where an item hangs."""

STAYING = 3.0
"""Seconds within which processes must end after their parent."""


# -- what is seen ------------------------------------------------------------------------------------------------------


class Log:
    """The outcome of a peer: results, and errors with the item that the peer blames, if any."""

    def __init__(self):
        self.results, self.errors, self.blamed = [], [], []

    def result(self, value):
        """Add a result as it arrives: the reducer."""
        self.results.append(value)

    def error(self, error, item=None):
        """Add an error, and its item if the peer's idiom tells it."""
        self.errors.append(error)
        if item is not None:
            self.blamed.append(item)

    def diagnosis(self, curable):
        """Describe the outcome. `curable`: all results are attainable, so even a clear error is second best."""
        counts = Counter(self.results)
        there = f"{len(counts)} of {len(ITEMS)} results in" if counts else "all results lost"
        if twice := sum(count > 1 for count in counts.values()):
            return Diagnosis(False, f"counts {twice} items twice", grade="bad")
        if self.errors and self._named():
            return Diagnosis(not curable, f"error names the item, {there}", grade="fair" if curable else "good")
        if self.errors:
            blame = f"blames {len(self.blamed)} items" if self.blamed else "item not named"
            return Diagnosis(False, f"{type(self.errors[0]).__name__}, {blame}, {there}", grade="poor")
        if len(counts) < len(ITEMS):
            return Diagnosis(False, f"no error, but only {there}", grade="bad")
        return Diagnosis(True, "complete", grade="good")

    def _named(self):
        if self.blamed:
            return self.blamed == [CULPRIT]
        return any(str(CULPRIT) in text for text in _texts(self.errors[0]))


def _texts(error):
    """Return the texts of an exception and of its causes."""
    while error is not None:
        yield f"{error} {vars(error)}"
        error = error.__cause__ or error.__context__


def observe(session, task, items=ITEMS, timeout=None):
    """Return the outcome of one job on a new pool."""
    log = Log()
    try:
        with session() as run:
            run(task, items, log, timeout)
    except BaseException as error:  # SystemExit too: some peers raise a worker's in the parent
        log.error(error)
    return log


# -- the faults --------------------------------------------------------------------------------------------------------

FAULTS = {}


def fault(name):
    """Register the decorated function, which observes a peer under the fault of that name."""

    def enter(function):
        FAULTS[name] = function
        return function

    return enter


def first(folder):
    """Return True the first time only, so that a worker dies once, not at each run of its item."""
    try:
        os.close(os.open(Path(folder, "done"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die():
    """Kill this process, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@fault("nothing wrong")
def no_fault(session):
    """Observe no fault: a hang here would be the measurement's."""
    return observe(session, nothing_wrong).diagnosis(curable=True)


def nothing_wrong(item):
    time.sleep(0.01)
    return item


@fault("worker killed mid-item")
def killed_mid_item(session):
    """Kill a worker once, in the middle of an item."""
    with tempfile.TemporaryDirectory() as folder:
        return observe(session, functools.partial(dies_mid_item, folder)).diagnosis(curable=True)


def dies_mid_item(folder, item):
    time.sleep(0.01)
    if item == CULPRIT and first(folder):
        die()
    return item


@fault("worker killed idle")
def killed_idle(session):
    """Kill a worker between two jobs of a pool that is kept."""
    log, pids = Log(), Log()
    try:
        with session() as run:
            run(its_pid, ITEMS, pids, None)
            os.kill(pids.results[0], signal.SIGKILL)
            time.sleep(0.3)
            run(nothing_wrong, ITEMS, log, None)
    except BaseException as error:
        log.error(error)
    return log.diagnosis(curable=True)


def its_pid(item):
    del item
    time.sleep(0.01)
    return os.getpid()


@fault("worker killed while writing")
def killed_while_writing(session):
    """Kill a worker once, while it writes a large result to its pipe.

    dask and Ray never wait in a write: their worker dies a second after it began to pickle the result.
    """
    with tempfile.TemporaryDirectory() as folder:
        return observe(session, functools.partial(dies_while_writing, folder)).diagnosis(curable=True)


def dies_while_writing(folder, item):
    time.sleep(0.01)
    return Large(folder, item) if item == CULPRIT else item


class Large:
    """A result that kills its process in the first write after its pickling. The value that arrives is the item."""

    def __init__(self, folder, item):
        self.folder, self.item = folder, item

    def __reduce__(self):
        if first(self.folder):
            threading.Thread(target=die_in_write, daemon=True).start()
        return item_of, (self.item, bytes(200_000_000))


def item_of(item, _):
    return item


def die_in_write(patience=1.0):
    """Kill this process when one of its threads waits in a write; after a second in any case."""
    until = time.monotonic() + patience
    while time.monotonic() < until and not any(map(in_write, Path("/proc/self/task").glob("*/wchan"))):
        time.sleep(0.0005)
    die()


def in_write(wchan):
    """Tell whether a thread waits in the kernel for space in a pipe or a socket."""
    with contextlib.suppress(OSError):
        return wchan.read_text() in ("pipe_write", "anon_pipe_write", "sock_alloc_send_pskb", "unix_stream_sendmsg")
    return False


@fault("item calls sys.exit")
def exits(session):
    """Call sys.exit(), as a function does that was once a script."""
    return observe(session, exits_at_culprit).diagnosis(curable=False)


def exits_at_culprit(item):
    time.sleep(0.01)
    if item == CULPRIT:
        sys.exit(3)
    return item


@fault("returns what cannot be pickled")
def unpicklable(session):
    """Return a lock, which many objects contain and which does not pickle."""
    return observe(session, returns_a_lock).diagnosis(curable=False)


def returns_a_lock(item):
    time.sleep(0.01)
    return threading.Lock() if item == CULPRIT else item


@fault("raises what cannot be unpickled")
def not_unpicklable(session):
    """Raise an exception whose constructor takes two arguments, a common mistake."""
    return observe(session, raises_two_arguments).diagnosis(curable=False)


class TwoArguments(Exception):
    """It pickles, but fails when it is unpickled, with one argument."""

    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")


def raises_two_arguments(item):
    time.sleep(0.01)
    if item == CULPRIT:
        raise TwoArguments("no", "such is life")
    return item


@fault("item hangs")
def hangs(session):
    """Hang for ever; the peer has its own time limit."""
    return observe(session, hangs_at_culprit, timeout=TIMEOUT).diagnosis(curable=False)


def hangs_at_culprit(item):
    time.sleep(3600 if item == CULPRIT else 0.01)
    return item


@fault("reducer is slow")
def slow_reducer(session, items=2000):
    """Pull inputs of 10 kB from a generator, faster than the results are consumed: how far ahead?"""
    pulled, ahead = Counter(), []

    def source():
        for item in range(items):
            pulled["items"] += 1
            yield item.to_bytes(4) + bytes(10_000)

    class SlowLog(Log):
        def result(self, value):
            time.sleep(0.001)
            super().result(value)
            ahead.append(pulled["items"] - len(self.results))

    log = SlowLog()
    with session() as run:
        run(its_number, source(), log, None)
    if sorted(log.results) != list(range(items)):
        return Diagnosis(False, f"{len(log.results)} results of {items}", grade="bad")
    bounded = max(ahead) < items / 2
    return Diagnosis(bounded, f"at most {max(ahead):,} of {items:,} inputs ahead", grade="good" if bounded else "poor")


def its_number(item):
    return int.from_bytes(item[:4])


@fault("parent killed")
def parent_killed(session):
    """Kill the parent by kill -9, with both workers busy: which processes stay?"""
    adopt_orphans()
    with tempfile.TemporaryDirectory() as folder:
        code = f"from benchmarks import faults; faults.be_killed({session.__name__!r}, {folder!r})"
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
            while len(os.listdir(folder)) < WORKERS and parent.poll() is None:
                time.sleep(0.01)
            before = len(descendants()) - 1
            parent.kill()
        began = time.monotonic()
        left = wait_until_gone(STAYING)
    if left:
        return Diagnosis(False, f"{len(left)} of {before} processes there after {STAYING:g} s", grade="bad")
    return Diagnosis(True, f"all gone after {time.monotonic() - began:.1f} s", grade="good")


def be_killed(session, folder):
    """Run the parent's part."""
    observe(globals()[session], functools.partial(busy, folder))


def busy(folder, item):
    Path(folder, str(item)).touch()
    time.sleep(60)
    return item


def cases(scale):
    """Return the faults; for the tests, two of them."""
    limit = {"full": 15, "quick": 8, "tiny": 8}[scale]
    few = ["nothing wrong", "worker killed mid-item"]
    return [Case(name, limit=limit) for name in (few if scale == "tiny" else FAULTS)]


suite = Suite(
    __name__,
    "What does each peer do when something goes wrong?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=lambda _, diagnosis: diagnosis,
    at_once=4,
    tables=tables.grid,
    charts=charts.grid,
)


# -- the peers ---------------------------------------------------------------------------------------------------------
#
# Each is a context manager, which holds the pool, and gives a function that runs one job on it.


def peer(name, *needs, patience=0):
    """Add the decorated context manager as a contestant; `patience` for one that takes seconds to start."""

    def enter(session):
        @functools.wraps(session)
        def run(case):
            return FAULTS[case.name](session)

        suite.contestant(name, needs=needs, sound=name == "poolagg", patience=patience)(run)
        return session

    return enter


@peer("poolagg")
@contextlib.contextmanager
def poolagg():
    """README: a ProcessPool that is kept, results into the parent's object, `item_timeout`; defaults otherwise."""
    from poolagg import Into, ProcessPool, aggregate

    with ProcessPool(WORKERS) as pool:

        def run(task, items, log, timeout):
            aggregate(task, items, Into(log.result), pool=pool, item_timeout=timeout)

        yield run


@peer("multiprocessing.Pool")
@contextlib.contextmanager
def multiprocessing_pool():
    """Follow the documentation: `for result in pool.imap_unordered(...)`; the iterator's `next` takes a timeout."""
    from multiprocessing import Pool

    with Pool(WORKERS) as pool:

        def run(task, items, log, timeout):
            results = pool.imap_unordered(task, items)
            with contextlib.suppress(StopIteration):
                while True:
                    log.result(results.next(timeout))

        yield run


def collect_futures(executor, task, items, log, timeout):
    """Follow the example of concurrent.futures: a dict of futures to items, `as_completed`, `try`."""
    from concurrent.futures import as_completed

    futures = {executor.submit(task, item): item for item in items}
    for future in as_completed(futures, timeout):
        try:
            log.result(future.result())
        except Exception as error:
            log.error(error, futures[future])


@peer("ProcessPoolExecutor")
@contextlib.contextmanager
def process_pool_executor():
    """Follow the ThreadPoolExecutor example, with processes: a dict of futures to items, `as_completed`."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        yield functools.partial(collect_futures, executor)


@peer("loky", "loky")
@contextlib.contextmanager
def loky():
    """Follow loky's documentation: `get_reusable_executor` for each job, the rest as with concurrent.futures."""
    from loky import get_reusable_executor

    def run(task, items, log, timeout):
        collect_futures(get_reusable_executor(max_workers=WORKERS), task, items, log, timeout)

    yield run


@peer("joblib", "joblib")
@contextlib.contextmanager
def joblib():
    """Follow joblib's documentation: `return_as="generator_unordered"`, the pool kept by `with`, a `timeout`."""
    from joblib import Parallel, delayed

    def run(task, items, log, timeout):
        with Parallel(n_jobs=WORKERS, return_as="generator_unordered", timeout=timeout) as parallel:
            for result in parallel(delayed(task)(item) for item in items):
                log.result(result)

    yield run


@peer("mpire", "mpire")
@contextlib.contextmanager
def mpire():
    """Follow mpire's documentation: `imap_unordered`, workers kept alive, `task_timeout`."""
    from mpire import WorkerPool

    with WorkerPool(n_jobs=WORKERS, keep_alive=True) as pool:

        def run(task, items, log, timeout):
            for result in pool.imap_unordered(task, items, task_timeout=timeout, chunk_size=1):
                log.result(result)

        yield run


@peer("pebble", "pebble")
@contextlib.contextmanager
def pebble():
    """Follow pebble's documentation: `map` with a timeout, and a loop that reports errors and takes the next result."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=WORKERS) as pool:

        def run(task, items, log, timeout):
            results = pool.map(task, items, timeout=timeout).result()
            while True:
                try:
                    log.result(next(results))
                except StopIteration:
                    break
                except Exception as error:
                    log.error(error)

        yield run


@peer("dask.distributed", "distributed", patience=10)
@contextlib.contextmanager
def dask_distributed():
    """Follow dask's documentation: a local cluster, `client.map`, and `as_completed` with results; `pure=False`."""
    from distributed import Client, LocalCluster, as_completed

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def run(task, items, log, timeout):
            futures = client.map(task, list(items), pure=False)
            for _, result in as_completed(futures, with_results=True, timeout=timeout):
                log.result(result)

        yield run


@peer("Ray", "ray", patience=30)
@contextlib.contextmanager
def ray():
    """Follow Ray's documentation: a remote function, and `ray.wait` for one result after the other."""
    import ray

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)

    def run(task, items, log, timeout):
        remote = ray.remote(lambda item: task(item))
        waiting = [remote.remote(item) for item in items]
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=timeout)
            if not ready:
                raise TimeoutError(f"no result within {timeout} s")
            log.result(ray.get(ready[0]))

    try:
        yield run
    finally:
        ray.shutdown()
