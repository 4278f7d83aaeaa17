"""Coverage is a set of intervals, leaves depend on the index alone, and items are sent as they were when pulled."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolagg._input import source as source_module
from poolagg._input.batches import InputBatch, PackedItem, RetryBuffer, open_batch, open_item, size_of
from poolagg._input.numbers import PIECE
from poolagg._input.source import Source
from poolagg._scheduler.ranges import LeafGrid, RangeSet, overlap, overlaps, without

INTERVALS = st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def encode(item):
    return pickle.dumps(item, 5)


# -- intervals ---------------------------------------------------------------------------------------------------------


@given(st.lists(INTERVALS))
def test_intervals_are_a_set_that_refuses_what_it_has(intervals):
    """Against a set of ints: equal after every addition, and an overlap is an error that changes nothing."""
    have, model = RangeSet(), set()
    for start, stop in intervals:
        items = set(range(start, stop))
        if items & model:
            with pytest.raises(ValueError, match="counted twice"):
                have.add(start, stop)
        else:
            have.add(start, stop)
            model |= items
        assert {i for a, b in have for i in range(a, b)} == model
        assert len(have) == len(model)
        assert all(b < c for (_, b), (c, _) in itertools.pairwise(have)), "neighbours are joined"
        assert [i for i in range(70) if i in have] == sorted(model)
        assert have.prefix == next(i for i in range(80) if i not in model)
        for i in (0, 3, 30):
            assert have.end(i) == next(k for k in range(i, 80) if k not in model)


@given(st.lists(INTERVALS), INTERVALS)
def test_near_gives_the_intervals_that_are_touched(intervals, part):
    """At their full length, in order, and no other."""
    have = RangeSet((i, i + 1) for i in sorted({i for a, b in intervals for i in range(a, b)}))
    start, stop = part
    assert have.near(start, stop) == [(a, b) for a, b in have if a < stop and start < b]


@given(INTERVALS, st.lists(INTERVALS, max_size=4), st.sets(st.integers(0, 70)))
def test_overlaps_and_without_are_set_arithmetic(a, others, items):
    """`overlap` is intersection, `without` difference."""
    inside = set(range(*a))
    assert [set(range(*part)) for part in overlaps([a], others)] == [
        inside & set(range(*b)) for b in others if inside & set(range(*b))
    ]
    for b in others:
        assert set(range(*overlap(a, b))) == inside & set(range(*b))
    left = without(a, items & inside)
    assert {i for part in left for i in range(*part)} == inside - items
    assert all(start < stop for start, stop in left)


# -- leaves ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [LeafGrid(), LeafGrid(1), LeafGrid(7)], ids=repr)
def test_leaves_follow_one_another(grid):
    """Numbered from 0, without gaps; floor and ceil are their boundaries."""
    index = number = 0
    while index < 200_000:
        assert grid.leaf(index)[:2] == (number, index)
        stop = grid.leaf(index)[2]
        for inside in {index, (index + stop) // 2, stop - 1}:
            assert grid.leaf(inside) == (number, index, stop)
            assert grid.floor(inside) == index
            assert grid.ceil(inside + 1) == stop
        assert grid.ceil(index) == index
        index, number = stop, number + 1


def test_leaves_grow_with_the_work_before_them():
    """No leaf is longer than a sixty-fourth of what comes before it, plus one item; none beyond 1024."""
    grid, index = LeafGrid(), 0
    while index < 200_000:
        _, start, stop = grid.leaf(index)
        assert stop - start <= min(1024, start / 64 + 1)
        index = stop


# -- the source --------------------------------------------------------------------------------------------------------

ITEMS = st.lists(
    st.one_of(st.integers(), st.text(max_size=3), st.binary(max_size=3), st.none(), st.lists(st.integers(), max_size=2))
)


def drain(source, wants, most_bytes=1 << 20):
    """All input batches of a source, pulled and sealed in these steps, again and again."""
    retry_buffer = []
    for pull, seal in itertools.cycle(wants):
        source.pull(source.in_hand + pull, most_bytes, lambda: 0.0, 1.0)
        if source.in_hand:
            retry_buffer.append(source.seal(min(seal, source.in_hand)))
        if source.ended and not source.in_hand:
            return retry_buffer
    raise AssertionError("not reached")


def opened(retry_buffer):
    """All items of these input batches."""
    items = []
    for input_batch in retry_buffer:
        values, unpack = open_batch(input_batch.kind, input_batch.data, 0, input_batch.stop - input_batch.start)
        items.extend(map(unpack, values) if unpack else values)
    return items


@given(ITEMS, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1), st.booleans(), st.booleans())
def test_batches_hold_the_items_in_order(items, wants, pickles, generator):
    """However they are pulled and sealed, by pickle or by reference."""
    source = Source(iter(items) if generator else items, encode if pickles else None)
    assert source.total == (None if generator else len(items))
    retry_buffer = drain(source, wants)
    assert opened(retry_buffer) == items
    assert [p.start for p in retry_buffer] == [0, *(p.stop for p in retry_buffer)][: len(retry_buffer)]
    assert source.position == len(items)


@pytest.mark.parametrize(
    "items", [range(3, 50, 2), np.arange(24).reshape(12, 2), range(0)], ids=["range", "array", "no"]
)
def test_a_range_or_an_array_is_sent_as_a_slice(items):
    """It is not iterated; rows and numbers are those of iterating it."""
    source = Source(items, encode)
    retry_buffer = drain(source, [(5, 3), (1, 9)])
    for input_batch in retry_buffer:
        assert type(pickle.loads(input_batch.data)) is type(items)
    assert [np.asarray(item).tolist() for item in opened(retry_buffer)] == [np.asarray(item).tolist() for item in items]


def test_a_part_of_a_batch_opens_alone():
    """A re-run needs some items of an input batch only."""
    for items in ("abcdef", [[c] for c in "abcdef"], range(6)):
        source = Source(items, encode)
        source.pull(6, 1 << 20, lambda: 0.0, 1.0)
        input_batch = source.seal(6)
        for values, unpack in (
            open_batch(input_batch.kind, input_batch.data, 2, 3),
            open_batch(*input_batch.cut(2, 5), 3),
        ):
            assert [unpack(value) if unpack else value for value in values] == list(items)[2:5]


def test_what_is_kept_for_a_re_run_cannot_be_changed_through_what_was_opened():
    """An item's large buffers are copied when it is pulled, and again when it is opened here."""
    array = np.arange(5)
    out_of_band = []
    data = PackedItem(pickle.dumps(array, 5, buffer_callback=out_of_band.append), [bytes(out_of_band[0].raw())])
    opened = open_item(data)
    opened += 1
    assert open_item(data).tolist() == [0, 1, 2, 3, 4]
    assert size_of(data) == len(data.pickle) + array.nbytes


