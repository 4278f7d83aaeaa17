"""The one place that holds a plan and a pool: `aggregate` and `snapshots`.

One loop on the caller's thread: pull items, wait for answers, hand them to the plan, carry out its orders. What the
orders mean is the plan's business, how a lane does its work the pool's; here is what belongs to neither: the input, the
one result, the errors that people see, and the watchers.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypedDict, Unpack

from poolagg import _orders as orders
from poolagg import events
from poolagg._chunks import Parcels, Source, open_parcel
from poolagg._pace import PARCEL
from poolagg._plan import Plan
from poolagg._settings import Settings
from poolagg._watching import Watchers
from poolagg.errors import PoolAggError, ReducerError, RemoteError, SkippedItems, TaskError, WorkerLost, short_repr
from poolagg.functions import name_of
from poolagg.pools import Job, Pool
from poolagg.reducers import Into
from poolagg.strategies import Strategy, Stream

__all__ = ["Options", "Snapshot", "aggregate", "snapshots"]

PULLING = 0.001
"""Seconds of pulling between two looks at the lanes."""

IN_HAND = 0.05
"""Seconds after which items in hand are sent, though there could be more in the chunk."""

REDRAW = 0.1
"""Seconds between two `Progressed` events."""


class Options(TypedDict, total=False):
    """The keyword arguments of `aggregate`, for functions that pass them on."""

    pool: Any
    workers: int | None
    strategy: Strategy | None
    reproducible: bool
    chunksize: int | None
    retries: int | None
    item_timeout: float | None
    on_error: Literal["raise", "skip"] | Callable[[events.ItemFailed], Any]
    progress: bool
    total: int | None
    watch: Iterable[Callable[[events.RunEvent], Any]] | Callable[[events.RunEvent], Any]


def aggregate(
    func: Callable[[Any], Any],
    iterable: Iterable[Any],
    reducer: Any,
    *,
    pool: Any = None,
    workers: int | None = None,
    strategy: Strategy | None = None,
    reproducible: bool = False,
    chunksize: int | None = None,
    retries: int | None = None,
    item_timeout: float | None = None,
    on_error: Literal["raise", "skip"] | Callable[[events.ItemFailed], Any] = "raise",
    progress: bool = False,
    total: int | None = None,
    watch: Iterable[Callable[[events.RunEvent], Any]] | Callable[[events.RunEvent], Any] = (),
) -> Any:
    """Run `func` over `iterable` in a pool of workers, and fold the partial results into one result, each exactly once.

    `reducer`: a Reducer; a dict or tuple of them (one pass, a dict or tuple of results); or a plain two-argument function,
    which means exactly `functools.reduce(f, map(func, iterable))`, input order included.

    pool           where it runs: None for a `ProcessPool` of this call's own, a pool to keep, or an Executor
    workers        how many; by default the CPUs this process may use; with a pool object an error
    strategy       where partials meet (`poolagg.strategies`); by default chosen from the reducer
    reproducible   the same bits for any number of workers, any pool and any timing
    chunksize      items per chunk; by default adapted to measured cost; part of the result when reproducible
    retries        how often an item runs again that raised, timed out, or whose worker died. None: not, not, twice
    item_timeout   seconds that one item may take; its worker is killed
    on_error       "raise"; "skip"; or a function given each `ItemFailed`, which is then skipped
    progress       True: a bar on stderr
    total          how many items there are, where `len(iterable)` can't tell
    watch          functions given each run event (`poolagg.events`)

    The input is pulled lazily, on the caller's thread, only as fast as results are merged. Raises `TaskError`,
    `WorkerLost`, `ReducerError`, `PoolBusy`; what the input, or a fold in the parent, raises propagates as it is.

    >>> from poolagg import aggregate, Sum
    >>> aggregate(abs, range(-4, 1), Sum())
    10
    """
    settings = Settings(
        func, iterable, reducer, pool, workers, strategy, reproducible, chunksize, retries, item_timeout, on_error,
        progress, total, watch,
    )  # fmt: skip
    run = _Run(settings)
    for _ in run.steps():
        pass
    return run.value(last=True)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of the `done` items that are merged so far; `final` marks the last one, which is the result."""

    value: Any
    done: int
    total: int | None
    elapsed: float
    final: bool


