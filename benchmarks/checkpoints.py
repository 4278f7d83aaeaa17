"""What does a checkpoint cost?

Each job runs without a checkpoint, with one at its own pace, and with one that commits every second, in turns. The pool
is warm, and the file is on the disk of the temporary files: a faster disk makes commits cheaper, not more frequent.
"Costs" is the time divided by that of the run without a checkpoint, in the same turn; the target is at most 2 % for a
checkpoint at its own pace. The table also has the run's own report of its commits: number, size, and share of its time.
The rest is the cost of digesting each item, which detects a different input: about 3 ns of the parent for a number.
"""

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import Case, Diagnosis, Suite, Timed, jobs, tables
from benchmarks.harness.tables import Cell, Table, significant
from benchmarks.harness.work import burn
from poolagg import ArraySum, Checkpoint, Frequencies, ProcessPool, Sum, Unique, aggregate, events
from poolagg.pools import usable_cpus

CORES = usable_cpus()
NONE, OWN, FORCED = "poolagg, no checkpoint", "poolagg, checkpoint", "poolagg, a commit each second"
MOST = 1.02
"""The limit of the overhead, as a share of the time without a checkpoint."""


# -- jobs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job(Case):
    """`units` items of `source(units)`, each given to `func`."""

    source: Callable[[int], Any]
    func: Callable[[Any], Any]
    reducer: Callable[[], Any]
    right: Callable[[int, Any], bool]


KEYS, BLOCK = 100_000, 1000


def block_of_keys(number):
    """Return a thousand keys out of a hundred thousand, after about two milliseconds of other work."""
    burn(0.002)
    start = number * BLOCK % KEYS
    return range(start, start + BLOCK)


def is_count_of_blocks(count, result):
    """Tell whether each block was counted as often as it was sent."""
    blocks = Counter(number * BLOCK % KEYS for number in range(count))
    return result == {key: times for start, times in blocks.items() for key in range(start, start + BLOCK)}


def full_array(number):
    """Return 8 MB."""
    return np.full(jobs.MILLION, float(number))


def is_sum_of_arrays(count, result):
    """Tell whether every cell has every number."""
    return len(result) == jobs.MILLION and bool(np.all(result == count * (count - 1) / 2))


def numbers(name, source, **more):
    return partial(Job, name, source=source, reducer=Sum, right=jobs.is_sum_of_squares, **{"func": jobs.square, **more})


JOBS = [
    (numbers("items of 100 µs, a number", range, func=jobs.square_in_100_us), (300_000, 60_000, 300)),
    (numbers("tiny items of a range, a number", range), (200_000_000, 40_000_000, 3000)),
    (numbers("tiny items from a generator, a number", jobs.from_generator), (60_000_000, 10_000_000, 3000)),
    (partial(Job, "a dict of 100,000 keys", source=range, func=block_of_keys, reducer=lambda: Frequencies().flat(),
             right=is_count_of_blocks), (12_000, 2_500, 120)),
    (partial(Job, "an array of 8 MB", source=range, func=full_array, reducer=ArraySum, right=is_sum_of_arrays),
     (20_000, 5000, 8)),
]  # fmt: skip
"""The builder of each job, and its items at each scale: about 15 s of work, 3 s, and almost nothing."""


def cases(scale):
    """Return all jobs, at every scale."""
    place = ("full", "quick", "tiny").index(scale)
    return [build(sizes[place], (180, 60, 25)[place]) for build, sizes in JOBS]


# -- what is measured --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A result, and the commits that its run reported."""

    result: Any
    commits: int
    nbytes: int
    share: float


def check(job, outcome):
    """Compare with a loop; a run with a checkpoint must have committed at least its result."""
    return Diagnosis(job.right(job.units, outcome.result), told(outcome) if outcome.commits else "")


def told(outcome):
    """Describe the commits of a run in a note."""
    return f"{outcome.commits} commits, {outcome.nbytes:,} bytes, {100 * outcome.share:.3f} % of the time"


def heard(note):
    """Read such a note: number, size and share of the commits; None if there are none.

    >>> heard(told(Measured(0, 3, 4000, 0.0125)))
    (3, 4000, 0.0125)
    """
    found = re.fullmatch(r"(\d+) commits, ([\d,]+) bytes, ([\d.]+) % of the time", note)
    return None if found is None else (int(found[1]), int(found[2].replace(",", "")), float(found[3]) / 100)


