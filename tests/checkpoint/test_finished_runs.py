"""A finished run answers from its checkpoint, and may grow with its input."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
from checkpointed import BAD, SERIAL, Fragile, Idle, tenth

from poolagg import (
    AllTrue,
    AnyTrue,
    Checkpoint,
    CheckpointMismatch,
    First,
    Mean,
    Reducer,
    Sum,
    TaskError,
    ThreadPool,
    aggregate,
)
from poolagg._checkpoint.input_digest import ALONE, SHARED
from poolagg.strategies import Combine, Ordered, Stream, Tree


@pytest.mark.parametrize("items", [range(5000), list(range(5000)), np.arange(5000)], ids=["range", "list", "array"])
def test_a_finished_run_answers_at_once(items, path):
    """No worker is started, nothing is written."""
    call = functools.partial(aggregate, tenth, items, Mean(), checkpoint=path)
    result = call(pool=SERIAL)
    before = Path(path).read_bytes()
    assert call(pool=Idle()) == result
    assert Path(path).read_bytes() == before


SEVERAL = {"first": First().where(lambda x: x > 70), "any": (AnyTrue().where(lambda x: x > 9), AllTrue().of(bool))}


@pytest.mark.parametrize("strategy", [None, Stream(), Ordered(), Combine(), Tree()], ids=repr)
@pytest.mark.parametrize(
    ("reducer", "expected"),
    [(First(), 2.0), (SEVERAL, {"first": 70.1, "any": (True, False)})],
    ids=["the first item", "several"],
)
def test_a_run_that_ended_early_answers_at_once(path, strategy, reducer, expected):
    """It needs no worker the second time, and no more items than were covered, of an endless input."""
    items = lambda: itertools.chain(range(20, 800), [0], itertools.count(801))
    for pool in (ThreadPool(2), Idle()):
        assert aggregate(tenth, items(), reducer, pool=pool, strategy=strategy, checkpoint=path) == expected


@pytest.mark.parametrize(
    "options", [{}, {"reproducible": True}, {"strategy": Stream()}, {"strategy": Ordered()}], ids=str
)
def test_a_run_that_was_interrupted_before_its_early_end_continues_to_it(options, path, fragile):
    """The items of both runs together are those of a plain loop."""
    reducer = First().where(lambda x: x > BAD + 20)
    call = functools.partial(aggregate, fragile, reducer=reducer, checkpoint=path, chunksize=4, **options)
    with pytest.raises(TaskError):
        call(itertools.count(), pool=SERIAL)
    covered = len(fragile.ran())
    fragile.mend()
    assert call(itertools.count(), pool=SERIAL) == BAD + 21
    assert covered > BAD - 10
    assert min(fragile.ran()) > BAD - 10


class Any50(Reducer):
    """Whether an item was 50; it knows as soon as there was one."""

    def init(self):
        return False

    def step(self, acc, x):
        return acc or x == 50

    def merge(self, acc, other):
        return acc or other

    def done(self, acc, settled):
        return acc


def test_a_run_that_ended_early_may_have_left_gaps(tmp_path, path):
    """It answers at once all the same; unless the input is another."""
    func = Fragile(tmp_path, bad=(1,))
    again = Checkpoint(path, retry_failed=True)
    call = functools.partial(aggregate, func, reducer=Any50(), on_error=str)
    items = list(range(1000))
    assert call(iterable=items, pool=SERIAL, checkpoint=path) is True
    assert call(iterable=items, pool=Idle(), checkpoint=again) is True
    with pytest.raises(CheckpointMismatch, match="item 1 is not"):
        call(iterable=[0, 2, *items[2:]], pool=Idle(), checkpoint=again)


@pytest.mark.parametrize("items", [[], range(0), iter(())])
def test_a_run_of_nothing(items, path):
    """Has a result, and may grow."""
    assert aggregate(abs, items, Sum(), pool=SERIAL, checkpoint=path) == 0
    if not isinstance(items, type(iter(()))):
        assert aggregate(abs, type(items)([3]) if items == [] else range(4), Sum(), pool=SERIAL, checkpoint=path) > 0


def test_an_input_that_has_grown_at_its_end_is_continued(path, fragile):
    """Only what is new is run."""
    fragile.mend()
    items = [f"item {i}" for i in range(ALONE + 2 * SHARED)]
    call = functools.partial(aggregate, len, reducer=Sum(), checkpoint=path)
    call(items[: ALONE + SHARED + 70], pool=SERIAL)
    assert call(items, pool=SERIAL) == sum(map(len, items))


def test_with_leaves_an_input_may_grow_only_by_leaves(path):
    """A last leaf that was folded cannot be opened again."""
    call = functools.partial(
        aggregate, tenth, reducer=Sum(), reproducible=True, chunksize=10, pool=SERIAL, checkpoint=path
    )
    call(range(20))
    assert call(range(25)) == sum(range(25)) / 10
    assert call(range(25)) == sum(range(25)) / 10
    with pytest.raises(CheckpointMismatch, match="has grown: it ended with item 24"):
        call(range(26))
