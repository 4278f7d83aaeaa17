"""Where does poolagg's cost grow, and where are its limits?

Four axes, one at a time: the number of items, the number of workers, the size of a partial, the number of distinct keys
in a result. Each measurement stands next to a loop on one core that does the same; the ideal is that loop's time
divided by the number of cores (for items that sleep: of workers).

Unless stated otherwise, there are as many workers as cores, and they start before the clock. The axis of items also
shows the cost of starting them.
"""

import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.harness import Case, Diagnosis, Suite, Timed
from benchmarks.harness.lines import COLOURS, Axis, Line, lines
from benchmarks.harness.tables import Cell, Table, significant
from poolagg import ArraySum, Frequencies, Into, ProcessPool, Sum, aggregate
from poolagg.strategies import Stream

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Point(Case):
    """A place on an axis."""

    axis: str = ""
    x: int = 0


def point(axis, x, units, limit=120):
    """Return the case at `x`, which is part of its name."""
    return Point(f"{axis}: {x:,}", units, limit, axis, x)


ITEMS, WORKERS, BYTES, KEYS = "items", "workers", "bytes per partial", "distinct keys"
PLACES = {
    ITEMS: [10**power for power in range(3, 9)],
    WORKERS: [1, 2, 4, 8],
    BYTES: [8, 64, 512, 4 << 10, 32 << 10, 256 << 10, 2 << 20, 16 << 20, 64 << 20],
    KEYS: [10**power for power in range(2, 7)],
}
NAMES = {axis: [point(axis, x, 1).name for x in places] for axis, places in PLACES.items()}
BLOCK = 1000
"""Keys in an item."""


