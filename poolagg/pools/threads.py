"""A pool of threads, for a `func` that waits (networks, disks) or releases the GIL (numpy, zlib)."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any, Never, TypeAlias
from weakref import WeakSet

from poolagg._input.batches import InputBatch
from poolagg._input.worker_state import here
from poolagg._runtime.arguments import checked_count
from poolagg._runtime.interrupts import interrupts_allowed, interrupts_held_back
from poolagg._scheduler.messages import (
    Broken,
    Cancel,
    Cancelled,
    Flush,
    PoolEvent,
    RestartWorker,
    RunChunk,
    Yield,
    Yielded,
)
from poolagg.pools.chunk_runner import ChunkRunner, Job
from poolagg.pools.cpus import usable_cpus
from poolagg.pools.pool import Pool, PoolInstruction, checked_initializer, refuse_standard_names
from poolagg.pools.process.progress_cell import Batch, RunCancelled, Sharing
from poolagg.pools.serial import carry_out
from poolagg.pools.serialization.wire import as_reducer_error, start_failed
from poolagg.pools.turns import Turn, WorkerThread

__all__ = ["ThreadPool"]


class ThreadPool(Pool):
    """Threads of this process, kept for many runs: until the pool is closed, or collected.

    Items and partials go by reference and need not pickle, but the source must not reuse one buffer for all its items.
    By default there are more threads than CPUs, `min(32, CPUs + 4)` as in `concurrent.futures`, since they are for work
    that waits. `initializer()` runs first in each.

    A thread can't be killed: `item_timeout` is not supported, and a thread that is busy when its run ends is abandoned,
    and ends after its current batch.

    It needs no GIL, for each object has one owner or a lock. A thread owns its accumulators and its place in the input;
    a partial state is the caller's thread's once it is in the queue of events. Beside queues both sides use fields that
    one of them writes, and what has a lock: the chunks that a thread has claimed, and how a chunk is divided. The
    threads share `func`, the reducer and the items, which are read and not changed, unless `func` itself changes them.

    >>> with ThreadPool(workers=2) as pool:
    ...     sorted(pool.imap_unordered(abs, [-3, 1, -2]))
    [1, 2, 3]
    """

    def __init__(
        self,
        workers: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        **unknown: Never,
    ) -> None:
        super().__init__()
        refuse_standard_names(ThreadPool, unknown)
        self.workers = checked_count("workers", min(32, usable_cpus() + 4) if workers is None else workers)
        checked = checked_initializer(initializer)
        self._initializer = None if checked is None else partial(checked, *initargs)
        self._slots: dict[int, _Thread] = {}
        self._left: WeakSet[WorkerThread] = WeakSet()
        """Threads that were abandoned and may still run their last batch."""
        self._events: PoolEvents = queue.SimpleQueue()  # a new one for each run, so that late events are dropped
        self._now: list[PoolEvent] = []
        self._started_in = os.getpid()

    def __repr__(self) -> str:
        return f"ThreadPool(workers={self.workers})"

    def perform(self, instruction: PoolInstruction, input_batch: InputBatch | None) -> None:
        """Queue the instruction for its worker's thread."""
        if isinstance(instruction, Cancel):
            ok = self._slots[instruction.slot].take_back(instruction.chunk)
            self._now.append(Cancelled(instruction.slot, instruction.chunk, ok))
        elif isinstance(instruction, Yield):
            thread = self._slots[instruction.slot]
            self._now.append(
                Yielded(instruction.slot, instruction.chunk, thread.sharing.ask(instruction.chunk, lambda: thread.now))
            )
        elif not isinstance(instruction, RestartWorker):
            self._slots[instruction.slot].put(instruction, input_batch)

    def wait(self, timeout: float | None) -> list[PoolEvent]:
        """Wait for events of this run."""
        events, self._now = self._now, []
        until = None if timeout is None else monotonic() + timeout
        while not events:
            began = monotonic()
            try:
                got = self._events.get(timeout=None if until is None else max(0.0, until - began))
            except queue.Empty:
                break
            finally:
                self.waited += monotonic() - began
            if got is None:  # closed by another thread
                break
            events.append(got)
        return events

    def batch(self, slot: int) -> Batch | None:
        """Return the batch that the thread is mapping."""
        return self._slots[slot].now

    def advanced(self, slot: int) -> tuple[int, int]:
        """Return the units of the thread's chunk."""
        return self._slots[slot].units if slot in self._slots else (-1, 0)

    def _begin(self, job: Job, slots: int) -> None:
        self._forget_events()
        if self._started_in != os.getpid():  # a forked child does not have its parent's threads
            self._slots.clear()
            self._left.clear()
            self._started_in = os.getpid()
        for slot in range(slots):
            if slot not in self._slots:
                with interrupts_held_back():
                    self._slots[slot] = _Thread(self, slot, self._initializer)
            self._slots[slot].begin(job, self._events, self._busy)

    def _forget_events(self) -> None:
        self._events, self._now = queue.SimpleQueue(), []

    def _end(self, clean: bool) -> None:
        self._forget_events()
        for slot, thread in list(self._slots.items()):
            if not clean and thread.busy:
                self._left.add(thread.leave())
                del self._slots[slot]
            else:
                thread.drop()

    def _stop(self) -> None:
        self._events.put(None)

    def _close(self, at_once: bool) -> None:
        idle = [thread for thread in self._slots.values() if not thread.busy]
        for thread in self._slots.values():
            self._left.add(thread.leave())
        self._slots.clear()
        if self._started_in == os.getpid():
            with interrupts_allowed():  # an initializer may take its time
                for thread in idle:
                    thread.join()

    def _join(self) -> None:
        if self._started_in == os.getpid():
            for thread in list(self._left):
                thread.join()


