"""An item that damages its process costs that item alone: it is named, and no neighbour is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import mischief
import pytest
from mischief import FILES, Mischief
from tasks import METHODS, square

from poolagg import Collect, ProcessPool, Sum, WorkerLost, aggregate, events
from poolagg.pools.process import channel
from poolagg.strategies import Combine, Ordered, Stream, Tree

STRATEGIES = [Stream(), Ordered(), Combine(), Tree()]
Deed = tuple[Callable[..., None], tuple[Any, ...]]

GARBAGE = [b"x", b"\x00" * 7, bytes(range(256)) * 9]
FRAMES = [mischief.frame(getattr(channel, "MAGIC", b""), length) for length in (0, 100, 10**6, 10**12, 2**64 - 1)]

TABLE: dict[str, list[Deed]] = {
    "closes": [(mischief.close_range, ()), *((mischief.close, (n,)) for n in range(5))],
    "replaces": [(mischief.replace, (FILES[n % 4], n)) for n in range(5)],
    "shuts down": [(mischief.shutdown, (how,)) for how in mischief.SHUTDOWNS],
    "writes garbage": [(mischief.write, (text,)) for text in GARBAGE],
    "writes frames": [(mischief.write, (text,)) for text in FRAMES],
    "dies": list(mischief.DEATHS),
}
"""Functions that damage their worker in any case."""

HARMLESS: list[Deed] = [(mischief.exhaust, ()), (mischief.block_signals, ())]
"""Functions that a worker survives."""

CUTS = [
    *[(Stream(), 0), (Ordered(), None), (Combine(), 0), (Tree(), None)],
    *[(Stream(), None), (Ordered(), 0), (Combine(), None), (Tree(), 0)],
]


def deeds(kind: str, method: str) -> list[Deed]:
    """Those of the table; a worker with portable primitives has no fifth descriptor, that of claims."""
    return [deed for deed in TABLE[kind] if method != "portable" or deed[1][-1:] != (4,)]


def spread(deeds: list[Deed]) -> Mischief:
    """Each at an item of its own, with some in between: 9, 16, 23..."""
    return Mischief({9 + 7 * n: deed for n, deed in enumerate(deeds)})


def cuts(method: str, kind: str) -> list[tuple[Any, int | None]]:
    """All strategies, each with or without retries; fewer where workers start slowly, or in the same way."""
    at = 4 * (list(TABLE).index(kind) % 2)
    if method == "forkserver":
        return CUTS[at : at + 4]
    return CUTS[4 - at : 8 - at : 2] if method == "fork" else [CUTS[len(kind) % 8]]


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("method", METHODS)
def test_an_item_that_damages_its_worker_is_named_and_no_neighbour_is_lost(method: str, kind: str) -> None:
    func = spread(deeds(kind, method))
    n = max(func.at) + 10
    with ProcessPool(2, start_method=method) as pool:
        for strategy, retries in cuts(method, kind):
            failed: list[events.ItemFailed] = []
            result = aggregate(
                func, range(n), Collect(), pool=pool, strategy=strategy, retries=retries, on_error=failed.append
            )
            assert sorted(event.index for event in failed) == sorted(func.at), (strategy, retries)
            assert result == [x for x in range(n) if x not in func.at], (strategy, retries)
            assert all(isinstance(event.error, WorkerLost) for event in failed)
        assert aggregate(square, range(50), Sum(), pool=pool) == sum(map(square, range(50)))


FIRST_AND_LAST = [(kind, n) for kind in TABLE for n in (0, -1)]


@pytest.mark.parametrize(
    ("kind", "number", "strategy"),
    [(*deed, [Stream(), Combine(), Tree()][n % 3]) for n, deed in enumerate(FIRST_AND_LAST)],
    ids=str,
)
def test_an_item_that_damages_its_worker_is_named_in_the_error(kind: str, number: int, strategy: Any) -> None:
    """Without `skip` the error carries its index, also in a chunk of many items.

    Each deed by one strategy in turn: whichever it was, the scheduler is told of a death alone. The test above has
    deeds by all.
    """
    func = Mischief({33: TABLE[kind][number]})
    with pytest.raises(WorkerLost) as caught:
        aggregate(func, range(100), Sum(), pool=ProcessPool(2), strategy=strategy, chunksize=50)
    assert (caught.value.index, caught.value.item) == (33, 33)


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_an_item_that_uses_up_descriptors_or_blocks_signals_costs_nothing(strategy: Any) -> None:
    func = spread(HARMLESS)
    assert aggregate(func, range(60), Collect(), pool=ProcessPool(2), strategy=strategy) == list(range(60))


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
@pytest.mark.parametrize("retries", [0, None])
def test_an_item_that_reads_from_all_descriptors_hangs_nothing(strategy: Any, retries: int | None) -> None:
    """It reads the instructions that wait in the pipe, or their claims: the others still run, each once."""
    func = Mischief(dict.fromkeys((10, 40, 41, 90), (mischief.read, ())))
    failed: list[events.ItemFailed] = []
    with ProcessPool(2) as pool:
        for chunksize in (None, 1, 4):
            failed.clear()
            result = aggregate(
                func, range(120), Collect(),
                pool=pool, strategy=strategy, retries=retries, on_error=failed.append, chunksize=chunksize,
            )  # fmt: skip
            assert {event.index for event in failed} <= set(func.at)
            assert result == [x for x in range(120) if x not in {event.index for event in failed}]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_an_item_that_reads_claims_alone_costs_no_neighbour(strategy: Any) -> None:
    """Its worker misses a chunk and finds the next one; whatever it finishes then is out of order, and runs again."""
    func = Mischief(dict.fromkeys(range(5, 120, 10), (mischief.read, ("pipe:",))))
    with ProcessPool(2) as pool:
        for _ in range(8):  # about one run in three comes to that
            failed: list[events.ItemFailed] = []
            result = aggregate(
                func, range(120), Collect(),
                pool=pool, strategy=strategy, retries=0, on_error=failed.append, chunksize=4,
            )  # fmt: skip
            assert {event.index for event in failed} <= set(func.at)
            assert result == [x for x in range(120) if x not in {event.index for event in failed}]


def test_what_an_item_writes_to_all_descriptors_is_in_no_result_of_others() -> None:
    """Large results lie in memory that worker and parent share, where an item could write over them."""

    writes = Mischief({20: (mischief.write, (b"garbage" * 100_000,))})

    def func(x: int) -> bytes:
        return bytes([writes(x)]) * 200_000

    failed: list[events.ItemFailed] = []
    result = aggregate(func, range(40), Collect(), pool=ProcessPool(2), on_error=failed.append, retries=0)
    assert result == [bytes([x]) * 200_000 for x in range(40) if x != 20]
    assert [event.index for event in failed] == [20]


def test_programs_that_an_item_runs_inherit_none_of_its_workers_descriptors(method: str) -> None:
    def inherited(x: int) -> list[str]:
        listing = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True)
        return [line for line in listing.stdout.splitlines() if "memfd:poolagg-arena" in line]

    assert aggregate(inherited, range(2), Collect(), pool=ProcessPool(1, start_method=method)) == [[], []]
