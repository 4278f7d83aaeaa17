"""Every reducer is its plain Python oracle, however its input is split, flushed, delayed and merged."""

import functools
import heapq
import itertools
import math
import operator
import pickle
import random
import statistics
import threading
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolagg import aggregate
from poolagg.reducers import (
    AllTrue,
    AnyTrue,
    ArrayReduce,
    ArraySum,
    Bottom,
    Collect,
    Count,
    First,
    Fold,
    Frequencies,
    GroupBy,
    Histogram,
    Into,
    Last,
    Max,
    Mean,
    MergeCounts,
    Min,
    Reduce,
    Reducer,
    Sample,
    Std,
    Sum,
    Tee,
    Top,
    Unique,
    Variance,
    as_reducer,
    fold,
    join,
    reduced,
)
from poolagg.testing import check_reducer

T = TypeVar("T")


def tens(x):
    return x // 10


def digit(x):
    return x % 10


def even(x):
    return x % 2 == 0


def pair(x):
    return (x % 3, x)


def grouped(values, key, oracle):
    groups = {}
    for value in values:
        groups.setdefault(key(value), []).append(value)
    return {group: oracle(members) for group, members in groups.items()}


def histogram_of(values):
    return np.histogram(values, [0, 5, 10, 50])[0] if values else np.zeros(3, np.int64)


def array_sum(arrays):
    return np.sum(arrays, axis=0) if arrays else None


def array_max(arrays):
    return np.maximum.reduce(arrays) if arrays else None


def counts_sum(counts):
    total = {}
    for count in counts:
        for key, n in count.items():
            total[key] = total.get(key, 0) + n
    return Counter(total)


@dataclass
class Case:
    reducer: Any
    partials: st.SearchStrategy
    oracle: Any
    equal: Any = operator.eq

    def __str__(self):
        return repr(self.reducer)


small = st.integers(0, 60)
words = st.text("abc", max_size=3)
floats = st.floats(-1e6, 1e6)
exact_floats = st.integers(-100, 100).map(lambda n: n / 8)
arrays = st.lists(st.integers(-128, 127), min_size=3, max_size=3).map(lambda xs: np.array(xs, np.int8))
counts = st.dictionaries(st.sampled_from("abc"), st.integers(-2, 2))

