"""The interface of a pool: workers that take instructions and return events. A pool does not know the scheduler.

take_turn() … begin(job) … perform(instruction), wait() → events … end(). One job at a time: another thread waits in
`take_turn`, and the thread of the current run gets `PoolBusy` (`turns.py`).

`end` ends a run, `close` the pool, which keeps its workers until then. A subclass implements:

    _end(clean)      the run is over, and the pool waits for the next
    _interrupt()     the same, after Ctrl-C: all work ends now
    _stop()          another thread, or a signal handler, closes the pool in the middle of a step: `wait` returns soon
    _close(at_once)  the pool is closed, and no step of a run is under way: free everything
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Event, Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from poolagg._input.batches import Encoded, InputBatch
from poolagg._input.functions import star
from poolagg._runtime.interrupts import even_if_interrupted, interrupts_held_back
from poolagg._scheduler.messages import Cancel, Flush, PoolEvent, RestartWorker, RunChunk, Yield
from poolagg.errors import PoolBusy
from poolagg.pools.chunk_runner import Job
from poolagg.pools.process.progress_cell import Batch
from poolagg.pools.turns import Turn, Turns

__all__ = ["Lifecycle", "Pool", "PoolInstruction", "checked_initializer", "refuse_standard_names"]

Item = TypeVar("Item")
Result = TypeVar("Result")

PoolInstruction = RunChunk | Flush | Cancel | Yield | RestartWorker

INSTEAD = {
    "apply": "call func here, or use map(func, [item])",
    "apply_async": "use imap_unordered, or aggregate with a reducer; concurrent.futures has submit",
    "map_async": "use imap, which returns at once, or asyncio.to_thread(pool.map, func, items)",
    "starmap_async": "use imap with star(func), which returns at once, or asyncio.to_thread(pool.starmap, func, items)",
    "submit": "use imap_unordered, or aggregate with a reducer; concurrent.futures has submit",
}
"""Replacements for the methods of other pools that these pools do not have."""

RENAMED = {
    **dict.fromkeys(("processes", "max_workers", "n_jobs"), "workers"),
    **dict.fromkeys(("maxtasksperchild", "max_tasks_per_child", "worker_lifespan"), "max_items_per_worker"),
    "mp_context": "start_method",
}
"""The arguments of other libraries' pools that have another name here."""