def test_an_item_is_pickled_as_it_is_pulled():
    """A generator may reuse its buffer."""

    def buffers():
        buffer = [0]
        for buffer[0] in range(5):
            yield buffer

    assert opened(drain(Source(buffers(), encode), [(5, 5)])) == [[i] for i in range(5)]


def test_a_pull_ends_with_the_bytes_or_with_the_time():
    """But never before one item more is in hand."""
    source = Source((b"x" * 1000 for _ in itertools.count()), encode)
    source.pull(100, 3500, lambda: 0.0, 1.0)
    assert source.in_hand == 4
    source.pull(100, 1, lambda: 0.0, 1.0)
    assert source.in_hand == 5
    source.pull(100, 1 << 20, lambda: 2.0, 1.0)
    assert source.in_hand == 6
    assert not source.ended


def test_a_source_that_ends_says_so_when_it_is_asked_for_more():
    """Not before: an iterator cannot know."""
    source = Source(iter("abc"), encode)
    source.pull(3, 1 << 20, lambda: 0.0, 1.0)
    assert not source.ended
    source.pull(4, 1 << 20, lambda: 0.0, 1.0)
    assert source.ended
    assert source.in_hand == 3


def test_a_continued_source_skips():
    """The items are given to who compares them with the earlier run's, and the next input batch starts behind them."""
    for items in (range(10), iter(range(10)), np.arange(10)):
        source = Source(items, encode)
        assert list(source.skip(4)) == [0, 1, 2, 3]
        source.pull(3, 1 << 20, lambda: 0.0, 1.0)
        input_batch = source.seal(2)
        assert (input_batch.start, input_batch.stop) == (4, 6)
        assert [int(item) for item in opened([input_batch])] == [4, 5]


def test_what_pickling_takes_is_told_by_the_first_item_of_each_chunk():
    """The source reads the clock at most once an item; it pickles numbers and texts together, when it seals a chunk."""
    now = itertools.count()
    source = Source(iter([[1], [2], [3], 4, 5]), encode=pickle.dumps)
    source.pull(3, 1 << 20, lambda: next(now), 1e9)
    assert source.packing == 3.0
    source.seal(3)
    source.pull(2, 1 << 20, lambda: next(now), 1e9)
    assert source.packing == 0.0