CASES = [
    Case(Count(), small, len),
    Case(Sum(), small, sum),
    Case(Sum(), floats, math.fsum),
    Case(Sum(), st.fractions(max_denominator=9), sum),
    Case(Sum(), st.complex_numbers(max_magnitude=9, allow_subnormal=False), lambda z: complex_sum(z)),
    Case(Mean(), floats, lambda xs: float(sum(map(Fraction, xs)) / len(xs)) if xs else math.nan),
    Case(Variance(), small, lambda xs: float(statistics.variance(map(Fraction, xs))) if len(xs) > 1 else math.nan),
    Case(Variance(ddof=0), small, lambda xs: float(statistics.pvariance(map(Fraction, xs))) if xs else math.nan),
    Case(Std(), exact_floats, lambda xs: statistics.stdev(xs) if len(xs) > 1 else math.nan),
    Case(Min(), small, lambda xs: min(xs, default=None)),
    Case(Max(), small, lambda xs: max(xs, default=None)),
    Case(Min(key=tens), small, lambda xs: min(xs, key=tens, default=None)),
    Case(Max(key=tens), small, lambda xs: max(xs, key=tens, default=None)),
    Case(Top(3), words, lambda xs: heapq.nlargest(3, xs)),
    Case(Top(3, key=len), words, lambda xs: heapq.nlargest(3, xs, key=len)),
    Case(Bottom(3, key=tens), small, lambda xs: heapq.nsmallest(3, xs, key=tens)),
    Case(First(), small, lambda xs: xs[0] if xs else None),
    Case(AnyTrue(), small, any),
    Case(AllTrue(), small, all),
    Case(AnyTrue().where(even), small, lambda xs: any(filter(even, xs))),
    Case(Last(), small, lambda xs: xs[-1] if xs else None),
    Case(Frequencies(), words, Counter),
    Case(Frequencies().flat(), words, lambda xs: Counter("".join(xs))),
    Case(MergeCounts(), counts, counts_sum),
    Case(Collect(), small, list),
    Case(Collect().flat(), words, lambda xs: list("".join(xs))),
    Case(Unique(), words, set),
    Case(GroupBy(Sum()), small.map(pair), lambda xs: grouped([x for _, x in xs], lambda x: x % 3, sum)),
    Case(GroupBy(Collect()), small.map(pair), lambda xs: grouped([x for _, x in xs], lambda x: x % 3, list)),
    Case(Histogram([0, 5, 10, 50]), small, histogram_of, np.array_equal),
    Case(ArraySum(), arrays, array_sum, np.array_equal),
    Case(ArraySum(np.float64), arrays, array_sum, np.array_equal),
    Case(ArrayReduce(np.maximum), arrays, array_max, np.array_equal),
    Case(Sample(3, seed=7), small, lambda xs: hashed_sample(xs, 3, 7)),
    Case(Fold(operator.add, init=str), words, "".join),
    Case(Fold(operator.iadd, init=Counter, merge=operator.iadd), words.map(Counter), counts_sum),
    Case(Reduce(operator.xor), small, lambda xs: functools.reduce(operator.xor, xs)),
    Case(max, small, lambda xs: functools.reduce(max, xs)),
    Case(operator.sub, small, lambda xs: functools.reduce(operator.sub, xs)),
    Case(Into(tens), small, lambda xs: None),
    Case(Sum().of(tens), small, lambda xs: sum(map(tens, xs))),
    Case(Sum().where(even), small, lambda xs: sum(filter(even, xs))),
    Case(Collect().where(even), small, lambda xs: list(filter(even, xs))),
    Case(First().where(even), small, lambda xs: next(filter(even, xs), None)),
    Case(Top(2, key=digit).by(tens), small, lambda xs: grouped(xs, tens, lambda g: heapq.nlargest(2, g, key=digit))),
    Case(Count().by(len).then(sorted), words, lambda xs: sorted(Counter(map(len, xs)))),
    Case(
        Sum().of(digit).where(even).by(tens).flat(),
        st.lists(small, max_size=4),
        lambda xs: grouped(chained(xs), tens, lambda g: sum(digit(x) for x in g if even(x))),
    ),
    Case(
        Collect().of(digit).where(even).flat(),
        st.lists(small, max_size=4),
        lambda xs: [digit(x) for x in chained(xs) if even(x)],
    ),
    Case(
        Collect().where(even).flat().flat(),
        st.lists(st.lists(small, max_size=2), max_size=3),
        lambda xs: nested_even(xs),
    ),
    Case(
        {"n": Count(), "parts": (Sum().where(even), Max(key=digit)), "all": Collect()},
        small,
        lambda xs: {"n": len(xs), "parts": (sum(filter(even, xs)), max(xs, key=digit, default=None)), "all": xs},
    ),
    Case((Sum(), Fold(operator.sub, init=int)), small, lambda xs: (sum(xs), functools.reduce(operator.sub, xs, 0))),
    Case(
        Tee((Count(), Mean())).by(digit), small, lambda xs: grouped(xs, digit, lambda g: (len(g), statistics.mean(g)))
    ),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)


def chained(lists):
    return list(itertools.chain.from_iterable(lists))


def complex_sum(numbers):
    if not numbers:
        return 0
    return complex(math.fsum(z.real for z in numbers), math.fsum(z.imag for z in numbers))


def hashed_sample(values, k, seed):
    """Any sample will do, as long as it is the same for the same input: here, one fold in input order."""
    return reduced(Sample(k, seed), values)


def nested_even(partials):
    return [x for partial in partials for inner in partial for x in inner if even(x)]


def outcome(compute):
    """A value, or the type of what it raised."""
    try:
        return compute()
    except TypeError:
        return TypeError


def same(equal, left, right):
    if left is TypeError or right is TypeError:
        return left is right
    return (left is right) or (left != left) is True or bool(equal(left, right))


def travelled(value):
    return pickle.loads(pickle.dumps(value, protocol=5))


