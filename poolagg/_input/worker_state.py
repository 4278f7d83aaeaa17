"""Values for `func` while it runs: its worker's number, values that a worker makes once, and random numbers."""

from __future__ import annotations

import contextlib
import operator
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

from poolagg._input.functions import name_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["advance", "here", "per_worker", "rng", "worker_index"]

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_made: dict[str, Any] = {}
_making = threading.RLock()


class per_worker(Generic[T]):  # noqa: N801
    """A value that each worker makes for itself at its first use: a model, a connection, a cache.

    Write `model = per_worker(load_model)` in the module and `model()` inside `func`. Workers receive the factory, not
    the value. `factory(*arguments)` runs once per worker: in a `ThreadPool` each thread has a value of its own. Other
    threads, such as those that `func` starts, share the value of their process; a lock has one of them make it.

    >>> numbers = per_worker(list, (1, 2, 3))
    >>> numbers() is numbers()
    True
    """

    def __init__(self, factory: Callable[[*Arguments], T], *arguments: *Arguments) -> None:
        if not callable(factory):
            raise TypeError(f"per_worker() takes a function that makes the value, not the value itself: {factory!r}")
        self._factory = factory
        self._arguments = arguments
        # A unique name, by which each unpickled copy of this object finds the value in its worker.
        self._name = os.urandom(16).hex()

    def __call__(self) -> T:
        made = here.made
        with _making if made is _made else contextlib.nullcontext():
            if self._name not in made:
                made[self._name] = self._factory(*self._arguments)
        value: T = made[self._name]
        return value

    def __repr__(self) -> str:
        return f"per_worker({', '.join([name_of(self._factory), *map(name_of, self._arguments)])})"


class _Here(threading.local):
    """The calling thread's place in the input: the worker sets it for each batch, `rng` reads it.

    The index follows from how far the batch's iterator has come. Storing it for each item would cost more than a small
    item does.
    """

    source: Iterator[Any] | None = None
    stop: int = 0
    generators: dict[tuple[int, int], Any]
    # The class holds the values of a process, which is one worker, or none; a thread that is a worker has its own.
    worker: int | None = None
    workers: int = 1
    made: dict[str, Any] = _made
    units: int
    """The units that the items of the chunk have advanced, without those that failed."""
    of_items: dict[int, int]
    """The part of the batch, by item."""

    def __init__(self) -> None:
        self.generators = {}
        self.begin_chunk(_tell_nobody)

    def become_worker(self, index: int, workers: int) -> None:
        """Make the calling thread one of so many workers."""
        self.worker, self.workers, self.made = index, workers, {}

    def make_process_worker(self, index: int, workers: int) -> None:
        """Make all threads of this process one of so many workers."""
        vars(self).clear()  # the thread that forked may have been a worker
        self.__init__()  # type: ignore[misc]
        _Here.worker, _Here.workers = index, workers

    @contextlib.contextmanager
    def as_only_worker(self) -> Iterator[None]:
        """Make the calling thread a pool's only worker while the block runs."""
        outer = self.worker, self.workers
        self.worker, self.workers = 0, 1
        try:
            yield
        finally:
            self.worker, self.workers = outer

    def begin_chunk(self, tell: Callable[[int], None]) -> None:
        """Count the units of a chunk from zero; `tell` passes on the sum whenever it changes."""
        self.units, self.of_items, self._tell = 0, {}, tell
        tell(0)

    def advance(self, index: int, units: int) -> None:
        """Count units of an item."""
        self.of_items[index] = self.of_items.get(index, 0) + units
        self.units += units
        self._tell(self.units)

    def forget_units(self, items: Sequence[int]) -> None:
        """Take back what these items of the batch have advanced, since their attempt does not count."""
        for index in self.of_items.keys() & set(items):
            self.advance(index, -self.of_items[index])

    def enter(self, source: Iterator[Any] | None, stop: int) -> None:
        """Note that the thread begins to run the items of `source`, the last of which has index `stop - 1`."""
        self.source, self.stop = source, stop

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Save and restore the place around a nested run, which runs on this thread within an item of another run."""
        outer = self.source, self.stop, self.generators
        units = self.units, self.of_items, self._tell
        self.generators = {}
        try:
            yield
        finally:
            self.source, self.stop, self.generators = outer
            self.units, self.of_items, self._tell = units

    @property
    def index(self) -> int:
        """The index of the item that is running."""
        if self.source is None:
            raise RuntimeError("rng() needs an item that is running: call it inside func, during a run")
        return self.stop - operator.length_hint(self.source) - 1

    @property
    def running(self) -> int | None:
        """The index of the item that is running; None if none is."""
        return None if self.source is None else self.index


def _tell_nobody(units: int) -> None:
    pass


here = _Here()


def advance(n: int = 1) -> None:
    """Move the progress bar by `n` units of the item that is running: documents of a file, steps of a simulation.

    From the first call on the bar of the run counts units and not items; `Progress(unit="docs", total=5000)` names them
    and says how many there are. It moves while the item runs. The units of an attempt do not count if it
    fails or its worker dies. Raises RuntimeError outside of `func`.
    """
    index = here.running
    if index is None:
        raise RuntimeError("advance() needs an item that is running: call it inside func, during a run")
    here.advance(index, operator.index(n))


def worker_index() -> int:
    """Return the number of the worker that runs `func` or the initializer: 0 to workers - 1.

    A worker that takes the place of another has its number. In a `SerialPool` it is 0. Raises RuntimeError outside of a
    run, and in pools of other libraries, which do not number their workers.
    """
    if here.worker is None:
        raise RuntimeError(
            "worker_index() needs a worker: call it inside func or the initializer, in a ProcessPool, a ThreadPool or "
            "a SerialPool"
        )
    return here.worker


def rng(seed: int = 0) -> np.random.Generator:
    """Return a numpy Generator seeded by `seed` and the index of the item that is running.

    Streams of different items are independent, so the result does not depend on workers, timing or retries. Calls
    within one item return the same generator. Raises RuntimeError outside of `func`. Costs about 15 us an item.
    """
    import numpy as np

    key = (seed, here.index)
    if key not in here.generators:
        here.generators.clear()
        here.generators[key] = np.random.default_rng(key)
    generator: np.random.Generator = here.generators[key]
    return generator
