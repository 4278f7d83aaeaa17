"""Run a chunk, in a worker of any pool: map it in batches, and fold the prepared partials.

Map and reduce are separate phases of a batch: `func` and `prepare` run on every item, a failure concerns its item
alone, and only then does the worker fold the prepared partials. So a failing `func` never leaves an accumulator half
changed, and a failing `step` is the reducer's error.

A batch lasts about two milliseconds: long enough to make its overhead (the clock, the progress cell, a few list
operations) negligible, short enough to keep the cell's report to the parent current.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import monotonic, perf_counter
from typing import Any, NamedTuple, NoReturn, TypeAlias

from poolagg._input.worker_state import here
from poolagg._runtime.exception_text import is_a, said
from poolagg._runtime.signals import raised_by_handler
from poolagg._scheduler.ranges import Interval, LeafGrid, without
from poolagg._scheduler.worker_messages import NONE_YET, ChunkResult, PartialState, RunChunk
from poolagg.errors import ReducerError
from poolagg.pools.batch_mapper import BatchMapper, Heartbeat
from poolagg.pools.serialization.outbox import Outbox
from poolagg.pools.serialization.pickling import dumps_code, raise_if_inherited_only
from poolagg.reducers import Reducer, Rejection
from poolagg.strategies import Strategy

__all__ = ["ChunkRunner", "Job", "OpenedBatch", "pickle_job"]

OpenedBatch: TypeAlias = tuple[Sequence[Any], Callable[[Any], Any] | None]
"""The items of a chunk, and the function that unpacks each; None if they are plain."""

BATCH = 0.002
"""Seconds of work in a batch."""

HEAVY = 1 << 20
"""Upper limit of a batch's partials, in bytes, so that a worker never holds a hundred arrays."""

LIGHT = 100
"""Size of a batch, in items, from which the worker no longer checks for a yield before each item, though another
worker may wait: a check takes 0.1 us, and is to cost no more than 1 %."""

FEW = 512
"""Size of a chunk, in items, up to which the worker checks all the same: that costs less than sending the chunk, and
heavy items may follow light ones."""

FAILURES = 256
"""Failed items after which a worker hands back the rest of its chunk: sending an exception takes longer than most items
take to fail, and an exception may be as large as its item."""


class Job(NamedTuple):
    """One run's work, sent to each worker at the start. `epoch` distinguishes the runs of one pool."""

    func: Callable[[Any], Any]
    reducer: Reducer
    strategy: Strategy
    grid: LeafGrid | None = None
    epoch: int = 0
    item_timeout: float | None = None
    """Time limit of an item, in seconds, for workers that the parent cannot watch."""


def pickle_job(job: Job, inherited: Mapping[str, Any] | None = None) -> bytes:
    """Pickle the job, or raise a TypeError that names what does not pickle."""
    try:
        return dumps_code(job, inherited)
    except Exception as error:
        for name, value in (("func", job.func), ("the reducer", job.reducer)):
            try:
                dumps_code(value)
            except Exception:
                raise_if_inherited_only(f"{name}, {value!r},", error)
                raise TypeError(
                    f"{name}, {value!r}, can't be sent to a worker: {said(error)}. Make what it refers to inside the "
                    f"worker (per_worker, or an initializer), or use a ThreadPool"
                ) from error
        raise


