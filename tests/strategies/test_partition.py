"""Millions of keys: workers send states in parts and merge a part each, and the result is that of a plain loop."""

from __future__ import annotations

import itertools
import operator
import os
import pickle
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import poolagg.strategies.combine as combine
import poolagg.strategies.keyed as keyed
from poolagg import (
    Count,
    Fold,
    Frequencies,
    GroupBy,
    MergeCounts,
    ProcessPool,
    SerialPool,
    Sum,
    ThreadPool,
    Unique,
    aggregate,
    events,
    snapshots,
)
from poolagg.errors import ReducerError
from poolagg.reducers import reduced
from poolagg.strategies import Combine, Partition, Stream
from poolagg.strategies.keyed import Divided, compact, divided, opened

keys = st.one_of(
    st.text(max_size=3), st.integers(), st.booleans(), st.floats(allow_nan=False), st.none(), st.binary(max_size=2),
    st.tuples(st.integers(0, 3), st.text(max_size=1)),
)  # fmt: skip
counters = st.dictionaries(keys, st.integers(), max_size=20).map(Counter)


def packed(strategy, reducer, data):
    """As the parent is given it."""
    return pickle.loads(pickle.dumps(strategy.packed(reducer, data), 5))


def typed(entries):
    """Return the features that a comparison of dicts ignores."""
    return [(type(key), key, type(value), value) for key, value in entries.items()]


# -- the pure part -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(counters, st.booleans()), max_size=5), st.integers(1, 5), st.randoms(), st.integers(0, 5))
def test_parts_come_to_what_merging_comes_to(states, n, random, lost):
    """In parts or whole, in any order of merged parts, and if some never return."""
    reducer, strategy = MergeCounts(), Partition(n)
    parent_fold, expected = strategy.parent_fold(reducer), Counter()
    for state, whole in states:
        for key, count in state.items():
            expected[key] += count
        parent_fold.commit(Counter(state) if whole else packed(strategy, reducer, state))
    if final_stage := strategy.final_stage(parent_fold):
        results = [final_stage.func(item) for item in pickle.loads(pickle.dumps(final_stage.items))]
        random.shuffle(results)
        for result in results[lost:]:
            final_stage.take(result)
    assert parent_fold.value() == expected == parent_fold.value(last=True)


@given(counters, st.integers(1, 5))
def test_a_snapshot_in_between_changes_nothing(state, n):
    """Neither of what is there, nor of what is still to come."""
    reducer, strategy = MergeCounts(), Partition(n)
    parent_fold = strategy.parent_fold(reducer)
    for times in (1, 2, 3):
        parent_fold.commit(packed(strategy, reducer, state))
        assert parent_fold.value() == {key: times * count for key, count in state.items()}


@given(
    st.lists(st.tuples(st.lists(counters, min_size=1, max_size=3), st.booleans()), max_size=12),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2000)),
    st.sampled_from([Combine(), Partition(3)]),
    st.booleans(),
)
def test_a_worker_that_keeps_runs_flushes_the_same_as_one_dict(batches, sizes, strategy, travels):
    """However small runs are, whenever they are merged and flushed, whether workers are threads or processes."""
    reducer, expected = MergeCounts(), Counter()
    parent_fold, worker_fold = strategy.parent_fold(reducer), strategy.worker_fold(reducer, None)
    with pytest.MonkeyPatch.context() as patch:
        for module, name, size in zip((combine, combine, keyed), ("ADDED_TO", "RUN", "WAITING"), sizes, strict=True):
            patch.setattr(module, name, size)
        at = 0
        for batch, flush in [*batches, ([Counter()], True)]:
            for state in batch:
                MergeCounts().merge(expected, state)
            worker_fold.add(at, batch)
            at += len(batch)
            for covers, data, *_ in worker_fold.payloads() if flush else ():
                assert covers[-1][1] == at
                parent_fold.commit(packed(strategy, reducer, data) if travels else data)
    assert parent_fold.value() == expected


