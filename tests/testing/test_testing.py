"""`check_reducer` names the one law that a reducer breaks, with the smallest example."""

import math
import operator
import threading

import numpy as np
import pytest

from poolagg.reducers import ArraySum, Collect, Count, First, Fold, Into, Mean, Reduce, Reducer, Sum, Tee
from poolagg.testing import LAWS, LawBroken, check_reducer


class Listing(Reducer):
    """A lawful reducer to break: the sorted list of the partials."""

    def init(self):
        return []

    def step(self, acc, prepared):
        acc.append(prepared)
        return acc

    def merge(self, acc, other):
        acc.extend(other)
        return acc

    def finish(self, acc):
        return sorted(acc)


class Shared(Listing):
    store: list = []

    def init(self):
        return self.store


class SharedInside(Listing):
    """Not the accumulator itself is shared, but a list in it."""

    store: list = []

    def init(self):
        return (self.store,)

    def step(self, acc, prepared):
        acc[0].append(prepared)
        return acc

    def merge(self, acc, other):
        return ([*acc[0], *other[0]],)

    def finish(self, acc):
        return sorted(acc[0])


class Forgetful(Listing):
    def step(self, acc, prepared):
        acc.append(prepared)


class Raising(Listing):
    def step(self, acc, prepared):
        raise ZeroDivisionError(prepared)


class Impure(Listing):
    def prepare(self, partial):
        return partial.pop()


class FinishPops(Listing):
    def finish(self, acc):
        return acc.pop() if acc else None


class FinishAliases(Listing):
    """Lawful but for the list it gives away."""

    def step(self, acc, prepared):
        acc.append(prepared)
        acc.sort()
        return acc

    def merge(self, acc, other):
        acc.extend(other)
        acc.sort()
        return acc

    def finish(self, acc):
        return acc


class Lock(list):
    lock = None


class NoPickle(Listing):
    def init(self):
        acc = Lock()
        acc.lock = threading.Lock()
        return acc


class ForgetsInPickle(Listing):
    """Its accumulator pickles without its content."""

    class Box:
        def __init__(self, items=()):
            self.items = list(items)

        def __reduce__(self):
            return ForgetsInPickle.Box, ()

        def __deepcopy__(self, memo):
            return ForgetsInPickle.Box(self.items)

    def init(self):
        return self.Box()

    def step(self, acc, prepared):
        acc.items.append(prepared)
        return acc

    def merge(self, acc, other):
        acc.items.extend(other.items)
        return acc

    def finish(self, acc):
        return sorted(acc.items)


class BulkDrops(Listing):
    def steps(self, acc, prepareds):
        acc.extend(prepareds[:3])
        return acc


class ByArrival(Listing):
    """Placed, but it goes by what arrives first."""

    def step_at(self, acc, place, prepared):
        acc.append(prepared)
        return acc

    def merge(self, acc, other):
        return sorted([*acc, *other])

    def finish(self, acc):
        return acc[0] if acc else None


class NoIdentity(Listing):
    """Every state, the empty one too, leaves a trace when merged."""

    def merge(self, acc, other):
        return [*acc, *other, 0]


class Mutates(Listing):
    def merge(self, acc, other):
        acc.extend(other)
        other.clear()
        return acc


class Keeps(Listing):
    """Adopts the other state when it has none of its own."""

    def merge(self, acc, other):
        if not acc:
            return other
        return super().merge(acc, other)


class StepIsNotMerge(Listing):
    """step counts double."""

    def step(self, acc, prepared):
        return [*acc, prepared] if acc else [prepared, prepared]

    def merge(self, acc, other):
        return [*acc, *other]


class NotAssociative(Reducer):
    """The mean of means."""

    def init(self):
        return None

    def step(self, acc, prepared):
        return prepared if acc is None else (acc + prepared) / 2

    def merge(self, acc, other):
        return acc if other is None else other if acc is None else (acc + other) / 2


class NotCommutative(Reducer):
    def init(self):
        return ""

    def step(self, acc, prepared):
        return acc + str(prepared)

    def merge(self, acc, other):
        return acc + other


class Ordered(NotCommutative):
    ordered = True


class DoneTooSoon(Listing):
    def done(self, acc, settled):
        return len(acc) >= 2


class DoneTooSoonOutOfOrder(First):
    def done(self, acc, settled):
        return acc is not None


class DoneForAWhile(Reducer):
    """The largest, up to 3: right that nothing changes, but it does not stay done."""

    def init(self):
        return (0, 0)

    def step(self, acc, prepared):
        return (max(acc[0], min(prepared, 3)), acc[1] + 1)

    def merge(self, acc, other):
        return (max(acc[0], other[0]), acc[1] + other[1])

    def finish(self, acc):
        return acc[0]

    def done(self, acc, settled):
        return acc[0] == 3 and acc[1] < 4


