"""A range is an input like any other, however long it is and whichever way it goes; longer than `len` can say, too."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from five_pools import POOLS
from hypothesis import given
from hypothesis import strategies as st

from poolagg import (
    Checkpoint,
    Collect,
    First,
    Sum,
    TaskError,
    aggregate,
    snapshots,
)
from poolagg._input.source import length_of

LARGE = 10**19

RANGES = {
    "up": range(LARGE),
    "down": range(LARGE, 0, -1),
    "across zero": range(-LARGE, LARGE, 3),
    "steps that are long": range(0, LARGE * LARGE, LARGE),
    "far away": range(LARGE, LARGE + 50),
    "far away and down": range(-LARGE, -LARGE - 70, -7),
    "empty": range(LARGE, -LARGE),
    "of one": range(LARGE, 2 * LARGE, 5 * LARGE),
}


def unlucky(x: int) -> int:
    """`x`; raises for the thousandth item of each range that has as many."""
    if x in LAST:
        raise ValueError(x)
    return x


LAST = {items[999] for items in RANGES.values() if items[1000:]}


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-9, 9).filter(bool), st.sampled_from([0, LARGE, -LARGE]))
def test_its_length_is_what_len_would_say(start: int, stop: int, step: int, far: int) -> None:
    assert length_of(range(start + far, stop + far, step)) == len(range(start, stop, step))


@pytest.mark.parametrize("kind", POOLS)
def test_it_is_pulled_lazily_and_may_end_early(kind: str) -> None:
    with POOLS[kind]() as pool:
        for name, items in RANGES.items():
            for options in ({}, {"reproducible": True}, {"chunksize": 7}):
                first = aggregate(abs, items, First(), pool=pool, **options)
                assert first == (abs(items[0]) if items else None), (name, options)


@pytest.mark.parametrize("kind", POOLS)
def test_its_items_come_in_order_until_one_fails(kind: str) -> None:
    with POOLS[kind]() as pool:
        for name, items in RANGES.items():
            if items[1000:]:
                with pytest.raises(TaskError) as raised:
                    aggregate(unlucky, items, Collect(), pool=pool)
                assert (raised.value.index, raised.value.item) == (999, items[999]), name
            else:
                assert aggregate(unlucky, items, Collect(), pool=pool) == list(items), name


@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_its_run_can_be_looked_at_and_left(kind: str) -> None:
    with POOLS[kind]() as pool, snapshots(abs, RANGES["down"], Sum(), every=0.01, pool=pool) as looks:
        look = next(iter(looks))
    assert look.done > 0
    assert look.value > 0


@pytest.mark.parametrize("kind", ["serial", "processes"])
def test_its_run_can_be_continued(kind: str, tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "checkpoint", every=0.001)
    with POOLS[kind]() as pool:
        for _ in range(2):
            with pytest.raises(TaskError):
                aggregate(unlucky, RANGES["up"], Sum(), pool=pool, checkpoint=kept)
        done = list(itertools.islice(RANGES["far away"], 50))
        for _ in range(2):
            path = tmp_path / "another"
            assert aggregate(unlucky, RANGES["far away"], Sum(), pool=pool, checkpoint=path) == sum(done)
