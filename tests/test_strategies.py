"""The two halves of a strategy: however partials are cut, batched and shipped, the result is that of a plain loop."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_reducers import Bag, Listing, Shape

from poolagg._chunks import Grid, Intervals
from poolagg.reducers import Collect, Into, Reducer, Sum
from poolagg.strategies import Combine, Ordered, Stream, Tree


class Last(Reducer):
    """Keeps places, so that it commutes although it depends on order."""

    def init(self):
        return (-1, None)

    def step_at(self, acc, place, prepared):
        return max(acc, (place[0], prepared))

    def merge(self, acc, other):
        return max(acc, other)


@st.composite
def chunked(draw, grid=None):
    """Items 0 to n cut in chunks, those in batches, some items left out: (chunks, kept)."""
    n = draw(st.integers(0, 50))
    left_out = draw(st.sets(st.integers(0, 50), max_size=5))
    chunks, start = [], 0
    while start < n:
        stop = min(n, start + draw(st.integers(1, 9)))
        stop = stop if grid is None else min(n, grid.ceil(stop))
        runs, run = [], []
        for index in range(start, stop):
            if index in left_out or (run and draw(st.booleans())):
                runs += [run] if run else []
                run = []
            if index not in left_out:
                run = [*run, index]
        chunks.append((stop, [*runs, run] if run else runs))
        start = stop
    return chunks, [i for i in range(n) if i not in left_out]


def ship(gather):
    payloads = gather.payloads()
    assert gather.payloads() == [], "the gather starts afresh"
    return [(piece.covers, pickle.dumps(piece.data)) for piece in payloads]


def gathered(strategy, reducer, chunks, grid=None, carry=()):
    """The payloads of all chunks, shipped after each but those in `carry`."""
    gather, payloads = strategy.gather(reducer, grid), []
    for number, (stop, runs) in enumerate(chunks):
        for run in runs:
            gather.add(run[0], list(run))
        gather.close(stop)
        payloads += [] if number in carry else ship(gather)
    return payloads + ship(gather)


def folded(strategy, reducer, payloads):
    folding = strategy.folding(reducer)
    for _, data in payloads:
        folding.commit(pickle.loads(data))
        folding.value()  # a look in between changes nothing
    return folding.value()


@given(chunked(), st.sets(st.integers(0, 50)), st.randoms())
def test_stream_and_combine_count_each_partial_once(made, carry, random):
    """In any order of arrival, and payloads cover exactly what was kept."""
    chunks, kept = made
    for strategy, carried in [(Stream(), ()), (Combine(), carry)]:
        for reducer, want in [(Bag(), Counter(kept)), (Last(), (max(kept), max(kept)) if kept else (-1, None))]:
            payloads = gathered(strategy, reducer, chunks, carry=carried)
            covers = Intervals(interval for covers, _ in payloads for interval in covers)
            assert [i for a, b in covers for i in range(a, b)] == kept
            random.shuffle(payloads)
            assert folded(strategy, reducer, payloads) == want


@given(chunked())
def test_ordered_steps_in_input_order(made):
    """Payloads committed by what they cover, as the plan does, give the list itself."""
    chunks, kept = made
    assert folded(Ordered(), Listing(), sorted(gathered(Ordered(), Listing(), chunks))) == kept


@pytest.mark.parametrize("grid", [Grid(), Grid(1), Grid(3), Grid(8)], ids=repr)
@given(data=st.data(), random=st.randoms())
def test_a_tree_depends_on_neither_chunks_nor_arrival(grid, data, random):
    """The same expression for the same items, whichever leaves shared a chunk, in whatever order subtrees came."""
    chunks, kept = data.draw(chunked(grid))
    payloads = gathered(Tree(), Shape(), chunks, grid)
    random.shuffle(payloads)
    whole = [(chunks[-1][0], [run for _, runs in chunks for run in runs])] if chunks else []
    assert folded(Tree(), Shape(), payloads) == folded(Tree(), Shape(), gathered(Tree(), Shape(), whole, grid))
    assert folded(Tree(), Listing(), gathered(Tree(), Listing(), chunks, grid)) == kept
    assert folded(Tree(), Last(), gathered(Tree(), Last(), chunks, grid))[1] == (kept[-1] if kept else None)


def test_a_tree_keeps_few_states():
    """A chunk of 64 leaves ships one; the parent keeps a logarithm of what came in order."""
    reducer = Listing()
    payloads = gathered(Tree(), reducer, [(64, [list(range(64))])], Grid(1))
    assert [covers for covers, _ in payloads] == [((0, 64),)]
    folding = Tree().folding(reducer)
    for leaf in range(1000):
        folding.commit((0, leaf, [leaf]))
        assert len(folding._nodes) <= 10
    assert folding.value() == folding.value() == list(range(1000))


def test_the_value_shares_nothing_with_what_is_still_folded():
    """Looking twice, and folding on in between, gives each time what was committed."""
    for strategy in (Stream(), Combine(), Tree()):
        folding = strategy.folding(Collect())
        seen = []
        for index in range(4):
            gather = strategy.gather(Collect(), strategy.grid(1))
            gather.add(index, [index])
            gather.close(index + 1)
            for data in (piece.data for piece in gather.payloads()):
                folding.commit(data)
            seen.append(folding.value())
        assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_what_only_the_parent_can_fold_names_the_item():
    """The function raised at item 12, and `at` says so."""

    def apply(partial):
        if partial == 12:
            raise ValueError

    folding = Stream().folding(Into(apply))
    folding.commit((0, list(range(5))))
    assert folding.at is None
    with pytest.raises(ValueError):
        folding.commit((10, list(range(10, 20))))
    assert folding.at == 12


def test_a_strategy_refuses_what_it_would_get_wrong():
    """Each refusal names a strategy that serves."""
    into = Into(print)
    assert "Ordered()" in Stream().refusal(Listing())
    assert "Stream()" in Combine().refusal(into)
    assert "Tree()" in Combine().refusal(Listing())
    assert "Ordered()" in Tree().refusal(into)
    for strategy, reducer in [(Stream(), into), (Ordered(), into), (Ordered(), Listing()), (Tree(), Listing())]:
        assert strategy.refusal(reducer) is None
    assert all(strategy.refusal(Sum()) is None for strategy in (Stream(), Ordered(), Combine(), Tree()))


def test_a_merge_that_forgets_to_return_is_an_error():
    """Not a None that is merged into the next."""

    class Forgets(Bag):
        def merge(self, acc, other):
            acc.update(other)

    folding = Combine().folding(Forgets())
    folding.commit(Counter("a"))
    with pytest.raises(TypeError, match="returned None"):
        folding.commit(Counter("b"))


def test_strategies_are_values():
    """Equal, hashable, picklable, with a repr that makes them."""
    for strategy in (Stream(), Ordered(), Combine(), Tree()):
        assert pickle.loads(pickle.dumps(strategy)) == strategy == eval(repr(strategy))
        assert hash(strategy) == hash(eval(repr(strategy)))
    assert Stream() != Ordered()