def folded_in_parts(reducer, partials, rng):
    """States of random stretches of the input, each folded from a few smaller ones, as workers would."""
    cuts = sorted(rng.choices(range(len(partials) + 1), k=4))
    for start, stop in zip([0, *cuts], [*cuts, len(partials)], strict=True):
        acc = reducer.init()
        middle = rng.randint(start, stop)
        for a, b in ((start, middle), (middle, stop)):
            acc = fold(reducer, acc, a, [travelled(reducer.prepare(x)) for x in partials[a:b]])
        yield travelled(acc)


def merged_at_random(reducer, states, rng):
    """Neighbours meet in input order if `ordered`, any two otherwise."""
    if not reducer.ordered:
        rng.shuffle(states)
    while len(states) > 1:
        i = rng.randrange(len(states) - 1)
        states[i : i + 2] = [join(reducer, *states[i : i + 2])]
    return states[0]


@cases
@settings(max_examples=25)
@given(data=st.data())
def test_any_sharding_and_merge_order_gives_the_oracle(case, data):
    """Parts folded apart, pickled, merged in any order the reducer allows: the plain Python result."""
    partials = data.draw(st.lists(case.partials, max_size=12))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    reducer = travelled(as_reducer(case.reducer))
    if reducer.mergeable:
        acc = merged_at_random(reducer, list(folded_in_parts(reducer, partials, rng)), rng)
    else:
        acc = fold(reducer, reducer.init(), 0, [travelled(reducer.prepare(x)) for x in partials])
    assert same(case.equal, outcome(lambda: reducer.finish(acc)), outcome(lambda: case.oracle(partials)))


@cases
@settings(max_examples=15)
@given(data=st.data())
def test_any_arrival_order_gives_the_oracle(case, data):
    """One accumulator, single items and chunks coming in any order: the plain Python result."""
    partials = data.draw(st.lists(case.partials, max_size=12))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    reducer = as_reducer(case.reducer)
    cuts = sorted(rng.choices(range(len(partials) + 1), k=5))
    chunks = list(zip([0, *cuts], [*cuts, len(partials)], strict=True))
    if not reducer.ordered:
        rng.shuffle(chunks)
    acc = reducer.init()
    for start, stop in chunks:
        acc = fold(reducer, acc, start, [reducer.prepare(x) for x in partials[start:stop]])
    assert same(case.equal, outcome(lambda: reducer.finish(acc)), outcome(lambda: case.oracle(partials)))


@cases
@settings(max_examples=3)
@given(data=st.data())
def test_every_reducer_keeps_its_laws(case, data):
    """The check we offer for users' reducers holds for ours."""
    check_reducer(case.reducer, data.draw(st.lists(case.partials, min_size=1, max_size=6)), case.equal)


@cases
def test_a_reducer_survives_pickling(case):
    """A reducer made of importable functions pickles, and is shown as the call that made it."""
    reducer = as_reducer(case.reducer)
    assert repr(travelled(reducer)) == repr(reducer)
    assert " at 0x" not in repr(reducer)


def test_reprs_are_the_calls_that_made_them():
    """What a message or a report shows can be read, and mostly pasted."""
    assert (
        repr(Sum().of(len).where(even).by(tens).flat().then(sorted))
        == "Sum().of(len).where(even).by(tens).flat().then(sorted)"
    )
    assert repr(Tee({"n": Count(), "worst": Top(10, key=len)})) == "Tee({'n': Count(), 'worst': Top(10, key=len)})"
    assert (
        repr((Max(), Min(key=len), Sample(3, seed=1), Variance()))
        == "(Max(), Min(key=len), Sample(3, seed=1), Variance(ddof=1))"
    )
    assert repr(Into(print, ordered=True)) == "Into(print, ordered=True)"
    assert repr(Histogram([0, 1])) == "Histogram([0.0, 1.0])"
    assert repr(ArraySum(np.float32)) == "ArraySum(dtype=dtype('float32'))"


class Longest(Reducer):
    """A user's reducer, by the protocol alone."""

    def init(self):
        return ""

    def step(self, acc, prepared):
        return max(acc, prepared, key=lambda word: (len(word), word))

    merge = step


