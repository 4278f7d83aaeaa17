"""How near to the limit is it?

The suite has a target for each kind of work, and says whether it holds on this machine. poolagg has its default
settings and a warm pool: `with ProcessPool() as pool:`, and each worker has run something and imported its modules. So
does the `multiprocessing.Pool` that it is compared with, whose chunks are tuned by hand.

"Ideal" is the time of the fastest loop on one core, in the same turn, divided by the number of cores. Ratios are taken
turn by turn. Memory is the parent's peak above its memory when the clock starts. Where caches and memory are the limit,
two cores that share them do less than twice the work of one: so the table also has the time of loops that run side by
side, each on its share of the items, without a merge.

A measurement that needs a new interpreter (an import, the first result of a new pool) runs in several, one after
another, and the time of the turn is their median. All files are compiled before, as after an installation.
"""

import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import Diagnosis, Suite, Timed, jobs
from benchmarks.harness.processes import peak_memory
from benchmarks.limit import shown
from benchmarks.limit.shown import APART, BY_IDEAL, BY_POOL, MEBIBYTES, MILLISECONDS, OURS, POOL, SERIAL, Goal
from poolagg import ArraySum, Into, MergeCounts, ProcessPool, Sum, Unique, aggregate
from poolagg.pools import usable_cpus

CORES = usable_cpus()


# -- goals -------------------------------------------------------------------------------------------------------------


def nothing():
    """Import the modules that most workers need, besides this file, which they import; numpy is among them."""


@dataclass(frozen=True, kw_only=True)
class Work(Goal):
    """`units` items of `source(units)`, each given to `func`; in a loop, `fold` reduces the results."""

    source: Callable[[int], Any]
    func: Callable[[Any], Any]
    fold: Callable[[Any], Any]
    right: Callable[[int, Any], bool]
    reducer: Callable[[], Any] | None = None
    add: Callable[[Any, Any], Any] | None = None
    """Instead of a reducer: the parent's update of its array with each result."""
    chunksize: int = 1
    """The Pool's chunk size, tuned by hand."""
    ready: Callable[[], Any] = nothing
    """The initializer of each worker, before the clock starts."""
    rated: bool = False
    """Whether to note the bytes per second."""
    side_by_side: bool = False
    """Whether to run loops side by side, too."""


@dataclass(frozen=True, kw_only=True)
class Fresh(Goal):
    """Programs, each for a new interpreter, that print the seconds that count and whether all went well."""

    ours: Callable[[], str]
    theirs: str = ""
    tries: int = 1
    said: str = ""
    """The meaning of the third number that they print, another time."""


@dataclass(frozen=True)
class Measured:
    """A result and further measurements."""

    result: Any
    seconds: float
    growth: int | None = None
    """Bytes, of the parent."""
    also: float | None = None
    """Seconds."""


def check(goal, outcome):
    """Compare with a loop, and note memory or bytes per second where the goal asks for them."""
    if isinstance(goal, Fresh):
        also = "" if outcome.also is None else f"{goal.said}: {1e3 * outcome.also:.1f} ms"
        return Diagnosis(outcome.result is True, also)
    if not goal.right(goal.units, outcome.result):
        return Diagnosis(False, "not what a loop gives")
    if goal.measure == MEBIBYTES:
        return Diagnosis(True, shown.grown(outcome.growth))
    rate = goal.units * NBYTES / outcome.seconds / 1e9
    return Diagnosis(True, f"{rate:.2f} GB/s; np.copyto: {copying() / 1e9:.1f} GB/s" if goal.rated else "")


# -- arrays ------------------------------------------------------------------------------------------------------------

NBYTES = 8 * jobs.MILLION


@functools.cache
def ready_array(seed):
    """Make the array once in each process, before the clock starts."""
    return jobs.random_array(seed)


def make_arrays():
    for seed in range(jobs.SEEDS):
        ready_array(seed)


def add(total, array):
    np.add(total, array, out=total)


def applied(add, results):
    """Run the loop that does the same with each result as `Into`."""
    total = jobs.zeros()
    for result in results:
        add(total, result)
    return total


def copying():
    """Return the bytes per second from one array of 8 MB to another: no pipe and no shared memory is faster."""
    source, target = np.ones(jobs.MILLION), np.empty(jobs.MILLION)
    return NBYTES / median(seconds_of(partial(np.copyto, target, source)) for _ in range(20))


