"""One run: the one place that holds a plan and a pool.

One loop on the caller's thread: pull items, wait for answers, hand them to the plan, carry out its orders. What the
orders mean is the plan's business, how a lane does its work the pool's, what people are told of failures is in
`_verdicts.py`; here is what belongs to none of them: the input, the one result, the clock, and the watchers.
"""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from poolagg import _orders as orders
from poolagg import events
from poolagg._interrupts import even_if_interrupted, interrupts_allowed, interrupts_held_back
from poolagg._items import item_of
from poolagg._pace import PARCEL
from poolagg._parcels import Parcels, Source
from poolagg._plan import Counts, Plan
from poolagg._seconds import bounded
from poolagg._settings import Settings
from poolagg._texts import add_note, message_of
from poolagg._verdicts import Skipped, error_of_item, error_of_run, note_of_fold, note_of_input
from poolagg._watching import Account, Watchers
from poolagg.errors import CheckpointMismatch, PoolAggError, SkippedItems, WorkerLost
from poolagg.functions import name_of
from poolagg.pools import Watch
from poolagg.reducers import Into

if TYPE_CHECKING:  # few runs have a checkpoint, and sqlite3 takes as long to import as a worker to start
    from poolagg._chunks import Intervals
    from poolagg._continuation import Continuation
    from poolagg._pages import Pages

__all__ = ["Run", "Snapshot"]

LATE = 0.005
"""Seconds that a batch, which is to last a millisecond, may take before its lane is asked to share its chunk."""

PULLING = 0.001
"""Seconds of pulling between two looks at the lanes."""

IN_HAND = 0.05
"""Seconds after which items in hand are sent, though there could be more in the chunk."""

REDRAW = 0.1
"""Seconds between two `Progressed` events."""

SLOW = 0.1
"""Seconds from which on an item is worth being told by name, and not only by its index."""

SMALL = 1 << 16
"""Bytes of a parcel at most that is opened once more to tell an item of it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of the `done` items that are merged so far; `final` marks the last one, which is the result."""

    value: Any
    done: int
    total: int | None
    elapsed: float
    final: bool


