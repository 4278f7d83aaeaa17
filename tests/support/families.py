"""Kinds of runs that go on after they were killed: what `torture.py` runs, by name.

`FAMILIES` is where a new kind comes in: how to run it, and how to read what else it has left.
"""

from __future__ import annotations

import contextlib
import importlib.util
import operator
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import places

from poolagg import (
    AllTrue,
    AnyTrue,
    ArrayMean,
    ArrayReduce,
    ArrayStd,
    ArraySum,
    Bottom,
    Checkpoint,
    Collect,
    Concat,
    Count,
    Distinct,
    First,
    Fold,
    Frequencies,
    GroupBy,
    HeavyHitters,
    Histogram,
    Last,
    Max,
    Mean,
    MergeCounts,
    Min,
    ProcessPool,
    Quantiles,
    Reduce,
    Report,
    Sample,
    SerialPool,
    Std,
    Sum,
    ThreadPool,
    Top,
    Unique,
    Variance,
    aggregate,
    snapshots,
)
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree

Watcher = Callable[[Any], None]


@dataclass(frozen=True)
class Family:
    """A kind of run.

    run     begins it, or goes on with it, in a folder where it keeps all that it keeps: its checkpoint as `run.ckpt`.
            It has the watcher watch, and gives the result
    make    puts into the new folder what has to be there before the first run
    read    gives what else such a run leaves in the folder, and is compared too
    error   the class of what it raises when the disk fails
    """

    run: Callable[[str, Watcher], Any]
    make: Callable[[str], Any] = lambda folder: None
    read: Callable[[str], Any] = lambda folder: None
    error: str = "CheckpointError"


ITEMS = 60
BAD = frozenset({0, 7, 31, 58})


def family(func: Any, reducer: Any, items: Callable[[], Iterable[Any]] = lambda: list(range(ITEMS)), *,
           pool: Callable[[], Any] = SerialPool, chunksize: int | None = 4, every: float | None = 1e-9,
           watch: Callable[[], list[Any]] = list, **options: Any) -> Family:  # fmt: skip
    """One call of `aggregate`, which commits as often as it can."""

    def run(folder: str, watcher: Watcher) -> Any:
        checkpoint = Checkpoint(os.path.join(folder, "run.ckpt"), every=every)
        return aggregate(
            func, items(), reducer, pool=pool(), chunksize=chunksize, checkpoint=checkpoint,
            watch=[watcher, *watch()], **options,
        )  # fmt: skip

    return Family(run)


def third(x: int) -> float:
    return x / 3


def parity(x: int) -> tuple[int, float]:
    return x % 2, x / 3


def counts(x: int) -> dict[int, int]:
    return {x % 7: 1}


def array(x: int) -> Any:
    return np.full(3, float(x))


def block(x: int) -> bytes:
    return bytes([x]) * 700_000


def failing(x: int) -> int:
    if x in BAD:
        raise ValueError(f"no {x}")
    return x


def in_turn(a: int, b: int) -> int:
    return (a * 31 + b) % 1_000_003


def generated() -> Iterator[int]:
    yield from range(ITEMS)


def many() -> list[str]:
    """More than have a page of their own."""
    return [f"item {i}" for i in range(5000)]


def threads() -> ThreadPool:
    return ThreadPool(2)


def forked() -> ProcessPool:
    """Return a pool whose workers start the quickest way that the system has."""
    return ProcessPool(2, start_method="fork" if hasattr(os, "fork") else None)


def forkserver() -> ProcessPool:
    return ProcessPool(2, start_method="forkserver")


def portable() -> ProcessPool:
    return ProcessPool(2, start_method="portable")


