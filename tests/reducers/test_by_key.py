"""Under a key, a reducer does what it does alone, whichever loop over a batch does it."""

from __future__ import annotations

import math
import operator
import pickle
import random
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from poolagg.reducers import (
    Bottom,
    Collect,
    Count,
    First,
    GroupBy,
    Last,
    Max,
    Mean,
    Min,
    Reducer,
    Sample,
    Std,
    Sum,
    Top,
    Unique,
    Variance,
    fold,
    join,
    reduced,
)

NAN = math.nan
NUMBERS = {
    "ints": [3, 1, 2, 1, 3, 2**70, -(2**70)],
    "floats": [0.1, 0.2, 0.3, 1e16, -1e16, 1e308, 1e308, -0.0, 0.0],
    "equal numbers of several types": [1, 1.0, True, Fraction(1), 0, 0.0, -0.0, False, Fraction(0)],
    "nan among numbers": [NAN, 1, 2.5, -NAN, 0, math.inf, -math.inf],
    "numpy's numbers": [np.float64(0.5), np.int64(2**62), np.int64(2**62), np.float32(0.1), np.float64("nan"), 7],
    "Decimals": [Decimal("0.1"), Decimal("1e30"), Decimal(1), 1, Decimal("-1e30"), Fraction(1, 3)],
    "Decimals that are nan": [Decimal("NaN"), Decimal(1), Decimal(2)],
}
TEXTS = {
    "texts": ["b", "a", "", "c", "ab"],
    "dates": [date(2020, 1, 1) + timedelta(n) for n in (3, 1, 2, 1)],
    "numpy's dates": [np.datetime64("2020-01-02"), np.datetime64("NaT", "D"), np.datetime64("2020-01-01")],
}
OF_NUMBERS = {
    "Count": Count(),
    "Sum": Sum(),
    "Mean": Mean(),
    "Std": Std().of(float),
    "a sum of some": Sum().where(lambda x: x == 1),
    "a tuple": (Min(), Max(), Sum(), Count()),
    "a tuple of derived ones": (Sum().of(float), Count().where(bool), Collect()),
    "groups in groups": Sum().by(bool).then(lambda sums: sorted(sums.items())),
    "flat": Sum().flat().of(lambda x: [x, x]),
    "a dict": {"least": Min(key=lambda x: -x), "all": Collect(), "sum": Sum().then(repr)},
}
OF_ANYTHING = {
    "Min": Min(),
    "Max": Max(),
    "Min by a key": Min(key=str),
    "Max by a key": Max(key=lambda x: type(x).__name__),
    "Top": Top(2),
    "Bottom": Bottom(3),
    "Sample": Sample(1, seed=3),
    "Collect": Collect(),
    "First": First(),
    "Last": Last(),
    "Unique": Unique().then(len),
    "Collect some": Collect().where(lambda x: x == x),
}
CASES = [(name, kind) for name in OF_ANYTHING for kind in (*NUMBERS, *TEXTS)]
CASES += [(name, kind) for name in OF_NUMBERS for kind in NUMBERS]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_reducer_under_a_key_does_what_it_does_alone(name: str, kind: str) -> None:
    """In whatever batches partials arrive, in whatever order, and wherever the states of a key meet."""
    reducer, values = {**OF_NUMBERS, **OF_ANYTHING}[name], {**NUMBERS, **TEXTS}[kind]
    draw = random.Random(f"{name} {kind}")
    groups: Reducer = GroupBy(reducer)
    for keys in (["a", "b"], [1, 2.5, NAN], [(1, NAN), (1, 2)], range(9)):
        pairs = [(draw.choice(keys), value) for value in draw.choices(values, k=24)]
        by_key: dict[Any, list[Any]] = {}
        for i, (key, _) in enumerate(pairs):
            by_key.setdefault(repr(key), []).append(i)
        expected = {key: _said(lambda at=at: _alone(groups, pairs, at)) for key, at in by_key.items()}
        if (failure := next((said for said in expected.values() if type(said) is type), None)) is not None:
            assert _said(lambda: _in_batches(groups, pairs, draw)) is failure
            continue
        result = _in_batches(groups, pairs, draw)
        assert {repr(key): repr(value) for key, value in result.items()} == expected


def _alone(groups: Any, pairs: list[tuple[Any, Any]], at: list[int]) -> str:
    """Return the result of one key's partials, each folded alone at its position."""
    inner = groups.inner
    acc = inner.init()
    for i in at:
        acc = inner.step_at(acc, (i,), inner.prepare(pairs[i][1]))
    return repr(inner.finish(acc))


