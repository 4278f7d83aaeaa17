"""The jobs of the suite `peers`, as data: an input, a function of an item, and a reduction of its results.

A job does not know its contestants. All its functions are module-level, so that every peer can pickle them. Partials
and their reduction have one type: `step` merges as well. Inputs are seeded: each run gets the same.
"""

import importlib.util
import operator
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Case, Missing
from benchmarks.harness.work import burn_for, count_words, nanoseconds, square, square_in_100_us
from poolagg import ArraySum, Fold, MergeCounts, Sum


@dataclass(frozen=True, kw_only=True)
class Job(Case):
    """`units` items of `source(units)`, each given to `func`; its results go into `start()` by `step`."""

    source: Callable[[int], Iterable[Any]]
    func: Callable[[Any], Any]
    start: Callable[[], Any]
    step: Callable[[Any, Any], Any]
    right: Callable[[int, Any], bool]
    """Whether, for this number of items, the result equals that of a loop on one core."""
    reducer: Callable[[], Any] | None = None
    """poolagg's reducer; None if only the parent can reduce."""
    chunksize: int = 1
    """Tuned by hand: chunks of about 20 ms, and many for each worker."""
    least: int | None = None
    """A slow contestant runs a part of the items, at least this many; None: all of them."""
    floor: float = 0.0
    """Seconds per item that the parent itself needs, whichever pool runs the items."""
    warm: bool = False
    """Whether a few items run in the pool before the clock starts."""
    ideal: bool = True
    """Whether the time of a loop divided by the number of cores is a meaningful ideal."""

    def __post_init__(self):
        least = self.units if self.least is None else self.least
        object.__setattr__(self, "least", least)
        object.__setattr__(self, "units", max(self.units, least))

    def fold(self, results):
        """Reduce in a loop, the same for every contestant but dask.bag and poolagg."""
        total = self.start()
        for result in results:
            total = self.step(total, result)
        return total


# -- tiny items, and items of 100 µs -----------------------------------------------------------------------------------


def from_generator(count):
    """Return numbers without a length and without slices."""
    return (number for number in range(count))


def is_sum_of_squares(count, result):
    return result == (count - 1) * count * (2 * count - 1) // 6


# -- skewed items ------------------------------------------------------------------------------------------------------

SIGMA, MEAN = 1.5, 2e-3


def durations(arranged, count):
    """Return lognormal seconds: most items are short, and a few take a hundred times as long."""
    drawn = np.random.default_rng(7).lognormal(log(MEAN) - SIGMA**2 / 2, SIGMA, count)
    return arranged(drawn.tolist())


def descending(values):
    return sorted(values, reverse=True)


def is_sum_of_durations(count, result):
    return result == sum(map(nanoseconds, durations(list, count)))


# -- arrays and histograms ---------------------------------------------------------------------------------------------

MILLION, SEEDS = 1_000_000, 8
EDGES = np.linspace(-5, 5, 101)


def seeds(count):
    """Return 0 to 7, repeated, so that checking the result is fast."""
    return [number % SEEDS for number in range(count)]


def is_sum(of, view, count, result):
    """Compare with the result of each seed times its count."""
    times = Counter(seeds(count))
    return np.array_equal(view(result), sum(times[seed] * view(of(seed)) for seed in times))


def random_array(seed):
    """Return 8 MB of whole numbers as floats, whose sums are exact."""
    return np.random.default_rng(seed).integers(0, 1000, MILLION).astype(float)


def zeros():
    return np.zeros(MILLION)


def histogram(seed):
    return np.histogram(np.random.default_rng(seed).standard_normal(MILLION), EDGES)[0]


def no_counts():
    return np.zeros(len(EDGES) - 1, int)


def boost_seeds(count):
    """Return the seeds; import the package before the clock starts."""
    if importlib.util.find_spec("boost_histogram") is None:
        raise Missing("not installed: pip install boost-histogram")
    make_boost_histogram()
    return seeds(count)


def make_boost_histogram():
    import boost_histogram

    return boost_histogram.Histogram(boost_histogram.axis.Regular(100, -5, 5), storage=boost_histogram.storage.Int64())


def boost_histogram(seed):
    return make_boost_histogram().fill(np.random.default_rng(seed).standard_normal(MILLION))


def boost_reducer():
    return Fold(operator.iadd, init=make_boost_histogram, merge=operator.iadd)


# -- words -------------------------------------------------------------------------------------------------------------


def drawn(vocabulary, length, file):
    """Return the word numbers of a file."""
    return np.random.default_rng(file).integers(0, vocabulary, length, np.int32)


def corpus(vocabulary, length, count):
    """Write `count` files of `length` words among the temporary files, which the harness removes; return the paths."""
    folder = Path(tempfile.mkdtemp())
    for file in range(count):
        words = (f"word{number}" for number in drawn(vocabulary, length, file).tolist())
        (folder / f"{file}.txt").write_text(" ".join(words), "utf-8")
    return sorted(map(str, folder.iterdir()))


