"""Functions that tests run in workers. Imports little, since workers import it."""

from __future__ import annotations

import functools
import importlib
import operator
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poolagg import Fold, Reducer

METHODS = ["spawn"] if sys.platform == "win32" else ["forkserver", "portable", "fork"]
"""Every way to start workers, the default first. "portable" starts interpreters, as "spawn" does, and does the rest
with the primitives of other systems; so it stands for both."""


KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal that kills at once; on Windows each does, and is the exit code."""


def square(x: int) -> int:
    return x * x


def identity(x: Any) -> Any:
    return x


def inverse(x: int) -> float:
    return 1 / x


def short(x: Any) -> Any:
    time.sleep(0.001)
    return x


def wait_for(condition: Callable[[], Any]) -> None:
    """Until it holds; for ever if it never does, which the test's time limit ends."""
    while not condition():
        time.sleep(0.01)


def pid_of(x: Any) -> int:
    del x
    return os.getpid()


class Attempts:
    """Counts the attempts at each item in a folder, for attempts happen in several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def another(self, item: Any) -> int:
        """Count one more attempt at the item; how many there are by now."""
        with open(os.path.join(self.folder, str(item)), "ab", buffering=0) as file:
            file.write(b"x")
            return os.fstat(file.fileno()).st_size

    def at(self, item: Any) -> int:
        """How many attempts at the item there were."""
        try:
            return os.path.getsize(os.path.join(self.folder, str(item)))
        except FileNotFoundError:
            return 0


class Flaky:
    """Fails on the items in `faults` as they say, `times` times for each, and gives back the others."""

    def __init__(self, folder: Path, faults: dict[Any, str], times: int = 10**9) -> None:
        self.attempts = Attempts(folder)
        self.faults, self.times = faults, times

    def __call__(self, item: Any) -> Any:
        attempt = self.attempts.another(item)
        if item in self.faults and attempt <= self.times:
            fail(self.faults[item])
        return item


def fail(how: str) -> None:
    """Raise, die or hang."""
    if how == "raise":
        raise ValueError("as told")
    if how == "hang":
        time.sleep(100)
    if how == "exit":
        os._exit(3)
    # Which a forked worker inherits from the test runner; imported here, since an interpreter of a pool of interpreters
    # cannot.
    importlib.import_module("faulthandler").disable()
    os.kill(os.getpid(), getattr(signal, how, KILL))
    time.sleep(100)  # the signal may take a moment


class Diary:
    """A function that notes which process ran which item, attempts that fail included."""

    def __init__(self, folder: Path, **faults: Any) -> None:
        self.path, self.faults = str(folder / "diary"), faults

    def __call__(self, item: int) -> int:
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()} {item}\n")
        if item in self.faults.get("raises", ()):
            raise ValueError(item)
        if item in self.faults.get("dies", ()):
            os._exit(3)
        time.sleep(self.faults.get("seconds", 0))
        return item

    def of_each_worker(self) -> Counter[str]:
        """How many items each process ran."""
        return Counter(line.split()[0] for line in Path(self.path).read_text().splitlines())


class TwoArguments(Exception):
    """Pickles, and then does not unpickle."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")

    def __reduce__(self) -> Any:
        return TwoArguments, self.args  # as by default, also where tblib, which dask imports, has a better one


class HoldsALock(Exception):
    """Does not pickle."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Root(BaseException):
    """Not an Exception."""


class DoesNotUnpickle:
    def __reduce__(self) -> Any:
        return _raise, ("will not be opened",)


def _raise(text: str) -> None:
    raise RuntimeError(text)


def unpicklable_at(*bad: int) -> Any:
    return lambda x: threading.Lock() if x in bad else x


def unopenable_at(*bad: int) -> Any:
    return lambda x: DoesNotUnpickle() if x in bad else x


class Rough(Fold):
    """A float sum that depends on order."""

    def __init__(self) -> None:
        super().__init__(operator.add, init=float, merge=operator.add)


def rough(x: int) -> float:
    return random.Random(x).random() * 10.0 ** (x % 20)


class Until(Reducer):
    """A list of partials that is done when it has `count` of them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def init(self) -> list[Any]:
        return []

    def step(self, acc: list[Any], prepared: Any) -> list[Any]:
        acc.append(prepared)
        return acc

    def merge(self, acc: list[Any], other: list[Any]) -> list[Any]:
        acc.extend(other)
        return acc

    def finish(self, acc: list[Any]) -> list[Any]:
        return list(acc)

    def done(self, acc: list[Any], settled: int) -> bool:
        return len(acc) >= self.count


class Failing(Reducer):
    """A sum that raises where it is told to: in step, merge or finish."""

    def __init__(self, where: str, error: type[BaseException] = ValueError) -> None:
        self.where, self.error = where, error

    def init(self) -> int:
        return 0

    def step(self, acc: int, prepared: int) -> int:
        self._at("step")
        return operator.add(acc, prepared)

    def merge(self, acc: int, other: int) -> int:
        self._at("merge")
        return acc + other

    def finish(self, acc: int) -> int:
        self._at("finish")
        return acc

    def _at(self, where: str) -> None:
        if where == self.where:
            raise self.error(f"in {where}")


def row(x: int) -> Any:
    """An array of 80 kB in which one number says who made it."""
    import numpy as np

    array = np.zeros(10_000, np.int64)
    array[x] = 1
    return array


class SlowHere(Reducer):
    """A sum of rows, which takes the process with this pid long to merge: it had better be given few."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def init(self) -> Any:
        import numpy as np

        return np.zeros(10_000, np.int64)

    def step(self, acc: Any, prepared: Any) -> Any:
        acc += prepared
        return acc

    def merge(self, acc: Any, other: Any) -> Any:
        if os.getpid() == self.pid:
            time.sleep(0.05)
        acc += other
        return acc

    def finish(self, acc: Any) -> Any:
        return acc.copy()


class TellsWhereItIsOpened:
    """Tells each process in which it is opened."""

    def __init__(self, folder: Path) -> None:
        self.attempts = Attempts(folder)

    def __setstate__(self, state: Any) -> None:
        self.__dict__ = state
        self.attempts.another(os.getpid())


LOCK = threading.Lock()


@functools.cache
def cached_square(x: int) -> int:
    return x * x