class Unmergeable(MergeCounts):
    """It has a merge, which fails."""

    def merge(self, acc: Any, other: Any) -> Any:
        raise ArithmeticError("no merge")


def test_a_merge_that_fails_as_a_worker_flushes_is_the_reducers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is anywhere else: runs are merged when the last of them comes, which is larger than the first."""
    for module, name, size in ((combine, "ADDED_TO", 1), (combine, "RUN", 50), (keyed, "WAITING", 0)):
        monkeypatch.setattr(module, name, size)
    with pytest.raises(ReducerError, match="as it flushed its state: ArithmeticError: no merge"):
        aggregate(
            lambda i: {(i, k): 1 for k in range(2 + 40 * i)}, range(2), Unmergeable(), pool=SerialPool(), chunksize=2
        )


class Local:
    """It does not pickle."""

    def __reduce__(self) -> Any:
        raise TypeError("not here")


def test_keys_that_do_not_pickle_can_be_counted_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(combine, "ADDED_TO", 10)
    monkeypatch.setattr(combine, "RUN", 10)
    things = [Local() for _ in range(100)]
    result = aggregate(lambda i: things[i % 100], range(500), Frequencies(), pool=ThreadPool(2))
    assert result == dict.fromkeys(things, 5)


def test_equal_keys_are_in_one_part():
    """1, True, 1.0 and numpy's 1 are one key."""
    for key in (1, True, 1.0, np.int64(1), np.float32(1)):
        (place,) = [i for i, part in enumerate(divided({key: 1}, 7).packed) if len(opened(part))]
        assert place == hash(1) % 7


@given(st.dictionaries(keys, st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.text())))
def test_a_dict_in_compact_form_comes_out_as_it_was(entries):
    """With its type, its order, and the types of keys and values: True does not become 1, nor a string with a zero in
    it two strings."""
    for kind in (dict, Counter):
        out = pickle.loads(pickle.dumps(compact(kind(entries)), 5))
        assert type(out) is kind
        assert [(type(k), k, type(v), v) for k, v in out.items()] == [
            (type(k), k, type(v), v) for k, v in entries.items()
        ]


def test_workers_that_disagree_about_hashes_cost_time_and_no_key():
    """As under spawn with `python -E`: then parts overlap, and the parent merges them after all."""
    strategy, reducer = Partition(2), MergeCounts()
    parent_fold = strategy.parent_fold(reducer)
    for flip in (0, 1):
        parts = divided(Counter("aabbcd"), 2)
        if flip:
            parts.packed.reverse()
        parent_fold.commit(Divided([parts]))
    final_stage = strategy.final_stage(parent_fold)
    for item in final_stage.items:
        final_stage.take(final_stage.func(item))
    assert parent_fold.value(last=True) == {key: 2 * count for key, count in Counter("aabbcd").items()}


def test_what_has_no_keys_can_not_be_partitioned():
    """Said at the call, before a worker starts."""
    for reducer in (Sum(), Unique(), (Frequencies(), Count()), Fold(operator.or_, init=dict, merge=operator.or_)):
        with pytest.raises(ValueError, match="no keys"):
            aggregate(abs, [1], reducer, strategy=Partition())
    with pytest.raises(ValueError, match="int of 1 or more"):
        Partition(0)
    assert repr(Partition(8)) == "Partition(8)"
    assert Partition(8) != Partition(9)


# -- with workers ------------------------------------------------------------------------------------------------------


def letters(i: int) -> list[str]:
    """Many distinct keys, and some that all have."""
    return [f"{i}-{k}" for k in range(1000)] + ["all", str(i % 7)]