def cases(scale):
    """Return the points of all four axes; fewer, with less work at each, below the scale `full`."""
    top = {"full": 10**8, "quick": 10**7, "tiny": 10**6}[scale]
    rounds = {"full": 1000, "quick": 400, "tiny": 24}[scale]
    volume, most = {"full": (1 << 30, 10**5), "quick": (1 << 28, 10**4), "tiny": (1 << 12, 20)}[scale]
    blocks = {"full": 5000, "quick": 1000, "tiny": 2}[scale]
    return [
        *(point(ITEMS, x, x) for x in places(ITEMS, scale) if x <= top),
        *(point(WORKERS, x, rounds) for x in places(WORKERS, scale)),
        *(point(BYTES, x, min(most, max(4, volume // x))) for x in places(BYTES, scale)),
        *(point(KEYS, x, BLOCK * blocks) for x in places(KEYS, scale)),
    ]


def places(axis, scale):
    """Return all cases; one, for the tests."""
    return PLACES[axis][2:3] if scale == "tiny" else PLACES[axis]


def check(case, result):
    """Check the result, which each axis knows beforehand."""
    return Diagnosis({ITEMS: sums, WORKERS: everyone, BYTES: arrays, KEYS: counts}[case.axis](case, result))


def sums(case, result):
    """Check the sum of the last three bits of 0, 1, 2, ..., a multiple of 8 of them."""
    return result == case.units * 7 // 2


def everyone(case, result):
    """Check the sum of the items."""
    return result == case.units * (case.units - 1) // 2


def arrays(case, result):
    """Check that each cell has every item, since an item is every cell of its array."""
    return result.nbytes == case.x and bool(np.all(result == everyone_sum(case.units)))


def everyone_sum(units):
    return units * (units - 1) // 2


def counts(case, result):
    """Check that all keys are equally frequent."""
    return len(result) == min(case.x, case.units) and set(result.values()) == {max(1, case.units // case.x)}


suite = Suite(
    __name__,
    "Where does poolagg's cost grow, and where are its limits?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    tables=lambda results: [table(results, axis) for axis in AXES if places_of(results, axis)],
    charts=lambda results: {
        f"scaling-{axis.replace(' ', '-')}": chart(results, axis) for axis in AXES if places_of(results, axis)
    },
)


@contextlib.contextmanager
def started_pool(workers=None):
    """Yield a warm pool: all its workers run, and have imported their modules."""
    with ProcessPool(workers) as pool:
        aggregate(doze, range(4 * pool.workers), Sum(), pool=pool, chunksize=1)
        yield pool


# -- items -------------------------------------------------------------------------------------------------------------


last_bits = (7).__and__
"""Return the function, a built-in, so that workers need not import this file."""


@suite.contestant("poolagg, Sum", cases=NAMES[ITEMS])
def items_cold(case):
    """Run one call, which starts and ends its workers."""
    return aggregate(last_bits, range(case.units), Sum())


@suite.contestant("poolagg, Sum, workers kept", cases=NAMES[ITEMS], server=started_pool)
def items_kept(case, pool):
    """Use `with ProcessPool() as pool:`, after a first run."""
    return aggregate(last_bits, range(case.units), Sum(), pool=pool)


@suite.contestant("poolagg, Sum, every partial sent", cases=NAMES[ITEMS][:-1], server=started_pool)
def items_sent(case, pool):
    """Use `strategy=Stream()`: workers send each number, and the parent adds it, as in a loop over `imap_unordered`."""
    return aggregate(last_bits, range(case.units), Sum(), pool=pool, strategy=Stream())


@suite.contestant("loop, one core: items", cases=NAMES[ITEMS])
def items_loop(case):
    """Use `sum(map(func, items))`: nothing in Python is faster."""
    return sum(map(last_bits, range(case.units)))


# -- workers -----------------------------------------------------------------------------------------------------------


def compute(number):
    """Use about half a millisecond of CPU time."""
    for _ in range(40_000):
        pass
    return number


def doze(number):
    """Sleep five milliseconds."""
    time.sleep(0.005)
    return number


def by_workers(func, case):
    """Yield a pool with the case's number of workers, which start before the clock."""
    with started_pool(case.x) as pool:
        began = time.perf_counter()
        result = aggregate(func, range(case.units), Sum(), pool=pool)
        return Timed(result, time.perf_counter() - began)


@suite.contestant("poolagg, items that compute", cases=NAMES[WORKERS])
def workers_compute(case):
    """Use `ProcessPool(n)`; func needs a core all the time."""
    return by_workers(compute, case)


@suite.contestant("poolagg, items that sleep", cases=NAMES[WORKERS])
def workers_doze(case):
    """Use `ProcessPool(n)`; func only waits, as for a server or a disk."""
    return by_workers(doze, case)


@suite.contestant("loop, items that compute", cases=NAMES[WORKERS])
def workers_compute_loop(case):
    """Use `sum(map(func, items))`."""
    return sum(map(compute, range(case.units)))


@suite.contestant("loop, items that sleep", cases=NAMES[WORKERS])
def workers_doze_loop(case):
    """Use `sum(map(func, items))`."""
    return sum(map(doze, range(case.units)))


# -- bytes per partial -------------------------------------------------------------------------------------------------


class Filled:
    """A function that returns an array of `nbytes` bytes, all of whose cells are the item."""

    def __init__(self, nbytes):
        self.cells = nbytes // 8

    def __call__(self, number):
        return np.full(self.cells, number, np.int64)


@suite.contestant("poolagg, Into", cases=NAMES[BYTES], server=started_pool)
def bytes_into(case, pool):
    """Use `Into(total.__iadd__)`: workers send each array, and the parent adds it to its own."""
    total = np.zeros(case.x // 8, np.int64)
    aggregate(Filled(case.x), range(case.units), Into(total.__iadd__), pool=pool)
    return total


@suite.contestant("poolagg, ArraySum", cases=NAMES[BYTES], server=started_pool)
def bytes_array_sum(case, pool):
    """Use `ArraySum()`: workers add arrays, and send their sums."""
    return aggregate(Filled(case.x), range(case.units), ArraySum(), pool=pool)


@suite.contestant("loop, one core: bytes", cases=NAMES[BYTES])
def bytes_loop(case):
    """Use `total += func(item)`."""
    total, func = np.zeros(case.x // 8, np.int64), Filled(case.x)
    for item in range(case.units):
        total += func(item)
    return total


# -- distinct keys -----------------------------------------------------------------------------------------------------


class Words:
    """A function that returns a block of keys in a scattered order; over all blocks each key is equally frequent."""

    def __init__(self, distinct):
        self.distinct = distinct

    def __call__(self, block):
        return [number * 7_368_787 % self.distinct for number in range(block * BLOCK, (block + 1) * BLOCK)]


@suite.contestant("poolagg, Frequencies", cases=NAMES[KEYS], server=started_pool)
def keys_frequencies(case, pool):
    """Use `Frequencies()`: workers count, and the parent merges their counts."""
    return aggregate(Words(case.x), range(case.units // BLOCK), Frequencies().flat(), pool=pool)


@suite.contestant("poolagg, Frequencies, every key sent", cases=NAMES[KEYS], server=started_pool)
def keys_sent(case, pool):
    """Use `strategy=Stream()`: workers send keys, and the parent counts them."""
    reducer = Frequencies().flat()
    return aggregate(Words(case.x), range(case.units // BLOCK), reducer, pool=pool, strategy=Stream())


@suite.contestant("loop, one core: keys", cases=NAMES[KEYS])
def keys_loop(case):
    """Use `Counter.update`, block by block."""
    counter, func = Counter(), Words(case.x)
    for block in range(case.units // BLOCK):
        counter.update(func(block))
    return counter


# -- what is shown -----------------------------------------------------------------------------------------------------


def in_bytes(count):
    """
    >>> in_bytes(8), in_bytes(32 << 10), in_bytes(64 << 20)
    ('8 B', '32 KiB', '64 MiB')
    """
    power = max(0, (int(count).bit_length() - 1) // 10)
    return f"{count >> 10 * power} {('B', 'KiB', 'MiB', 'GiB')[power]}"


@dataclass(frozen=True)
class Shown:
    """The display of an axis: each of `ours` beside the loop that it is compared with."""

    title: str
    x: str
    y: str
    ours: dict[str, str]
    """By name: the loop that does the same."""
    per_unit: float = 0
    """The unit of times, and its seconds; 0: times are those of the whole, in seconds."""
    log: bool = True
    reads: object = "{:,}".format
    note: str = ""


AXES = {
    ITEMS: Shown(
        "The sum of a cheap function over a range",
        "items",
        "seconds",
        dict.fromkeys(
            ("poolagg, Sum", "poolagg, Sum, workers kept", "poolagg, Sum, every partial sent"), "loop, one core: items"
        ),
    ),
    WORKERS: Shown(
        "The same items with more workers",
        "workers",
        "speed-up over a loop on one core",
        {
            "poolagg, items that compute": "loop, items that compute",
            "poolagg, items that sleep": "loop, items that sleep",
        },
    ),
    BYTES: Shown(
        "Arrays, added up: what one costs, by its size",
        "bytes per partial",
        "µs per partial",
        dict.fromkeys(("poolagg, Into", "poolagg, ArraySum"), "loop, one core: bytes"),
        1e-6,
        reads=in_bytes,
    ),
    KEYS: Shown(
        "Frequencies of keys: what a key costs, by how many distinct ones there are",
        "distinct keys",
        "µs per key",
        dict.fromkeys(("poolagg, Frequencies", "poolagg, Frequencies, every key sent"), "loop, one core: keys"),
        1e-6,
    ),
}


def places_of(results, axis):
    """Return the measured places on an axis, with the names of their cases."""
    return [(x, name) for x, name in zip(PLACES[axis], NAMES[axis], strict=True) if name in results.cases]


def seconds_of(results, axis, case, contestant):
    """Return the times, least first; of the whole, or per unit."""
    runs = [run for run in results.of(case, contestant) if run.seconds is not None and run.correct]
    unit = AXES[axis].per_unit
    return sorted(run.seconds / (run.units * unit) if unit else run.seconds for run in runs)


def cores_of(results):
    """Return the cores that the measuring process could use, as the results say."""
    return int(results.machine["cores"].partition("(")[2].split()[0])


def at_best(results, contestant, x):
    """Return how many items can run at the same time."""
    if "sleep" in contestant:
        return x
    return min(x, cores_of(results)) if "compute" in contestant else cores_of(results)


def points_of(results, axis, contestant):
    """Return (x, times) wherever it was measured."""
    found = ((x, seconds_of(results, axis, case, contestant)) for x, case in places_of(results, axis))
    return [(x, times) for x, times in found if times]


def table(results, axis):
    """Return a row for each place: medians, the ideal, and poolagg's time divided by the ideal."""
    shown = AXES[axis]
    loops = list(dict.fromkeys(shown.ours.values()))
    rows = [
        [
            Cell(shown.reads(x), "number"),
            *(cell(seconds_of(results, axis, case, name)) for name in (*loops, *shown.ours)),
            *(Cell(compared(results, axis, x, case, *pair), "number") for pair in shown.ours.items()),
        ]
        for x, case in places_of(results, axis)
    ]
    unit = "µs" if shown.per_unit else "s"
    head = [shown.x, *(f"{name.partition(':')[0]}, {unit}" for name in loops)]
    head += [f"{short(name)}, {unit}" for name in shown.ours] + [f"{short(name)}: x ideal" for name in shown.ours]
    return Table(f"{shown.title} ({cores_of(results)} cores)", head, rows)


def short(name):
    return name.removeprefix("poolagg, ")


def cell(times):
    return Cell(significant(median(times)) if times else "-", "number")


def compared(results, axis, x, case, ours, loop):
    """Format a time as a multiple of the ideal."""
    times, ideal = seconds_of(results, axis, case, ours), seconds_of(results, axis, case, loop)
    return significant(median(times) / median(ideal) * at_best(results, ours, x)) if times and ideal else "-"


def chart(results, axis):
    """Draw ideals as dashed lines, ours in colours, and least and most as bars."""
    shown = AXES[axis]
    drawn = list(speed_ups(results) if axis == WORKERS else times_and_ideals(results, axis))
    x = Axis(shown.x, True, {x: shown.reads(x) for x, _ in places_of(results, axis)})
    y = Axis(shown.y, True, {x: str(x) for x, _ in places_of(results, axis)} if axis == WORKERS else None)
    return lines(f"{shown.title}, on {cores_of(results)} cores", x, y, drawn, shown.note)


def times_and_ideals(results, axis):
    """Draw lines of time: the loop's, the ideal, ours."""
    shown, cores = AXES[axis], cores_of(results)
    for loop in dict.fromkeys(shown.ours.values()):
        points = [(x, median(times)) for x, times in points_of(results, axis, loop)]
        yield Line(f"ideal: the loop's time, divided by {cores} cores", [(x, y / cores) for x, y in points], "ideal")
        yield Line(loop.partition(":")[0], points, colour="#9aa5b1")
    for name in shown.ours:
        found = points_of(results, axis, name)
        spread = [(times[0], times[-1]) for _, times in found]
        yield Line(name, [(x, median(times)) for x, times in found], spread=spread)


def speed_ups(results):
    """Draw lines of speed-up, each beside its bound."""
    for colour, (name, loop) in zip(COLOURS, AXES[WORKERS].ours.items(), strict=False):
        loops = dict(points_of(results, WORKERS, loop))
        found = [(x, times) for x, times in points_of(results, WORKERS, name) if x in loops]
        what = f"as many as workers ({short(name)})" if "sleep" in name else f"as many as cores ({short(name)})"
        yield Line(f"ideal: {what}", [(x, at_best(results, name, x)) for x, _ in found], "ideal", colour=colour)
        points = [(x, median(loops[x]) / median(times)) for x, times in found]
        spread = [(median(loops[x]) / times[-1], median(loops[x]) / times[0]) for x, times in found]
        yield Line(name, points, spread=spread, colour=colour)
