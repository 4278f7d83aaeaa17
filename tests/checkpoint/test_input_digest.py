"""The digest of an input tells whether each item is what it was, however the input is pulled."""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from checkpointed import Differ, differs
from hypothesis import given, settings
from hypothesis import strategies as st

from poolagg._checkpoint.input_digest import ALONE, SHARED, SIZE, InputDigest, page_of
from poolagg._input.batches import open_batch
from poolagg._input.source import Source

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.binary(max_size=5),
    st.tuples(st.integers(), st.text(max_size=3)), st.lists(st.booleans(), max_size=3), st.just(Path("a")),
    st.frozensets(st.text(max_size=2), max_size=3), st.just(object), st.builds(np.float32, st.integers(0, 9)),
)  # fmt: skip


STEPS = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 3000), st.integers(20, 5000)), min_size=1, max_size=4)


def pulled(pages, items, draw=None):
    """`items`, as a source hands them on that has them seen by `pages`, in input batches of any sizes."""
    source = Source(iter(items), pickle.dumps, pages)
    steps = itertools.cycle([(5000, 9000, 5000)] if draw is None else draw(STEPS))
    while not source.ended or source.in_hand:
        looks, (many, most, sealed) = itertools.count(), next(steps)
        if not source.ended:
            source.pull(source.in_hand + many, 1 << 20, lambda looks=looks: next(looks), most)
        if source.in_hand:
            input_batch = source.seal(min(sealed, source.in_hand))
            opened, unpack = open_batch(
                *input_batch.cut(input_batch.start, input_batch.stop), input_batch.stop - input_batch.start
            )
            yield from opened if unpack is None else map(unpack, opened)


@settings(deadline=None, max_examples=60)
@given(st.lists(ANYTHING, max_size=30), st.data())
def test_pages_know_an_input_again(items, data):
    """However it was cut: what was covered must be there again; what comes after may be anything."""
    stop = data.draw(st.integers(0, len(items)))
    needed = data.draw(st.integers(0, stop))
    first = InputDigest(items)
    known = None
    for _ in range(data.draw(st.integers(1, 3))):
        for item in items[first.position : data.draw(st.integers(first.position, stop))]:
            first.see(item)
        known = first.known(min(needed, first.position))
    again = InputDigest(items)
    again.expect(known, differs)
    assert [*pulled(again, items)] == items


def known_of(items, draw=None):
    pages = InputDigest(items)
    for _ in pulled(pages, items, draw):
        pass
    return pages.known(len(items))


NUMBERS = st.one_of(
    st.just(0), st.integers(-3, 3), st.integers(-(2**31), 2**31 - 1), st.integers(), st.floats(), st.booleans(),
    st.sampled_from([0.0, -0.0, 1.0, float("nan"), 2**31, -(2**31) - 1, None, 1j]),
)  # fmt: skip
LENGTHS = st.one_of(st.integers(1, ALONE + 3 * SHARED), st.integers(ALONE - 70, ALONE + 70))


@settings(deadline=None, max_examples=15)
@given(st.lists(NUMBERS, min_size=1, max_size=8), st.sampled_from(["numbers", "texts", "lists"]), LENGTHS, st.data())
def test_what_is_known_of_an_input_does_not_tell_how_it_was_pulled(some, kind, count, data):
    """One by one, many at once, in input batches of any size, of numbers that are alike or not: it is the same."""
    made = {"numbers": lambda item: item, "texts": str, "lists": lambda item: [item]}[kind]
    items = [made(item) for item in itertools.islice(itertools.cycle(some), count)]
    one_by_one = InputDigest(items)
    for item in items:
        one_by_one.see(item)
    assert known_of(items, data.draw) == known_of(items) == one_by_one.known(count)


SAME = [0, 0.0, -0.0, False, None, "", b"", 0j, (), [], "0", b"0", 1, 1.0, True, -1, -2, 2**31, 2**61 - 1]


@pytest.mark.parametrize("at", [7, ALONE + 7])
def test_numbers_are_told_apart_that_are_equal(at):
    """1, 1.0, True and '1' are other items, and so are 0.0 and -0.0."""
    others = [[*range(at), item, *range(90)] for item in SAME]
    assert len({known_of(items) for items in others}) == len(SAME)
    assert known_of([math.nan] * 5000) == known_of([float("nan")] * 5000) != known_of([math.inf] * 5000)


@pytest.mark.parametrize("count", [10, 100_000])
def test_arrays_are_told_apart_by_one_cell(count):
    """Large ones too, which are not kept until they are looked at, but a digest of theirs."""

    def known(at, value):
        array = np.zeros(count)
        array[at] = value
        return known_of([(0, array)])

    assert known(3, 1) == known(3, 1)
    assert len({known(3, 1), known(4, 1), known(3, 2), known_of([(0, np.zeros(count, "i8"))])}) == 4


def test_digests_are_those_of_every_machine_and_python():
    """A checkpoint of today is one of tomorrow: if these change, its format must be counted up."""
    known = known_of([*range(ALONE), *range(3000)])
    assert hashlib.sha256(known.pages + known.partial).hexdigest()[:16] == "3a38b93b09221bff"
    items = [i / 7 for i in range(6000)] + [2**70, None, "é", b"b", ("a", 1), {"b", "a"}, Path("a")] * 100
    known = known_of(items)
    assert hashlib.sha256(known.pages + known.partial).hexdigest()[:16] == "b2b7289901735a84"


@settings(deadline=None, max_examples=15)
@given(LENGTHS, st.sampled_from([int, float, str]), st.integers(0, 1500), st.data())
def test_pages_find_the_item_that_differs(count, kind, more, data):
    """Exactly among the first few thousand, before it is handed on; later on at the end of its page, to within that."""
    at = data.draw(st.integers(0, count - 1))
    items = [kind(number) for number in range(count)]
    known = known_of(items, data.draw)
    grown = InputDigest(items)
    grown.expect(known, differs)
    assert [*pulled(grown, items + [kind(0)] * more, data.draw)] == items + [kind(0)] * more
    items[at] = kind(-1)
    again = InputDigest(items)
    again.expect(known, differs)
    with pytest.raises(Differ) as caught:
        for item in pulled(again, items + [kind(0)] * more, data.draw):
            assert item != kind(-1) or at >= ALONE  # where an input batch may end within a page
    _, start, stop = page_of(at)
    last = min(stop, count) - 1
    assert f"item {start} is" in str(caught.value) or f"items {start} to {last} is" in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [np.arange(7000.0), np.arange(14000).reshape(-1, 2), np.ones((7000, 100))[:, ::2]],
    ids=["numbers", "rows", "pieces"],
)
def test_arrays_are_known_by_slices(rows):
    """As exactly as lists."""
    pages = InputDigest(rows)
    known = pages.known(6200)
    assert len(known.pages) == SIZE * page_of(6199)[0] + SIZE * (known.items == page_of(6199)[2])
    InputDigest(rows.copy()).expect(known, differs)
    other = rows.copy()
    other[77] = -1
    with pytest.raises(Differ, match="item 77 is"):
        InputDigest(other).expect(known, differs)
    with pytest.raises(Differ, match="items now"):
        InputDigest(rows[:4000]).expect(known, differs)
    with pytest.raises(Differ, match="was an array of"):
        InputDigest(rows.astype("f4")).expect(known, differs)
