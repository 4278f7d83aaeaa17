"""Spellings that people try: each is refused at the call, and the error says what to write here."""

from __future__ import annotations

import functools
import sqlite3
import statistics
from collections import Counter
from typing import Any

import numpy as np
import pytest

from poolagg import ProcessPool, SerialPool, Sum, aggregate, snapshots, star, with_item
from poolagg.reducers import as_reducer
from poolagg.resources import IntoDatabase

call: Any = aggregate


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("n_jobs", "workers"),
        ("max_workers", "workers"),
        ("processes", "workers"),
        ("timeout", "item_timeout"),
        ("chunk_size", "chunksize"),
        ("initial", r"Fold\(step, init=factory\) as the reducer"),
        ("executor", "pool"),
        ("initializer", r"pool=ProcessPool\(\.\.\.\) with that argument"),
        ("verbose", "progress"),
        ("retry", "retries"),
        ("chekpoint", "checkpoint"),
    ],
)
@pytest.mark.parametrize("function", [aggregate, snapshots])
def test_an_argument_that_other_libraries_have_names_the_one_meant(function: Any, name: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"no argument '{name}': did you mean {meant}\? The options are checkpoint, "):
        function(abs, [1], Sum(), **{name: 2})


def test_an_argument_that_nothing_resembles_names_all_options() -> None:
    with pytest.raises(TypeError, match=r"no argument 'qqq': The options are .*, workers$"):
        call(abs, [1], Sum(), qqq=1)


def reducers() -> list[tuple[Any, str]]:
    found = [
        (any, "write AnyTrue()"),
        (all, "write AllTrue()"),
        (statistics.mean, "write Mean()"),
        (statistics.median, "write Quantiles(0.5)"),
        (np.stack, "write Collect().then(numpy.stack)"),
        (np.concatenate, "write Concat()"),
        (Counter.update, "write Frequencies().flat() for partials to count, MergeCounts() for mappings of counts"),
        (list.append, "write Collect()"),
        (list.extend, "write Collect().flat()"),
        (set.add, "write Unique()"),
        (set.update, "write Unique().flat()"),
    ]
    for package, function in (("pandas", "concat"), ("polars", "concat"), ("pyarrow", "concat_tables")):
        try:
            found.append((getattr(__import__(package), function), "write Concat()"))
        except ImportError:
            continue
    return found


@pytest.mark.parametrize(("function", "hint"), reducers(), ids=lambda value: getattr(value, "__qualname__", value))
def test_a_function_that_stands_for_a_reducer_names_it(function: Any, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        as_reducer(function)
    assert str(caught.value).endswith(f"is not a reducer: {hint}")


def test_what_mutates_and_returns_none_is_told_to_return_the_accumulator() -> None:
    with pytest.raises(AttributeError, match="'append'") as caught:
        aggregate(abs, range(3), lambda a, x: a.append(x), pool=SerialPool())
    assert any("must return the accumulator" in note and "write Collect()" in note for note in caught.value.__notes__)
    with pytest.raises(AttributeError, match="'NoneType'") as caught:
        aggregate(lambda i: [i], range(3), lambda a, x: a.extend(x), pool=SerialPool())
    assert any("write Collect().flat()" in note for note in caught.value.__notes__)


async def coroutine(x: int) -> int:
    return x


class Asynchronous:
    async def __call__(self, x: int) -> int:
        return x


def product(x: int, y: int) -> int:
    return x * y


@pytest.mark.parametrize("func", [coroutine, Asynchronous(), with_item(coroutine), functools.partial(coroutine)])
def test_an_async_function_is_refused_with_what_runs_it(func: Any) -> None:
    with pytest.raises(TypeError, match=r"is an async function.*lambda item: asyncio\.run\(.*\(item\)\)"):
        aggregate(func, [1], Sum(), pool=SerialPool())


def test_a_function_of_two_arguments_is_refused_with_star() -> None:
    with pytest.raises(TypeError, match=r"func, product, requires 2 arguments and.*star\(product\) unpacks"):
        call(product, [(1, 2)], Sum(), pool=SerialPool())
    with pytest.raises(TypeError, match=r"requires 2 arguments"):
        next(ProcessPool(1).imap_unordered(product, [(1, 2)]))  # type: ignore[arg-type]
    assert aggregate(star(product), [(1, 2)], Sum(), pool=SerialPool()) == 2
    assert aggregate(functools.partial(product, 3), [2], Sum(), pool=SerialPool()) == 6
    assert aggregate(lambda x, y=5: x * y, [2], Sum(), pool=SerialPool()) == 10
    assert aggregate(lambda *items: len(items), [2], Sum(), pool=SerialPool()) == 1


def test_a_connection_in_place_of_what_opens_one_is_refused() -> None:
    connection = sqlite3.connect(":memory:")
    try:
        with pytest.raises(TypeError, match=r"not the connection <sqlite3.Connection.*For SQLite pass the path"):
            IntoDatabase(connection, "INSERT INTO t VALUES (?)", run="r")
    finally:
        connection.close()
