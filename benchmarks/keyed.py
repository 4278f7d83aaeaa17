"""What does a reduction by key cost?

Each item is a number, of which a function makes a thousand pairs of a key and a value, both ints; the values of each
key are reduced. All times include making the pairs, about 0.1 us each. polars gets the same numbers as columns of
numpy, and makes Python objects of the result alone. Pools are warm, but for dask's. The loop is the one that a user
writes by hand, on one core; in the pools it makes a dict of each item, and the parent joins the dicts.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import add, itemgetter
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Case, Diagnosis, Suite, Timed
from poolagg import Collect, Count, GroupBy, Max, Min, ProcessPool, Sum, aggregate
from poolagg.pools import usable_cpus
from poolagg.reducers import reduced

CORES = usable_cpus()
PAIRS = 1000
"""Pairs of an item."""


@dataclass(frozen=True, kw_only=True)
class Keyed(Case):
    """`units` pairs with `keys` different keys, reduced as KINDS[kind] says."""

    kind: str
    keys: int
    limit: float = 300.0

    @property
    def items(self):
        return range(max(1, self.units // PAIRS))


def columns(keys, number):
    """Return the keys and the values of an item."""
    drawn = np.random.default_rng(number).integers(0, 1000 * keys, PAIRS)
    return drawn // 1000, drawn % 1000


def pairs(keys, number):
    """Return the pairs of an item."""
    drawn, values = columns(keys, number)
    return list(zip(drawn.tolist(), values.tolist(), strict=True))


# -- the loops that a user writes --------------------------------------------------------------------------------------


def add_up(sums, some):
    for key, value in some:
        sums[key] = sums.get(key, 0) + value


def keep_least(least, some):
    for key, value in some:
        held = least.get(key)
        if held is None or value < held:
            least[key] = value


def append(lists, some):
    for key, value in some:
        if key in lists:
            lists[key].append(value)
        else:
            lists[key] = [value]


def extend(lists, others):
    for key, values in others:
        if key in lists:
            lists[key] += values
        else:
            lists[key] = values


def update_four(states, some):
    for key, value in some:
        state = states.get(key)
        if state is None:
            states[key] = [value, value, value, 1]
        else:
            if value < state[0]:
                state[0] = value
            if value > state[1]:
                state[1] = value
            state[2] += value
            state[3] += 1


def join_four(states, others):
    for key, (least, most, total, count) in others:
        state = states.get(key)
        states[key] = (
            [least, most, total, count]
            if state is None
            else [min(state[0], least), max(state[1], most), state[2] + total, state[3] + count]
        )


class Kind(NamedTuple):
    """A reduction: by poolagg, by a loop over pairs and one that joins dicts, by numpy, and by polars."""

    reducer: Callable[[], Any]
    loop: Callable[[dict, Any], None]
    join: Callable[[dict, Any], None]
    expected: Callable[[Any, Any], Any]
    """Of values, those of each key together, and the index of the first of each key."""
    expressions: Callable[[Any], list[Any]]


KINDS = {
    "sum": Kind(Sum, add_up, add_up, np.add.reduceat, lambda x: [x.sum()]),
    "least": Kind(Min, keep_least, keep_least, np.minimum.reduceat, lambda x: [x.min()]),
    "list": Kind(Collect, append, extend, lambda values, starts: np.split(values, starts[1:]), lambda x: [x]),
    "least, most, sum and count": Kind(
        lambda: (Min(), Max(), Sum(), Count()),
        update_four,
        join_four,
        lambda values, starts: np.column_stack(
            [
                np.minimum.reduceat(values, starts),
                np.maximum.reduceat(values, starts),
                np.add.reduceat(values, starts),
                np.diff([*starts, len(values)]),
            ]
        ),
        lambda x: [x.min().alias("least"), x.max().alias("most"), x.sum(), x.len().alias("count")],
    ),
}

SIZES = [
    ("sum", 400, (20_000_000, 500_000, 2000)),
    ("sum", 40_000, (20_000_000, 500_000, 2000)),
    ("sum", 1_000_000, (20_000_000, 500_000, 2000)),
    ("sum", 10_000_000, (20_000_000, None, None)),
    ("least", 40_000, (20_000_000, 500_000, 2000)),
    ("list", 40_000, (5_000_000, 500_000, 2000)),
    ("least, most, sum and count", 400, (20_000_000, 500_000, 2000)),
    ("least, most, sum and count", 40_000, (20_000_000, 500_000, 2000)),
]
"""Kind, keys, and pairs at each scale; None: not at that scale."""


def cases(scale):
    """Return all cases of a scale."""
    place = ("full", "quick", "tiny").index(scale)
    return [
        Keyed(f"{kind}, {keys:,} keys", sizes[place], kind=kind, keys=keys)
        for kind, keys, sizes in SIZES
        if sizes[place] is not None
    ]


def check(case, result):
    """Compare with numpy; a list may be in any order, for not everyone promises one."""
    found = [np.concatenate(column) for column in zip(*(columns(case.keys, n) for n in case.items), strict=True)]
    order = np.lexsort(found[::-1])
    keys, values = found[0][order], found[1][order]
    distinct, starts = np.unique(keys, return_index=True)
    expected = KINDS[case.kind].expected(values, starts)
    right = len(result) == len(distinct) and all(
        np.array_equal(sorted(result[key]) if case.kind == "list" else result[key], value)
        if case.kind != "sum"
        else result[key] == value
        for key, value in zip(distinct.tolist(), expected, strict=True)
    )
    return Diagnosis(right)


suite = Suite(
    __name__,
    "What does a reduction by key cost?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    reference="poolagg",
    unit=("ns per pair", 1e-9),
    given=(Keyed, Kind, KINDS, columns, pairs),
)


# -- contestants -------------------------------------------------------------------------------------------------------


def timed(run):
    """Run, and return the result with its time, so that the start of a pool does not count."""
    began = time.perf_counter()
    result = run()
    return Timed(result, time.perf_counter() - began)


@suite.contestant("poolagg")
def by_poolagg(case):
    """Call `aggregate(pairs, items, GroupBy(reducer).flat())`."""
    with ProcessPool(CORES) as pool:
        aggregate(partial(pairs, case.keys), range(4 * CORES), Sum().of(len), pool=pool, chunksize=1)
        groups = GroupBy(KINDS[case.kind].reducer()).flat()
        return timed(lambda: aggregate(partial(pairs, case.keys), case.items, groups, pool=pool))


@suite.contestant("poolagg, one process")
def by_poolagg_alone(case):
    """Call `reduced(GroupBy(reducer).flat(), ...)`, which folds all pairs at once."""
    groups = GroupBy(KINDS[case.kind].reducer()).flat()
    return timed(lambda: reduced(groups, map(partial(pairs, case.keys), case.items)))


@suite.contestant("loop, one process")
def by_loop(case):
    """Loop over the pairs, with a dict."""

    def run():
        groups = {}
        for number in case.items:
            KINDS[case.kind].loop(groups, pairs(case.keys, number))
        return groups

    return timed(run)


def grouped(kind, keys, number):
    """Return the dict of an item."""
    groups = {}
    KINDS[kind].loop(groups, pairs(keys, number))
    return groups


def joined(kind, parts):
    groups = {}
    for part in parts:
        KINDS[kind].join(groups, part.items())
    return groups


@suite.contestant("multiprocessing.Pool")
def by_pool(case):
    """Follow the documentation: `imap_unordered` with a large chunksize; each item's dict is joined in the parent."""
    func = partial(grouped, case.kind, case.keys)
    with multiprocessing.get_context("forkserver").Pool(CORES) as pool:
        pool.map(func, range(4 * CORES), 1)
        return timed(lambda: joined(case.kind, pool.imap_unordered(func, case.items, 50)))