@pytest.fixture
def pool(method: str) -> Any:
    with ProcessPool(2, start_method=method) as pool:
        yield pool


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred keys count as large, in workers that are forked."""
    monkeypatch.setattr(combine, "ADDED_TO", 1500)
    monkeypatch.setattr(combine, "RUN", 100)
    monkeypatch.setattr(keyed, "WAITING", 20_000)
    monkeypatch.setattr(combine, "LARGE", 100)
    monkeypatch.setattr(combine, "MANY", 200)


def final_merge(seen: list[Any]) -> bool:
    return any(isinstance(event, events.FinalMergeStarted) for event in seen)


def test_a_hundred_thousand_keys_are_merged_by_workers_unasked(pool: Any) -> None:
    """And an event says so, and why."""
    seen: list[Any] = []
    # One chunk a worker holds them all: what was flushed before was small.
    result = aggregate(letters, range(400), Frequencies().flat(), pool=pool, chunksize=150, watch=seen.append)
    assert result == Counter(itertools.chain.from_iterable(map(letters, range(400))))
    (event,) = [event for event in seen if isinstance(event, events.FinalMergeStarted)]
    assert "keys" in event.why


def test_every_keyed_reducer_can_be_partitioned(pool: Any) -> None:
    """With nested groups, placed reducers and derived forms."""
    cases = [
        (letters, Frequencies().flat()),
        (lambda i: Counter(letters(i)), MergeCounts()),
        (lambda i: (i % 11, i), GroupBy(Sum())),
        (lambda i: i, Sum().by(lambda i: i % 11).where(lambda i: i % 2).then(sorted)),
        (lambda i: i, {"deep": Count()}),
        (lambda i: (i % 3, (i % 5, i)), GroupBy(GroupBy(Sum()))),
    ]
    for func, reducer in cases:
        strategy = Partition(4) if getattr(reducer, "keyed", False) else None
        expected = aggregate(func, range(60), reducer, pool=None, strategy=Stream(), workers=1)
        assert aggregate(func, range(60), reducer, pool=pool, strategy=strategy) == expected


def test_snapshots_of_a_partitioned_run(pool: Any) -> None:
    """Each is a result of what is done so far; the last is the result."""
    looks = list(snapshots(letters, range(100), Frequencies().flat(), every=0.01, pool=pool, strategy=Partition(4)))
    assert all(look.value["all"] == look.done for look in looks)
    assert looks[-1].value == Counter(itertools.chain.from_iterable(map(letters, range(100))))


class Dying(MergeCounts):
    """Merging kills the worker it happens in: so many times."""

    def __init__(self, folder: str, parent: int, times: int) -> None:
        self.folder, self.parent, self.times = folder, parent, times

    def merge(self, acc: Any, other: Any) -> Any:
        deaths = len(os.listdir(self.folder))
        if os.getpid() != self.parent and deaths < self.times:
            (Path(self.folder) / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().merge(acc, other)


@pytest.mark.parametrize("times", [1, 2, 1000], ids=["once", "twice", "always"])
def test_a_worker_killed_while_it_merges_loses_nothing(pool: Any, tmp_path: Path, times: int) -> None:
    """Its part is merged by another; if they all die of it, by the parent."""
    reducer = Dying(str(tmp_path), os.getpid(), times)
    few = lambda i: Counter(letters(i)[-5:])
    strategy = Partition(3)
    result = aggregate(few, range(40), reducer, pool=pool, strategy=strategy, chunksize=20, retries=2)
    assert result == reduced(MergeCounts(), map(few, range(40)))
    assert len(os.listdir(tmp_path)) >= 1


def test_a_pool_for_one_call_is_closed_after_the_merging_too() -> None:
    """The fixture that watches for processes left behind sees to it."""
    result = aggregate(letters, range(10), Frequencies().flat(), workers=2, strategy=Partition(2))
    assert result == Counter(itertools.chain.from_iterable(map(letters, range(10))))


def test_the_default_is_right_on_either_side_of_large(few_are_many: None) -> None:
    """Small states are merged as they come, large ones in the end."""
    for n in (1, 3, 50):
        with ProcessPool(2, start_method="fork") as pool:
            seen: list[Any] = []
            result = aggregate(letters, range(n), Frequencies().flat(), pool=pool, watch=seen.append)
        assert result == Counter(itertools.chain.from_iterable(map(letters, range(n))))
        assert final_merge(seen) == (n > 1)