class Run:
    """One run: `step` drives it, and returns after each round of answers."""

    _plan: Plan
    _entered = _ended = _planned = _stopped = False

    def __init__(self, settings: Settings, every: float | None = None) -> None:
        self._settings = settings
        self._every = every
        self._pool = settings.make_pool()
        self._pool.check_free()
        self._strategy = settings.strategy
        self._folding = self._strategy.folding(settings.reducer)
        self._pages = settings.pages()
        self._kept: Continuation | None = None
        witness = None if self._pages is None or self._pages.sliced else self._pages
        self._source = Source(settings.iterable, self._pool.encode(), witness)
        self._total = settings.total if settings.total is not None else self._source.total
        lanes = self._pool.workers if self._total is None else max(1, min(self._pool.workers, self._total))
        self._terms = settings.terms(self._pool, lanes, self._total)
        self._parcels = Parcels()
        self._watchers = Watchers(settings.watchers())
        self._account = Account()
        self._skipped = Skipped()
        self._pulling_since: float | None = None
        self._began = monotonic()
        self._next_redraw = self._next_snapshot = 0.0
        timeout = settings.item_timeout
        self._watch = None if timeout is None else Watch(self._pool, timeout)
        self._working = False
        self._lease = object()
        """What the pool knows this run by. Not the run itself: it ends when it is forgotten."""

    def value(self, last: bool = False) -> Any:
        """The finished result of what is committed."""
        return self._folding.value(last)

    # -- the loop ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._entered = True
        try:
            with self._pool.used():
                self._begin()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def step(self) -> bool:
        """One round: pull, wait for answers, carry out what follows. False when the run is over."""
        with self._pool.used():
            return self._step()

    def _step(self) -> bool:
        self._pull()
        if self._plan.finished:
            self._run_errand()  # before: what it makes of the state may be much smaller
            self._keep_result()
            return False
        if self._working:
            self._take_all(self._answers())
        self._look_at_the_clock()
        return True

    def _answers(self) -> list[orders.Answer]:
        """Wait for answers.

        A `SerialPool` runs `func` in here: a failed item's traceback refers to the frames of `_answers` and `_step`, so
        these hold no answer when they end. Otherwise exceptions would be in cycles, and their items with them.
        """
        patience = self._patience()
        began, waited = monotonic(), self._pool.waited
        try:
            return self._pool.wait(patience)
        finally:
            self._account.waited(monotonic() - began, self._pool.waited - waited)

    def _run_errand(self) -> None:
        """Have the lanes do what is left to be done with what was committed, in a run of its own.

        If that fails, its result is missing, and whoever asks for the value does the work here.
        """
        errand = None if self._stopped else self._strategy.errand(self._folding)
        if errand is None or not self._working:
            return
        self._watchers.tell(events.Partitioned(len(errand.items), errand.why, monotonic()))
        self._pool.end(clean=True, again=True, run=self._lease)
        with (
            contextlib.suppress(PoolAggError),
            Run(Settings(errand.func, errand.items, Into(errand.take), self._pool)) as run,
        ):
            while run.step():
                pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        even_if_interrupted(self._end, None if kind is GeneratorExit else error)

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """End a run whose `__exit__` an interrupt has prevented."""
        if self._entered and not self._ended and not ending():
            even_if_interrupted(self._end, KeyboardInterrupt("the run was interrupted as it ended"))

    def snapshot_is_due(self) -> bool:
        """Whether `every` seconds have passed, and there is something to show. Lanes are asked to ship for the next."""
        if self._every is None or monotonic() < self._next_snapshot:
            return False
        self._next_snapshot = monotonic() + self._every
        with self._pool.used():
            self._do(self._plan.handle(orders.Tick()))
        # Before anything has arrived there is nothing to show, and of nothing some reducers have no result.
        return self._plan.counts().merged > 0

    def snapshot(self, final: bool) -> Snapshot:
        """The result so far."""
        merged, failed, _ = self._plan.counts()
        return Snapshot(self.value(final), merged + failed, self._total, monotonic() - self._began, final)

    def warn_of_skipped(self, stacklevel: int) -> None:
        """Say what is missing from the result."""
        if self._skipped.count:
            warnings.warn(SkippedItems(self._skipped.text(self._plan.demand.start)), stacklevel=stacklevel + 1)

    def _begin(self) -> None:
        settings, terms = self._settings, self._terms
        self._began = monotonic()
        self._next_snapshot = self._began + (self._every or 0)
        covered, failed_before = ((), ()) if self._pages is None else self._continue(self._pages)
        self._plan, self._planned = Plan(terms, covered, failed_before), True
        if self._kept is not None and covered and self._folding.done():
            self._kept.skip(self._source, self._kept.needed)
            self._stop()
        merged, failed, _ = self._plan.counts()
        # A finished run that is only asked again needs no workers.
        if self._total != 0 and not (merged or failed):
            self._begin_work()
        self._watchers.tell(
            events.RunStarted(
                self._total, terms.lanes, repr(self._pool), repr(self._strategy), repr(settings.reducer),
                merged, self._began, monotonic() - self._began,
                self._pool.lanes_per_worker, terms.in_order, settings.why,
            )
        )  # fmt: skip

    def _begin_work(self) -> None:
        if not self._working:
            settings, terms = self._settings, self._terms
            self._pool.begin(settings.job(terms.grid), terms.lanes, self._lease)
            self._working = True
            items_run = {lane: items for lane, items in self._pool.items_run().items() if lane < terms.lanes}
            self._do(self._plan.handle(orders.ItemsRun(items_run)))

    def _end(self, error: BaseException | None) -> None:
        """End the run, once. An interrupt waits until the pool and the checkpoint are let go of."""
        if self._ended:
            return
        with interrupts_held_back():
            self._ended = True
            clean = error is None and self._plan.finished and not self._stopped
            if self._working and self._watchers:  # which workers of the pool's last run do not live to tell
                self._account.workers_memory = self._pool.peak_memory()
            try:
                interrupted = error is not None and not issubclass(type(error), Exception)
                self._pool.end(clean, interrupted, run=self._lease)
            finally:
                try:
                    self._let_go(error)
                finally:
                    self._tell_end(error)

    def _tell_end(self, error: BaseException | None) -> None:
        done, failed, _ = self._plan.counts() if self._planned else Counts()
        with interrupts_allowed():
            self._watchers.tell_if(events.Progressed, done, failed, self._total)
            self._watchers.tell_if(self._account.told)
            self._watchers.tell_if(events.RunEnded, done, failed, monotonic() - self._began, error)

    def _patience(self) -> float | None:
        """How long the lanes may be waited for: not at all while there are items to pull."""
        if self._plan.demand.items > self._source.in_hand and not self._source.ended:
            return 0.0
        deadlines = []
        if self._watchers:
            deadlines.append(self._next_redraw)
        if self._every is not None:
            deadlines.append(self._next_snapshot)
        if self._watch is not None:
            deadlines.append(self._watch.next)
        if self._kept is not None and (look := self._kept.next_look) is not None:
            deadlines.append(look)
        deadlines.extend(at for _, _, at in self._divisible())
        return bounded(min(deadlines) - monotonic()) if deadlines else None

    def _look_at_the_clock(self) -> None:
        if self._watch is not None and self._working:
            self._watch.look(range(self._terms.lanes))
        for lane, chunk, at in self._divisible():
            if monotonic() >= at:
                self._do(self._plan.handle(orders.Late(lane, chunk)))
        if self._watchers and monotonic() >= self._next_redraw:
            self._next_redraw = monotonic() + REDRAW
            counts = self._counts()
            self._watchers.tell(events.Progressed(counts.done, counts.failed, self._total))

        if self._kept is not None:
            if self._kept.asks():
                self._do(self._plan.handle(orders.Tick()))
            if self._kept.due():
                self._watchers.tell(self._kept.commit())

    def _divisible(self) -> list[tuple[int, int, float]]:
        """While others have nothing to do: lanes, the chunks they run, and from when on these should be divided."""
        running = [(lane, chunk, self._pool.batch(lane)) for lane, chunk in self._plan.divisible]
        return [(lane, chunk, at.since + LATE) for lane, chunk, at in running if at and at.chunk == chunk]

    # -- the checkpoint ----------------------------------------------------------------------------------------

    def _continue(self, pages: Pages) -> tuple[Intervals, Intervals]:
        """Go on from what the checkpoint holds; return the items that it covers, and those that failed."""
        from poolagg._continuation import Continuation

        self._kept = Continuation(self._settings, self._folding, pages, self._terms)
        self._kept.begin(self._terms)
        if self._settings.on_error == "skip":
            self._kept.tell_skipped(self._skipped)
        return self._kept.covered, self._kept.all_failed

    def _wanted(self) -> int:
        """How many items the source should have in hand, once it has passed those that the result has already."""
        demand = self._plan.demand
        passed = demand.start - self._source.position
        if self._kept is not None and not self._source.in_hand and passed > 0:
            self._kept.skip(self._source, passed)
        return demand.items

    def _keep_result(self) -> None:
        if self._kept is not None:
            self._kept.finished()
            self._keep_rest(self._kept)

    def _keep_rest(self, kept: Continuation) -> None:
        if (kept_now := kept.finish()) is not None:
            self._watchers.tell(kept_now)

    def _let_go(self, error: BaseException | None) -> None:
        """Commit what there is, however the run ended, and let go of the file."""
        if self._kept is None:
            return
        try:
            with interrupts_allowed():
                self._keep_rest(self._kept)
        except Exception as another:
            if error is None:
                raise
            add_note(error, f"poolagg: and the checkpoint was not written: {message_of(another)}")
        finally:
            self._kept.let_go(error)

    # -- the input ---------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Pull what the plan has an appetite for, for a millisecond at a time; send what is enough for a chunk."""
        source, plan = self._source, self._plan
        while not source.ended and (wanted := self._wanted()):
            now = monotonic()
            if self._pulling_since is None:
                self._pulling_since = now
            if source.in_hand < wanted:
                self._pull_items(wanted, now + PULLING)
            enough = source.in_hand >= wanted or source.ended or source.nbytes > PARCEL
            if not (enough or plan.demand.urgent or monotonic() - self._pulling_since > IN_HAND) or not self._seal():
                break
        if source.ended and source.in_hand and not self._stopped:
            self._seal()
        if source.ended and not source.in_hand and not self._ended_told:
            self._ended_told = True
            self._do(plan.handle(orders.SourceEnded()))

    _ended_told = False

    def _pull_items(self, wanted: int, until: float) -> None:
        try:
            self._source.pull(wanted, PARCEL, monotonic, until)
        except CheckpointMismatch:
            raise
        except Exception as error:
            add_note(error, note_of_input(self._source.position))
            raise
        self._account.pulling += monotonic() - (until - PULLING)

    def _seal(self) -> bool:
        count = self._plan.sealable(self._source.in_hand, self._source.ended)
        if not count:
            return False
        self._begin_work()  # the total that said there were no items was wrong
        began, packing = monotonic(), self._source.packing
        if self._kept is not None:
            self._kept.check_start(self._plan.demand.start)
        parcel = self._source.seal(count)
        self._account.sealed(packing, monotonic() - began)
        self._parcels.add(parcel)
        self._pulling_since = None
        self._do(self._plan.handle(orders.Pulled(parcel.start, parcel.stop, parcel.nbytes, self._parcels.nbytes)))
        return True

    # -- answers in, orders out --------------------------------------------------------------------------------

    def _take_all(self, answers: Iterable[orders.Answer]) -> None:
        for answer in answers:
            self._take(answer)

    def _take(self, answer: orders.Answer) -> None:
        if isinstance(answer, orders.Shipped):
            self._watchers.tell_if(self._state_shipped, answer)
        elif isinstance(answer, orders.Lost):
            self._tell_death(answer)
        elif isinstance(answer, orders.Worn):
            self._watchers.tell_if(events.WorkerRetired, answer.lane, answer.reason, monotonic())
        self._do(self._plan.handle(answer))

    def _do(self, todo: Iterable[orders.Order]) -> None:
        pending = deque(todo)
        while pending:
            order = pending.popleft()
            match order:
                case orders.Run():
                    self._pool.perform(order, self._parcels.find(order.start))
                case orders.Replace(lane, reason):
                    if reason:
                        self._watchers.tell_if(events.WorkerRetired, lane, reason, monotonic())
                    self._pool.perform(order, None)
                case orders.Ship() | orders.Revoke() | orders.Yield():
                    self._pool.perform(order, None)
                case orders.ChunkRan(start, answer):
                    self._watchers.tell_if(self._chunk_done, start, answer)
                case orders.Commit(piece):
                    pending.extend(self._commit(piece))
                case orders.Again(failure, attempt):
                    self._watchers.tell_if(self._item_failed, failure, attempt, True)
                case orders.Skip(failure, attempt):
                    self._skip(self._item_failed(failure, attempt, False))
                case orders.Release(start, stop):
                    self._parcels.release(start, stop)
                case orders.LeaveOut(leaf):
                    self._leave_out(leaf)
                case orders.Fail():
                    self._fail(order)

    def _commit(self, piece: orders.Piece) -> list[orders.Order]:
        if self._stopped:
            return []
        began = monotonic()
        try:
            with contextlib.nullcontext() if self._kept is None else self._kept.covering(piece.covers, piece.nbytes):
                self._folding.commit(piece.data)
        except BaseException as error:
            self._note_item(error, piece)
            raise
        seconds = monotonic() - began
        for start, stop in piece.covers:
            self._parcels.release(start, stop)
        self._watchers.tell_if(events.StateMerged, piece.items, piece.nbytes, seconds, began + seconds)
        if self._folding.done():
            self._stop()
        return self._plan.handle(orders.Merged(seconds))

    def _stop(self) -> None:
        """End the run early: nothing that is still to come can change the result."""
        self._stopped = True
        self._plan.stop()

    def _leave_out(self, leaf: int) -> None:
        """Tell the folding that a leaf has no state, so that the leaves beside it need not be kept for it."""
        leave_out = getattr(self._folding, "leave_out", None)
        if leave_out is not None and not self._stopped:
            with contextlib.nullcontext() if self._kept is None else self._kept.covering(()):
                leave_out(leaf)

    def _note_item(self, error: BaseException, piece: orders.Piece) -> None:
        at = self._folding.at
        item = None if at is None else self._item(at)
        add_note(error, note_of_fold(repr(self._settings.reducer), piece, at, item))

    # -- failures ----------------------------------------------------------------------------------------------

    def _item(self, index: int, text: str = "", most: float = math.inf) -> Any:
        """An item, for messages: itself, or its pickle with its `text`; None if its parcel has more than `most` bytes.

        An item that is in the result already is not kept, and None as well.
        """
        try:
            parcel = self._parcels.find(index)
        except LookupError:
            return None
        return None if parcel.nbytes > most else item_of(parcel, index, text)

    def _item_failed(self, failure: orders.Failure, attempt: int, will_retry: bool) -> events.ItemFailed:
        item = self._item(failure.index, failure.item)
        return events.ItemFailed(failure.index, item, failure.error, attempt, will_retry)

    def _skip(self, failed: events.ItemFailed) -> None:
        self._watchers.tell(failed)
        if self._settings.on_error == "skip":
            self._skipped.add(failed)
        self._parcels.release(failed.index, failed.index + 1)
        if self._kept is not None:
            self._kept.skip_failed(failed)
        if callable(self._settings.on_error):
            self._settings.on_error(failed)

    def _fail(self, order: orders.Fail) -> NoReturn:
        if order.index is None:
            raise error_of_run(order, repr(self._settings.reducer))
        failure = orders.Failure(order.index, order.cause, order.error, order.item)
        self._watchers.tell_if(self._item_failed, failure, order.attempt, False)
        raise error_of_item(order, name_of(self._settings.func), order.index, self._item(order.index, order.item))

    def _tell_death(self, lost: orders.Lost) -> None:
        error = lost.error
        exitcode, signal = (error.exitcode, error.signal) if isinstance(error, WorkerLost) else (None, None)
        suspect = lost.suspect[0] if lost.suspect is not None and lost.suspect[1] - lost.suspect[0] == 1 else None
        self._watchers.tell_if(events.WorkerDied, exitcode, signal, suspect, lost.lane, monotonic(), lost.reason)

    # -- time --------------------------------------------------------------------------------------------------

    def _counts(self) -> Counts:
        """Count items, with those that are done in chunks that are running."""
        lanes = range(self._terms.lanes)
        batches = [(lane, batch) for lane in lanes if (batch := self._pool.batch(lane)) is not None]
        return self._plan.counts((lane, batch.chunk, batch.start) for lane, batch in batches)

    def _chunk_done(self, start: int, answer: orders.Finished) -> events.ChunkDone:
        return events.ChunkDone(
            answer.lane, start, answer.stop, answer.seconds, monotonic(), answer.reduce_seconds,
            answer.pack_seconds, answer.open_seconds, orders.nbytes_of(answer.pieces or ()), answer.began,
            answer.slowest, self._slow_item(*answer.slowest),
        )  # fmt: skip

    def _slow_item(self, start: int, stop: int, seconds: float) -> Any:
        """The item that took so long, if it is one; not if telling it took long, too."""
        return self._item(start, most=SMALL) if seconds >= SLOW and stop - start == 1 else None

    def _state_shipped(self, answer: orders.Shipped) -> events.StateShipped:
        nbytes = orders.nbytes_of(answer.pieces)
        return events.StateShipped(answer.lane, nbytes, answer.pack_seconds, answer.open_seconds, monotonic())
