"""Concat: one frame, table or array in input order, as its own library would make it."""

from __future__ import annotations

from typing import Any

import extras
import numpy as np
import pytest

from poolagg import Collect, Concat, Count, ProcessPool, Reducer, SerialPool, SkippedItems, TaskError, aggregate
from poolagg.reducers import reduced
from poolagg.testing import check_reducer


def library(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        extras.missing(name)


def frame_of_pandas(i: int) -> Any:
    import pandas as pd

    return pd.DataFrame({"i": [i, i + 1], "text": [f"a{i}", None], "x": [i / 3, np.nan]}, index=[i, -i])


def series_of_pandas(i: int) -> Any:
    return frame_of_pandas(i)["x"]


def frame_of_polars(i: int) -> Any:
    import polars as pl

    return pl.DataFrame({"i": [i, i + 1], "text": [f"a{i}", None]})


def series_of_polars(i: int) -> Any:
    return frame_of_polars(i)["text"]


def table_of_pyarrow(i: int) -> Any:
    import pyarrow as pa

    return pa.table({"i": [i, i + 1], "text": [f"a{i}", None]})


def array_of_numpy(i: int) -> Any:
    return np.full((i % 3, 2), i / 3)


def concatenated(func: Any, count: int) -> Any:
    """What the library makes of them all, by its own name for it."""
    parts = list(map(func, range(count)))
    package = func.__name__.rpartition("_")[2]
    name = {"pyarrow": "concat_tables", "numpy": "concatenate"}.get(package, "concat")
    return getattr(library(package), name)(parts)


def same(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return type(left) is type(right) and bool(left.equals(right))


FUNCTIONS = [
    frame_of_pandas, series_of_pandas, frame_of_polars, series_of_polars, table_of_pyarrow, array_of_numpy,
]  # fmt: skip


@pytest.mark.parametrize("func", FUNCTIONS)
def test_the_laws_hold_and_the_library_would_make_the_same(func: Any) -> None:
    library(func.__name__.rpartition("_")[2])
    check_reducer(Concat(), list(map(func, range(4))), equal=same)
    assert same(aggregate(func, range(30), Concat(), pool=SerialPool(), chunksize=4), concatenated(func, 30))


def test_frames_come_in_input_order_from_worker_processes() -> None:
    with ProcessPool(2, start_method="forkserver") as pool:
        for func in FUNCTIONS:
            result = aggregate(func, range(20), Concat(), pool=pool, chunksize=3)
            assert same(result, concatenated(func, 20)), func


def test_polars_computes_in_workers_that_are_not_forked_from_its_threads() -> None:
    pl = library("polars")

    def total(i: int) -> Any:
        return pl.DataFrame({"k": [0, 1] * 500, "x": range(1000)}).group_by("k").agg(pl.col("x").sum() * i).sort("k")

    result = aggregate(total, range(8), Concat(), pool=ProcessPool(2, start_method="forkserver"))
    assert result["x"].to_list() == [part * i for i in range(8) for part in (249_500, 250_000)]


def test_of_nothing_it_is_none() -> None:
    assert aggregate(frame_of_pandas, [], Concat(), pool=SerialPool()) is None
    assert reduced(Concat().where(lambda array: False), [np.ones(2)]) is None


@pytest.mark.parametrize("bad", [None, [1, 2], "text", 3, np.array(3), np.ma.array([1, 2], mask=[0, 1])], ids=repr)
def test_what_cannot_be_concatenated_is_its_items_error(bad: Any) -> None:
    with pytest.raises(TaskError, match=r"item 1.*requires DataFrames, Series, Tables or arrays"):
        aggregate([np.ones(2), bad].__getitem__, range(2), Concat(), pool=SerialPool())


@pytest.mark.parametrize("reducer", [Concat(), Concat().of(lambda x: x)], ids=repr)
def test_another_kind_than_the_first_is_its_items_error_in_every_run(reducer: Reducer) -> None:
    """A later run with the same reducer may have another kind."""
    library("pandas")
    items = [frame_of_pandas(0), np.ones(2), frame_of_pandas(1), series_of_pandas(2)]
    with pytest.raises(TaskError, match=r"item 1.*an array of numpy after a DataFrame of pandas.*\.of\(f\)"):
        aggregate(items.__getitem__, range(4), reducer, pool=SerialPool())
    with pytest.warns(SkippedItems, match="2 of 4"):
        result = aggregate(items.__getitem__, range(4), reducer, pool=SerialPool(), on_error="skip")
    assert same(result, aggregate(frame_of_pandas, range(2), reducer, pool=SerialPool()))
    assert aggregate(lambda i: np.ones(2), range(3), reducer, pool=SerialPool()).shape == (6,)


def test_different_kinds_of_different_workers_are_an_error_at_the_end() -> None:
    library("pandas")
    with pytest.raises(TypeError, match="an array of numpy after a DataFrame of pandas"):
        reduced(Concat(), [frame_of_pandas(0), np.ones(2)])


def test_it_combines_with_others_and_with_keys() -> None:
    library("pandas")
    members: Any = {"n": Count(), "all": Concat(), "list": Collect()}
    result: Any = aggregate(frame_of_pandas, range(9), members, pool=SerialPool())
    assert result["n"] == len(result["list"]) == 9
    assert same(result["all"], concatenated(frame_of_pandas, 9))
    by = aggregate(frame_of_pandas, range(9), Concat().by(lambda frame: int(frame["i"].iloc[0]) % 2), pool=SerialPool())
    assert {key: len(frame) for key, frame in by.items()} == {0: 10, 1: 8}