def _in_batches(groups: Reducer, pairs: list[tuple[Any, Any]], draw: random.Random, cuts: int = 4) -> dict[Any, Any]:
    """Fold batches that arrive in any order into several accumulators, which then meet in any order."""
    batches = list(pairwise(sorted({0, len(pairs), *draw.choices(range(len(pairs)), k=cuts)})))
    draw.shuffle(batches)
    accs = [groups.init() for _ in range(3)]
    for start, stop in batches:
        k = draw.randrange(3)
        prepareds = [groups.prepare(pair) for pair in pairs[start:stop]]
        accs[k] = fold(groups, accs[k], start, prepareds)
    acc, *others = pickle.loads(pickle.dumps(accs))
    for other in others:
        acc = join(groups, acc, other)
    return groups.finish(acc)


def _said(result: Any) -> Any:
    try:
        return result()
    except Exception as error:
        return type(error)


EXTREMES = [1e308, -1e308, 1.7976931348623157e308, 9.98e291, 1e300, 5e-324, -0.0, 0.1, 1 / 3, 2**53 + 1, 10**400, -7]


@pytest.mark.parametrize("values", [EXTREMES, EXTREMES[:9], EXTREMES[6:9], EXTREMES[9:]], ids=len)
@pytest.mark.parametrize("reducer", [Sum(), Mean(), Variance(), Std(ddof=0), (Sum(), Mean())], ids=repr)
def test_many_numbers_under_a_key_come_to_the_exact_result(reducer: Any, values: list[Any]) -> None:
    """However many of them a state has not added yet when it is folded into, sent or merged."""
    groups, draw = GroupBy(reducer), random.Random(repr(reducer))
    for _ in range(10):
        pairs = [(draw.randrange(3), draw.choice(values)) for _ in range(draw.choice([20, 60, 200]))]
        expected = {key: repr(reduced(groups.inner, [x for of, x in pairs if of == key])) for key in range(3)}
        result = _in_batches(groups, pairs, draw, cuts=draw.choice([3, 10, len(pairs)]))
        assert {key: repr(found) for key, found in result.items()} == expected


@pytest.mark.parametrize("k", [1, 3, 20, 21])
@pytest.mark.parametrize("kind", [Top, Bottom])
def test_the_best_under_a_key_are_those_of_a_sort(kind: Any, k: int) -> None:
    """Equal ones in input order, however many are kept."""
    draw = random.Random(k)
    for highest in (1, 30, 10**6):
        pairs = [(draw.randrange(3), (draw.randrange(highest), i)) for i in range(300)]
        result = _in_batches(GroupBy(kind(k, key=operator.itemgetter(0))), pairs, draw, cuts=20)
        sign = -1 if kind is Top else 1
        for group, found in result.items():
            assert found == sorted((x for of, x in pairs if of == group), key=lambda x: (sign * x[0], x[1]))[:k]


@pytest.mark.parametrize("reducer", [Min(), Max(), Top(2), Sum(), Mean(), (Min(), Sum())], ids=repr)
@pytest.mark.parametrize("wrong", [None, object, np.zeros(2)], ids=repr)
def test_a_partial_that_is_rejected_changes_no_group(reducer: Any, wrong: Any) -> None:
    """Its batch is rejected as a whole, so that the worker folds it again without that partial."""
    groups: Reducer = GroupBy(reducer)
    acc = fold(groups, groups.init(), 0, [("a", 1), ("b", 2)])
    before = pickle.dumps(acc)
    for pairs in ([("b", 0), ("a", wrong)], [("c", wrong)], [("a", 0), ("a", wrong), ("a", 3)]):
        with pytest.raises(TypeError):
            groups.validate(pairs)
        if groups.rejection.name in ("ATOMIC", "PERSISTENT"):
            with pytest.raises((TypeError, ValueError)):
                fold(groups, acc, 2, pairs)
            assert pickle.dumps(acc) == before


class FromAHundred(Sum):
    """A sum that starts elsewhere."""

    def init(self) -> Any:
        return super().steps(super().init(), [100])


class Doubled(Count):
    """A count that folds in its own way."""

    def steps(self, acc: int, prepareds: Any) -> int:
        return acc + 2 * len(prepareds)


def test_a_subclass_that_folds_in_its_own_way_does_so_under_a_key() -> None:
    """A built-in reducer's loop over a batch is not that of a subclass that defines how it starts, or folds."""
    pairs = [("a", 1), ("b", 2), ("a", 3)]
    assert reduced(GroupBy(FromAHundred()), pairs) == {"a": 104, "b": 102}
    assert reduced(GroupBy(Doubled()), pairs) == {"a": 4, "b": 2}
    assert reduced(GroupBy(Doubled().where(lambda x: x > 1)), pairs) == {"a": 2, "b": 2}


def test_groups_whose_partials_are_all_left_out_stay() -> None:
    """`where` inside a group leaves partials out, not the group."""
    pairs = [("b", -1), ("a", 1), ("b", -2)]
    for reducer, nothing in ((Sum(), 0), (Min(), None), (Collect(), []), (Count(), 0)):
        result = reduced(GroupBy(reducer.where(lambda x: x > 0)), pairs)
        assert list(result) == ["b", "a"]
        assert result["b"] == nothing
