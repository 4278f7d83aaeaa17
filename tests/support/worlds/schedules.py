"""Random worlds for the scheduler, and what must come of them."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from simulated_workers import ALWAYS, Faults
from simulation import Rough
from toy_reducers import Bag, Listing, Shape

from poolagg.strategies import Combine, Ordered, Stream, Tree

thorough = settings(max_examples=500, print_blob=True, suppress_health_check=[HealthCheck.too_slow])

KINDS = [(Stream(), Bag()), (Ordered(), Listing()), (Combine(), Bag()), (Tree(), Listing()), (Tree(), Shape())]
TIMES = st.sampled_from([1, 2, 3, ALWAYS])


@st.composite
def troubles(draw, n, shared=False):
    """Some of `n` items that raise, kill, hang, or do not pickle; workers that share their fate hold nothing to
    sink."""
    items = st.integers(0, max(0, n - 1))
    some = st.dictionaries(items, TIMES, max_size=3) if n else st.just({})
    few = st.dictionaries(items, TIMES, max_size=2) if n else st.just({})
    unpackable = frozenset(draw(st.sets(items, max_size=2)) if n else ())
    return Faults(draw(some), draw(some), draw(some), unpackable, draw(few), {} if shared else draw(few))


@st.composite
def worlds(draw, kinds=KINDS, faulty=True, **fixed):
    """A random world, with a random schedule of its own."""
    n = draw(st.sampled_from([0, 1, 3, 10, 40, 120]))
    strategy, reducer = draw(st.sampled_from(kinds))
    shared = faulty and draw(st.booleans())
    costs = draw(st.lists(st.sampled_from([1e-5, 1e-3, 0.04, 0.3]), min_size=1, max_size=7))
    terms = {
        "slots": draw(st.integers(1, 4)),
        "in_flight": draw(st.integers(1, 3)),
        "most_items": draw(st.sampled_from([None, None, 1, 2, 7, 30])),
        "chunksize": draw(st.sampled_from([None, None, 1, 2, 5])),
        "total": draw(st.sampled_from([None, n, n // 2, 2 * n])),
        "retries": draw(st.sampled_from([None, 0, 1, 3])),
        "skip": draw(st.booleans()) or draw(st.booleans()),
        "one_failure_domain": shared,
        "guarded": draw(st.booleans()),
        "packing_kills": draw(st.booleans()),
        "leaves": draw(st.sampled_from([0, 1, 2, 16])),
        "window_chunks": draw(st.integers(1, 8)),
        "window_bytes": draw(st.sampled_from([0, 60, 1 << 20])),
        "kept_bytes": draw(st.sampled_from([20, 1 << 20])),
        "naming": "chunk" if shared else draw(st.sampled_from(["item", "some", "chunk"])),
        "faults": draw(troubles(n, shared)) if faulty else None,
        "chaos": draw(st.sampled_from([0, 0.01, 0.1])) if faulty else 0,
        "most_kills": draw(st.sampled_from([3, 10])),
        "cost": lambda index: costs[index % len(costs)],
        "seed": draw(st.integers(0, 2**32)),
    } | fixed
    return Rough(strategy, reducer, (i * 10 for i in range(n)), **terms), n


def expression(leaves):
    """The tree that the leaves with these numbers make: a node without a sibling climbs as it is."""
    nodes = dict(leaves)
    while len(nodes) > 1 or 0 not in nodes:
        if not nodes:
            return ()
        above: dict = {}
        for place in sorted(nodes):
            left = above.get(place // 2)
            above[place // 2] = nodes[place] if left is None else (left, nodes[place])
        nodes = above
    return nodes[0]


def shape(items, grid):
    """The expression tree of these item indices."""
    leaves = {n: ("leaf", *run) for n, run in itertools.groupby(items, lambda index: grid.leaf(index)[0])}
    return expression(leaves)


def assert_exact(world, n):
    kept = [index for index in range(n) if index not in world.skipped]
    if isinstance(world.reducer, Bag):
        assert world.value == Counter(kept)
    elif isinstance(world.reducer, Listing):
        assert world.value == kept
    else:
        assert world.value == shape(kept, world.grid)


def hopeless(faults):
    """The items that never succeed."""
    kinds = faults.raises, faults.kills, faults.hangs, faults.silences, faults.sinks
    always = {i for times in kinds for i, n in times.items() if n > 1000}
    return always | faults.unpackable
