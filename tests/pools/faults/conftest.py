"""Real faults, with every start method: a pool that must be as good as new after each test.

Nothing here is simulated. A run ends with its exact result or with an error that names what happened; it never hangs.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from tasks import METHODS, square

from poolagg import ProcessPool, Sum, aggregate
from poolagg.pools.process import arena
from poolagg.pools.process.arena import BorrowedSegments, Region


@pytest.fixture(params=[*METHODS, *(["slots"] if hasattr(os, "memfd_create") else [])])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessPool]:
    """A kept pool of two workers, which must be as good as new after whatever the test did to it.

    "slots": of the default start method, and whatever its workers flush, however small, lies in their arenas.
    """
    slots = request.param == "slots"
    opened: list[Region] = []
    lent = BorrowedSegments.open
    if slots:
        monkeypatch.setattr(arena, "LEAST_BUFFER", 1)
        monkeypatch.setattr(
            BorrowedSegments,
            "open",
            lambda borrowed_segments, region: opened.append(region) or lent(borrowed_segments, region),
        )
    method, initializer = (METHODS[0], ship_in_slots()) if slots else (request.param, None)
    with ProcessPool(2, start_method=method, initializer=initializer) as pool:
        yield pool
        opened.clear()
        assert aggregate(square, range(100), Sum(), pool=pool) == sum(map(square, range(100)))
        assert bool(opened) == slots


def ship_in_slots() -> Any:
    """An initializer after which everything that a worker flushes is a large buffer."""

    class AsBuffer:
        def __init__(self, data: Any) -> None:
            self.data = data

        def __reduce_ex__(self, protocol: Any) -> Any:
            from poolagg.pools.serialization.pickling import dumps

            return pickle.loads, (pickle.PickleBuffer(dumps(self.data)),)

    def initializer() -> None:
        from poolagg.pools.serialization import outbox, wire

        proved = wire.dumps_proved
        in_slots = lambda value, out_of_band=None, *rest: proved(
            value if out_of_band is None else AsBuffer(value), out_of_band, *rest
        )
        outbox.dumps_proved = wire.dumps_proved = in_slots

    return initializer