BROKEN = [
    (Shared(), [1, 2, 3], "init() returns a fresh accumulator at every call"),
    (SharedInside(), [1, 2, 3], "init() returns a fresh accumulator at every call"),
    (Forgetful(), [1, 2, 3], "step takes every sample and returns the accumulator"),
    (Raising(), [1, 2, 3], "step takes every sample and returns the accumulator"),
    (Impure(), [[1, 2], [3, 4]], "prepare is pure"),
    (FinishPops(), [1, 2, 3], "finish leaves the accumulator as it was"),
    (FinishAliases(), [1, 2, 3], "finish shares no mutable state with the accumulator"),
    (NoPickle(), [1, 2, 3], "the accumulator survives pickling"),
    (ForgetsInPickle(), [1, 2, 3], "the accumulator survives pickling"),
    (BulkDrops(), [1, 2, 3, 4, 5], "steps is looped step"),
    (ByArrival(), [1, 2, 3], "with step_at, what arrives first does not matter"),
    (NoIdentity(), [1, 2, 3], "merge(a, init()) == a"),
    (Mutates(), [1, 2, 3], "merge neither mutates nor keeps its right argument"),
    (Keeps(), [1, 2, 3], "merge neither mutates nor keeps its right argument"),
    (StepIsNotMerge(), [1, 2, 3], "step(a, x) == merge(a, step(init(), x))"),
    (NotAssociative(), [1, 2, 3], "merge is associative"),
    (NotCommutative(), [1, 2, 3], "merge commutes, unless ordered"),
    (DoneTooSoon(), [1, 2, 3], "once done, nothing that comes changes the result"),
    (DoneForAWhile(), [1, 3, 5, 7], "once done, nothing that comes changes the result"),
    (DoneTooSoonOutOfOrder(), [1, 2, 3], "once done, items from `settled` on that are missing change nothing"),
]


def sorted_in_place(a, b):
    a.extend(b)
    a.sort()
    return a


def name(case):
    return type(case).__name__ if isinstance(case, Reducer) else ""


@pytest.mark.parametrize(("reducer", "samples", "law"), BROKEN, ids=name)
def test_a_broken_law_is_named(reducer, samples, law):
    """The law, the reducer and the samples are in the message and in the error."""
    with pytest.raises(LawBroken) as caught:
        check_reducer(reducer, samples)
    assert caught.value.law == law
    assert law in str(caught.value)
    assert repr(reducer) in str(caught.value)
    assert repr(caught.value.samples) in str(caught.value)


def test_every_law_has_a_reducer_that_breaks_it():
    """No law of the table goes untested."""
    assert {law.name for law in LAWS} == {law for _, _, law in BROKEN}


@pytest.mark.parametrize("reducer", [Listing(), Ordered()], ids=name)
def test_lawful_reducers_pass(reducer):
    """The reducers that the broken ones are made from, and one that is ordered and says so."""
    check_reducer(reducer, [3, 1, 2, 5, 4, 0, 9])


def test_the_example_is_the_smallest():
    """Of a hundred samples only those that break the law are left."""

    class Unlucky(Listing):
        def merge(self, acc, other):
            return acc if 13 in acc and 57 in other else [*acc, *other]

    with pytest.raises(LawBroken) as caught:
        check_reducer(Unlucky(), range(100))
    assert caught.value.samples == [13, 57]


def test_the_exception_on_the_way_is_the_cause():
    """A law broken by an exception leads to its traceback."""
    with pytest.raises(LawBroken, match="ZeroDivisionError") as caught:
        check_reducer(Raising(), [1])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_laws_of_merge_are_left_out_where_there_is_none():
    """Parent-only reducers have the other laws to keep."""
    check_reducer(max, [1, 2, 3])
    check_reducer(Into(str), [1, 2, 3])
    check_reducer(Fold(operator.sub, init=int), [1, 2, 3])
    with pytest.raises(LawBroken, match="fresh"):
        check_reducer(Fold(operator.iadd, init=lambda shared=[]: shared), [[1], [2]])


def test_whatever_aggregate_takes_is_checked():
    """Dicts and tuples of reducers, derived forms, functions; iterators as samples."""
    check_reducer({"n": Count(), "first": (First(), Collect().where(bool))}, [0, 1, 2])
    check_reducer(Sum().of(len).by(len).flat(), [iter(["a", "bb"]), ["c"]])
    with pytest.raises(LawBroken, match=r"Tee\(\(Count\(\), NotCommutative\(\)\)\) breaks the law: merge commutes"):
        check_reducer((Count(), NotCommutative()), [1, 2])
    with pytest.raises(TypeError, match=r"Sum\(\)"):
        check_reducer(sum, [1])


def test_equal_says_what_counts_as_the_same():
    """Rounding needs isclose, arrays array_equal; two nan are the same."""
    with pytest.raises(LawBroken, match="associative"):
        check_reducer(Reduce(operator.add), [1e16, 1.0, -1e16, 3.0])
    check_reducer(Reduce(operator.add), [0.1, 0.2, 0.3, 0.4], equal=math.isclose)
    check_reducer(ArraySum(), [np.arange(3), np.ones(3, int)], equal=np.array_equal)
    check_reducer(Tee((ArraySum(), Mean())), [np.int64(3), 4], equal=operator.eq)
    check_reducer(Mean(), [math.nan, 1.0])


def test_samples_are_needed_and_left_as_they_were():
    """Nothing can be tried on nothing; a reducer that uses its partials up does it to copies."""
    with pytest.raises(ValueError, match="samples"):
        check_reducer(Sum(), [])
    samples = [[1], [2], [3]]
    check_reducer(Reduce(sorted_in_place), samples)
    assert samples == [[1], [2], [3]]
