"""The interface of a pool: workers that take instructions and return events. A pool does not know the scheduler.

begin(job) … perform(instruction), wait() → events … end(). One job at a time: a second `begin` raises `PoolBusy` at
once. `end` closes a pool that was never entered (`with pool:`).

`end` ends a run, `close` the pool. A subclass implements:

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
    """The state of a pool. It only moves forward, so threads and signal handlers may change it without a lock."""

    OPEN = "open"
    CLOSING = "closing"
    """Closed in the middle of a run's step: the end of that run frees the pool's resources."""
    CLOSED = "closed"


class _Used:
    """Defers a concurrent `close` until this block ends.

    (`contextlib.contextmanager` sets `__traceback__` of exceptions that pass, and an exception may forbid that.)
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        self._before, self._pool.in_use = self._pool.in_use, True
        try:
            self._pool.check_open()  # after the flag: either `close` sees the flag, or this check sees `close`
        except BaseException:
            self._pool.in_use = self._before
            raise

    def __exit__(self, *_: object) -> None:
        self._pool.in_use = self._before


class Pool(ABC):
    """Workers that serve one run after another."""

    workers: int
    one_failure_domain: bool = False
    """If one worker dies, all do."""
    can_kill: bool = False
    """The pool can end one worker's work and spare the others; `item_timeout` requires this."""
    keeps_state: bool = True
    """A slot is served by one worker, which can hold state from chunk to chunk."""
    in_flight: int = 2
    """Most chunks of a slot: one that runs, and one that waits, so that the worker is never idle."""
    slots_per_worker: int = 1
    """Slots for each worker; several where a slot is a place in a cluster's queue."""
    chunk_seconds: float = 0.0
    """Least work of a chunk, in seconds, where a chunk costs more than a message."""
    leaves: int = 0
    """Most chunks whose states a worker keeps separate and flushes together; 0: it merges them at once."""
    most_items: int | None = None
    """Items that a worker may run before another takes its place."""
    waited: float = 0.0
    """Seconds that the caller's thread has spent waiting for workers, in all runs."""

    lifecycle = Lifecycle.OPEN
    _entered = False
    """The pool stays open from run to run."""
    _busy: object = None
    """The current run, as given to `begin`."""
    _process = 0
    """The process of the current run: a forked child does not continue a run of another thread."""
    in_use = False
    """A step of a run is in progress."""

    # -- for users -----------------------------------------------------------------------------------------------------

    def imap_unordered(self, func: Callable[[Item], Result], iterable: Iterable[Item]) -> Iterator[Result]:
        """Yield each result of `func` once, as they come: as in the standard library, with poolagg's guarantees.

        The pool pulls the input lazily, only as fast as you take results. Leaving the loop stops the run cleanly. An
        exception in `func` is raised as `TaskError`.
        """
        from poolagg._engine.api import imap_unordered  # here, since the engine imports the pools

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
        """End all workers without waiting for pending work; with `at_once`, not even for idle workers to exit.

        A run in progress, in another thread or around this call, ends with a ValueError.
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
        raise TypeError(f"{self!r} can't be pickled: func must not refer to it, but may make a pool of its own")

    # -- for the engine ------------------------------------------------------------------------------------------------

    def check_free(self) -> None:
        """Raise `PoolBusy` if a run is in progress, ValueError if the pool is closed."""
        if self._busy and self._process == os.getpid():
            raise PoolBusy(f"{self!r} is running another job: a pool runs one at a time, so use a second pool")
        self.check_open()

    def used(self) -> _Used:
        """Return a context manager that defers a concurrent `close`."""
        return _Used(self)

    def check_open(self) -> None:
        """Raise ValueError if the pool is closed."""
        if self.lifecycle is not Lifecycle.OPEN:
            raise ValueError(f"{self!r} is closed: make a new one, or keep it open with `with`")

    def begin(self, job: Job, slots: int, run: object = True) -> None:
        """Start a run on the first `slots` workers; `end` identifies it by `run`."""
        self.check_free()
        self._busy, self._process = run, os.getpid()
        try:
            self._begin(job, slots)
        except BaseException as error:
            self.end(clean=False, interrupted=not issubclass(type(error), Exception))
            raise

    def end(self, clean: bool, interrupted: bool = False, again: bool = False, run: object = None) -> None:
        """End the run; `clean` if every worker is idle. A pool that was never entered is closed.

        `interrupted`: the user wants all work to end now, by Ctrl-C, say. `again`: another run follows at once.
        `run`: end this run only, and not one that has replaced it.
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

    def open(self) -> None:  # noqa: B027 - most pools start workers in `begin`
        """Start the workers ahead of the first run."""

    def encode(self) -> Callable[[Any], Encoded] | None:
        """Return the function that pickles an item; None if items go by reference."""
        return None

    @abstractmethod
    def perform(self, instruction: PoolInstruction, input_batch: InputBatch | None) -> None:
        """Carry out an instruction, without waiting; a `RunChunk` comes with the input batch that holds its items."""

    @abstractmethod
    def wait(self, timeout: float | None) -> list[PoolEvent]:
        """Wait for events, `timeout` seconds at most (None: forever)."""

    def batch(self, slot: int) -> Batch | None:
        """Return the batch that a worker is mapping, if known. Only a pool that returns one is told to `Yield`."""
        del slot
        return None

    def advanced(self, slot: int) -> tuple[int, int]:
        """Return the chunk that a worker runs, and how many units its items have advanced; -1 and 0 if unknown."""
        del slot
        return -1, 0

    def items_run(self) -> Mapping[int, int]:
        """Return how many items the worker of each slot has run in earlier runs, where a limit counts them."""
        return {}

    def peak_memory(self) -> int:
        """Return the peak memory of the largest worker, in bytes; 0 if unknown."""
        return 0

    def stopped(self, slot: int) -> bool:
        """Tell if a worker that has work is stopped (SIGSTOP), and does none until a signal continues it."""
        del slot
        return False

    def kill(self, slot: int, how: str, batch: Batch | None) -> None:
        """End a worker's work in the batch that took too long, as `how` says; a `Lost` with a TimeoutError follows.

        A worker that has left the batch lives on. Without a batch the worker ends, and no item is to blame.
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

    def _stop(self) -> None:  # noqa: B027 - by default `wait` returns when a worker does
        pass

    @abstractmethod
    def _close(self, at_once: bool) -> None: ...