# -- input batches -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), max_size=8), st.randoms())
def test_a_batch_is_kept_until_all_of_it_is_covered(sizes, random):
    """And not an item longer, in whatever order items are released."""
    retry_buffer, start, owner = RetryBuffer(), 0, {}
    for size in sizes:
        input_batch = InputBatch(start, start + size, "loose", list(range(start, start + size)), size)
        retry_buffer.add(input_batch)
        owner.update(dict.fromkeys(range(start, start + size), input_batch))
        start += size
    left = list(range(start))
    random.shuffle(left)
    while left:
        assert all(retry_buffer.find(i) is owner[i] for i in left)
        index = left.pop()
        retry_buffer.release(index, index + 1)
        kept = {id(owner[i]): owner[i] for i in left}
        assert len(retry_buffer) == len(kept)
        assert retry_buffer.nbytes == sum(input_batch.nbytes for input_batch in kept.values())
    with pytest.raises(LookupError):
        retry_buffer.find(0)


def test_a_quick_source_of_numbers_is_timed_now_and_then_and_a_slow_one_always():
    """An item in hand waits for 63 others at most, and that only once."""
    looks = itertools.count()
    source = Source(itertools.count(), encode)
    source.pull(5000, 1 << 20, lambda: next(looks) - 2000, 0.5)
    assert source.in_hand == 2002
    source.pull(5000, 1 << 20, lambda: 1.0, 0.5)
    assert source.in_hand == 2002 + 64
    source.pull(5000, 1 << 20, lambda: 1.0, 0.5)
    assert source.in_hand == 2002 + 64 + 1


def test_what_was_pulled_before_the_source_raised_is_in_hand():
    """So the error's note names the item after it."""

    def numbers():
        yield from range(PIECE + 3005)
        raise OSError

    source = Source(numbers(), encode)
    looks = itertools.count()
    source.pull(2000, 1 << 20, lambda: next(looks) - 1500, 0.5)
    with pytest.raises(OSError):
        source.pull(2 * PIECE, 1 << 20, lambda: 0.0, 0.5)
    assert source.position == PIECE + 3005
    assert opened([source.seal(PIECE + 3005)]) == list(range(PIECE + 3005))


def test_numbers_may_turn_into_a_buffer_that_is_used_again_and_again():
    """Each item is what it was when it was pulled, however quick the numbers came before."""

    def numbers():
        yield from range(PIECE + 3000)
        buffer = []
        for i in range(50):
            buffer[:] = [i]
            yield buffer

    source = Source(numbers(), encode)
    looks = itertools.count()
    source.pull(2 * PIECE, 1 << 20, lambda: next(looks) - 1500, 0.5)
    source.pull(2 * PIECE, 1 << 20, lambda: 0.0, 0.5)
    assert opened([source.seal(PIECE + 3050)]) == [*range(PIECE + 3000), *([i] for i in range(50))]


def test_numbers_may_turn_into_anything_in_the_middle():
    items = [*range(PIECE + 3005), "a", [1], *range(50)]
    source = Source(iter(items), encode)
    looks = itertools.count()
    source.pull(2000, 1 << 20, lambda: next(looks) - 1500, 0.5)
    source.pull(2 * PIECE, 1 << 20, lambda: 0.0, 0.5)
    assert source.ended
    assert opened([source.seal(PIECE + 3010), source.seal(47)]) == items


@given(st.data())
def test_numbers_arrive_however_they_are_pulled_and_sealed_and_cut(data):
    """In pieces that are cut where a chunk ends, and read again for a part of a chunk."""
    some = [0, -1, 2**40, 2**70, True, None, 1.5, 2j]
    items = [some[i % data.draw(st.integers(1, len(some)))] for i in range(data.draw(st.integers(0, 300)))]
    source, retry_buffer, looks = Source(iter(items), encode), [], itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "PIECE", data.draw(st.integers(1, 90)))
        while not source.ended or source.in_hand:
            if not source.ended:
                many = source.in_hand + data.draw(st.integers(1, 200))
                source.pull(many, 1 << 20, lambda: next(looks), data.draw(st.integers(0, 1000)))
            if source.in_hand:
                retry_buffer.append(source.seal(data.draw(st.integers(1, source.in_hand))))
    assert [*map(repr, opened(retry_buffer))] == [*map(repr, items)]
    for input_batch in retry_buffer:
        start = data.draw(st.integers(input_batch.start, input_batch.stop - 1))
        stop = data.draw(st.integers(start + 1, input_batch.stop))
        part, _ = open_batch(*input_batch.cut(start, stop), stop - start)
        at = data.draw(st.integers(0, len(part)))
        assert [*map(repr, [*part[:at], *part[at:]])] == [*map(repr, part)] == [*map(repr, items[start:stop])]
