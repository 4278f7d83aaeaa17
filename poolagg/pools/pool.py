"""What a pool is to the engine: workers that take orders and give answers. A pool knows nothing of plans.

begin(job) … perform(order), wait() → answers … end(). One job at a time: a second `begin` raises `PoolBusy` at once.
A pool that was never entered (`with pool:`) is closed after the run.

A run ends by `end`, a pool by `close`. A subclass implements what follows:

    _end(clean)      the run is over, and the pool waits for the next
    _interrupt()     the same, after Ctrl-C: all work ends now
    _stop()          another thread, or a signal handler, closes the pool in the middle of a step: `wait` returns soon
    _close(at_once)  the pool is closed, and no step of a run is under way: free everything
"""

from __future__ import annotations

import enum
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from poolagg._input.batches import Encoded, InputBatch
from poolagg._runtime.interrupts import even_if_interrupted, interrupts_held_back
from poolagg._scheduler.messages import Cancel, Flush, PoolEvent, RestartWorker, RunChunk, Yield
from poolagg.errors import PoolBusy
from poolagg.pools.chunk_runner import Job
from poolagg.pools.process.progress_cell import Batch

__all__ = ["Lifecycle", "Pool", "PoolInstruction"]

Item = TypeVar("Item")
Result = TypeVar("Result")

PoolInstruction = RunChunk | Flush | Cancel | Yield | RestartWorker


class Lifecycle(enum.Enum):
    """How far a pool is. Steps go one way only, so that threads and signal handlers may take them without a lock."""

    OPEN = "open"
    CLOSING = "closing"
    """Closed in the middle of a run's step: the end of that run frees what the pool holds."""
    CLOSED = "closed"