def test_a_reducer_of_ones_own_needs_three_methods():
    """init, step and merge make a reducer that has every derived form."""
    assert reduced(Longest().by(len).flat(), [["a", "b"], ["cc"]]) == {1: "b", 2: "cc"}
    check_reducer(Longest(), ["a", "ccc", "bb", "ddd"])


def test_none_is_a_legal_value_of_a_fold():
    """`Fold` is functools.reduce, which has nothing against None."""
    assert reduced(Fold(lambda acc, x: None), [1, 2]) is None
    assert reduced(Fold(lambda acc, x: None, init=int).of(str), [1, 2]) is None
    assert reduced(Reduce(lambda a, b: None), [None, None]) is None


def test_functions_of_derived_forms_run_in_prepare():
    """f, pred and key run in the map phase, so that an error in them is the item's."""
    for reducer in (
        Sum().of(operator.itemgetter("x")),
        Sum().where(operator.itemgetter("x")),
        Top(1, key=len),
        Sum().by(len),
    ):
        with pytest.raises((TypeError, KeyError)):
            reducer.prepare(3)


def test_flat_hands_a_partial_over_as_it_is():
    """When nothing else prepares, a list is counted where it lies; an iterator becomes a list."""
    flat, partial = Frequencies().flat(), ["a", "b"]
    assert flat.prepare(partial) is partial
    assert flat.prepare(iter(partial)) == partial
    assert sorted(flat.prepare({"a": 1, "b": 2}.keys())) == ["a", "b"]
    with pytest.raises(TypeError, match="partials that are iterables, got 3"):
        flat.prepare(3)


def test_flat_counts_the_keys_of_a_mapping():
    """A Counter in the place of an iterable is iterated, never added."""
    assert reduced(Frequencies().flat(), [Counter("aab"), {"a": 7}]) == {"a": 2, "b": 1}


def test_frequencies_of_what_cannot_be_hashed_hints_at_flat():
    """The error of the hash carries a note."""
    with pytest.raises(TypeError) as caught:
        reduced(Frequencies(), [["a"]])
    assert "flat()" in caught.value.__notes__[0]


def test_merge_counts_refuses_what_would_be_counted():
    """A list of words is no mapping of counts."""
    with pytest.raises(TypeError, match=r"Frequencies\(\)\.flat\(\)"):
        reduced(MergeCounts(), [["a"]])


def test_counts_keep_the_order_in_which_keys_were_first_seen():
    """Merged in input order, dicts have the key order of one pass."""
    left, right = Counter(), Counter()
    left, right = fold(Frequencies(), left, 0, list("ba")), fold(Frequencies(), right, 2, list("cab"))
    assert list(join(Frequencies(), left, right)) == ["b", "a", "c"]
    groups = GroupBy(Count())
    left, right = (fold(groups, groups.init(), 0, [(k, 0) for k in keys]) for keys in ("ba", "cab"))
    assert list(groups.finish(join(groups, left, right))) == ["b", "a", "c"]


def test_group_by_names_what_is_no_pair():
    """A partial that is no (key, value) pair is the item's error."""
    with pytest.raises(TypeError, match=r"requires \(key, value\) pairs, got 3"):
        GroupBy(Sum()).prepare(3)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8), st.randoms())
def test_nan_never_wins_unless_there_is_nothing_else(values, rng):
    """A nan key is worse than any other, for Min and Max alike, in any order."""
    numbers = [x for x in values if x == x]
    places = list(enumerate(values))
    rng.shuffle(places)
    for reducer, best in ((Max(), max), (Min(), min)):
        acc = reducer.init()
        for i, value in places:
            acc = reducer.step_at(acc, (i,), value)
        found = reducer.finish(acc)
        assert found == best(numbers) if numbers else found != found
    assert reduced(Max(), [np.float32("nan"), np.float32(1)]) == 1


def test_values_need_not_be_comparable_when_there_is_a_key():
    """Only keys are compared."""
    values = [{"n": 2}, {"n": 1}, {"n": 2}]
    assert reduced(Max(key=operator.itemgetter("n")), values) is values[0]
    assert reduced(Bottom(2, key=operator.itemgetter("n")), values) == [values[1], values[0]]


