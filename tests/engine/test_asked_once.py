"""No input is asked for another item after it has ended or raised: one over a queue would wait for ever."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tasks import identity

from poolagg import Collect, ProcessPool, SerialPool, Sum, ThreadPool, aggregate, prefetch, snapshots
from poolagg._input.numbers import PIECE
from poolagg._input.source import Source
from poolagg.pools.serialization.pickling import encode_by_value


class Once:
    """An iterator that must not be asked again once it has ended, or raised `error`."""

    def __init__(self, items: Iterable[Any], error: Exception | None = None) -> None:
        self._items = iter(items)
        self._error = error
        self.ended = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        assert not self.ended, "asked again after the end"
        try:
            return next(self._items)
        except StopIteration:
            self.ended += 1
            if self._error is not None:
                raise self._error from None
            raise


KINDS: list[Any] = [1, 2.5, True, None, 3j, "text", b"bytes", (1, 2), [4]]

mixed = st.lists(st.sampled_from(KINDS), max_size=300)
alike = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 14).flatmap(lambda power: st.integers(max(0, 2**power - 2), 2**power + 2)),
).map(lambda pair: [pair[0]] * pair[1])


@given(st.one_of(mixed, alike, st.tuples(alike, mixed).map(lambda two: two[0] + two[1])), st.data())
@example([1] * PIECE, None)
@example([1] * 64 + [2.5] * 64 + [True] * 64, None)
def test_a_source_asks_for_nothing_after_the_end(items: list[Any], data: Any) -> None:
    """Whatever its items are, in however many pulls it is asked for however many, in both forms."""
    for encode in (None, encode_by_value):
        once = Once(items)
        source, got, clock = Source(once, encode), 0, itertools.count()
        while not source.ended:
            count = 1000 if data is None else data.draw(st.integers(1, 10_000))
            until = 10**9 if data is None else data.draw(st.sampled_from([0, 3, 10**9]))
            source.pull(source.in_hand + count, 1 << 30, lambda: next(clock), until)
            if source.in_hand and (data is None or data.draw(st.booleans())):
                sealed = source.in_hand
                source.seal(sealed)
                got += sealed
        assert got + source.in_hand == len(items)
        assert once.ended == 1


RUNS: dict[str, Callable[[Any], Any]] = {
    "serial": lambda items: aggregate(identity, items, Collect(), pool=SerialPool()),
    "threads": lambda items: aggregate(identity, items, Collect(), pool=ThreadPool(2)),
    "executor": lambda items: run_in_executor(items),
    "imap_unordered": lambda items: sorted(ThreadPool(2).imap_unordered(identity, items)),
    "snapshots": lambda items: list(snapshots(identity, items, Collect(), every=0.001, pool=SerialPool()))[-1].value,
    "prefetch": lambda items: aggregate(identity, prefetch(items, 3), Collect(), pool=SerialPool()),
    "map": lambda items: aggregate(identity, map(identity, items), Collect(), pool=SerialPool()),
    "reproducible": lambda items: aggregate(identity, items, Collect(), pool=SerialPool(), reproducible=True),
    "ordered": lambda items: aggregate(lambda x: [x], items, lambda a, b: a + b, pool=SerialPool()),
    "total": lambda items: aggregate(identity, items, Collect(), pool=SerialPool(), total=1000),
}


def run_in_executor(items: Any) -> Any:
    with ThreadPoolExecutor(2) as executor:
        return aggregate(identity, items, Collect(), pool=executor)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("count", [1, 7, 64, 1000])
def test_no_run_asks_for_an_item_after_the_end(run: Callable[[Any], Any], count: int) -> None:
    once = Once(range(count))
    assert run(once) == list(range(count))
    assert once.ended == 1


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_run_asks_for_an_item_after_the_input_raised(run: Callable[[Any], Any]) -> None:
    once = Once(range(100), LookupError("midway"))
    with pytest.raises(LookupError, match="midway"):
        run(once)
    assert once.ended == 1


def test_worker_processes_are_fed_without_asking_again() -> None:
    with ProcessPool(2) as pool:
        for items in ([1] * 200, [1.5] * 100 + [2] * 100, list("abc"), [(1, 2)] * 50):
            once = Once(items)
            assert aggregate(identity, once, Collect(), pool=pool) == items
            assert once.ended == 1


@pytest.mark.parametrize("count", [0, 5, 100])
def test_a_continued_run_asks_for_nothing_after_the_end(tmp_path: Path, count: int) -> None:
    """Also where the input ends among the items that the checkpoint has already."""
    path = tmp_path / "run.ckpt"
    for _ in range(2):
        once = Once(range(count))
        assert aggregate(identity, once, Sum(), pool=SerialPool(), checkpoint=path) == sum(range(count))
        assert once.ended <= 1