def seconds_of(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# -- numbers and words -------------------------------------------------------------------------------------------------


def third(number):
    return number / 3


def is_exact_sum_of_thirds(count, result):
    """Compare to the last bit."""
    return result == math.fsum(map(third, range(count)))


def updated(results):
    """Count into one Counter."""
    return functools.reduce(jobs.update, results, Counter())


# -- programs ----------------------------------------------------------------------------------------------------------

IMPORTED = "from poolagg import aggregate, ProcessPool, Sum"


def import_program():
    """Import the modules that poolagg imports; then, with the clock, poolagg and its most used names."""
    before = "import sys; before = set(sys.modules)"
    found = interpreted(f"{before}; {IMPORTED}; import json; print(json.dumps([*set(sys.modules) - before]))")
    others = sorted(name for name in found if name.partition(".")[0] != "poolagg")
    return textwrap.dedent(f"""
        import contextlib, importlib, json, sys
        from time import perf_counter
        for name in {others}:
            with contextlib.suppress(ImportError):  # some are made by others: typing.io
                importlib.import_module(name)
        began = perf_counter()
        import poolagg
        seconds = perf_counter() - began
        {IMPORTED}
        also = perf_counter() - began
        print(json.dumps([seconds, callable(poolagg.aggregate), also]))
    """)


def first_by_poolagg(method):
    """Return the program of a new pool, which yields its first result."""
    return textwrap.dedent(f"""
        import json
        from time import perf_counter
        {IMPORTED}
        began = perf_counter()
        with ProcessPool(2, start_method={method!r}) as pool:
            result = next(pool.imap_unordered(abs, range(2)))
            seconds = perf_counter() - began
        print(json.dumps([seconds, result in (0, 1), None]))
    """)


def first_by_pool(method):
    """Return the same program for multiprocessing's Pool; its imports come before the clock, too."""
    return textwrap.dedent(f"""
        import json
        import multiprocessing.pool
        from time import perf_counter
        began = perf_counter()
        with multiprocessing.get_context({method!r}).Pool(2) as pool:
            result = next(pool.imap_unordered(abs, range(2)))
            seconds = perf_counter() - began
        print(json.dumps([seconds, result in (0, 1), None]))
    """)


FUNCTIONS = {"": "abs", "numpy": "numpy.sqrt", "pandas": "pandas.isna"}
"""A function for a few items, of no package or of one that workers have to import."""

SOON = 0.015
"""Seconds within which a second call is good, however fast the Pool is."""


def call_by_poolagg(place, package):
    """Return the program of an `aggregate` without a pool, the first or the second of a process."""
    return calls(place, package, "from poolagg import Count, aggregate", f"aggregate({FUNCTIONS[package]}, range(4), "
                 "Count(), workers=2) == 4", 0)  # fmt: skip


def call_by_pool(place, package):
    """Return the same for a Pool of forkserver, which imports the package before it forks."""
    names = [package] if package else []
    setup = f"""
        import multiprocessing.pool
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload({names!r})
        def call():
            with context.Pool(2) as pool:
                return len(pool.map({FUNCTIONS[package]}, range(4)))
    """
    return calls(place, package, textwrap.dedent(setup), "call() == 4", SOON if place else 0)


def calls(place, package, setup, call, least):
    """Return a program that makes calls, of which the one at a place counts; its workers' end is included."""
    return f"""
import json
from time import perf_counter
import {package or "math"}
{setup}
for _ in range({place} + 1):
    began = perf_counter()
    right = {call}
    seconds = perf_counter() - began
print(json.dumps([max(seconds, {least}), right, None]))
"""


@functools.cache
def byte_code():
    """Return a folder among the temporary files, which the harness removes."""
    return tempfile.mkdtemp()


def interpreted(program):
    """Return the output of a program in a new interpreter without a script, which may keep compiled files."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = byte_code()
    done = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def in_fresh_interpreters(goal, program):
    """Return the median of several runs, after one that compiles, as where poolagg is installed."""
    interpreted(program)
    seconds, results, also = zip(*(interpreted(program) for _ in range(goal.tries)), strict=True)
    middle = median(seconds)
    return Timed(Measured(all(results), middle, also=None if None in also else median(also)), middle)


# -- all of them -------------------------------------------------------------------------------------------------------

SIZES = {"full": 0, "quick": 1, "tiny": 2}


def goals(scale):
    """Return the goals in the sizes for a scale."""
    place = SIZES[scale]
    limit = {"full": 180, "quick": 40, "tiny": 25}[scale]
    return [build(sizes[place], limit) for build, sizes in GOALS]


def work(name, most, measure, func, fold, right, source=range, **more):
    """Return a function that makes the Work from a number of items and a time limit."""
    fields = {"source": source, "func": func, "fold": fold, "right": right, **more}
    return lambda units, limit: Work(name, units, limit, most=most, measure=measure, **fields)


def sum_of_squares(name, most, measure=BY_IDEAL, func=jobs.square, **more):
    return work(name, most, measure, func, sum, jobs.is_sum_of_squares, reducer=Sum, **more)


def skewed(order, arranged):
    source = partial(jobs.durations, arranged)
    return work(f"skewed items, {order}", 1.15, BY_IDEAL, jobs.burn_for, sum, jobs.is_sum_of_durations, source,
                reducer=Sum)  # fmt: skip


def arrays(name, most, measure, **more):
    right = partial(jobs.is_sum, ready_array, np.asarray)
    return work(name, most, measure, ready_array, partial(applied, add), right, jobs.seeds, ready=make_arrays, **more)


def word_count(title, most, vocabulary, length=54_688):
    """Draw words as in the suite `peers`: `length` words a file in 64 files; fewer and smaller ones for fewer."""

    def build(files, limit):
        share = min(1, files / 64)
        sizes = int(vocabulary * share), int(length * share)
        source, right = partial(jobs.corpus, *sizes), partial(jobs.is_count_of_words, *sizes)
        return work(title, most, BY_IDEAL, jobs.count_words, updated, right, source, reducer=MergeCounts,
                    side_by_side=True)(files, limit)  # fmt: skip

    return build


def imported(tries, limit):
    return Fresh("import poolagg", 1, limit, most=40, measure=MILLISECONDS, ours=import_program, tries=tries,
                 said=IMPORTED)  # fmt: skip


def first_result(method):
    ours, theirs = partial(first_by_poolagg, method), first_by_pool(method)
    return lambda tries, limit: Fresh(f"first result of a new pool, {method}", 1, limit, most=1.2, measure=BY_POOL,
                                      ours=ours, theirs=theirs, tries=tries)  # fmt: skip


def call_without_pool(place, package):
    name = f"{('first', 'second')[place]} aggregate without a pool{package and f', {package}'}"
    ours, theirs = partial(call_by_poolagg, place, package), call_by_pool(place, package)
    return lambda tries, limit: Fresh(name, 1, limit, most=1.0, measure=BY_POOL, ours=ours, theirs=theirs,
                                      tries=tries)  # fmt: skip


GOALS = [
    (sum_of_squares("sum of squares over a range", 1.25), (20_000_000, 2_000_000, 2000)),
    (sum_of_squares("sum of squares from a generator", 0.5, BY_POOL, source=jobs.from_generator, chunksize=20_000),
     (5_000_000, 1_000_000, 2000)),
    (work("exact sum of floats", 2, BY_IDEAL, third, math.fsum, is_exact_sum_of_thirds, reducer=Sum),
     (10_000_000, 1_000_000, 2000)),
    (sum_of_squares("items of 100 µs", 1.12, func=jobs.square_in_100_us), (30_000, 6_000, 200)),
    (skewed("random order", list), (2000, 300, 30)),
    (skewed("ascending", sorted), (2000, 300, 30)),
    (skewed("descending", jobs.descending), (2000, 300, 30)),
    (arrays("8 MB arrays, each applied in the parent", 1 / 8, BY_POOL, add=add, rated=True), (400, 60, 4)),
    (arrays("8 MB arrays, ArraySum", 1.3, BY_IDEAL, reducer=ArraySum, side_by_side=True), (2000, 200, 4)),
    (work("8 MB arrays that are drawn, ArraySum", 1.3, BY_IDEAL, jobs.random_array, partial(applied, add),
          partial(jobs.is_sum, jobs.random_array, np.asarray), jobs.seeds, reducer=ArraySum, side_by_side=True),
     (400, 60, 4)),
    (word_count("word count, 50 k distinct", 1.15, 50_000), (64, 16, 8)),
    (word_count("word count, 1.6 M distinct", 1.6, 1_900_000), (64, 16, 8)),
    (work("memory: 8 MB arrays, slow reducer", 64, MEBIBYTES, jobs.full_array, partial(applied, jobs.add_slowly),
          jobs.is_arithmetic_sum, add=jobs.add_slowly), (100, 20, 6)),
    (sum_of_squares("memory: items from a generator", 40, MEBIBYTES, source=jobs.from_generator),
     (20_000_000, 1_000_000, 2000)),
    (imported, (5, 5, 1)),
    *((first_result(method), (5, 5, 1)) for method in ("forkserver", "spawn", "fork")),
    *((call_without_pool(place, package), (5, 5, 1)) for place in (0, 1) for package in FUNCTIONS),
]  # fmt: skip
"""The builder of each goal, and its number of items, or of tries: full, quick, tiny."""


def named(takes_part):
    """Return the names of the goals for which it is true."""
    return [goal.name for goal in goals("full") if takes_part(goal)]


suite = Suite(
    __name__,
    "How near to the limit is it?",
    about=__doc__.partition("\n")[2],
    cases=goals,
    check=check,
    unit=("µs per item", 1e-6),
    tables=lambda results: shown.reached(results, goals("full")),
    charts=lambda results: shown.picture(results, goals("full")),
)


# -- contestants -------------------------------------------------------------------------------------------------------


def timed(items, perform):
    """Run `perform` on the items under the clock."""
    memory, began = peak_memory(os.getpid()), time.perf_counter()
    result = perform(items)
    seconds = time.perf_counter() - began
    growth = None if memory is None else peak_memory(os.getpid()) - memory
    return Timed(Measured(result, seconds, growth), seconds)


def warm(ready, _):
    """Occupy a worker long enough that the others get their share, and return its process id."""
    ready()
    time.sleep(0.01)
    return os.getpid()


def warm_all(pool, goal):
    """Start all workers of a `multiprocessing.Pool`."""
    while len(set(pool.map(partial(warm, goal.ready), range(4 * CORES), 1))) < CORES:
        pass


@suite.contestant(OURS)
def poolagg(goal):
    """README: `aggregate` with a reducer, in a pool that is kept, and no setting."""
    if isinstance(goal, Fresh):
        return in_fresh_interpreters(goal, goal.ours())
    items = goal.source(goal.units)
    with ProcessPool(CORES) as pool:
        doing = partial(warm, goal.ready)
        while len(aggregate(doing, range(4 * CORES), Unique(), pool=pool, chunksize=1)) < CORES:
            pass
        return timed(items, partial(aggregated, goal, pool))


def aggregated(goal, pool, items):
    if goal.add is None:
        return aggregate(goal.func, items, goal.reducer(), pool=pool)
    total = jobs.zeros()
    aggregate(goal.func, items, Into(partial(goal.add, total)), pool=pool)
    return total


@suite.contestant(SERIAL, cases=named(lambda goal: isinstance(goal, Work) and goal.measure != MEBIBYTES))
def serial(goal):
    """Use the fastest loop: `sum` or `math.fsum` of a `map`, if the goal is one of these."""
    items = goal.source(goal.units)
    goal.ready()
    return timed(items, lambda items: goal.fold(map(goal.func, items)))


@suite.contestant(APART, cases=named(lambda goal: isinstance(goal, Work) and goal.side_by_side))
def side_by_side(goal):
    """Loop on each core, over its share of the items. The clock runs until the last ends; nothing is merged."""
    from multiprocessing import Pool

    items = goal.source(goal.units)
    with Pool(CORES) as pool:
        warm_all(pool, goal)
        told = pool.map(partial(looped, goal), [items[core::CORES] for core in range(CORES)], 1)
    began, ended, results = zip(*told, strict=True)
    seconds = max(ended) - min(began)
    return Timed(Measured(goal.fold(results), seconds), seconds)


def looped(goal, items):
    """Return a result, with its start and end."""
    began = time.monotonic()
    result = goal.fold(map(goal.func, items))
    return began, time.monotonic(), result


@suite.contestant(POOL, cases=named(lambda goal: goal.measure == BY_POOL))
def multiprocessing_pool(goal):
    """Follow the documentation of multiprocessing: loop over `imap_unordered`, large chunksize for many items."""
    from multiprocessing import Pool

    if isinstance(goal, Fresh):
        return in_fresh_interpreters(goal, goal.theirs)
    items = goal.source(goal.units)
    with Pool(CORES) as pool:
        warm_all(pool, goal)
        return timed(items, lambda items: goal.fold(pool.imap_unordered(goal.func, items, goal.chunksize)))