@pytest.mark.parametrize("reducer", [First().where(even), First().where(even).flat().of(lambda x: [1, x, 4])])
def test_first_is_done_when_all_items_before_the_one_found_are_settled(reducer):
    """An earlier one may still come, unless none can."""
    acc = fold(reducer, reducer.init(), 7, [reducer.prepare(2)])
    assert [reducer.done(acc, settled) for settled in (0, 6, 7, 9)] == [False, False, True, True]
    assert not reducer.done(reducer.init(), 9)


def test_any_true_and_all_true_are_done_with_the_partial_that_decides():
    """Any other partial may come before it."""
    for reducer, decides in ((AnyTrue(), 3), (AllTrue(), "")):
        undecided, decided = (fold(reducer, reducer.init(), 7, [reducer.prepare(x)]) for x in (not decides, decides))
        assert (reducer.done(undecided, 9), reducer.done(decided, 0)) == (False, True)


def test_a_tee_is_done_when_all_its_members_are():
    """One member that needs more keeps the run going."""
    first, both = Tee((First(), First())), Tee((First(), Count()))
    assert first.done(fold(first, first.init(), 0, "ab"), 0)
    assert not both.done(fold(both, both.init(), 0, "ab"), 2)
    assert (first.ends_early, both.ends_early, First().by(abs).ends_early) == (True, False, False)


def test_a_sample_is_uniform():
    """Over many seeds each of ten partials is drawn three times in ten, within five standard deviations."""
    drawn = Counter(x for seed in range(2000) for x in reduced(Sample(3, seed), range(10)))
    assert all(abs(drawn[x] - 600) < 5 * math.sqrt(2000 * 0.3 * 0.7) for x in range(10))


def test_a_plain_function_is_functools_reduce():
    """Same result, same empty-input error, with a note; parent-only and in input order."""
    reducer = as_reducer(operator.add)
    assert reduced(reducer, ["a", "b", "c"]) == "abc"
    assert reducer.ordered
    assert not reducer.mergeable
    with pytest.raises(TypeError, match="empty iterable with no initial value") as caught:
        reduced(reducer, [])
    assert "init=factory" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="empty iterable with no initial value"):
        reduced(Reduce(operator.add), [])
    with pytest.raises(NotImplementedError, match="has no merge"):
        reducer.merge(1, 2)


def test_a_fold_does_not_keep_the_other_state():
    """The first state to come is copied, since a later merge may change the accumulator in place."""
    reducer, other = Reduce(operator.iadd), [1]
    acc = reducer.merge(reducer.init(), other)
    reducer.merge(acc, [2])
    assert other == [1]


class Gathered(Reducer[list[T]], Generic[T]):
    """A generic reducer."""

    def init(self):
        return []

    def step_at(self, acc, where, x):
        return [*acc, (where, x)]

    def merge(self, a, b):
        return a + b

    def finish(self, acc):
        return [x for _, x in sorted(acc)]


@pytest.mark.parametrize("made", [Gathered(), Gathered[str]()])
def test_a_reducer_may_be_generic(made):
    """In its values; it keeps the laws, is shown and pickles, whether its type is named or not."""
    check_reducer(made, ["b", "a", "c"])
    assert repr(made) == "Gathered()"
    assert reduced(pickle.loads(pickle.dumps(made)), "ba") == ["b", "a"]
    assert aggregate(str, range(20), made, workers=2) == list(map(str, range(20)))


class _Singleton:
    def __init__(self):
        self.lock = threading.Lock()
        self.seen = []

    def add(self, x):
        self.seen.append(x)


def test_what_only_the_parent_folds_does_not_travel():
    "Of Into, and of Fold without merge, workers get what prepares: the singleton that apply changes stays at home."
    singleton = _Singleton()
    for reducer in (
        Into(singleton.add).of(len),
        Tee({"into": Into(singleton.add).of(len), "n": Count()}),
        Fold(lambda acc, x: singleton.add(x), init=int).of(len),
    ):
        travelled = pickle.loads(pickle.dumps(reducer.worker_side()))
        assert reducer.prepare("abc") == travelled.prepare("abc")
