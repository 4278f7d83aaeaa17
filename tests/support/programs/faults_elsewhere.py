"""Faults in a pool of somebody else's: a program that tries them, one after another, and says what became of each.

`python faults_elsewhere.py POOL FOLDER FAULT...` writes a line for each fault to `FOLDER/answers.txt`: the words of the
The manual's table. A fault without a line is one that has ended the program.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from poolagg import Collect, First, Into, ProcessPool, Sum, TaskError, WorkerLost, aggregate, pools


def actors() -> Any:
    """Ray's own Pool, on the Ray that is there."""
    return importlib.import_module("ray.util.multiprocessing").Pool(2)


POOLS: dict[str, Callable[[], Any]] = {
    "ProcessPool": lambda: ProcessPool(2),
    "ProcessPoolExecutor": lambda: ProcessPoolExecutor(2),
    "loky": lambda: importlib.import_module("loky").ProcessPoolExecutor(2),
    "executorlib": lambda: importlib.import_module("executorlib").SingleNodeExecutor(2, block_allocation=True),
    "mpi4py.futures": lambda: importlib.import_module("mpi4py.futures").MPIPoolExecutor(),
    "multiprocessing.Pool": lambda: multiprocessing.Pool(2),
    "ray.util.multiprocessing.Pool": actors,
}


class TwoArguments(Exception):
    """Pickles, and then does not unpickle."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def killed(pool: Any) -> str:
    """One worker is killed once."""
    mark = os.path.join(sys.argv[2], "killed")

    def item(x: int) -> int:
        if x == 17 and not os.path.exists(mark):
            open(mark, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    try:
        return "runs again" if aggregate(item, range(40), Collect(), pool=pool) == list(range(40)) else "wrong"
    except WorkerLost:
        return "`WorkerLost`"


def killer(pool: Any) -> str:
    """An item kills each worker that it runs in."""

    def item(x: int) -> int:
        if x == 17:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    try:
        return f"wrong: {aggregate(item, range(40), Sum(), pool=pool)}"
    except WorkerLost as lost:
        return {17: "`WorkerLost`, named", None: "`WorkerLost`"}[lost.index]


def hangs(pool: Any) -> str:
    """An item that takes too long is to be ended."""

    def item(x: int) -> int:
        while x == 17:
            signal.pause()
        return x

    failed: list[int] = []
    options: dict[str, Any] = {"on_error": lambda event: failed.append(event.index)}
    try:
        result = aggregate(item, range(40), Collect(), pool=pool, item_timeout=1, **options)
    except ValueError:
        return "refused"
    return "ended" if failed == [17] and len(result) == 39 else "wrong"


def endless(pool: Any) -> str:
    """The input never ends: who reads it first never begins."""
    return "bounded" if aggregate(abs, itertools.count(7), First(), pool=pool) == 7 else "wrong"


def interrupted(pool: Any) -> str:
    """Ctrl-C, and the pool is used again."""

    def interrupt(partial: int) -> None:
        if partial == 20:
            signal.raise_signal(signal.SIGINT)

    try:
        aggregate(abs, itertools.count(), Into(interrupt), pool=pool)
    except KeyboardInterrupt:
        return "goes on" if aggregate(abs, range(-9, 0), Sum(), pool=pool) == 45 else "wrong"
    return "wrong"


def exception(pool: Any) -> str:
    """An exception that does not unpickle."""

    def item(x: int) -> int:
        if x == 17:
            raise TwoArguments(17, "no such thing")
        return x

    try:
        return f"wrong: {aggregate(item, range(40), Sum(), pool=pool)}"
    except TaskError as error:
        return "`TaskError`, named" if error.index == 17 and "no such thing" in str(error.__cause__) else "wrong"


FAULTS = {
    "endless input": endless,
    "the pool after Ctrl-C": interrupted,
    "an exception that does not unpickle": exception,
    "`item_timeout`": hangs,
    "an item kills every worker": killer,
    "a worker is killed": killed,
}
DEADLY = {"an item kills every worker", "a worker is killed"}


def main(name: str, folder: str, *faults: str) -> None:
    """Try each; those that not every pool survives in a pool of their own."""
    with contextlib.ExitStack() as stack:
        if name.startswith("ray"):
            stack.enter_context(pools.RayPool(workers=2))
        kept = None
        for fault in faults:
            if fault in DEADLY:
                with POOLS[name]() as pool:
                    answer = FAULTS[fault](pool)
            else:
                kept = kept or stack.enter_context(POOLS[name]())
                answer = FAULTS[fault](kept)
            with open(os.path.join(folder, "answers.txt"), "a") as file:
                file.write(answer + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
