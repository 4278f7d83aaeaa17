"""A run that stopped, however it stopped, is continued by the same call with the result of one that did not."""

from __future__ import annotations

import functools
import operator
import os
import pickle
import warnings
from collections import Counter

import numpy as np
import pytest
from checkpointed import BAD, ITEMS, SERIAL, Fragile, Started, tenth
from hypothesis import given, settings
from hypothesis import strategies as st

from poolagg import (
    ArraySum,
    Bottom,
    Checkpoint,
    CheckpointMismatch,
    Collect,
    Count,
    Fold,
    Frequencies,
    GroupBy,
    Histogram,
    Last,
    Max,
    Mean,
    MergeCounts,
    Min,
    ProcessPool,
    Reduce,
    Reducer,
    Sample,
    SerialPool,
    Std,
    Sum,
    TaskError,
    ThreadPool,
    Top,
    Unique,
    Variance,
    aggregate,
    events,
    snapshots,
)
from poolagg._checkpoint.store import look
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree


def parity(x):
    return x % 2, x


def counts(x):
    return {x % 7: 1}


def array(x):
    return np.full(3, float(x))


def as_list(x):
    return [x]


def same(a, b):
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


FAMILIES = {
    "count": (Count(), None),
    "sum": (Sum(), tenth),
    "mean": (Mean(), tenth),
    "variance": (Variance(), tenth),
    "std": (Std(), tenth),
    "min": (Min(), None),
    "max": (Max(key=str), None),
    "top": (Top(3, key=lambda x: x % 50), None),
    "bottom": (Bottom(3), None),
    "last": (Last(), None),
    "frequencies": (Frequencies().of(lambda x: x % 5), None),
    "merge counts": (MergeCounts(), counts),
    "group by": (GroupBy(Mean()), parity),
    "by": (Sum().by(lambda x: x % 3).where(bool), None),
    "flat": (Frequencies().flat(), str),
    "then": (Collect().then(len), None),
    "collect": (Collect(), None),
    "unique": (Unique(), None),
    "histogram": (Histogram([0, 50, 100, 300]), None),
    "array sum": (ArraySum(), array),
    "sample": (Sample(5, seed=3), None),
    "fold": (Fold(operator.iadd, init=list), as_list),
    "fold with merge": (Fold(operator.iadd, init=list, merge=operator.iadd).then(sorted), as_list),
    "reduce": (Reduce(operator.xor), None),
    "function": (operator.sub, None),
    "tee": ({"n": Count(), "both": (Sum(), Max())}, None),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_that_an_exception_ended_is_continued(name, tmp_path, path):
    """Whatever the reducer: the result is that of a run that was never interrupted, and what is in it is not run."""
    reducer, made = FAMILIES[name]
    func = Fragile(tmp_path, made)
    checkpoint = Checkpoint(path, every=0.0001)
    with pytest.raises(TaskError):
        aggregate(func, range(ITEMS), reducer, pool=SERIAL, chunksize=10, checkpoint=checkpoint)
    func.ran()
    func.mend()
    started = Started()
    result = aggregate(func, range(ITEMS), reducer, pool=SERIAL, chunksize=10, checkpoint=checkpoint, watch=started)
    (begun,) = started.of(events.RunStarted)
    assert 0 < begun.done <= BAD
    assert len(func.ran()) == ITEMS - begun.done
    assert same(result, aggregate(made or int, range(ITEMS), reducer, pool=SERIAL, chunksize=10))


@pytest.mark.parametrize(
    "pool", [SerialPool, lambda: ThreadPool(2), lambda: ProcessPool(2)], ids=["serial", "threads", "process"]
)
@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Partition(4), Tree()], ids=repr)
def test_every_strategy_in_every_pool(strategy, pool, fragile, path):
    """Keeps what was committed, and runs the rest."""
    call = functools.partial(
        aggregate, fragile, range(ITEMS), Frequencies().of(lambda x: x % 7), strategy=strategy, chunksize=5
    )
    with pytest.raises(TaskError):
        call(pool=pool(), checkpoint=Checkpoint(path, every=0.001))
    before = sum(stop - start for start, stop in look(path).facts["covered"])
    fragile.ran()
    fragile.mend()
    result = call(pool=pool(), checkpoint=path)
    assert fragile.ran()
    assert before + len(look(path).facts["covered"]) > 0
    assert result == {k: len(range(k, ITEMS, 7)) for k in range(7)}
    assert look(path).facts["covered"] == [[0, ITEMS]]


def test_states_that_travel_in_parts_are_kept_unopened(path):
    """And merge after a restart, when the hashes of keys are others."""
    parent_fold = Partition(4).parent_fold(Frequencies())
    for start in (0, 50):
        data = {f"k{i}": 1 for i in range(start, start + 100)}
        parent_fold.commit(Partition(4).packed(Frequencies(), data))
    again = Partition(4).parent_fold(Frequencies())
    again.restore(pickle.loads(pickle.dumps(parent_fold.state())))
    assert again.value() == parent_fold.value()
    assert again.value()["k60"] == 2