REDUCERS = {
    "Count": family(third, Count()),
    "Sum": family(third, Sum()),
    "Mean": family(third, Mean()),
    "Variance": family(third, Variance()),
    "Std": family(third, Std()),
    "Min": family(third, Min()),
    "Max": family(int, Max(key=str)),
    "Top": family(int, Top(3, key=lambda x: x % 50)),
    "Bottom": family(third, Bottom(3)),
    "First": family(third, First()),
    "First, where": family(third, First().where(lambda x: x > 15), generated),
    "AnyTrue": family(third, AnyTrue().of(lambda x: x > 15)),
    "AllTrue": family(third, AllTrue().of(lambda x: x < 15)),
    "Last": family(third, Last()),
    "Frequencies": family(int, Frequencies()),
    "MergeCounts": family(counts, MergeCounts()),
    "GroupBy": family(parity, GroupBy(Mean())),
    "by, where": family(int, Sum().by(lambda x: x % 3).where(bool)),
    "flat": family(str, Frequencies().flat()),
    "then": family(third, Collect().then(len)),
    "Collect": family(third, Collect()),
    "Unique": family(third, Unique()),
    "Histogram": family(int, Histogram([0, 20, 40, 60])),
    "ArraySum": family(array, ArraySum()),
    "ArrayMean": family(array, ArrayMean()),
    "ArrayStd": family(array, ArrayStd()),
    "Concat": family(array, Concat()),
    "ArrayReduce": family(array, ArrayReduce(np.maximum)),
    "Sample": family(third, Sample(5, seed=3)),
    "Fold": family(third, Fold(lambda a, b: [*a, b], init=list)),
    "Fold with merge": family(lambda x: [x], Fold(operator.iadd, init=list, merge=operator.iadd).then(sorted)),
    "Reduce": family(int, Reduce(operator.xor)),
    "a plain function": family(int, in_turn),
    "Tee": family(third, {"n": Count(), "both": (Sum(), Max()), "all": Frequencies()}),
}
"""Every reducer, as it comes."""

if importlib.util.find_spec("datasketches"):
    REDUCERS |= {
        "Quantiles": family(third, Quantiles([0.1, 0.5])),
        "Distinct": family(lambda x: x % 50, Distinct()),
        "HeavyHitters": family(lambda x: x % 7 % 3, HeavyHitters(4)),
    }


def looked_at(folder: str, watcher: Watcher) -> Any:
    """Through snapshots."""
    checkpoint = Checkpoint(os.path.join(folder, "run.ckpt"), every=1e-9)
    with snapshots(
        third, range(ITEMS), Sum(), every=1e-9, pool=SerialPool(), chunksize=4, checkpoint=checkpoint, watch=[watcher]
    ) as looks:
        return [look.value for look in looks][-1]


