"""Run: the loop of one run, on the caller's thread; the one place that holds a scheduler and a pool.

Each round pulls items (`input_feed.py`), waits for the pool's events, passes them to the scheduler, and carries out its
instructions. The scheduler decides, and the pool runs chunks. `failures.py` handles failed items, `observers.py` tells
the watchers. This file owns the result and the clock.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from poolagg import events
from poolagg._engine.failures import Failures
from poolagg._engine.input_feed import InputFeed
from poolagg._engine.observers import Observers, ParentTimes
from poolagg._engine.options import RunOptions
from poolagg._engine.units import Units
from poolagg._input.source import Source
from poolagg._runtime.durations import bounded
from poolagg._runtime.interrupts import even_if_interrupted, interrupts_held_back
from poolagg._scheduler import messages as messages
from poolagg._scheduler.scheduler import Counts, Scheduler
from poolagg.errors import PoolAggError, SkippedItems
from poolagg.pools import Turn, Watch
from poolagg.reducers import Into

if TYPE_CHECKING:  # few runs have a checkpoint, and its modules take long to import
    from poolagg._checkpoint.input_digest import InputDigest
    from poolagg._engine.checkpointer import Checkpointer
    from poolagg._engine.snapshot import Snapshot
    from poolagg._scheduler.ranges import RangeSet

__all__ = ["Run"]

LATE = 0.005
"""Seconds that a batch, made to last 0.002, may take before the scheduler divides the chunk of its worker."""

AWAKE = 1.0
"""Longest wait, in seconds: a signal that arrives just before the system call that waits does not interrupt it, and
Ctrl-C is to be heard all the same."""


class Run:
    """One run: each `step` is a round of its loop."""

    _scheduler: Scheduler
    _entered = _ended = _planned = _stopped = False

    def __init__(
        self, settings: RunOptions, every: float | None = None, within: Turn | None = None, error_last: bool = False
    ) -> None:
        self._settings = settings
        self._every = every
        self._pool = settings.make_pool()
        self._within = within is not None
        """A part of another run, in whose turn it runs."""
        self.turn = Turn() if within is None else within
        """The pool knows the turn, and not the run itself, whose `__del__` must be able to end it."""
        if not self._within:
            self._pool.check_free()
        self._strategy = settings.strategy
        self._parent_fold = self._strategy.parent_fold(settings.reducer)
        self._ends_early = settings.reducer.ends_early
        self._digest = settings.input_digest()
        self._checkpointer: Checkpointer | None = None
        observer = None if self._digest is None or self._digest.sliced else self._digest
        self._parent_times = ParentTimes()
        self._source = Source(settings.iterable, self._pool.encode(refuse=error_last), observer)
        self.feed = InputFeed(self._source, self._parent_times, error_last, settings.chunksize)
        self._retry_buffer = self.feed.retry_buffer
        self._total = settings.total if settings.total is not None else self._source.total
        slots = self._pool.workers if self._total is None else max(1, min(self._pool.workers, self._total))
        self._options = settings.scheduler_options(self._pool, slots, self._total)
        units = Units(self._pool.advanced, slots)
        self._observers = Observers(settings.watchers(), self._parent_times, self._retry_buffer, self._total, units)
        self._failures = Failures(settings, self._retry_buffer, self._observers)
        self._began = monotonic()
        self._next_snapshot = 0.0
        timeout = settings.item_timeout
        self._watch = None if timeout is None else Watch(self._pool, timeout)
        self._working = False

    def value(self, last: bool = False) -> Any:
        """Return the finished result of what the parent has folded."""
        return self._parent_fold.value(last)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._entered = True
        try:
            if not self._within:
                self._pool.take_turn(self.turn)
            with self._pool.used(self.turn):
                self._begin()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def step(self) -> bool:
        """Do one round: pull, wait for events, carry out instructions. Return False when the run is over."""
        with self._pool.used(self.turn):
            return self._step()

    def _step(self) -> bool:
        while (event := self.feed.next_event(self._scheduler)) is not None:
            if isinstance(event, messages.Pulled):
                self._begin_work()  # the total that said there were no items was wrong
            self._do(self._scheduler.handle(event))
        if self._scheduler.finished:
            self._run_final_stage()  # before the last commit, since the state may become much smaller
            self._keep_result()
            return False
        if self._working:
            self._handle_all(self._arrived())
        self._check_deadlines()
        return True

    def _arrived(self) -> list[messages.PoolEvent]:
        """Wait for the pool's events.

        A `SerialPool` runs `func` in here, so a failed item's traceback refers to the frames of `_arrived` and `_step`.
        These frames keep no event: it would put the exception, and its item, into a reference cycle.
        """
        patience = self._patience()
        began, waited = monotonic(), self._pool.waited
        try:
            return self._pool.wait(patience)
        finally:
            self._parent_times.waited(monotonic() - began, self._pool.waited - waited)

    def _run_final_stage(self) -> None:
        """Let the workers do the strategy's final stage, if it has one, as a run of its own.

        If that run fails, `value` does the work in the parent.
        """
        final_stage = None if self._stopped else self._strategy.final_stage(self._parent_fold)
        if final_stage is None or not self._working:
            return
        self._observers.tell(events.FinalMergeStarted(len(final_stage.items), final_stage.why, monotonic()))
        self._pool.end(self.turn, clean=True, again=True)
        settings = RunOptions(final_stage.func, final_stage.items, Into(final_stage.take), pool=self._pool)
        with contextlib.suppress(PoolAggError), Run(settings, within=self.turn) as run:
            while run.step():
                pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        even_if_interrupted(self._end, None if kind is GeneratorExit else error)

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """End a run whose `__exit__` was prevented by an interrupt."""
        if self._entered and not self._ended and not ending():
            even_if_interrupted(self._end, KeyboardInterrupt("the run was interrupted as it ended"))

    def snapshot_is_due(self) -> bool:
        """Tell whether `every` seconds have passed and there is a result to show; ask workers to flush for the next."""
        if self._every is None or monotonic() < self._next_snapshot:
            return False
        self._next_snapshot = monotonic() + self._every
        with self._pool.used(self.turn):
            self._do(self._scheduler.handle(messages.FlushAll()))
        # Of no partials some reducers have no result.
        return self._scheduler.counts().merged > 0

    def snapshot(self, final: bool) -> Snapshot:
        """Make a snapshot of the result so far."""
        merged, failed, _ = self._scheduler.counts()
        from poolagg._engine.snapshot import Snapshot  # here, since most runs take none

        return Snapshot(self.value(final), merged + failed, self._total, monotonic() - self._began, final)

    def warn_of_skipped(self, stacklevel: int) -> None:
        """Warn of the skipped items, if there are any."""
        if self._failures.skipped.count:
            warnings.warn(
                SkippedItems(self._failures.skipped.text(self._scheduler.demand.start)), stacklevel=stacklevel + 1
            )

    def _begin(self) -> None:
        settings, options = self._settings, self._options
        self._began = monotonic()
        self._next_snapshot = self._began + (self._every or 0)
        covered, failed_before = ((), ()) if self._digest is None else self._continue(self._digest)
        self._scheduler, self._planned = Scheduler(options, covered, failed_before), True
        if self._checkpointer is not None and covered:
            self._is_enough(self._checkpointer.covered.prefix)
            if self._stopped:
                self._scheduler.stop()
                self._checkpointer.skip(self._source, self._checkpointer.needed)
        merged, failed, _ = self._scheduler.counts()
        # A continued run may need no workers: it starts them when it pulls an item.
        if self._total != 0 and not (merged or failed):
            self._begin_work()
        if self._observers:
            self._observers.tell(
                events.RunStarted(
                    self._total, options.slots, repr(self._pool), repr(self._strategy), repr(settings.reducer),
                    merged, self._began, monotonic() - self._began,
                    self._pool.slots_per_worker, options.in_order, settings.why,
                )
            )  # fmt: skip

    def _begin_work(self) -> None:
        if not self._working:
            settings, options = self._settings, self._options
            self._pool.begin(settings.job(options.grid), options.slots, self.turn)
            self._working = True
            if options.most_items is not None:
                items_run = {slot: items for slot, items in self._pool.items_run().items() if slot < options.slots}
                self._do(self._scheduler.handle(messages.ItemsRun(items_run)))

    def _end(self, error: BaseException | None) -> None:
        """End the run, once. An interrupt waits until the pool and the checkpoint are released."""
        if self._ended:
            return
        with interrupts_held_back():
            self._ended = True
            clean = error is None and self._scheduler.finished and not self._stopped
            if self._working and self._observers:  # before the pool ends: its workers may end with it
                self._parent_times.workers_memory = self._pool.peak_memory()
            try:
                interrupted = error is not None and not issubclass(type(error), Exception)
                self._pool.end(self.turn, clean, interrupted, again=self._within)
            finally:
                try:
                    if self._checkpointer is not None:
                        self._checkpointer.end(error, self._observers.tell)
                finally:
                    done, failed, _ = self._scheduler.counts() if self._planned else Counts()
                    self._observers.ended(done, failed, monotonic() - self._began, error, self._stopped)

    def _patience(self) -> float:
        """Return the seconds to wait for events at most: 0 while there are items to pull."""
        if self.feed.is_wanted(self._scheduler):
            return 0.0
        deadlines = [monotonic() + AWAKE]
        if self._observers:
            deadlines.append(self._observers.next_redraw)
        if self._every is not None:
            deadlines.append(self._next_snapshot)
        if self._watch is not None:
            deadlines.append(self._watch.next)
        if self._checkpointer is not None and (look := self._checkpointer.next_look) is not None:
            deadlines.append(look)
        deadlines.extend(at for _, _, at in self._divisible())
        return bounded(min(deadlines) - monotonic())

    def _check_deadlines(self) -> None:
        if self._watch is not None and self._working:
            self._watch.look(range(self._options.slots))
        for slot, chunk, at in self._divisible():
            if monotonic() >= at:
                self._do(self._scheduler.handle(messages.Late(slot, chunk)))
        if self._observers.progress_is_due():
            counts = self._counts()
            self._observers.progressed(counts.done, counts.failed)
        if self._checkpointer is not None:
            if self._checkpointer.asks():
                self._do(self._scheduler.handle(messages.FlushAll()))
            if self._checkpointer.due():
                self._observers.tell(self._checkpointer.commit())

    def _divisible(self) -> list[tuple[int, int, float]]:
        """Return slots whose chunks the scheduler may divide for idle workers, each with its chunk and from when on."""
        running = [(slot, chunk, self._pool.batch(slot)) for slot, chunk in self._scheduler.divisible]
        return [(slot, chunk, at.since + LATE) for slot, chunk, at in running if at and at.chunk == chunk]

    # -- the checkpoint ------------------------------------------------------------------------------------------------

    def _continue(self, digest: InputDigest) -> tuple[RangeSet, RangeSet]:
        """Continue from the checkpoint; return the items that it covers, and those that failed."""
        from poolagg._engine.checkpointer import Checkpointer

        self._checkpointer = Checkpointer(self._settings, self._parent_fold, digest, self._options)
        self.feed.checkpointer, self._failures.note_in_checkpoint = self._checkpointer, self._checkpointer.skip_failed
        self._checkpointer.begin(self._options)
        if self._settings.on_error == "skip":
            self._checkpointer.tell_skipped(self._failures.skipped)
        return self._checkpointer.covered, self._checkpointer.all_failed

    def _keep_result(self) -> None:
        if self._checkpointer is not None:
            self._checkpointer.finished()
            self._checkpointer.commit_rest(self._observers.tell)

    # -- events in, instructions out -----------------------------------------------------------------------------------

    def _handle_all(self, arrived: Iterable[messages.PoolEvent]) -> None:
        for event in arrived:
            self._handle(event)

    def _handle(self, event: messages.PoolEvent) -> None:
        if isinstance(event, messages.Flushed):
            self._observers.state_flushed(event)
        elif isinstance(event, messages.Lost):
            self._observers.worker_died(event)
        elif isinstance(event, messages.Retiring):
            self._observers.worker_retired(event.slot, event.reason)
        self._do(self._scheduler.handle(event))

    def _do(self, todo: Iterable[messages.Instruction]) -> None:
        pending = deque(todo)
        while pending and not self._stopped:
            instruction = pending.popleft()
            match instruction:
                case messages.RunChunk():
                    self._pool.perform(instruction, self._retry_buffer.find(instruction.start))
                case messages.RestartWorker(slot, reason):
                    if reason:
                        self._observers.worker_retired(slot, reason)
                    self._pool.perform(instruction, None)
                case messages.Flush() | messages.Cancel() | messages.Yield():
                    self._pool.perform(instruction, None)
                case messages.ChunkRan(start, finished):
                    if self._observers:
                        self._observers.chunk_done(finished, start)
                case messages.Release(start, stop):
                    self._retry_buffer.release(start, stop)
                case messages.Commit(state, settled):
                    pending.extend(self._commit(state, settled))
                case messages.Retry():
                    self._failures.retry(instruction)
                case messages.Skip():
                    self._failures.skip(instruction)
                    self._is_enough(instruction.settled)
                case messages.LeaveOut(leaf):
                    self._leave_out(leaf)
                case messages.Fail():
                    self._failures.fail(instruction)
        if self._stopped:
            self._scheduler.stop(pending)

    def _commit(self, state: messages.PartialState, settled: int) -> list[messages.Instruction]:
        began, keeper = monotonic(), self._checkpointer
        try:
            with contextlib.nullcontext() if keeper is None else keeper.covering(state.covers, state.nbytes):
                self._parent_fold.commit(state.data)
        except BaseException as error:
            self._failures.note_fold(error, state, self._parent_fold.at)
            raise
        seconds = monotonic() - began
        for start, stop in state.covers:
            self._retry_buffer.release(start, stop)
        self._observers.state_merged(state, began, seconds)
        return self._scheduler.handle(messages.Merged(seconds, self._ends_early and self._is_enough(settled)))

    def _is_enough(self, settled: int) -> bool:
        """Return whether the items pulled so far decide the result; end the run if those `settled` do.

        What is true of the items `settled` is true of all that were pulled, so most calls ask once.
        """
        if not (self._ends_early and self._parent_fold.done(max(settled, self._scheduler.demand.start))):
            return False
        self._stopped = bool(self._parent_fold.done(settled))
        return True

    def _leave_out(self, leaf: int) -> None:
        """Tell the parent fold that a leaf has no state, so that it need not keep the leaves beside it."""
        leave_out = getattr(self._parent_fold, "leave_out", None)
        if leave_out is not None:
            with contextlib.nullcontext() if self._checkpointer is None else self._checkpointer.covering(()):
                leave_out(leaf)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _counts(self) -> Counts:
        """Count items, those done in running chunks included."""
        slots = range(self._options.slots)
        batches = [(slot, batch) for slot in slots if (batch := self._pool.batch(slot)) is not None]
        return self._scheduler.counts((slot, batch.chunk, batch.start) for slot, batch in batches)
