"""What happens in a lane, whatever the lane is: map a chunk in batches, and gather what the reducer makes of it.

Map and reduce are separate phases of a batch: `func` and `prepare` run on every item, each failure is that item's
alone, and only then are the prepared partials folded. So a failing `func` never leaves an accumulator half changed, and
a failing `step` is nobody's fault but the reducer's.

A batch lasts about a millisecond: long enough that what it costs (the clock, the progress cell, a few list operations)
is nothing, short enough that the cell tells the parent what is going on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any, NamedTuple, Protocol

from poolagg._chunks import Grid, Interval, without
from poolagg._kinds import kinds
from poolagg._orders import NONE_YET, Failure, Run, Slowest
from poolagg._texts import said, set_traceback, short_repr, traceback_of
from poolagg.errors import ReducerError
from poolagg.functions import here
from poolagg.pools._outbox import Outbox
from poolagg.pools._travel import dumps_by_value
from poolagg.reducers import Reducer
from poolagg.strategies import Payload, Strategy

__all__ = ["Beat", "Job", "Outcome", "Work", "pickle_job"]

BATCH = 0.001
"""Seconds of work in a batch."""

HEAVY = 1 << 20
"""Bytes of partials in a batch at most, so that a lane never holds a hundred arrays."""


class Job(NamedTuple):
    """One run's work: what every lane is told at its start. `epoch` tells runs of one pool apart."""

    func: Callable[[Any], Any]
    reducer: Reducer
    strategy: Strategy
    grid: Grid | None = None
    epoch: int = 0
    item_timeout: float | None = None
    """Seconds that an item may take, for lanes that the parent cannot watch."""


def pickle_job(job: Job, inherited: Mapping[str, Any] | None = None) -> bytes:
    """The job, pickled; a TypeError that says so if it does not pickle."""
    try:
        return dumps_by_value(job, inherited)
    except Exception as error:
        for name, value in (("func", job.func), ("the reducer", job.reducer)):
            try:
                dumps_by_value(value)
            except Exception:
                raise TypeError(
                    f"{name}, {value!r}, can't be sent to a worker: {said(error)}. Make what it "
                    f"refers to "
                    f"inside the worker (per_worker, or an initializer), or use a ThreadPool"
                ) from error
        raise


class Beat(Protocol):
    """Where a lane says what it is doing."""

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """The lane begins to map items `start` to `stop` of a chunk."""

    def rest(self) -> None:
        """The lane is mapping nothing."""

    def full(self) -> bool:
        """Whether the lane has too much memory to go on: it hands back the rest of its chunk, if that may be cut."""


class Outcome(NamedTuple):
    """What became of a chunk."""

    stop: int
    seconds: float
    reduce_seconds: float
    failures: list[Failure]
    """Empty if they are packed: then they are in the outbox."""
    began: float = 0.0
    slowest: Slowest = NONE_YET


