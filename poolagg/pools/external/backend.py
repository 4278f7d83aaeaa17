"""The protocol of backends, by which an external pool uses an engine, and the values that cross it.

An engine runs tasks on workers that poolagg did not start: an executor, a `multiprocessing.Pool`, dask, Ray.

    external pool              backend                             engine
    begin    ── place(job) ──▶ sends the job                  ──▶  workers
    perform  ── submit(task) ▶ sends `task.call()`            ──▶  a worker: run_task(call, states)
    wait     ── wait ────────▶ waits, and reads what ended    ◀──  what run_task returned, or an error
    end      ── cancel ──────▶ cancels what still runs        ──▶

A new engine takes one file: a class with the members of `Backend`, and a pool that is `ExternalPool(backend)`. The pool
bounds the input, keeps states on the cluster and counts each chunk once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple, Protocol

from poolagg._input.batches import InputBatch
from poolagg._runtime.exception_text import said
from poolagg._scheduler.messages import Broken, Flush, Lost, PoolEvent, RunChunk
from poolagg._scheduler.ranges import Interval
from poolagg.errors import WorkerLost
from poolagg.pools.chunk_runner import Job
from poolagg.pools.external.task import Call, Ended, Kept, Returned

__all__ = ["CONTINUE", "Backend", "Inbox", "Leaf", "Result", "Task", "cannot_run", "lost"]

CONTINUE = "With checkpoint=path the same call goes on from where it stopped"
"""The advice for a run whose engine is lost."""

LOOK = 0.5
"""Seconds between two checks that the engine still runs, if the engine does not report its loss."""


class Leaf(NamedTuple):
    """A state that stays on the cluster: the engine's handle of it, and the items that it covers."""

    state: Any
    covers: tuple[Interval, ...]


class Task(NamedTuple):
    """One call of `run_task` for one slot.

    `instruction` names the slot, and the items in `input_batch` that the worker maps; a `Flush` has none. The worker
    merges the `leaves` into its state. With `keep`, the state stays on the cluster if it is large.
    """

    name: str
    """The run's name, unique among all runs of all programs."""
    instruction: RunChunk | Flush
    input_batch: InputBatch | None = None
    leaves: Sequence[Leaf] = ()
    keep: bool = False

    def call(self, job: Any = None) -> Call:
        """Return the argument of `run_task`; without `job`, the backend sends the job in another way."""
        covers = tuple([leaf.covers for leaf in self.leaves]) if self.leaves else ()
        instruction = self.instruction
        if not isinstance(instruction, RunChunk) or self.input_batch is None:
            return Call(self.name, job, None, None, covers)
        return Call(
            self.name, job, tuple(instruction), self.input_batch.cut(instruction.start, instruction.stop), covers
        )

    @property
    def alone(self) -> bool:
        """True if it runs a suspect: with `one_failure_domain` no other items are in flight."""
        return isinstance(self.instruction, RunChunk) and self.instruction.alone

    @property
    def states(self) -> list[Any]:
        """The engine's handles of the leaves."""
        return [leaf.state for leaf in self.leaves]

    def died(self, error: WorkerLost, suspect: Interval | None = None) -> Lost:
        """Return the event of a worker's death: `suspect` has killed it, or any item of the task may have."""
        if not isinstance(self.instruction, RunChunk):
            return self.lost(error)
        return Lost(self.instruction.slot, suspect or (self.instruction.start, self.instruction.stop), "died", error)

    def lost(self, error: WorkerLost) -> Lost:
        """Return the event that the slot's state is lost, and that no item is to blame."""
        return Lost(self.instruction.slot, None, "died", error, certain=True)

    def broken(self, error: WorkerLost) -> Broken:
        """Return the event that the run cannot go on."""
        return Broken(self.instruction.slot, error)


class Result(NamedTuple):
    """The result of a task: what `run_task` returned, or the event for an engine's error."""

    task: Task
    value: Returned | Kept | Ended | PoolEvent
    state: Any = None
    """The engine's handle of the state, which is a leaf if `value` is `Kept`."""
    seconds: float = 0.0
    """Seconds that fetching the value took, if this was not in `wait` on the caller's thread."""


class Backend(Protocol):
    """An engine, as an external pool uses it. The pool calls all methods on the caller's thread.

    `repr(backend)` is the pool's name in reports and errors.
    """

    workers: int
    """Number of tasks that run at the same time."""
    slots: int = 2
    """Tasks in flight for each worker: one that runs, and others that wait, so that the worker is never idle."""
    one_failure_domain: bool = False
    """The engine cannot tell which of several tasks in flight has killed a worker."""
    keeps_states: bool = False
    """A result may stay on the cluster, as an argument of a later task, and workers may start processes."""
    by_reference: bool = False
    """Workers are threads of this process, so that items need not pickle."""
    task_seconds: float = 0.0
    """Least work of a task, in seconds: long compared with the engine's cost of a task."""
    task_rate: float = inf
    """Most tasks a second that the engine can handle."""

    def place(self, name: str, job: Job) -> None:
        """Begin a run: send its job to the workers, once."""

    def submit(self, task: Task) -> None:
        """Send a task, without waiting for it. Submit no task twice: the scheduler decides what runs again."""

    def wait(self, timeout: float | None) -> Iterable[Result]:
        """Wait until a task has ended, `timeout` seconds at most (None: without a limit), and return its result.

        The pool consumes the iterable at once, and does not count the time for that as waiting. Raise `WorkerLost` if
        the engine is lost.
        """

    def cancel(self) -> None:
        """End the run: cancel what still runs, free the job and all states, and drop later results."""

    def close(self) -> None:
        """End what the backend itself has started; by default there is nothing to end."""
        return


class Inbox:
    """Results of one run, delivered by an engine's own threads.

    It does not refer to its backend: what arrives after the run would keep both, and the user's items, in a cycle.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self.put = self._queue.put

    def wait(self, timeout: float | None, look: Callable[[], None]) -> list[Any]:
        """Wait for a result, `timeout` seconds at most; call `look` repeatedly while none comes."""
        until = inf if timeout is None else monotonic() + timeout
        while True:
            patience = min(until - monotonic(), LOOK)
            try:
                return [self._queue.get(timeout=max(0.0, patience))]
            except Empty:
                look()
                if monotonic() >= until:
                    return []


def lost(backend: Backend, text: str, cause: BaseException | None = None, exitcode: int | None = None) -> WorkerLost:
    """Make the error for a lost part of an engine. The exit code of a process elsewhere is mostly unknown."""
    error = WorkerLost(f"{backend!r} {text}", exitcode=exitcode, signal=None, index=None, item=None)
    error.__cause__ = cause
    return error


def cannot_run(backend: Backend, error: BaseException) -> WorkerLost:
    """Make the error for an engine's own error, which is neither func's nor the reducer's."""
    hint = "Are its workers alive, and do they have poolagg, as it is here?"
    return lost(backend, f"can't run a chunk: {said(error).rstrip('.')}. {hint}", error)
