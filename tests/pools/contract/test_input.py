"""Whatever runs the chunks, the input is pulled on the caller's thread, once, and not far ahead."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from contract import Kind, kinds
from tasks import identity, square

from poolagg import Collect, Into, Sum, TaskError, aggregate


def test_the_input_is_pulled_on_the_callers_thread_and_not_far_ahead(pool: Any, kind: Kind) -> None:
    pulled = applied = furthest = 0
    threads = set()

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in range(400):
            threads.add(threading.get_ident())
            pulled += 1
            yield i

    def slow(partial: int) -> None:
        nonlocal applied, furthest
        furthest = max(furthest, pulled - applied)
        applied += 1
        time.sleep(0.0005)

    for ordered in (False, True):
        pulled = applied = furthest = 0
        aggregate(identity, source(), Into(slow, ordered=ordered), pool=pool, chunksize=5)
        assert applied == 400
        # Two chunks in each worker, one in hand, one being merged; in order, a window of eight a worker.
        slots = kind.slots if kind.ours else 2 * kind.slots
        assert furthest <= 5 * (8 * slots + 2 if ordered else 2 * slots + 2)
    assert threads == {threading.get_ident()}


def test_nothing_is_pulled_after_a_failure(pool: Any) -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in itertools.count():
            pulled += 1
            yield i

    with pytest.raises(TaskError):
        aggregate(lambda x: 1 / (3 - x), source(), Sum(), pool=pool, chunksize=1)
    before = pulled
    time.sleep(0.01)
    assert pulled == before


@kinds(pickles=True)
def test_a_generator_may_reuse_its_buffer(pool: Any) -> None:
    def source() -> Iterator[Any]:
        buffer, items, array = bytearray(1), [0], np.zeros(1)
        for i in range(200):
            buffer[0] = items[0] = array[0] = i
            yield (buffer, items, array)

    def total(item: Any) -> int:
        return int(item[0][0] + item[1][0] + item[2][0])

    assert aggregate(total, source(), Collect(), pool=pool) == [3 * i for i in range(200)]


def test_what_the_input_raises_propagates_with_a_note_and_the_pool_lives_on(pool: Any) -> None:
    def source() -> Iterator[int]:
        yield from range(25)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        aggregate(square, source(), Sum(), pool=pool)
    assert "item 25" in caught.value.__notes__[0]
    assert aggregate(square, range(10), Sum(), pool=pool) == 285


def test_iter_is_called_once_on_the_input(kind: Kind) -> None:
    class Source:
        calls = 0

        def __iter__(self) -> Iterator[int]:
            self.calls += 1
            return iter(range(5))

    source = Source()
    assert aggregate(identity, source, Sum(), pool=kind.make()) == 10
    assert source.calls == 1