class FailsAtFirst:
    """Fails for the first time it is given an item, of any process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, x: int) -> int:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(f"{self.folder}/{x}", os.O_CREAT | os.O_EXCL))
            raise ValueError(f"not yet: {x}")
        return x


def retried(folder: str, watcher: Watcher) -> Any:
    """Nothing fails twice, so that all are there when what failed has been run again."""
    checkpoint = Checkpoint(os.path.join(folder, "run.ckpt"), every=1e-9, retry_failed=True)
    for _ in range(2):
        value = aggregate(
            FailsAtFirst(folder), range(ITEMS), Frequencies(), pool=SerialPool(), chunksize=4, on_error="skip",
            checkpoint=checkpoint, watch=[watcher],
        )  # fmt: skip
    return value


OPTIONS = {
    "Stream": family(int, Frequencies(), strategy=Stream()),
    "Ordered": family(third, Collect(), strategy=Ordered()),
    "Combine": family(third, Collect(), strategy=Combine()),
    "Partition": family(int, Frequencies(), strategy=Partition(3)),
    "Tree": family(third, Collect(), strategy=Tree()),
    "reproducible": family(third, Fold(operator.add, init=float, merge=operator.add), reproducible=True),
    "reproducible, keys in order": family(lambda x: -x % 7, Frequencies().then(lambda counts: list(counts.items())),
                                          reproducible=True),
    "ends early, reproducible": family(third, (First().where(lambda x: x > 15), AllTrue()), generated,
                                       reproducible=True),
    "skip": family(failing, {"n": Frequencies(), "sum": Sum()}, on_error="skip"),
    "skip, in order": family(failing, Collect(), strategy=Ordered(), on_error="skip"),
    "skip, reproducible": family(failing, Collect(), reproducible=True, on_error="skip"),
    "what failed, run again": Family(retried),
    "a generator": family(third, Sum(), generated),
    "a range": family(third, Sum(), lambda: range(ITEMS)),
    "an array": family(float, Sum(), lambda: np.arange(ITEMS) / 3),
    "thousands of items": family(len, Frequencies(), many, chunksize=250),
    "a large state": family(block, Collect().then(lambda blocks: [(len(b), *set(b)) for b in blocks]),
                            lambda: range(5), chunksize=1, strategy=Stream()),
    "chunks as they come": family(len, Sum(), many, chunksize=None),
    "its own pace": family(third, Sum(), every=None),
    "a report": family(third, Sum(), watch=lambda: [Report()]),
    "snapshots": Family(looked_at),
    "threads": family(int, Frequencies(), pool=threads),
    "threads, a generator": family(third, Collect(), generated, pool=threads, strategy=Ordered()),
}  # fmt: skip
"""Every strategy, kind of input and option."""

PROCESSES = {
    "Sum": family(third, Sum(), pool=forked),
    "Tee": family(int, {"n": Frequencies(), "all": Collect()}, pool=forked),
    "Partition": family(int, Frequencies(), pool=forked, strategy=Partition(3)),
    "reproducible": family(third, Fold(operator.add, init=float, merge=operator.add), generated, pool=forked,
                           reproducible=True),
    "a plain function": family(int, in_turn, pool=forked),
    "Stream": family(array, ArraySum(), generated, pool=forked, strategy=Stream()),
    "ends early": family(third, {"first": First().where(lambda x: x > 9), "any": AnyTrue()}, generated, pool=forked),
    "reproducible, keys in order": family(lambda x: -x % 7, Frequencies().then(lambda counts: list(counts.items())),
                                          reproducible=True),
    "skip": family(failing, Frequencies(), pool=forked, on_error="skip", watch=lambda: [Report()]),
    "forkserver": family(third, Sum(), pool=forkserver),
    "portable": family(third, Sum(), pool=portable),
}  # fmt: skip
"""With workers, which die as well."""


def resource(name: str, pool: Callable[[], Any] = SerialPool) -> Family:
    """Into a place that commits: it keeps its ledger itself."""

    def place(folder: str) -> places.Position:
        return places.place(name, folder, os.environ.get(POSTGRES, ""))

    def run(folder: str, watcher: Watcher) -> Any:
        pair = lambda x: (x, str(x))
        return aggregate(
            pair, list(range(ITEMS)), place(folder).into(), pool=pool(), chunksize=30, watch=[watcher],
            checkpoint=Checkpoint(every=1e-9),
        )  # fmt: skip

    return Family(
        run, lambda folder: place(folder).make(), lambda folder: places.outcome(place(folder)), "ResourceError"
    )


POSTGRES = "POOLAGG_TEST_POSTGRES"
"""Where the environment says how to connect with the server."""

RESOURCES = {name: resource(name) for name in places.NAMES}
PROCESSES.update({name: resource(name, forked) for name in places.NAMES})

WRITES = {
    "a few commits": family(failing, {"n": Frequencies(), "all": Collect()}, chunksize=30, strategy=Stream(),
                            on_error="skip"),
    **{name: RESOURCES[name] for name in ("sqlite", "file")},
}  # fmt: skip
"""Small enough that each of its writes can fail in turn: it makes its file, commits state, pages and failed items."""

FAMILIES: dict[str, Family] = {
    **REDUCERS, **OPTIONS, **RESOURCES, **WRITES,
    **{f"{name} in processes": family for name, family in PROCESSES.items()}
}  # fmt: skip