def update(counts, more):
    counts.update(more)
    return counts


def is_count_of_words(vocabulary, length, count, result):
    expected = np.zeros(vocabulary, np.int32)
    for file in range(count):
        np.add.at(expected, drawn(vocabulary, length, file), 1)
    found = len(result) == np.count_nonzero(expected)
    return found and all(expected[int(word.removeprefix("word"))] == times for word, times in result.items())


# -- a slow reducer ----------------------------------------------------------------------------------------------------

REDUCING = 0.02


class Ahead:
    """How far the run in this process pulls its input ahead of its reducer."""

    pulled = reduced = most = 0


def watched(count):
    for number in range(count):
        Ahead.pulled += 1
        yield number


def full_array(number):
    return np.full(MILLION, float(number))


def add_slowly(total, array):
    Ahead.reduced += 1
    Ahead.most = max(Ahead.most, Ahead.pulled - Ahead.reduced)
    time.sleep(REDUCING)
    total += array
    return total


def is_arithmetic_sum(count, result):
    return bool((result == count * (count - 1) // 2).all())


# -- all of them -------------------------------------------------------------------------------------------------------

THERE = ", workers that are there"
"""The end of the name of a job that is measured in a warm pool."""

GENERATOR, STARTUP, SLOW = "tiny items, from a generator", "start-up to the first result", "slow reducer"
SIZES = {"full": 0, "quick": 1, "tiny": 2}


def jobs(scale):
    """Return all jobs in the size for a scale, without those of size 0."""
    size = SIZES[scale]
    limit = {"full": 180, "quick": 30, "tiny": 25}[scale]
    built = [build(sizes[size], limit) for build, sizes in JOBS if sizes[size]]
    warm = [replace(job, name=job.name + THERE, warm=True) for job in built if job.ideal]
    return built + warm


def job(name, source, func, start, step, right, **more):
    """Return a function that makes the Job from a number of items and a time limit."""
    fields = {"source": source, "func": func, "start": start, "step": step, "right": right, **more}
    return lambda units, limit: Job(name, units, limit, **fields)


def sum_of_squares(name, source, func, **more):
    return job(name, source, func, int, operator.add, is_sum_of_squares, reducer=Sum, **more)


def skewed(order, arranged):
    source = partial(durations, arranged)
    return job(f"skewed items, {order}", source, burn_for, int, operator.add, is_sum_of_durations, reducer=Sum,
               chunksize=10)  # fmt: skip


def word_count(title, vocabulary, length):
    """Draw `length` words a file from `vocabulary` words, for 64 files; proportionally fewer for fewer files."""

    def build(files, limit):
        share = min(1, files / 64)
        sizes = int(vocabulary * share), int(length * share)
        right = partial(is_count_of_words, *sizes)
        return job(title, partial(corpus, *sizes), count_words, Counter, update, right, reducer=MergeCounts)(
            files, limit
        )

    return build


JOBS = [
    (sum_of_squares("tiny items, from a range", range, square, chunksize=20_000, least=0), (5_000_000, 500_000, 2000)),
    (sum_of_squares(GENERATOR, from_generator, square, chunksize=20_000, least=0), (5_000_000, 0, 2000)),
    (sum_of_squares("items of 100 µs", range, square_in_100_us, chunksize=200), (12_000, 6_000, 200)),
    (skewed("random order", list), (800, 300, 30)),
    (skewed("ascending", sorted), (800, 0, 30)),
    (skewed("descending", descending), (800, 0, 30)),
    (job("8 MB arrays", seeds, random_array, zeros, operator.iadd, partial(is_sum, random_array, np.asarray),
         reducer=ArraySum), (120, 24, 4)),
    (word_count("word count, 50 k distinct", 50_000, 54_688), (64, 0, 8)),
    (word_count("word count, 1.6 M distinct", 1_900_000, 54_688), (64, 0, 8)),
    (job("histograms, numpy", seeds, histogram, no_counts, operator.iadd, partial(is_sum, histogram, np.asarray),
         reducer=ArraySum), (80, 0, 4)),
    (job("histograms, boost-histogram", boost_seeds, boost_histogram, make_boost_histogram, operator.iadd,
         partial(is_sum, boost_histogram, np.asarray), reducer=boost_reducer), (80, 0, 4)),
    (job(SLOW, watched, full_array, zeros, add_slowly, is_arithmetic_sum, floor=REDUCING), (60, 20, 6)),
    (sum_of_squares(STARTUP, range, square, ideal=False), (1, 1, 1)),
]  # fmt: skip
"""The builder of each job, and its number of items: full, quick, tiny."""
