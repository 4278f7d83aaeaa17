"""Whatever runs the chunks, a run over an endless input ends when no further item can change the result."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from contract import Kind
from tasks import Until, identity, short

from poolagg import AllTrue, AnyTrue, Collect, Count, First, aggregate
from poolagg.reducers import as_reducer
from poolagg.strategies import Combine, Ordered, Stream, Tree

HIT = 130


def found(x: int) -> bool:
    return x >= HIT and x % 5 == 0


CASES: list[tuple[Callable[[int], Any], Any, Any]] = [
    (identity, First(), 0),
    (identity, First().where(found), HIT),
    (identity, AnyTrue().of(found), True),
    (found, AllTrue().of(lambda x: not x), False),
    (lambda x: [x - 1, x, x + 1], First().of(str).where(found).flat().then(int), HIT),
    (identity, {"first": First().where(found), "any": (AnyTrue().where(found), AllTrue())}, {
        "first": HIT, "any": (True, False)}),
]  # fmt: skip


def test_every_reducer_that_may_end_does_so_by_every_strategy(kind: Kind, pool: Any) -> None:
    for number, (func, spelled, expected) in enumerate(CASES):
        reducer = as_reducer(spelled)
        strategies: list[Any] = [None, Stream(), Ordered(), Combine(), Tree()]
        if kind.far:  # each reducer by one of them, in turn
            strategies = [strategies[number % len(strategies)]]
        for strategy in strategies:
            result = aggregate(func, itertools.count(), reducer, pool=pool, strategy=strategy)
            assert result == expected, (reducer, strategy, result)


def test_a_reducer_of_the_users_own_ends_the_run(pool: Any) -> None:
    assert len(aggregate(short, itertools.count(), Until(20), pool=pool)) >= 20


def test_a_run_does_not_end_while_one_of_several_reducers_needs_all_items(pool: Any) -> None:
    several = {"first": First(), "n": Count(), "by": AnyTrue().by(lambda x: x % 2), "all": Collect().then(len)}
    expected = {"first": 0, "n": 200, "by": {0: True, 1: True}, "all": 200}
    assert aggregate(identity, range(200), several, pool=pool) == expected


@pytest.mark.parametrize("strategy", [None, Ordered()])
def test_an_item_that_is_left_out_does_not_keep_the_run_from_its_end(pool: Any, strategy: Any) -> None:
    failed: set[int] = set()

    def failing(x: int) -> int:
        if x in (0, 60, HIT):
            raise ValueError(x)
        return x

    reducer = First().where(found)
    options: dict[str, Any] = {"pool": pool, "strategy": strategy, "on_error": lambda item: failed.add(item.index)}
    assert aggregate(failing, itertools.count(), reducer, **options) == HIT + 5
    assert failed == {0, 60, HIT}
