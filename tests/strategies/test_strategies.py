"""The two halves of a strategy: however partials are cut, batched and flushed, the result is that of a plain loop."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_reducers import Bag, Listing, Shape

from poolagg._scheduler.ranges import LeafGrid, RangeSet
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


def flush(worker_fold):
    payloads = worker_fold.payloads()
    assert worker_fold.payloads() == [], "the gather starts afresh"
    return [(state.covers, pickle.dumps(state.data)) for state in payloads]


def gathered(strategy, reducer, chunks, grid=None, carry=()):
    """The payloads of all chunks, flushed after each but those in `carry`."""
    worker_fold, payloads = strategy.worker_fold(reducer, grid), []
    for number, (stop, runs) in enumerate(chunks):
        for run in runs:
            worker_fold.add(run[0], list(run))
        worker_fold.close(stop)
        payloads += [] if number in carry else flush(worker_fold)
    return payloads + flush(worker_fold)


def folded(strategy, reducer, payloads):
    parent_fold = strategy.parent_fold(reducer)
    for _, data in payloads:
        parent_fold.commit(pickle.loads(data))
        parent_fold.value()  # a look in between changes nothing
    return parent_fold.value()


@given(chunked(), st.sets(st.integers(0, 50)), st.randoms())
def test_stream_and_combine_count_each_partial_once(made, carry, random):
    """In any order of arrival, and payloads cover exactly what was kept."""
    chunks, kept = made
    for strategy, carried in [(Stream(), ()), (Combine(), carry)]:
        for reducer, want in [(Bag(), Counter(kept)), (Last(), (max(kept), max(kept)) if kept else (-1, None))]:
            payloads = gathered(strategy, reducer, chunks, carry=carried)
            covers = RangeSet(interval for covers, _ in payloads for interval in covers)
            assert [i for a, b in covers for i in range(a, b)] == kept
            random.shuffle(payloads)
            assert folded(strategy, reducer, payloads) == want


@given(chunked())
def test_ordered_steps_in_input_order(made):
    """Payloads committed by what they cover, as the scheduler does, give the list itself."""
    chunks, kept = made
    assert folded(Ordered(), Listing(), sorted(gathered(Ordered(), Listing(), chunks))) == kept


@pytest.mark.parametrize("grid", [LeafGrid(), LeafGrid(1), LeafGrid(3), LeafGrid(8)], ids=repr)
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
    """A chunk of 64 leaves flushes one; the parent keeps a logarithm of what came in order."""
    reducer = Listing()
    payloads = gathered(Tree(), reducer, [(64, [list(range(64))])], LeafGrid(1))
    assert [covers for covers, _ in payloads] == [((0, 64),)]
    parent_fold = Tree().parent_fold(reducer)
    for leaf in range(1000):
        parent_fold.commit((0, leaf, [leaf]))
        assert len(parent_fold._nodes) <= 10
    assert parent_fold.value() == parent_fold.value() == list(range(1000))


def test_the_value_shares_nothing_with_what_is_still_folded():
    """Looking twice, and folding on in between, gives each time what was committed."""
    for strategy in (Stream(), Combine(), Tree()):
        parent_fold = strategy.parent_fold(Collect())
        seen = []
        for index in range(4):
            worker_fold = strategy.worker_fold(Collect(), strategy.grid(1))
            worker_fold.add(index, [index])
            worker_fold.close(index + 1)
            for data in (state.data for state in worker_fold.payloads()):
                parent_fold.commit(data)
            seen.append(parent_fold.value())
        assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_what_only_the_parent_can_fold_names_the_item():
    """The function raised at item 12, and `at` says so."""

    def apply(partial):
        if partial == 12:
            raise ValueError

    parent_fold = Stream().parent_fold(Into(apply))
    parent_fold.commit((0, list(range(5))))
    assert parent_fold.at is None
    with pytest.raises(ValueError):
        parent_fold.commit((10, list(range(10, 20))))
    assert parent_fold.at == 12


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

    parent_fold = Combine().parent_fold(Forgets())
    parent_fold.commit(Counter("a"))
    with pytest.raises(TypeError, match="returned None"):
        parent_fold.commit(Counter("b"))


def test_strategies_are_values():
    """Equal, hashable, picklable, with a repr that makes them."""
    for strategy in (Stream(), Ordered(), Combine(), Tree()):
        assert pickle.loads(pickle.dumps(strategy)) == strategy == eval(repr(strategy))
        assert hash(strategy) == hash(eval(repr(strategy)))
    assert Stream() != Ordered()
