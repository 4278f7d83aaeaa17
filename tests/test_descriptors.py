"""What an item does to its process costs that item alone: it is named, and no neighbour is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import mischief
import pytest
from mischief import Mischief
from tasks import METHODS, square

from poolagg import Collect, ProcessPool, Sum, TaskError, WorkerLost, aggregate, events
from poolagg.pools import _channel
from poolagg.strategies import Combine, Ordered, Stream, Tree

STRATEGIES = [Stream(), Ordered(), Combine(), Tree()]
Deed = tuple[Callable[..., None], tuple[Any, ...]]

GARBAGE = [b"x", b"\x00" * 7, bytes(range(256)) * 9]
FRAMES = [mischief.frame(getattr(_channel, "MAGIC", b""), length) for length in (0, 100, 10**6, 10**12, 2**64 - 1)]

TABLE: dict[str, list[Deed]] = {
    "closes": [(mischief.close_range, ()), *((mischief.close, (n,)) for n in range(3))],
    "closes shared memory": [(mischief.close, (n,)) for n in (3, 4)],
    **{
        f"replaces by {make.__name__[1:]}": [(mischief.replace, (make, n)) for n in range(5)] for make in mischief.FILES
    },
    "shuts down": [(mischief.shutdown, (how,)) for how in mischief.SHUTDOWNS],
    "writes garbage": [(mischief.write, (text,)) for text in GARBAGE],
    "writes frames": [(mischief.write, (text,)) for text in FRAMES],
    "dies": list(mischief.DEATHS),
}  # fmt: skip
"""What damages its worker, whatever else the worker does."""

HARMLESS: list[Deed] = [(mischief.exhaust, ()), (mischief.read, ()), (mischief.forget_all_signals, ())]
"""What may damage it, and may not."""


def spread(deeds: list[Deed]) -> Mischief:
    """Each at an item of its own, with some in between: 9, 22, 35..."""
    return Mischief({9 + 13 * n: deed for n, deed in enumerate(deeds)})


CUTS = [(strategy, retries) for strategy in STRATEGIES for retries in (0, None)]


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("method", METHODS)
def test_who_damages_its_worker_is_named_and_no_neighbour_is_lost(method: str, kind: str) -> None:
    func = spread(TABLE[kind])
    n = max(func.at) + 10
    cuts = CUTS if method != "spawn" else [CUTS[len(kind) % 8]]
    with ProcessPool(2, start_method=method) as pool:
        for strategy, retries in cuts:
            failed: list[events.ItemFailed] = []
            result = aggregate(
                func, range(n), Collect(), pool=pool, strategy=strategy, retries=retries, on_error=failed.append
            )
            assert sorted(event.index for event in failed) == sorted(func.at), (strategy, retries)
            assert result == [x for x in range(n) if x not in func.at], (strategy, retries)
            assert all(isinstance(event.error, WorkerLost) for event in failed)
        assert aggregate(square, range(50), Sum(), pool=pool) == sum(map(square, range(50)))
