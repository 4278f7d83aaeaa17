"""`imap_unordered` and `snapshots` show what is there so far, and can be left."""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Iterator
from typing import Any

import pytest
from contract import kinds
from tasks import inverse, short, square

from poolagg import Count, Sum, TaskError, aggregate, snapshots


@kinds(ours=True)
def test_imap_unordered_yields_every_result_once(pool: Any) -> None:
    assert sorted(pool.imap_unordered(square, range(300))) == [square(x) for x in range(300)]
    assert list(pool.imap_unordered(square, [])) == []


@kinds(ours=True)
def test_imap_unordered_can_be_left(pool: Any) -> None:
    for result in pool.imap_unordered(short, itertools.count()):
        if result > 5:
            break
    results = pool.imap_unordered(short, itertools.count())
    next(results)
    results.close()
    assert aggregate(square, [3], Sum(), pool=pool) == 9


@kinds(ours=True)
def test_imap_unordered_is_as_slow_as_its_consumer(pool: Any) -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in itertools.count():
            pulled += 1
            yield i

    def item(x: int) -> int:
        time.sleep(0.02)
        return x

    results = pool.imap_unordered(item, source())
    for taken in range(1, 8):
        next(results)
        time.sleep(0.01)
        assert pulled <= taken + 20
    results.close()


@kinds(ours=True)
def test_imap_unordered_raises_what_failed(pool: Any) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(pool.imap_unordered(inverse, [1, 2, 0]))
    assert "poolagg: inverse failed on item 2, 0" in caught.value.__notes__


def test_snapshots_grow_and_the_last_is_final(pool: Any) -> None:
    """Values are live: the input goes on until three are seen, and ends."""
    seen: list[Any] = []
    values: set[int] = set()
    source = itertools.takewhile(lambda _: len(values) < 3, itertools.count())
    for snapshot in snapshots(short, source, Sum(), every=0.02, pool=pool):
        seen.append(snapshot)
        values.add(snapshot.value)
    assert [snapshot.final for snapshot in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].value == sum(range(seen[-1].done))
    assert len(seen) <= seen[-1].elapsed / 0.02 + 2
    assert [s.done for s in seen] == sorted(s.done for s in seen)


def test_snapshots_count_what_is_done_of_how_many(pool: Any) -> None:
    *_, last = snapshots(short, range(300), Sum(), every=0.02, pool=pool)
    assert (last.value, last.done, last.total) == (sum(range(300)), 300, 300)


def test_snapshots_can_be_left_and_are_a_context_manager(pool: Any) -> None:
    with snapshots(short, itertools.count(), Count(), every=0.01, pool=pool) as running:
        for snapshot in running:
            if snapshot.done >= 20:
                break
    for snapshot in snapshots(short, itertools.count(), Count(), every=0.01, pool=pool):
        if snapshot.done >= 20:
            break
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_snapshots_of_a_plain_function_wait_for_the_first_partial(pool: Any) -> None:
    def slow_start(x: int) -> int:
        time.sleep(0.05 * (x == 0))
        return x

    *_, last = snapshots(slow_start, range(10), operator.add, every=0.005, pool=pool)
    assert last.value == 45


def test_snapshots_of_what_only_fails_so_far_wait(pool: Any) -> None:
    def slow(x: int) -> int:
        time.sleep(0.02)
        return 1 // x

    *_, last = snapshots(slow, [0, 0, 1, 1], operator.add, every=0.005, pool=pool, on_error=lambda failed: None)
    assert last.value == 2


def test_snapshots_raise_what_aggregate_raises(pool: Any) -> None:
    with pytest.raises(TaskError):
        list(snapshots(inverse, [1, 0], Sum(), pool=pool))
    with pytest.raises(ValueError, match="every"):
        snapshots(inverse, [1, 0], Sum(), every=0, pool=pool)