def snapshots(
    func: Callable[[Any], Any],
    iterable: Iterable[Any],
    reducer: Any,
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots:
    """The run of `aggregate(func, iterable, reducer, **options)` as an iterator of `Snapshot`s, about one per `every` s.

    The last one is final. Leaving the loop, or the `with` block, stops the run cleanly.

    >>> from poolagg import Sum, snapshots
    >>> [snapshot.value for snapshot in snapshots(abs, [-1, -2], Sum()) if snapshot.final]
    [3]
    """
    if not every > 0:
        raise ValueError(f"every is in seconds and must be above 0, not {every!r}")
    return Snapshots(_Run(Settings(func, iterable, reducer, **options), every))


class Snapshots:
    """What `snapshots` returns: an iterator and context manager."""

    def __init__(self, run: _Run) -> None:
        self._snapshots = run.snapshots()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Snapshot:
        return next(self._snapshots)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the run, if it is still going on."""
        self._snapshots.close()


def _imap_unordered(pool: Pool, func: Callable[[Any], Any], iterable: Iterable[Any]) -> Iterator[Any]:
    arrived: deque[Any] = deque()
    run = _Run(Settings(func, iterable, Into(arrived.append), pool=pool, strategy=Stream()))
    return _drain(arrived, run)


def _drain(arrived: deque[Any], run: _Run) -> Iterator[Any]:
    steps = run.steps()
    try:
        for _ in steps:
            while arrived:
                yield arrived.popleft()
    finally:
        steps.close()


Pool.engine = staticmethod(_imap_unordered)


class _Run:
    """One run: `steps` drives it, and pauses after each round of answers."""

    def __init__(self, settings: Settings, every: float | None = None) -> None:
        self._settings = settings
        self._every = every
        self._pool = settings.make_pool()
        self._pool.check_free()
        self._strategy = settings.strategy
        self._folding = self._strategy.folding(settings.reducer)
        self._source = Source(settings.iterable, self._pool.encode())
        self._total = settings.total if settings.total is not None else self._source.total
        lanes = self._pool.workers if self._total is None else max(1, min(self._pool.workers, self._total))
        self._plan = Plan(settings.terms(self._pool, lanes, self._total))
        self._parcels = Parcels()
        self._watchers = Watchers(settings.watchers())
        self._skipped: list[events.ItemFailed] = []
        self._pulling_since: float | None = None
        self._began = monotonic()
        self._next_redraw = self._next_snapshot = 0.0
        self._timed_out: set[int] = set()
        self._working = False

    def value(self, last: bool = False) -> Any:
        """The finished result of what is committed."""
        return self._folding.value(last)

    # -- the loop ----------------------------------------------------------------------------------------------

    def steps(self) -> Generator[None, None, None]:
        """Drive the run to its end; pause after each round. Closing this generator stops the run."""
        error: BaseException | None = None
        try:
            self._begin()
            while not self._plan.finished:
                self._pool.check_open()
                self._pull()
                if self._plan.finished:
                    break
                for answer in self._pool.wait(self._patience()):
                    self._take(answer)
                self._look_at_the_clock()
                yield
            yield
        except GeneratorExit:
            raise
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end(error)
        self._warn_of_skipped()

    def snapshots(self) -> Generator[Snapshot, None, None]:
        """Drive the run, with a look at the result about every `every` seconds."""
        steps = self.steps()
        try:
            for _ in steps:
                if monotonic() >= self._next_snapshot:
                    self._next_snapshot = monotonic() + (self._every or 0)
                    self._do(self._plan.handle(orders.Tick()))
                    if len(self._plan.covered) == len(self._plan.failed):
                        continue  # nothing has arrived yet, and of nothing some reducers have no result
                    yield self._snapshot(final=False)
        finally:
            steps.close()
        yield self._snapshot(final=True)

    def _snapshot(self, final: bool) -> Snapshot:
        return Snapshot(self.value(final), len(self._plan.covered), self._total, monotonic() - self._began, final)

    def _begin(self) -> None:
        settings, terms = self._settings, self._plan.terms
        self._began = monotonic()
        self._next_snapshot = self._began + (self._every or 0)
        if self._total != 0:
            self._begin_work()
        self._watchers.tell(
            events.RunStarted(
                self._total, terms.lanes, repr(self._pool), repr(self._strategy), repr(settings.reducer)
            )
        )

    def _begin_work(self) -> None:
        if not self._working:
            settings, terms = self._settings, self._plan.terms
            self._pool.begin(Job(settings.func, settings.reducer.for_lanes(), self._strategy, terms.grid), terms.lanes)
            self._working = True

    def _end(self, error: BaseException | None) -> None:
        clean = error is None and self._plan.finished and not self._plan.stopped
        try:
            if self._working:  # else the pool may be somebody else's by now
                self._pool.end(clean, interrupted=error is not None and not isinstance(error, Exception))
        finally:
            done, failed = len(self._plan.covered) - len(self._plan.failed), len(self._plan.failed)
            if self._watchers:
                self._watchers.tell(events.Progressed(done, failed, self._total))
                self._watchers.tell(events.RunEnded(done, failed, monotonic() - self._began, error))

    def _patience(self) -> float | None:
        """How long the lanes may be waited for: not at all while there are items to pull."""
        if self._plan.appetite > self._source.in_hand and not self._source.ended:
            return 0.0
        deadlines = []
        if self._watchers:
            deadlines.append(self._next_redraw)
        if self._every is not None:
            deadlines.append(self._next_snapshot)
        if self._settings.item_timeout is not None:
            deadlines.append(self._next_timeout(self._settings.item_timeout))
        return max(0.0, min(deadlines) - monotonic()) if deadlines else None

    def _look_at_the_clock(self) -> None:
        if self._settings.item_timeout is not None:
            self._kill_overdue(self._settings.item_timeout)
        if self._watchers and monotonic() >= self._next_redraw:
            self._next_redraw = monotonic() + REDRAW
            self._watchers.tell(events.Progressed(self._items_done(), len(self._plan.failed), self._total))

    # -- the input ---------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Pull what the plan has an appetite for, for a millisecond at a time; send what is enough for a chunk."""
        source, plan = self._source, self._plan
        while not source.ended and (wanted := plan.appetite):
            now = monotonic()
            if self._pulling_since is None:
                self._pulling_since = now
            if source.in_hand < wanted:
                self._pull_items(wanted, now + PULLING)
            enough = source.in_hand >= wanted or source.ended or source.nbytes > PARCEL
            if not (enough or plan.hungry or monotonic() - self._pulling_since > IN_HAND) or not self._seal():
                break
        if source.ended and source.in_hand and not plan.stopped:
            self._seal()
        if source.ended and not source.in_hand and not self._ended_told:
            self._ended_told = True
            self._do(plan.handle(orders.SourceEnded()))

    _ended_told = False

    def _pull_items(self, wanted: int, until: float) -> None:
        try:
            self._source.pull(wanted, PARCEL, monotonic, until)
        except Exception as error:
            error.add_note(f"poolagg: the input raised this when item {self._source.position} was pulled from it")
            raise

    def _seal(self) -> bool:
        count = self._plan.sealable(self._source.in_hand, self._source.ended)
        if not count:
            return False
        self._begin_work()  # the total that said there were no items was wrong
        parcel = self._source.seal(count)
        self._parcels.add(parcel)
        self._pulling_since = None
        self._do(self._plan.handle(orders.Pulled(parcel.start, parcel.stop, parcel.nbytes)))
        return True

    # -- answers in, orders out --------------------------------------------------------------------------------

    def _take(self, answer: orders.Answer) -> None:
        if isinstance(answer, orders.Finished):
            self._watchers.tell_if(self._chunk_done, answer)
        elif isinstance(answer, orders.Lost):
            self._tell_death(answer)
        self._do(self._plan.handle(answer))

    def _do(self, todo: Iterable[orders.Order]) -> None:
        pending = deque(todo)
        while pending:
            order = pending.popleft()
            match order:
                case orders.Run():
                    self._pool.perform(order, self._parcels.find(order.start))
                case orders.Ship() | orders.Revoke() | orders.Replace():
                    self._pool.perform(order, None)
                case orders.Commit(piece):
                    pending.extend(self._commit(piece))
                case orders.Again(failure, attempt):
                    self._watchers.tell_if(self._item_failed, failure, attempt, True)
                case orders.Skip(failure, attempt):
                    self._skip(self._item_failed(failure, attempt, False))
                case orders.Fail():
                    self._fail(order)

    def _commit(self, piece: orders.Piece) -> list[orders.Order]:
        if self._plan.stopped:
            return []
        began = monotonic()
        try:
            self._folding.commit(piece.data)
        except BaseException as error:
            self._note_item(error, piece)
            raise
        seconds = monotonic() - began
        for start, stop in piece.covers:
            self._parcels.release(start, stop)
        self._watchers.tell_if(events.StateMerged, 0, piece.items, piece.nbytes, seconds, began + seconds)
        if self._folding.done():
            self._plan.stop()
        return self._plan.handle(orders.Merged(seconds, piece.nbytes, piece.items))

    def _note_item(self, error: BaseException, piece: orders.Piece) -> None:
        if self._folding.at is not None:
            where = f"the partial of item {self._folding.at}, {short_repr(self._item(self._folding.at))}"
        else:
            where = f"the partials of items {', '.join(f'{a} to {b - 1}' for a, b in piece.covers[:3])}"
        error.add_note(f"poolagg: raised in the parent, by {self._settings.reducer!r}, while folding {where}")

    # -- failures ----------------------------------------------------------------------------------------------

    def _item(self, index: int) -> Any:
        """The item itself, for messages; what stands for it if it can't be unpickled."""
        import pickle

        try:
            parcel = self._parcels.find(index)
            items, packed = open_parcel(parcel.kind, parcel.data, index - parcel.start, 1)
            return pickle.loads(items[0]) if packed else items[0]
        except Exception as error:
            return error

    def _item_failed(self, failure: orders.Failure, attempt: int, will_retry: bool) -> events.ItemFailed:
        return events.ItemFailed(failure.index, self._item(failure.index), failure.error, attempt, will_retry)

    def _skip(self, failed: events.ItemFailed) -> None:
        self._watchers.tell(failed)
        self._skipped.append(failed)
        self._parcels.release(failed.index, failed.index + 1)
        if callable(self._settings.on_error):
            self._settings.on_error(failed)

    def _warn_of_skipped(self) -> None:
        if not self._skipped or self._settings.on_error != "skip":
            return
        few = "; ".join(
            f"item {failed.index}, {short_repr(failed.item)}: {_said(failed.error)}" for failed in self._skipped[:3]
        )
        more = "" if len(self._skipped) <= 3 else f"; and {len(self._skipped) - 3} more"
        text = f"{len(self._skipped)} of {self._plan.pulled} items failed and are not in the result: {few}{more}"
        warnings.warn(SkippedItems(text), stacklevel=4)

    def _fail(self, order: orders.Fail) -> NoReturn:
        error, index = order.error, order.index
        if index is None:
            if isinstance(error, PoolAggError):
                raise error
            raise ReducerError(
                f"a state of {self._settings.reducer!r} could not travel from its worker: {_said(error)}"
            ) from error
        item = self._item(index)
        failure = orders.Failure(index, order.cause, error)
        self._watchers.tell_if(self._item_failed, failure, order.attempt, False)
        what = f"item {index}, {short_repr(item)}"
        times = "once" if order.attempt == 1 else f"{order.attempt} times"
        todo = 'To go on without such items pass on_error="skip"; to run them again, retries=n.'
        if isinstance(error, WorkerLost) and order.cause == "died":
            raise WorkerLost(
                f"{error} while it ran {what}, which was run {times}. {todo}",
                exitcode=error.exitcode, signal=error.signal, index=index, item=item,
            ) from None  # fmt: skip
        func = name_of(self._settings.func)
        raise TaskError(
            f"{func} failed on {what}, which was run {times}: {_said(error)}. {todo}",
            index=index, item=item, attempts=order.attempt,
        ) from error  # fmt: skip

    def _tell_death(self, lost: orders.Lost) -> None:
        self._timed_out.discard(lost.lane)
        error = lost.error
        exitcode, signal = (error.exitcode, error.signal) if isinstance(error, WorkerLost) else (None, None)
        suspect = lost.suspect[0] if lost.suspect is not None and lost.suspect[1] - lost.suspect[0] == 1 else None
        self._watchers.tell_if(events.WorkerDied, exitcode, signal, suspect)

    # -- time --------------------------------------------------------------------------------------------------

    def _next_timeout(self, timeout: float) -> float:
        batches = [self._pool.batch(lane) for lane in range(self._plan.terms.lanes)]
        return min([batch.since for batch in batches if batch is not None] + [monotonic()]) + timeout

    def _kill_overdue(self, timeout: float) -> None:
        for lane in range(self._plan.terms.lanes):
            batch = self._pool.batch(lane)
            if batch is not None and monotonic() - batch.since > timeout and lane not in self._timed_out:
                self._timed_out.add(lane)
                self._pool.kill(lane, TimeoutError(f"it ran longer than item_timeout={timeout} s"))

    def _items_done(self) -> int:
        """Items that are merged, held in a lane, or done in a chunk that is running."""
        done = self._plan.settled - len(self._plan.failed)
        for lane in range(self._plan.terms.lanes):
            if (batch := self._pool.batch(lane)) is not None:
                done += self._plan.done_in(lane, batch.chunk, batch.start)
        return done

    def _chunk_done(self, answer: orders.Finished) -> events.ChunkDone:
        start = self._plan.start_of(answer.lane, answer.chunk)
        return events.ChunkDone(
            answer.lane, start, answer.stop, answer.seconds, monotonic(), answer.reduce_seconds, answer.ship_seconds
        )


def _said(error: BaseException) -> str:
    if isinstance(error, RemoteError):
        return str(error)
    return f"{type(error).__name__}: {error}"