class _Used:
    """Defer a concurrent `close` until this block ends.

    (`contextlib.contextmanager` sets `__traceback__` of what passes, which an exception may forbid.)
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        self._before, self._pool.in_use = self._pool.in_use, True
        try:
            self._pool.check_open()  # after the flag: a concurrent `close` sees that, or is seen here
        except BaseException:
            self._pool.in_use = self._before
            raise

    def __exit__(self, *_: object) -> None:
        self._pool.in_use = self._before


class Pool(ABC):
    """The workers of one run after another."""

    workers: int
    one_failure_domain: bool = False
    """A death takes all workers with it."""
    can_kill: bool = False
    """One worker's work can be ended without the others': what `item_timeout` takes."""
    keeps_state: bool = True
    """A worker is always the same worker, which can hold state from chunk to chunk."""
    in_flight: int = 2
    """Chunks a worker has at most: one that runs, and one that waits so that the worker never does."""
    slots_per_worker: int = 1
    """Where a worker is a place in a queue, a worker has several."""
    chunk_seconds: float = 0.0
    """Seconds of work that a chunk should hold at least, where each costs more than a message."""
    leaves: int = 0
    """Chunks whose states a worker flushes together at most, where each is kept apart until then; 0: they meet at
    once."""
    most_items: int | None = None
    """Items that a worker may run before another takes its place."""
    waited: float = 0.0
    """Seconds in which the caller's thread had nothing to do but to wait for workers, in all runs."""

    lifecycle = Lifecycle.OPEN
    _entered = False
    """The pool is kept from run to run."""
    _busy: object = None
    """The run that is under way: what was given to `begin`."""
    _process = 0
    """The process that it is under way in: a forked child does not go on with a run of another thread's."""
    in_use = False
    """A step of a run is being taken."""

    # -- for people ----------------------------------------------------------------------------------------------------

    def imap_unordered(self, func: Callable[[Item], Result], iterable: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of `func` as they come, each once: as in the standard library, with poolagg's promises.

        The input is pulled lazily, only as fast as results are taken. Leaving the loop stops the run cleanly. An
        exception in `func` is raised as `TaskError`.
        """
        from poolagg._engine.api import imap_unordered  # here, for the engine imports the pools

        return imap_unordered(self, func, iterable)

    def __enter__(self) -> Self:
        self._entered = True
        try:
            self.open()
        except BaseException:
            self.close(at_once=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        even_if_interrupted(self.close, kind is not None)

    def close(self, at_once: bool = False) -> None:
        """End all workers. Never waits for pending work; `at_once`: not even for idle workers to say goodbye.

        A run that is under way, in another thread or in whose middle this was called, ends with a ValueError.
        """
        if self.lifecycle is not Lifecycle.OPEN:
            return
        with interrupts_held_back():
            self.lifecycle = Lifecycle.CLOSING
            if self._busy and self.in_use:
                self._stop()
            else:
                self._free(at_once)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} does not travel: func must not refer to it, but may make a pool of its own")

    # -- for the engine ------------------------------------------------------------------------------------------------

    def check_free(self) -> None:
        """Raise `PoolBusy` if a run is under way, ValueError if the pool is closed."""
        if self._busy and self._process == os.getpid():
            raise PoolBusy(f"{self!r} is running another job: a pool runs one at a time, so use a second pool")
        self.check_open()

    def used(self) -> _Used:
        """A block within which a concurrent `close` waits."""
        return _Used(self)

    def check_open(self) -> None:
        """Raise ValueError if the pool is closed."""
        if self.lifecycle is not Lifecycle.OPEN:
            raise ValueError(f"{self!r} is closed: make a new one, or keep it open with `with`")

    def begin(self, job: Job, slots: int, run: object = True) -> None:
        """Start a run on the first `slots` workers; `run` is what `end` will name it by."""
        self.check_free()
        self._busy, self._process = run, os.getpid()
        try:
            self._begin(job, slots)
        except BaseException as error:
            self.end(clean=False, interrupted=not issubclass(type(error), Exception))
            raise

    def end(self, clean: bool, interrupted: bool = False, again: bool = False, run: object = None) -> None:
        """The run is over; `clean` if every worker is empty. A pool that was never entered is closed.

        `interrupted`: by Ctrl-C, say. The user wants all work to end now. `again`: another run follows at once.
        `run`: end this one, and no other that may be under way instead.
        """
        with interrupts_held_back():
            if not self._busy or run not in (None, self._busy):
                return
            self._busy = None
            if self.lifecycle is not Lifecycle.OPEN:
                self._free(at_once=True)
            elif not self._entered and not again:
                self._free(at_once=not clean)
            elif interrupted:
                self._interrupt()
            else:
                self._end(clean)

    def open(self) -> None:  # noqa: B027 - most pools have nothing to do
        """Start the workers ahead of the first run."""

    def encode(self) -> Callable[[Any], Encoded] | None:
        """How items are pickled; None if they go by reference."""
        return None

    @abstractmethod
    def perform(self, instruction: PoolInstruction, input_batch: InputBatch | None) -> None:
        """Carry out an order, without waiting for anything; a `RunChunk` comes with the input batch its items are
        in."""

    @abstractmethod
    def wait(self, timeout: float | None) -> list[PoolEvent]:
        """Wait for answers, `timeout` seconds at most (None: for ever)."""

    def batch(self, slot: int) -> Batch | None:
        """What a worker is mapping just now, if that is known. A pool that says it is ordered to `Yield`."""
        del slot
        return None

    def items_run(self) -> Mapping[int, int]:
        """How many items the workers of workers have run in earlier runs, where that matters."""
        return {}

    def peak_memory(self) -> int:
        """Bytes that the largest worker has ever had; 0 if nobody knows."""
        return 0

    def stopped(self, slot: int) -> bool:
        """Whether a worker that has work was stopped, so that it does none until somebody continues it."""
        del slot
        return False

    def kill(self, slot: int, how: str, batch: Batch | None) -> None:
        """End a worker's work in the batch that took too long, as `how` says; `Lost` with a TimeoutError is the answer.

        Nothing happens to a worker that has left the batch. With no batch the worker ends, and no item is to blame.
        """
        raise NotImplementedError

    def _free(self, at_once: bool) -> None:
        if self.lifecycle is not Lifecycle.CLOSED:
            self.lifecycle = Lifecycle.CLOSED
            self._close(at_once)

    @abstractmethod
    def _begin(self, job: Job, slots: int) -> None: ...

    @abstractmethod
    def _end(self, clean: bool) -> None: ...

    def _interrupt(self) -> None:
        self._end(clean=False)

    def _stop(self) -> None:  # noqa: B027 - what `wait` waits for ends some time
        pass

    @abstractmethod
    def _close(self, at_once: bool) -> None: ...
