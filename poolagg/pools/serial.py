"""A pool of one worker on the caller's thread, for debugging."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from poolagg._input.batches import InputBatch, open_batch
from poolagg._input.worker_state import here
from poolagg._runtime.signals import handlers, raised_by_handler
from poolagg._scheduler.messages import Broken, Cancel, Cancelled, ChunkResult, Flush, Flushed, PoolEvent, RunChunk
from poolagg.errors import ReducerError
from poolagg.pools.batch_mapper import let_callers_go
from poolagg.pools.chunk_runner import ChunkRunner, Job
from poolagg.pools.pool import Pool, PoolInstruction

__all__ = ["NoHeartbeat", "SerialPool", "carry_out"]


class NoHeartbeat:
    """Discards what the worker reports, since the parent is the worker."""

    sharing = None

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Ignore it."""

    def rest(self) -> None:
        """Ignore it."""

    def full(self) -> bool:
        """Return False: memory is not limited."""
        return False


def carry_out(work: ChunkRunner, instruction: RunChunk | Flush, input_batch: InputBatch | None) -> PoolEvent:
    """Carry out an instruction on this thread; partials go by reference."""
    event = _carry_out(work, instruction, input_batch)
    if isinstance(event, ChunkResult):
        let_callers_go(event.failures)
    try:
        return event
    finally:  # tracebacks of failures may keep this frame, too
        del work, input_batch, event


def _carry_out(work: ChunkRunner, instruction: RunChunk | Flush, input_batch: InputBatch | None) -> PoolEvent:
    try:
        if isinstance(instruction, Flush):
            return Flushed(instruction.slot, tuple(work.payloads()))
        assert input_batch is not None
        start, count = instruction.start - input_batch.start, instruction.stop - instruction.start
        return work.carry_out(instruction, partial(open_batch, input_batch.kind, input_batch.data, start, count))
    except ReducerError as error:
        return Broken(instruction.slot, error)


def _interrupts() -> Callable[[BaseException], bool]:
    """Return a test for exceptions that end the run: Ctrl-C, and what a signal handler of the caller raises.

    What a handler installed by `func` raises fails the item only: `func` may limit its own time that way.
    """
    callers = handlers() if threading.current_thread() is threading.main_thread() else frozenset()
    return lambda error: (
        issubclass(type(error), KeyboardInterrupt) or (bool(callers) and raised_by_handler(error, callers))
    )


class SerialPool(Pool):
    """One worker on the caller's thread: breakpoints, profilers and tracebacks work as in a plain loop.

    Items and partials go by reference and need not pickle, but the source must not reuse one buffer for all its items.
    Ctrl-C and `KeyboardInterrupt` in `func` end the run, and so does an exception from a signal handler that was
    installed before. `item_timeout` is not supported.

    >>> list(SerialPool().imap_unordered(abs, [-1, -2]))
    [1, 2]
    """

    workers = 1

    def __init__(self) -> None:
        super().__init__()
        self._instructions: deque[tuple[PoolInstruction, InputBatch | None]] = deque()
        self._work: ChunkRunner | None = None

    def __repr__(self) -> str:
        return "SerialPool()"

    def perform(self, instruction: PoolInstruction, input_batch: InputBatch | None) -> None:
        """Queue the instruction for `wait`."""
        self._instructions.append((instruction, input_batch))

    def wait(self, timeout: float | None) -> list[PoolEvent]:
        """Carry out the oldest instruction."""
        while self._instructions:
            instruction, input_batch = self._instructions.popleft()
            if isinstance(instruction, Cancel):
                return [Cancelled(instruction.slot, instruction.chunk, ok=False)]
            if isinstance(instruction, (RunChunk, Flush)):  # others do not apply to a single worker
                assert self._work is not None
                began = monotonic()
                try:
                    # In no variable, since tracebacks keep this frame.
                    with here.as_only_worker():
                        return [carry_out(self._work, instruction, input_batch)]
                finally:
                    del input_batch
                    self.waited += monotonic() - began  # the caller's thread is the worker
        return []

    def _begin(self, job: Job, slots: int) -> None:
        self._instructions.clear()
        self._work = ChunkRunner(job, NoHeartbeat(), fatal=_interrupts())

    def _end(self, clean: bool) -> None:
        self._instructions.clear()
        self._work = None

    def _close(self, at_once: bool) -> None:
        self._end(not at_once)