class ChunkRunner:
    """Runs the chunks of one job in one worker, for every kind of pool.

    An exception in `func` that is `fatal` ends the worker's thread; any other is the item's failure. Outside of `func`,
    what a signal handler raises propagates unchanged, and not as the reducer's failure. `outbox` packs, batch by batch,
    what has to leave this process.
    """

    def __init__(
        self,
        job: Job,
        heartbeat: Heartbeat,
        fatal: Callable[[BaseException], bool] = lambda _: False,
        outbox: Outbox | None = None,
    ) -> None:
        self._job = job
        self._heartbeat = heartbeat
        self._sharing = heartbeat.sharing
        self._worker_fold = job.strategy.worker_fold(job.reducer, job.grid)
        holds = job.reducer.retains_input or not job.strategy.stateful
        self._mapper = BatchMapper(job.func, job.reducer, holds, heartbeat, fatal, outbox)
        self._outbox = outbox
        rejection = job.reducer.rejection
        self._folds_at_once = getattr(self._worker_fold, "folds_at_once", False)
        self._validates = rejection is not Rejection.NONE
        self._validates_first = rejection is Rejection.MIDWAY or not self._folds_at_once
        self._start = 0
        self._partials = outbox if getattr(self._worker_fold, "flushes_partials", False) else None
        self._batch = 1
        self._reduce_seconds = 0.0
        self._slowest = NONE_YET
        self.heavy = False
        """True once a partial was so large that it made a batch of its own."""

    def carry_out(self, run: RunChunk, input_batch: Callable[[], OpenedBatch]) -> ChunkResult:
        """Run a chunk, and flush the state if the instruction says so. `input_batch` returns the opened batch."""
        finished = self._run_opened(run, input_batch)
        return self.flushed(finished) if run.flush else finished

    def _run_opened(self, run: RunChunk, input_batch: Callable[[], OpenedBatch]) -> ChunkResult:
        """Run the chunk, and drop every reference to its items."""
        return self.run(run, *input_batch())

    def run(self, run: RunChunk, items: Sequence[Any], unpack: Callable[[Any], Any] | None) -> ChunkResult:
        """Map and fold the items of one chunk; `unpack` opens each of them."""
        mapper, outbox = self._mapper, self._outbox
        self._reduce_seconds, self._slowest = 0.0, NONE_YET
        mapper.begin()
        at, began = monotonic(), perf_counter()
        self._start, stop = run.start, run.stop
        with here.within():
            for interval in without((run.start, run.stop), run.without):
                reached = self._run_interval(run, interval, items, unpack, began + run.budget)
                if reached < interval[1]:
                    stop = reached
                    break
        self._heartbeat.rest()
        self._reduce(self._worker_fold.close, stop)
        failures = mapper.end()
        seconds = perf_counter() - began - (0.0 if outbox is None else outbox.seconds)
        if outbox is not None:
            failures = outbox.take_failures()
        times = self._reduce_seconds, 0.0, 0.0, at, self._slowest
        return ChunkResult(run.slot, run.chunk, stop, seconds, failures, None, *times)

    def adopt(self, covers: tuple[Interval, ...], data: Any) -> None:
        """Merge another worker's state into this worker's, for strategies that merge remotely."""
        try:
            self._worker_fold.adopt(covers, data)  # type: ignore[attr-defined]
        except Exception as error:
            self._raise_as_reducers(error, "as it merged states")

    def payloads(self) -> list[PartialState]:
        """Return the partial states folded so far, and forget them; this may merge some of them."""
        try:
            return [
                state if type(state) is PartialState else PartialState(*state) for state in self._worker_fold.payloads()
            ]
        except Exception as error:
            self._raise_as_reducers(error, "as it flushed its state")

    def flushed(self, finished: ChunkResult) -> ChunkResult:
        """Add the partial states folded so far to a result, packed if they have to leave this process."""
        states = self.payloads()
        if self._outbox is None:
            return finished.with_states(tuple(states), 0.0)
        packed, seconds = self._outbox.pack(states, finished.chunk, finished.stop)
        self._heartbeat.rest()
        return finished.with_states(packed, seconds)

    def _run_interval(
        self,
        run: RunChunk,
        interval: Interval,
        items: Sequence[Any],
        unpack: Callable[[Any], Any] | None,
        until: float,
    ) -> int:
        index, stop = interval
        mapper, now = self._mapper, perf_counter()
        while index < stop:
            singly = run.alone or mapper.singly
            end = min(stop, index + (1 if singly else self._batch))
            if index > run.start and (now > until or (not run.alone and self._has_too_much())):
                if (boundary := self._boundary(index)) == index:
                    return index
                end = min(end, boundary)
            mapper.announce(run.chunk, index, end)
            asked = self._sharing is not None and self._sharing.asked(run.chunk)
            if asked:  # checked after the announcement, as `Sharing` requires
                if (boundary := self._boundary(index)) == index:
                    return index
                end = min(end, boundary)
            few = run.stop - run.start <= FEW or end - index < LIGHT
            looks = few and not asked and run.budget < inf  # a chunk without a budget is never divided
            part = items[index - run.start : end - run.start]
            size = self._fold_batch(mapper.map(index, part, unpack, run.chunk if looks else None))
            end = end if mapper.cut is None else mapper.cut
            began, now = now, perf_counter()
            if now - began > self._slowest[2]:
                self._slowest = index, end, now - began
            self._adapt(end - index, now - began, size)
            index = end
        return stop

    def _boundary(self, index: int) -> int:
        """Return the next item, from `index` on, at which a worker may stop."""
        return index if self._job.grid is None else self._job.grid.ceil(index)

    def _has_too_much(self) -> bool:
        """Tell if memory or failures forbid to go on; the worker keeps exceptions until the chunk ends."""
        failures = len(self._mapper.failures) if self._outbox is None else self._outbox.failures
        return failures >= FAILURES or self._heartbeat.full()

    def _adapt(self, items: int, seconds: float, size: int) -> None:
        by_time = items * BATCH / max(seconds, 1e-9)
        by_size = HEAVY / max(size, 1)
        self.heavy = self.heavy or size > HEAVY
        self._batch = max(1, int(min(by_time, by_size, self._batch * 4)))

    def _fold_batch(self, mapped: Sequence[tuple[int, list[Any]]]) -> int:
        """Fold the mapped partials and pack the failures; return the approximate bytes of one partial."""
        size = 0
        if self._validates and self._validates_first:
            mapped = self._mapper.validated(self._job.reducer.validate, mapped)
        for start, prepareds in mapped:
            size = sys.getsizeof(prepareds[-1], 0)
            if self._partials is None:
                self._fold_run(start, prepareds)
            else:
                for failure in self._partials.add(start, prepareds):
                    self._mapper.fail(failure.index, failure.error)
        self._mapper.pack_failures()
        return size

    def _fold_run(self, start: int, prepareds: list[Any]) -> None:
        """Fold a run. If that fails and leaves the accumulator unchanged, fold it without what the reducer rejects."""
        try:
            self._reduce(self._worker_fold.add, start, prepareds)
        except ReducerError:
            if self._validates_first or not self._validates:
                raise
            valid = self._mapper.validated(self._job.reducer.validate, [(start, prepareds)])
            if sum(len(run) for _, run in valid) == len(prepareds):
                raise
            for index, run in valid:
                self._reduce(self._worker_fold.add, index, run)

    def _reduce(self, method: Callable[..., None], *arguments: Any) -> None:
        began = perf_counter()
        try:
            method(*arguments)
        except BaseException as error:
            self._mapper.leave_fork(error)
            if not is_a(error, Exception):
                raise
            self._raise_as_reducers(error, f"as it folded {self._folded(*arguments)}")
        self._mapper.leave_fork()
        self._reduce_seconds += perf_counter() - began

    def _folded(self, index: int, prepareds: Sequence[Any] = ()) -> str:
        """Name the items that are being folded: those of a batch, or all so far if the strategy keeps batches."""
        start, last = index if self._folds_at_once else self._start, index + len(prepareds) - 1
        return f"items {start} to {last}" if start < last else f"item {last}"

    def _raise_as_reducers(self, error: Exception, where: str) -> NoReturn:
        if raised_by_handler(error):
            raise error
        raise ReducerError(
            f"{self._job.reducer!r} failed in a worker, {where}: {said(error)}. "
            f"Try it with poolagg.testing.check_reducer, or with pool=SerialPool()"
        ) from error
