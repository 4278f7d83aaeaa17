"""Threads that switch at any moment, as they do without a GIL."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from poolagg import Collect, Sum, ThreadPool, aggregate
from poolagg.pools.process import progress_cell


@pytest.fixture
def restless() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("free_threaded", [False, True])
def test_every_item_is_counted_once_however_threads_switch(
    free_threaded: bool, restless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads divide each other's chunks meanwhile; without a GIL they take a lock for each item of these."""
    monkeypatch.setattr(progress_cell, "FREE_THREADED", free_threaded)
    ran: list[int] = []
    divided: list[int | None] = []
    ask = progress_cell.Sharing.ask
    monkeypatch.setattr(progress_cell.Sharing, "ask", lambda *of: divided.append(ask(*of)) or divided[-1])

    def item(x: int) -> int:
        ran.append(x)
        if x % 100 == 7:
            time.sleep(0.005)
        return x

    with ThreadPool(4) as pool:
        for _ in range(10):
            ran.clear()
            assert aggregate(item, range(600), Collect(), pool=pool) == list(range(600))
            assert sorted(ran) == list(range(600))
            assert aggregate(abs, range(3000), Sum(), pool=pool) == sum(range(3000))
    assert any(divided), "no chunk was divided"