class Work:
    """One job in one lane. `fatal` exceptions in `func` are not the item's failure but end the lane's thread.

    `outbox`: what has to leave this process is packed into it, batch by batch.
    """

    def __init__(
        self, job: Job, beat: Beat, fatal: tuple[type[BaseException], ...] = (), outbox: Outbox | None = None
    ) -> None:
        self._job = job
        self._beat = beat
        self._fatal = fatal
        self._gather = job.strategy.gather(job.reducer, job.grid)
        self._outbox = outbox
        self._partials = outbox if getattr(self._gather, "ships_partials", False) else None
        self._opened: Sequence[tuple[int, Sequence[Any]]] = []
        self._batch = 1
        self._failures: list[Failure] = []
        self._reduce_seconds = 0.0
        self._slowest = NONE_YET
        self.heavy = False
        """Whether there was a partial that is a batch of its own, so large is it."""

    def run(self, run: Run, items: Sequence[Any], unpack: Callable[[Any], Any] | None) -> Outcome:
        """Map and gather the items of one chunk; `unpack` opens each of them."""
        self._failures, self._reduce_seconds, self._slowest = [], 0.0, NONE_YET
        at, began = monotonic(), perf_counter()
        stop = run.stop
        with here.within():
            for interval in without((run.start, run.stop), run.without):
                reached = self._run_interval(run, interval, items, unpack, began + run.budget)
                if reached < interval[1]:
                    stop = reached
                    break
        self._beat.rest()
        self._reduce(self._gather.close, stop)
        self._opened = []
        seconds = perf_counter() - began - (0.0 if self._outbox is None else self._outbox.seconds)
        return Outcome(stop, seconds, self._reduce_seconds, self._failures, at, self._slowest)

    def adopt(self, covers: tuple[Interval, ...], data: Any) -> None:
        """Merge what another lane has gathered into what is gathered here; for strategies whose states meet."""
        try:
            self._gather.adopt(covers, data)  # type: ignore[attr-defined]
        except Exception as error:
            raise self._as_reducers(error, "where states met") from error

    def payloads(self) -> list[Payload]:
        """Give up the state gathered so far; some of it may be merged for that."""
        try:
            return self._gather.payloads()
        except Exception as error:
            raise self._as_reducers(error, "as its state was to be shipped") from error

    def _run_interval(
        self,
        run: Run,
        interval: Interval,
        items: Sequence[Any],
        unpack: Callable[[Any], Any] | None,
        until: float,
    ) -> int:
        index, stop = interval
        now = perf_counter()
        while index < stop:
            end = min(stop, index + (1 if run.alone else self._batch))
            if index > run.start and (now > until or (not run.alone and self._beat.full())):
                boundary = index if self._job.grid is None else self._job.grid.ceil(index)
                if boundary == index:
                    return index
                end = min(end, boundary)
            self._beat.batch(run.chunk, index, end)
            size = self._map(index, items[index - run.start : end - run.start], unpack, run.alone)
            began, now = now, perf_counter()
            if now - began > self._slowest[2]:
                self._slowest = index, end, now - began
            self._adapt(end - index, now - began, size)
            index = end
        return stop

    def _adapt(self, items: int, seconds: float, size: int) -> None:
        by_time = items * BATCH / max(seconds, 1e-9)
        by_size = HEAVY / max(size, 1)
        self.heavy = self.heavy or size > HEAVY
        self._batch = max(1, int(min(by_time, by_size, self._batch * 4)))

    def _map(self, index: int, items: Sequence[Any], unpack: Callable[[Any], Any] | None, apart: bool) -> int:
        """Map one batch and gather it; return about how many bytes one partial takes."""
        here.generators.clear()
        runs: Sequence[tuple[int, Sequence[Any]]] = [(index, items)]
        self._opened = []
        if unpack is not None:
            self._opened = runs = self._each(unpack, runs)
        mapped = self._each(self._job.func, runs)
        reducer = self._job.reducer
        looked_at = reducer.drains or reducer.prepares
        if looked_at and any(hasattr(kind, "__next__") for _, run in mapped for kind in kinds(run)):
            mapped = self._each(_drained, mapped)
        if reducer.prepares:
            mapped = self._each(reducer.prepare, mapped)
        size = 0
        for start, prepareds in mapped:
            size = sys.getsizeof(prepareds[-1], 0)
            if self._partials is None:
                self._reduce(self._gather.add, start, prepareds)
            else:
                for failure in self._partials.add(start, prepareds):
                    self._fail(failure.index, failure.error)
        return size

    def _each(
        self, func: Callable[[Any], Any], runs: Sequence[tuple[int, Sequence[Any]]]
    ) -> list[tuple[int, list[Any]]]:
        return [done for start, values in runs for done in self._apply(func, start, values)]

    def _apply(self, func: Callable[[Any], Any], start: int, values: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
        """Apply `func` to consecutive items, at C speed; an item on which it raises is a failure and splits the run."""
        stop = start + len(values)
        source = iter(values)
        here.enter(source, stop)
        while start < stop:
            done: list[Any] = []
            error: BaseException | None = None
            try:
                done.extend(map(func, source))
            except BaseException as raised:  # SystemExit, KeyboardInterrupt and their like are the item's as well
                if issubclass(type(raised), self._fatal):
                    raise
                error = raised
            if done:
                yield start, done
            start += len(done)
            if start < stop:
                # With no exception and items left, `func` itself raised StopIteration, which ended the map.
                if error is None:
                    error = RuntimeError("the function raised StopIteration")
                self._fail(start, error)
                start += 1

    def _fail(self, index: int, error: BaseException) -> None:
        trace = traceback_of(error)
        set_traceback(error, None if trace is None else trace.tb_next)  # without our own frame
        if self._outbox is None:
            self._failures.append(Failure(index, "raised", error))
        else:
            self._outbox.fail(Failure(index, "raised", error, self._text(index)))

    def _text(self, index: int) -> str:
        """The repr of an item that the parent had better not open; empty for others, and for what does not open."""
        item = next((run[index - start] for start, run in self._opened if start <= index < start + len(run)), None)
        try:
            return "" if item is None else short_repr(item)
        except KeyboardInterrupt:  # of its own
            return ""

    def _reduce(self, method: Callable[..., None], *arguments: Any) -> None:
        began = perf_counter()
        try:
            method(*arguments)
        except Exception as error:
            raise self._as_reducers(error, f"near item {arguments[0]}") from error
        self._reduce_seconds += perf_counter() - began

    def _as_reducers(self, error: Exception, where: str) -> ReducerError:
        return ReducerError(
            f"{self._job.reducer!r} failed in a worker, {where}: {said(error)}. "
            f"Try it with poolagg.testing.check_reducer, or with pool=SerialPool()"
        )


def _drained(partial: Any) -> Any:
    """An iterator that `func` returned is drained here, in the map phase; anything else is itself."""
    return list(partial) if hasattr(type(partial), "__next__") else partial
