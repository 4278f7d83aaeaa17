"""Chunk sizes and the moments to flush follow from what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolagg._scheduler.chunk_sizing import BATCH_BYTES, GROWTH, LONGEST_CHUNK, TARGET, ChunkSizer


def settled(seconds_per_item, chunks=12, **sizer):
    """A pace after some chunks of items that cost the same."""
    sizer = ChunkSizer(**({"slots": 2} | sizer))
    for _ in range(chunks):
        items = sizer.size(None)
        sizer.finished(items, items * seconds_per_item)
    return sizer


@pytest.mark.parametrize("cost", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_a_chunk_grows_to_the_target(cost):
    """From one item to 50 ms of work, whatever an item costs."""
    assert settled(cost).size(None) == pytest.approx(TARGET / cost, rel=0.01)


def test_an_item_longer_than_the_target_is_a_chunk():
    """A chunk has one item at least."""
    assert settled(7.0).size(None) == 1


def test_a_chunk_is_at_most_eight_times_the_largest_that_ran():
    """The first items may not be like the others."""
    sizer = ChunkSizer(slots=2)
    sizes = []
    for _ in range(5):
        sizes.append(sizer.size(None))
        sizer.finished(sizes[-1], 1e-9)
    assert sizes == [GROWTH**k for k in range(5)]


def test_costs_that_change_are_followed():
    """After a few chunks of items ten times as dear, a chunk has a tenth of the items."""
    sizer = settled(1e-4)
    for _ in range(8):
        items = sizer.size(None)
        sizer.finished(items, items * 1e-3)
    assert sizer.size(None) == pytest.approx(50, rel=0.3)


def test_what_a_chunk_costs_the_parent_makes_it_longer():
    """Twenty times the parent's cost where each chunk flushes; up to a second, and not where workers carry state."""
    for merge, target in [(0.01, 0.2), (1.0, LONGEST_CHUNK)]:
        sizer = settled(1e-3, flushes_chunks=True)
        sizer.merged(merge)
        assert sizer.target == target
        assert sizer.budget == 2 * target
        carrying = settled(1e-3)
        carrying.merged(merge)
        assert carrying.target == TARGET


def test_large_items_make_small_chunks():
    """About a megabyte of input, or of flushed partials, is the most a chunk has."""
    sizer = settled(1e-6)
    sizer.pulled(10, 10 * 100_000)
    assert sizer.size(None) == BATCH_BYTES // 100_000
    sizer = settled(1e-6, flushes_chunks=True)
    sizer.weighed(10 * 200_000, 10)
    assert sizer.size(None) == BATCH_BYTES // 200_000


@given(st.integers(1, 10**6), st.integers(1, 16))
def test_chunks_shrink_towards_the_end_but_not_to_nothing(remaining, slots):
    """Half an equal share of what is left; at least 2 ms of work."""
    sizer = settled(1e-4, slots=slots)
    size = sizer.size(remaining)
    assert size <= sizer.size(None)
    assert size == min(sizer.size(None), max(20, remaining // (2 * slots)))


def test_where_chunks_are_dear_the_last_ones_are_not_tiny():
    """A thousand workers of a cluster would else share what is left in more chunks than anybody can hand out."""
    assert settled(1e-4, slots=4000, at_least=3.2).size(1_000_000) == 16_000


def test_a_chunksize_is_kept():
    """Measurements do not change what the caller decided."""
    sizer = settled(3.0, chunksize=17)
    sizer.pulled(1, 1 << 24)
    assert sizer.size(None) == sizer.size(1) == 17


def test_the_first_state_is_flushed_so_that_its_cost_is_known():
    """One does, for it is not known to be cheap; then flushing waits until it is, and never beyond thirty seconds."""
    sizer = ChunkSizer(slots=2)
    assert sizer.worth_flushing(0.0)
    assert not sizer.worth_flushing(29.0), "somebody is trying"
    assert sizer.worth_flushing(30.0), "who may have died of it"
    sizer.flushed(0.0, 0.006, 0.004)
    sizer.merged(0.03)
    assert not sizer.worth_flushing(0.79)
    assert sizer.worth_flushing(0.81)
    sizer = ChunkSizer(slots=2)
    sizer.merged(60.0)
    assert not sizer.worth_flushing(29.0)
    assert sizer.worth_flushing(30.0)


def test_many_slots_share_one_parent():
    """The parent's costs count for half the workers: their flushes meet there."""
    sizer = ChunkSizer(slots=16)
    sizer.merged(0.01)
    assert not sizer.worth_flushing(20 * 0.08 - 0.01)
    assert sizer.worth_flushing(20 * 0.08 + 0.01)


def test_a_chunk_holds_the_work_that_a_pool_says_it_should():
    """Where each chunk costs more than a message, as on a cluster; also above what is long elsewhere."""
    for at_least in (0.25, 3.0):
        sizer = ChunkSizer(slots=2, at_least=at_least)
        for _ in range(20):
            sizer.finished(items := sizer.size(None), items * 1e-3)
        assert sizer.size(None) == pytest.approx(at_least / 1e-3)
    assert ChunkSizer(slots=2, at_least=0.001).target == ChunkSizer(slots=2).target