@suite.contestant("joblib", needs=["joblib"])
def by_joblib(case):
    """Follow the documentation: `return_as="generator_unordered"`, whose dicts are joined in the parent."""
    from joblib import Parallel, delayed

    func = delayed(partial(grouped, case.kind, case.keys))
    with Parallel(CORES, return_as="generator_unordered") as parallel:
        list(parallel(map(func, range(4 * CORES))))
        return timed(lambda: joined(case.kind, parallel(map(func, case.items))))


def add_value(total, pair):
    return total + pair[1]


@suite.contestant("dask.bag", needs=["dask.bag"], cases=[f"sum, {keys:,} keys" for keys in (400, 40_000, 1_000_000)])
def by_dask(case):
    """Follow the documentation: `foldby` instead of `groupby`, by the scheduler of processes, started with the run."""
    import dask.bag

    bag = dask.bag.from_sequence(case.items, npartitions=min(8 * CORES, len(case.items)))
    sums = bag.map(partial(pairs, case.keys)).flatten().foldby(itemgetter(0), add_value, 0, add, 0)
    return dict(sums.compute(scheduler="processes", num_workers=CORES))


@suite.contestant("polars", needs=["polars"])
def by_polars(case):
    """Follow the documentation: `group_by(...).agg(...)`, on all cores."""
    import polars as pl

    keys, values = (np.concatenate(column) for column in zip(*(columns(case.keys, n) for n in case.items), strict=True))
    frame = pl.DataFrame({"key": keys, "value": values})
    found = frame.group_by("key").agg(KINDS[case.kind].expressions(pl.col("value"))).rows()
    return {key: values[0] if len(values) == 1 else values for key, *values in found}