suite = Suite(
    __name__,
    "What does a checkpoint cost?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    reference=NONE,
    unit=("µs per item", 1e-6),
    tables=lambda results: [costs(results), *tables.times(results)],
)


def warm(_):
    """Occupy a worker long enough that the others get their share, and return its process id."""
    time.sleep(0.01)
    return os.getpid()


def timed(job, every=None, kept=True):
    """Run in a warm pool, with a new file."""
    commits = []

    def watch(event):
        if isinstance(event, events.Checkpointed):
            commits.append(event)

    with tempfile.TemporaryDirectory() as folder, ProcessPool(CORES) as pool:
        checkpoint = Checkpoint(Path(folder, "run.ckpt"), every=every) if kept else None
        while len(aggregate(warm, range(4 * CORES), Unique(), pool=pool, chunksize=1)) < CORES:
            pass
        items, began = job.source(job.units), time.perf_counter()
        result = aggregate(job.func, items, job.reducer(), pool=pool, checkpoint=checkpoint, watch=watch)
        seconds = time.perf_counter() - began
    spent = sum(commit.seconds for commit in commits)
    return Timed(Measured(result, len(commits), commits[-1].nbytes if commits else 0, spent / seconds), seconds)


@suite.contestant(NONE)
def without(job):
    """Call `aggregate(func, items, reducer, pool=pool)`."""
    return timed(job, kept=False)


@suite.contestant(OWN)
def with_checkpoint(job):
    """Pass `checkpoint="run.ckpt"`: commits cost 1 % of the time, and come at most once a second."""
    return timed(job)


@suite.contestant(FORCED)
def each_second(job):
    """Pass `checkpoint=Checkpoint("run.ckpt", every=1)`: one commit a second, whatever that costs."""
    return timed(job, every=1)


# -- what is shown -----------------------------------------------------------------------------------------------------

HEAD = ["job", "checkpoint", "costs", "least - most", "commits", "bytes each", "of the time", "target", "holds"]


def costs(results):
    """Return one row for each job and each kind of checkpoint."""
    rows = [row(results, case, name) for case in results.cases for name in (OWN, FORCED) if results.of(case, name)]
    return Table(results.question, HEAD, rows)


def ratios(results, case, name):
    """Return its time divided by that without a checkpoint, turn by turn, least first; right results only."""
    bare = {run.turn: run.seconds for run in results.of(case, NONE) if run.correct}
    return sorted(run.seconds / bare[run.turn] for run in results.of(case, name) if run.correct and run.turn in bare)


def row(results, case, name):
    found = ratios(results, case, name)
    runs = results.of(case, name)
    notes = [note for run in runs if run.correct and (note := heard(run.note)) is not None]
    return [
        Cell(case),
        Cell({OWN: "at its own pace", FORCED: "each second"}[name]),
        Cell(percent(median(found) - 1) if found else "-", "number"),
        Cell(f"{percent(found[0] - 1)} - {percent(found[-1] - 1)}" if found else "-", "number"),
        *(Cell(text, "number") for text in said(notes)),
        Cell(f"at most {percent(MOST - 1)}" if name == OWN else "-", "number"),
        diagnosis(found, runs) if name == OWN else Cell("-", "none"),
    ]


def said(notes):
    """Return the medians of the commits that the runs reported: their number, size, and share of the time."""
    if not notes:
        return ["-"] * 3
    commits, nbytes, share = (median(values) for values in zip(*notes, strict=True))
    return [f"{commits:g}", f"{nbytes:,.0f}", percent(share)]


def diagnosis(found, runs):
    """Tell whether the target holds; a wrong result holds none."""
    if wrong := [run for run in runs if not run.correct]:
        return Cell(f"no: {wrong[0].status} in {len(wrong)} of {len(runs)} turns", "bad", wrong[0].note)
    if not found:
        return Cell("-", "none")
    return Cell("yes", "good") if median(found) <= MOST else Cell("no", "bad")


def percent(share):
    """With one decimal; or as many as it takes to see something.

    >>> percent(0.0123), percent(-0.05), percent(0.0004)
    ('1.2 %', '-5.0 %', '0.0400 %')
    """
    return f"{100 * share:.1f} %" if abs(share) >= 0.001 or not share else f"{significant(100 * share)} %"
