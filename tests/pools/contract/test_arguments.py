"""A bad argument fails at the call."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import pytest

from poolagg import Into, ProcessPool, SerialPool, Sum, ThreadPool, aggregate, snapshots
from poolagg.strategies import Combine, Stream


def none_pulled() -> Iterator[int]:
    raise AssertionError("the input was pulled")
    yield 1


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((3, none_pulled(), Sum()), {}, TypeError, "func must be"),
        ((abs, 3, Sum()), {}, TypeError, "iterable"),
        ((abs, none_pulled(), Sum), {}, TypeError, r"Sum\(\)"),
        ((abs, none_pulled(), list), {}, TypeError, r"Collect\(\)"),
        ((abs, none_pulled(), len), {}, TypeError, r"Count\(\)"),
        ((abs, none_pulled(), 7), {}, TypeError, "7"),
        ((abs, none_pulled(), Sum()), {"workers": 0}, ValueError, "workers"),
        ((abs, none_pulled(), Sum()), {"workers": 2.0}, ValueError, "workers"),
        ((abs, none_pulled(), Sum()), {"chunksize": 0}, ValueError, "chunksize"),
        ((abs, none_pulled(), Sum()), {"retries": -1}, ValueError, "retries"),
        ((abs, none_pulled(), Sum()), {"retries": True}, ValueError, "retries"),
        ((abs, none_pulled(), Sum()), {"item_timeout": 0}, ValueError, "item_timeout"),
        ((abs, none_pulled(), Sum()), {"item_timeout": float("nan")}, ValueError, "item_timeout"),
        ((abs, none_pulled(), Sum()), {"on_error": "ignore"}, ValueError, "on_error"),
        ((abs, none_pulled(), Sum()), {"total": -1}, ValueError, "total"),
        ((abs, none_pulled(), Sum()), {"watch": 3}, TypeError, "watch"),
        ((abs, none_pulled(), Sum()), {"watch": [3]}, TypeError, "watch"),
        ((abs, none_pulled(), Sum()), {"strategy": "combine"}, TypeError, "strategy"),
        ((abs, none_pulled(), Sum()), {"strategy": Combine}, TypeError, "strategy"),
        ((abs, none_pulled(), Into(print)), {"strategy": Combine()}, ValueError, "no merge"),
        ((abs, none_pulled(), operator.add), {"strategy": Stream()}, ValueError, "input order"),
        ((abs, none_pulled(), Sum()), {"strategy": Stream(), "reproducible": True}, ValueError, "reproducible"),
        ((abs, none_pulled(), Sum()), {"pool": 3}, TypeError, "pool must be"),
        ((abs, none_pulled(), Sum()), {"pool": ProcessPool}, TypeError, "pool must be"),
        ((abs, none_pulled(), Sum()), {"pool": SerialPool(), "workers": 2}, ValueError, "workers"),
        ((abs, none_pulled(), Sum()), {"pool": SerialPool(), "item_timeout": 1}, ValueError, "item_timeout"),
        ((abs, none_pulled(), Sum()), {"pool": ThreadPool(2), "item_timeout": 1}, ValueError, "item_timeout"),
    ],
    ids=lambda value: None,
)
def test_a_bad_argument_fails_at_the_call(arguments: Any, options: Any, error: Any, words: str) -> None:
    for call in (aggregate, snapshots):
        with pytest.raises(error, match=words):
            call(*arguments, **options)


def test_bad_pool_arguments_fail_at_the_call() -> None:
    for options in (
        {"workers": 0},
        {"workers": True},
        {"start_method": "thread"},
        {"max_items_per_worker": 0},
        {"initializer": 3},
    ):
        with pytest.raises((ValueError, TypeError), match=next(iter(options))):
            ProcessPool(**options)
    with pytest.raises(ValueError, match="workers"):
        ThreadPool(0)
    for pool in (SerialPool(), ThreadPool(1)):
        with pytest.raises(TypeError):
            pool.imap_unordered(3, [1])