def checked_initializer(initializer: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Return the initializer if it is a function or None; raise TypeError otherwise."""
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a function, not {initializer!r}")
    return initializer


def refuse_standard_names(pool: type[Pool], unknown: Iterable[str]) -> None:
    """Raise a TypeError for unknown keyword arguments, which says how those of other libraries are called here."""
    for name in unknown:
        code = pool.__init__.__code__
        known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        new = RENAMED.get(name, "")
        hint = f"it is called {new} here" if new in known else f"the arguments are {', '.join(known)}"
        raise TypeError(f"{pool.__name__}() has no argument {name!r}: {hint}")


class Lifecycle(enum.Enum):
    """The state of a pool. It only moves forward, so threads and signal handlers may change it without a lock."""

    OPEN = "open"
    CLOSING = "closing"
    """Closed in the middle of a run's step: the end of that run frees the pool's resources."""
    CLOSED = "closed"


class _Used:
    """Defers a concurrent `close` until this block ends, and notes which thread runs the job.

    (`contextlib.contextmanager` sets `__traceback__` of exceptions that pass, and an exception may forbid that.)
    """

    def __init__(self, pool: Pool, turn: Turn) -> None:
        self._pool, self._turn = pool, turn

    def __enter__(self) -> None:
        self._turn.step()
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

    single_run = False
    """The pool was made for one run, whose end closes it."""
    lifecycle = Lifecycle.OPEN
    _busy: Turn | None = None
    """The turn of the run that has begun."""
    in_use = False
    """A step of a run is in progress."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._once = Lock()
        """Held by the call that frees the pool's resources."""
        self._all_ended = Event()

    # -- for users -----------------------------------------------------------------------------------------------------

    def map(
        self, func: Callable[[Item], Result], iterable: Iterable[Item], chunksize: int | None = None
    ) -> list[Result]:
        """Return the list of the results of `func`, in the order of the items.

        An exception in `func`, or in the iteration of `iterable`, is raised as it is: the one that a plain loop would
        raise. `chunksize` is the number of items of a chunk; None adapts it to their cost.

        >>> from poolagg import SerialPool
        >>> SerialPool().map(abs, [-3, 1, -2])
        [3, 1, 2]
        """
        from poolagg._engine.mapping import mapped  # here, since the engine imports the pools

        return mapped(self, func, iterable, chunksize)

    def starmap(
        self, func: Callable[..., Result], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Result]:
        """Return `map` of a function of several arguments: each item is the tuple of its arguments.

        >>> from poolagg import SerialPool
        >>> SerialPool().starmap(pow, [(2, 5), (3, 2)])
        [32, 9]
        """
        from poolagg._engine.mapping import mapped

        return mapped(self, star(func), iterable, chunksize)

    def imap(
        self, func: Callable[[Item], Result], iterable: Iterable[Item], chunksize: int | None = None
    ) -> Iterator[Result]:
        """Yield the results of `func` in the order of the items.

        The run begins with the first `next`. The pool pulls the input lazily, only as fast as you take results, and
        leaving the loop stops the run cleanly. An exception in `func`, or in the iteration of `iterable`, is raised as
        it is, after the results that came before it, and ends the iteration.

        >>> from poolagg import SerialPool
        >>> list(SerialPool().imap(abs, [-3, 1, -2]))
        [3, 1, 2]
        """
        from poolagg._engine.mapping import imap

        return imap(self, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[Item], Result], iterable: Iterable[Item], chunksize: int | None = None
    ) -> Iterator[Result]:
        """Yield each result of `func` once, as they come; otherwise like `imap`.

        >>> from poolagg import SerialPool
        >>> sorted(SerialPool().imap_unordered(abs, [-3, 1, -2]))
        [1, 2, 3]
        """
        from poolagg._engine.mapping import imap

        return imap(self, func, iterable, chunksize, in_order=False)

    if not TYPE_CHECKING:  # a class with this method has any attribute, for a type checker

        def __getattr__(self, name: str) -> NoReturn:
            """Raise an AttributeError that says what to use instead of a method of other pools."""
            hint = f": {INSTEAD[name]}" if name in INSTEAD else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=self)

    def __enter__(self) -> Self:
        self.check_open()
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

        A run in progress, in another thread or around this call, ends with a ValueError, and so does one that waits for
        its turn.
        """
        if self.lifecycle is not Lifecycle.OPEN:
            return
        with interrupts_held_back():
            self.lifecycle = Lifecycle.CLOSING
            self._turns.call_all()
            if self.in_use and self._turns.current() is not None:
                self._stop()
            else:
                self._free(at_once)

    def terminate(self) -> None:
        """End all workers at once."""
        self.close(at_once=True)

    def join(self) -> None:
        """Wait until all workers of the closed pool have ended."""
        if self.lifecycle is Lifecycle.OPEN:
            raise ValueError(f"{self!r} is open: call close() or terminate() before join()")
        if self.lifecycle is Lifecycle.CLOSING and self._turns.is_inside():
            raise PoolBusy(f"join() of {self!r} would wait for the job that calls it: call join() after the job")
        self._all_ended.wait()
        self._join()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be pickled: func must not refer to it, but may make a pool of its own")

    # -- for the engine ------------------------------------------------------------------------------------------------

    def check_free(self) -> None:
        """Raise ValueError if the pool is closed, `PoolBusy` if the current run would wait for this thread."""
        self.check_open()
        if self._turns.is_inside():
            raise PoolBusy(
                f"{self!r} is running another job for this thread: a pool runs one at a time, so end that job first, "
                "or use a second pool"
            )

    def take_turn(self, turn: Turn) -> None:
        """Wait until the runs of other threads have ended; `end` gives the turn to the next."""
        self.check_free()
        self._turns.take(turn, self.check_open)

    def used(self, turn: Turn) -> _Used:
        """Return a context manager that defers a concurrent `close`."""
        return _Used(self, turn)

    def check_open(self) -> None:
        """Raise ValueError if the pool is closed."""
        if self.lifecycle is not Lifecycle.OPEN:
            raise ValueError(f"{self!r} is closed: make a new one")

    def begin(self, job: Job, slots: int, turn: Turn) -> None:
        """Start the run that has this turn, on the first `slots` workers."""
        self.check_open()
        self._busy = turn
        try:
            self._begin(job, slots)
        except BaseException as error:
            self.end(turn, clean=False, interrupted=not issubclass(type(error), Exception), again=True)
            raise

    def end(self, turn: Turn, clean: bool, interrupted: bool = False, again: bool = False) -> None:
        """End the run that has this turn; `clean` if every worker is idle.

        `interrupted`: the user wants all work to end now, by Ctrl-C, say. `again`: another run follows in this turn.
        """
        with interrupts_held_back():
            try:
                begun = self._busy is turn  # false in a forked child that has replaced it
                if begun:
                    self._busy = None
                if self.lifecycle is not Lifecycle.OPEN and self._turns.current() is turn:
                    self._free(at_once=True)
                elif self.single_run and not again:
                    self._free(at_once=not clean)
                elif begun and interrupted:
                    self._interrupt()
                elif begun:
                    self._end(clean)
            finally:
                if not again:
                    self._turns.leave(turn)

    def open(self) -> None:  # noqa: B027 - most pools start workers in `begin`
        """Start the workers ahead of the first run."""

    def encode(self, refuse: bool) -> Callable[[Any], Encoded] | None:
        """Return the function that pickles an item; None if items go by reference.

        An item that does not pickle fails in its worker; with `refuse`, the function raises instead.
        """
        del refuse
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
        if self._once.acquire(blocking=False):
            self.lifecycle = Lifecycle.CLOSED
            try:
                self._close(at_once)
            finally:
                self._all_ended.set()

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

    def _join(self) -> None:  # noqa: B027 - most pools wait in `_close`
        """Wait for workers that `_close` leaves to end by themselves."""