@pytest.mark.parametrize("strategy", [Combine(), Partition(4)], ids=repr)
def test_a_state_holds_each_key_once_however_often_it_was_flushed(strategy):
    """What came in parts is merged for a commit: else each would write all that workers ever flushed."""
    counts, parent_fold = Counter(map(str, range(30_000))), strategy.parent_fold(Frequencies())
    sizes = []
    for _ in range(5):
        parent_fold.commit(strategy.packed(Frequencies(), counts))
        sizes.append(len(pickle.dumps(parent_fold.state())))
    assert max(sizes) < 1.1 * sizes[0]
    assert parent_fold.value() == dict.fromkeys(counts, 5)


def test_gaps_are_run_and_nothing_else(tmp_path, path):
    """Items out of order are covered out of order: what lies between runs again."""
    func = Fragile(tmp_path, bad=(0, 20))
    started = Started()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aggregate(func, range(50), Sum(), pool=SERIAL, on_error="skip", checkpoint=path)
    assert look(path).facts["covered"] == [[0, 50]]
    func.ran()
    func.mend()
    again = Checkpoint(path, retry_failed=True)
    items = [*range(50), 50, 51]
    with pytest.raises(CheckpointMismatch, match="was a range from 0 by 1 and is items"):
        aggregate(func, items, Sum(), pool=SERIAL, checkpoint=again)
    result = aggregate(func, range(52), Sum(), pool=SERIAL, checkpoint=again, watch=started)
    assert result == sum(range(52))
    assert func.ran() == [0, 20, 50, 51]
    assert started.of(events.RunStarted)[0].done == 48


def test_ctrl_c_commits_what_is_there(path):
    """And the next call goes on from it."""

    def items():
        yield from range(200)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aggregate(tenth, items(), Sum(), pool=SERIAL, strategy=Stream(), chunksize=10, checkpoint=path)
    covered = look(path).facts["covered"]
    assert covered[0][0] == 0
    assert covered[0][1] >= 150
    result = aggregate(tenth, iter(range(300)), Sum(), pool=SERIAL, strategy=Stream(), chunksize=10, checkpoint=path)
    assert result == aggregate(tenth, range(300), Sum(), pool=SERIAL)


class Interrupted(Exception):
    pass


def interrupted_at(items, at):
    """The items, as an input that breaks off before the one at `at`."""
    yield from items[:at]
    if at < len(items):
        raise Interrupted


STRATEGIES = [Stream(), Ordered(), Combine(), Partition(3), Tree()]


@settings(max_examples=60)
@given(st.data())
def test_any_number_of_interruptions_anywhere(tmp_path_factory, data):
    """For any strategy, chunks and failing items: never more than once, never less, and the same bits."""
    path = str(tmp_path_factory.mktemp("any") / "run.ckpt")
    count = data.draw(st.integers(0, 50))
    strategy = data.draw(st.sampled_from(STRATEGIES))
    bad = data.draw(st.frozensets(st.integers(0, 50), max_size=4))
    options = {"strategy": strategy, "chunksize": data.draw(st.sampled_from([None, 1, 3, 10])), "pool": SERIAL}

    def func(x):
        if x in bad:
            raise ValueError(x)
        return x

    reducer = {"n": Frequencies(), "all": Frequencies().of(lambda x: x % 7)}
    reducer = reducer if strategy != Partition(3) else reducer["n"]
    run = functools.partial(aggregate, func, reducer=reducer, on_error=str, **options)
    items = list(range(count))
    for at in data.draw(st.lists(st.integers(0, 50), max_size=4)):
        every = data.draw(st.sampled_from([None, 1e-6]))
        needed = look(path).facts.get("input", {}).get("needed", 0) if os.path.exists(path) else 0
        try:
            run(interrupted_at(items, max(at, needed)), checkpoint=Checkpoint(path, every=every))
        except Interrupted:
            pass
    assert run(iter(items), checkpoint=path) == run(items)
    left = run(iter(items), checkpoint=path)
    assert (left if strategy == Partition(3) else left["n"]) == {i: 1 for i in items if i not in bad}


def test_leaving_snapshots_early_commits(path):
    """What was shown can be continued."""
    with snapshots(tenth, range(100_000), Sum(), every=0.001, pool=SERIAL, checkpoint=path) as looks:
        for snapshot in looks:
            if snapshot.done:
                break
    assert sum(stop - start for start, stop in look(path).facts["covered"]) >= snapshot.done
    assert aggregate(tenth, range(100_000), Sum(), pool=SERIAL, checkpoint=path) == pytest.approx(499995000.0)


class Tearing(Reducer):
    """Sums; step breaks in the middle of item 50, when part of it is in the accumulator."""

    def init(self):
        return [0]

    def step(self, acc, x):
        acc[0] += x
        if x == 50 and "BROKEN" in os.environ:
            raise RuntimeError("in the middle")
        return acc

    def finish(self, acc):
        return acc[0]


def test_nothing_is_committed_after_a_fold_that_broke_midway(path, monkeypatch):
    """The last commit stands, and is whole."""
    call = functools.partial(
        aggregate, int, range(100), Tearing(), pool=SERIAL, chunksize=10, checkpoint=Checkpoint(path, every=1e-6)
    )
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(RuntimeError):
        call()
    before = look(path)
    assert pickle.loads(before.state)[0] == sum(range(before.facts["covered"][0][1]))
    monkeypatch.delenv("BROKEN")
    assert call() == sum(range(100))