PoolEvents: TypeAlias = "queue.SimpleQueue[PoolEvent | None]"


class _Thread:
    """One worker's thread and its queue of instructions; it is its own `Heartbeat`.

    It ends with its pool. The pool's weak reference calls `put`, which is C code: an interrupt can't keep that from
    running, as it can a finalizer in Python.
    """

    def __init__(self, pool: ThreadPool, slot: int, initializer: Callable[..., Any] | None) -> None:
        self.slot, self._workers = slot, pool.workers
        self.now: Batch | None = None
        self.units = -1, 0
        self.sharing = Sharing(memoryview(array("q", [0, 0])))
        self._given = self._done = 0
        self._initializer = initializer
        self._failed: BaseException | None = None
        self._work: ChunkRunner | None = None
        self._events: PoolEvents = queue.SimpleQueue()
        self._told_to_leave = False
        self._lock = threading.Lock()
        self._instructions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pool = weakref.ref(pool, partial(self._instructions.put, (None, None)))
        self._cancelled: set[int] = set()
        self._claimed = -1
        self._thread = WorkerThread(target=self._serve, name=f"poolagg-{slot}", daemon=True)
        self._thread.start()

    def begin(self, job: Job, events: PoolEvents, turn: Turn | None) -> None:
        self._thread.serves = turn
        with self._lock:  # here, since the thread may read the job only after chunks were cancelled
            self._claimed = -1
            self._cancelled.clear()
        self.units = -1, 0
        self.sharing.reset()
        self._instructions.put((job, events))

    @property
    def busy(self) -> bool:
        """True while the thread has instructions that it has not finished."""
        return self._given > self._done

    def put(self, instruction: Any, input_batch: InputBatch | None) -> None:
        self._given += 1
        self._instructions.put((instruction, input_batch))

    def drop(self) -> None:
        """Forget the run and its pending instructions."""
        try:
            while True:
                instruction, _ = self._instructions.get_nowait()
                self._given -= isinstance(instruction, (RunChunk, Flush))
        except queue.Empty:
            self._instructions.put((None, None))

    def take_back(self, chunk: int) -> bool:
        """Cancel a chunk, unless the thread has begun it."""
        with self._lock:
            if self._claimed >= chunk:
                return False
            self._cancelled.add(chunk)
            return True

    def leave(self) -> WorkerThread:
        """End after the current batch; return the thread."""
        self._told_to_leave = True
        self._instructions.put((None, None))
        return self._thread

    def join(self) -> None:
        self._thread.join()

    @property
    def _left(self) -> bool:
        return self._told_to_leave or self._pool() is None

    # -- on the thread -------------------------------------------------------------------------------------------------

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Report the batch, or raise `RunCancelled` if the thread is to end."""
        if self._left:
            raise RunCancelled
        self.sharing.come_to(stop - 1)
        self.now = Batch(chunk, start, stop, monotonic())

    def rest(self) -> None:
        """Report that the thread is mapping no item."""
        self.now = None

    def advanced(self, chunk: int, units: int) -> None:
        """Report the units of a chunk."""
        self.units = chunk, units

    def full(self) -> bool:
        """Return False: threads share their memory, which is not limited."""
        return False

    def _serve(self) -> None:
        """Take instructions; while this waits for one, no variable refers to a run."""
        here.become_worker(self.slot, self._workers)
        self._failed = self._initialized()
        while not self._left:
            self._take(*self._instructions.get())
        self._forget()

    def _take(self, instruction: Any, detail: Any) -> None:
        if isinstance(instruction, Job):
            self._work, self._events = ChunkRunner(instruction, self), detail
            if self._failed is not None:
                self._events.put(Broken(self.slot, start_failed(self._failed)))
        elif instruction is None:
            self._forget()
        elif self._work is not None and self._failed is None and self._claim(instruction):
            self._carry_out(self._work, instruction, detail)
        else:
            self._done += 1

    def _carry_out(self, work: ChunkRunner, instruction: RunChunk | Flush, input_batch: InputBatch | None) -> None:
        try:
            # In no variable, since tracebacks keep this frame.
            self._events.put(carry_out(work, instruction, input_batch))
        except RunCancelled:
            return
        except BaseException as error:
            self._events.put(Broken(self.slot, as_reducer_error(error)))
        self._done += 1

    def _forget(self) -> None:
        self._work, self._events = None, queue.SimpleQueue()

    def _initialized(self) -> BaseException | None:
        try:
            if self._initializer is not None:
                self._initializer()
        except BaseException as error:
            return error
        return None

    def _claim(self, instruction: Any) -> bool:
        if not isinstance(instruction, RunChunk):
            return True
        with self._lock:
            self._claimed = instruction.chunk
            return instruction.chunk not in self._cancelled
