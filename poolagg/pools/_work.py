"""What happens in a lane, whatever the lane is: map a chunk in batches, and gather what the reducer makes of it.

Map and reduce are separate phases of a batch: `func` and `prepare` run on every item, each failure is that item's
alone, and only then are the prepared partials folded. So a failing `func` never leaves an accumulator half changed, and
a failing `step` is nobody's fault but the reducer's.

A batch lasts about a millisecond: long enough that what it costs (the clock, the progress cell, a few list operations)
is nothing, short enough that the cell tells the parent what is going on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from time import monotonic, perf_counter
from typing import Any, NamedTuple, NoReturn, Protocol

from poolagg import _aliasing
from poolagg._aliasing import Aliasing
from poolagg._chunks import Grid, Interval, without
from poolagg._signals import raised_by_handler
from poolagg._texts import is_a, said, set_traceback, short_repr, traceback_of
from poolagg._worker_messages import NONE_YET, Failure, Run, Slowest
from poolagg.errors import ReducerError
from poolagg.functions import here
from poolagg.pools._cell import Sharing
from poolagg.pools._forked import leave
from poolagg.pools._outbox import Outbox
from poolagg.pools._travel import dumps_by_value, only_inherited
from poolagg.reducers import Reducer
from poolagg.strategies import Payload, Strategy

__all__ = ["Beat", "Job", "Outcome", "Work", "let_callers_go", "pickle_job"]

BATCH = 0.001
"""Seconds of work in a batch."""

HEAVY = 1 << 20
"""Bytes of partials in a batch at most, so that a lane never holds a hundred arrays."""

OUR_FILES = {__file__, _aliasing.__file__}
"""Whose frames a traceback of `func` does not begin with."""


LIGHT = 100
"""Items of a batch from which on none is looked at apart, though a lane may wait for them: to look before each item
takes 0.1 us, which is to be no more than 1 %."""

FEW = 512
"""Items of a chunk up to which the lane looks all the same: it takes less than sending the chunk, and items that follow
light ones may be heavy."""

FAILURES = 256
"""Failed items after which a lane hands back the rest of its chunk: to send an exception takes longer than most items
take to fail, and it may be as large as its item."""


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
                if (refusal := only_inherited(f"{name}, {value!r},", error)) is not None:
                    raise refusal from error
                raise TypeError(
                    f"{name}, {value!r}, can't be sent to a worker: {said(error)}. Make what it "
                    f"refers to "
                    f"inside the worker (per_worker, or an initializer), or use a ThreadPool"
                ) from error
        raise


class Beat(Protocol):
    """Where a lane says what it is doing."""

    @property
    def sharing(self) -> Sharing | None:
        """How a running chunk is divided; None where it is not."""

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
    """One job in one lane. Exceptions in `func` that are `fatal` are not the item's failure but end the lane's thread.

    Outside of `func`, what a signal handler raises propagates as it is: it is not the reducer's failure. `outbox`: what
    has to leave this process is packed into it, batch by batch.
    """

    def __init__(
        self,
        job: Job,
        beat: Beat,
        fatal: Callable[[BaseException], bool] = lambda _: False,
        outbox: Outbox | None = None,
    ) -> None:
        self._job = job
        self._beat = beat
        self._sharing = beat.sharing
        self._cut: int | None = None  # where the batch ended early, for the chunk is to yield
        self._fatal = fatal
        self._gather = job.strategy.gather(job.reducer, job.grid)
        reducer = job.reducer
        prepare = reducer.prepare if reducer.prepares else None
        self._aliasing = Aliasing(job.func, prepare, reducer.drains or reducer.prepares)
        self._holds = reducer.keeps or not job.strategy.carries  # so that a partial outlives its batch
        self._outbox = outbox
        self._partials = outbox if getattr(self._gather, "ships_partials", False) else None
        self._opened: Sequence[tuple[int, Sequence[Any]]] = []
        self._batch = 1
        self._now = 0, 0, 0
        self._failures: list[Failure] = []
        self._reduce_seconds = 0.0
        self._slowest = NONE_YET
        self._pid = os.getpid()
        self.heavy = False
        """Whether there was a partial that is a batch of its own, so large is it."""

    def run(self, run: Run, items: Sequence[Any], unpack: Callable[[Any], Any] | None) -> Outcome:
        """Map and gather the items of one chunk; `unpack` opens each of them."""
        self._failures, self._reduce_seconds, self._slowest = [], 0.0, NONE_YET
        self._pid = os.getpid()
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
            self._raise_as_reducers(error, "where states met")

    def payloads(self) -> list[Payload]:
        """Give up the state gathered so far; some of it may be merged for that."""
        try:
            return self._gather.payloads()
        except Exception as error:
            self._raise_as_reducers(error, "as its state was to be shipped")

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
            singly = run.alone or (self._aliasing.careful and not self._holds)
            end = min(stop, index + (1 if singly else self._batch))
            if index > run.start and (now > until or (not run.alone and self._has_too_much())):
                if (boundary := self._boundary(index)) == index:
                    return index
                end = min(end, boundary)
            self._now = run.chunk, index, end
            self._beat.batch(*self._now)
            asked = self._sharing is not None and self._sharing.asked(run.chunk)
            if asked:  # looked at after it was said what will be run
                if (boundary := self._boundary(index)) == index:
                    return index
                end = min(end, boundary)
            few = run.stop - run.start <= FEW or end - index < LIGHT
            looks = few and not asked and run.budget < inf  # without a limit it is not divided, either
            part = items[index - run.start : end - run.start]
            size = self._map(index, part, unpack, run.chunk if looks else None)
            end = end if self._cut is None else self._cut
            began, now = now, perf_counter()
            if now - began > self._slowest[2]:
                self._slowest = index, end, now - began
            self._adapt(end - index, now - began, size)
            index = end
        return stop

    def _boundary(self, index: int) -> int:
        """Where a lane may stop that has come to `index`."""
        return index if self._job.grid is None else self._job.grid.ceil(index)

    def _has_too_much(self) -> bool:
        """Whether the lane has too much memory, or failures, to go on: exceptions are kept until the chunk ends."""
        failures = len(self._failures) if self._outbox is None else self._outbox.failures
        return failures >= FAILURES or self._beat.full()

    def _adapt(self, items: int, seconds: float, size: int) -> None:
        by_time = items * BATCH / max(seconds, 1e-9)
        by_size = HEAVY / max(size, 1)
        self.heavy = self.heavy or size > HEAVY
        self._batch = max(1, int(min(by_time, by_size, self._batch * 4)))

    def _map(
        self, index: int, items: Sequence[Any], unpack: Callable[[Any], Any] | None, chunk: int | None = None
    ) -> int:
        """Map one batch and gather it; return about how many bytes one partial takes.

        With `chunk` given it ends early, at `_cut`, once that is to yield.
        """
        here.generators.clear()
        self._cut = None
        runs: Sequence[tuple[int, Sequence[Any]]] = [(index, items)]
        self._opened = []
        if unpack is not None:
            self._opened = runs = self._each(unpack, runs)
        mapped = self._mapped(runs, chunk)
        if chunk is not None and runs and self._cut is None:
            self._come_to_the_end(chunk, runs[-1][0] + len(runs[-1][1]), index + len(items))
        size = 0
        for start, prepareds in mapped:
            size = sys.getsizeof(prepareds[-1], 0)
            if self._partials is None:
                self._reduce(self._gather.add, start, prepareds)
            else:
                for failure in self._partials.add(start, prepareds):
                    self._fail(failure.index, failure.error)
        if self._failures and self._outbox is not None:
            self._pack_failures(self._outbox)
        return size

    def _come_to_the_end(self, chunk: int, reached: int, end: int) -> None:
        """Say that the last items are done, which did not unpack; unless the parent has given them away."""
        if reached < end and self._sharing is not None:
            self._sharing.come_to(end - 1)
            if self._sharing.asked(chunk):
                self._leave(reached)

    def _mapped(self, runs: Sequence[tuple[int, Sequence[Any]]], chunk: int | None) -> list[tuple[int, list[Any]]]:
        """Map in bulk where that is safe; else one item after the other, if need be once more."""
        if not self._aliasing.careful:
            failed = len(self._failures)
            mapped = self._mapped_in_bulk(runs, chunk)
            if mapped is not None:
                return mapped
            del self._failures[failed:]
            self._cut = None
            here.generators.clear()
            self._beat.batch(*self._now)  # the time limit of an item begins anew
        self._aliasing.copies = self._holds or sum(len(run) for _, run in runs) > 1
        mapped = self._each(self._aliasing, runs, chunk)
        self._aliasing.settle()
        return mapped

    def _mapped_in_bulk(
        self, runs: Sequence[tuple[int, Sequence[Any]]], chunk: int | None
    ) -> list[tuple[int, list[Any]]] | None:
        """Map a batch at C speed; None if `func` may have overwritten some of its results."""
        mapped = self._each(self._aliasing.bulk, runs, chunk)
        if any(self._aliasing.suspects(run) for _, run in mapped):
            return None
        if self._job.reducer.prepares:
            here.generators.clear()
            mapped = self._each(self._job.reducer.prepare, mapped)
            if any(self._aliasing.suspects_prepared(run) for _, run in mapped):
                return None
        return mapped

    def _each(
        self, func: Callable[[Any], Any], runs: Sequence[tuple[int, Sequence[Any]]], chunk: int | None = None
    ) -> list[tuple[int, list[Any]]]:
        mapped: list[tuple[int, list[Any]]] = []
        before = runs[0][0] if runs else 0
        for start, values in runs:
            mapped.extend(self._apply(func, start, values, chunk))
            if chunk is not None and self._cut is not None:
                self._leave(before if self._cut == start else self._cut)
                break
            before = start + len(values)
        return mapped

    def _leave(self, cut: int) -> None:
        """Leave items from `cut` on to other lanes, also those that did not unpack: the lane had not come to them."""
        self._cut = cut
        self._failures = [failure for failure in self._failures if failure.index < cut]

    def _apply(
        self, func: Callable[[Any], Any], start: int, values: Sequence[Any], chunk: int | None = None
    ) -> Iterator[tuple[int, list[Any]]]:
        """Apply `func` to consecutive items, at C speed; an item on which it raises is a failure and splits the run."""
        stop = start + len(values)
        source = iter(values)
        here.enter(source, stop)
        sharing = self._sharing
        coming = source
        if sharing is not None and chunk is not None:
            coming = sharing.until_asked(chunk, start, stop, source)
        while start < stop:
            done: list[Any] = []
            error: BaseException | None = None
            try:
                done.extend(map(func, coming))
            except BaseException as raised:  # SystemExit, KeyboardInterrupt and their like are the item's as well
                error = raised
            if os.getpid() != self._pid:
                leave(error)
            if error is not None and self._fatal(error):
                raise error
            if done:
                yield start, done
            start += len(done)
            if start < stop:
                if error is None and sharing is not None and chunk is not None and sharing.asked(chunk):
                    self._cut = start
                    return
                # With no exception and items left, `func` itself raised StopIteration, which ended the map.
                if error is None:
                    error = RuntimeError("the function raised StopIteration")
                self._fail(start, error)
                start += 1

    def _fail(self, index: int, error: BaseException) -> None:
        trace = traceback_of(error)
        while trace is not None and trace.tb_frame.f_code.co_filename in OUR_FILES:
            trace = trace.tb_next
        set_traceback(error, trace)
        self._failures.append(Failure(index, "raised", error))

    def _pack_failures(self, outbox: Outbox) -> None:
        """Pack the failures of the batch, as part of the batch."""
        for failure in self._failures:
            outbox.fail(failure._replace(item=self._text(failure.index)))
        self._failures = []

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
        except BaseException as error:
            if os.getpid() != self._pid:
                leave(error)
            if not is_a(error, Exception):
                raise
            self._raise_as_reducers(error, f"near item {arguments[0]}")
        if os.getpid() != self._pid:
            leave()
        self._reduce_seconds += perf_counter() - began

    def _raise_as_reducers(self, error: Exception, where: str) -> NoReturn:
        if raised_by_handler(error):
            raise error
        raise ReducerError(
            f"{self._job.reducer!r} failed in a worker, {where}: {said(error)}. "
            f"Try it with poolagg.testing.check_reducer, or with pool=SerialPool()"
        ) from error


def let_callers_go(failures: Iterable[Failure]) -> None:
    """Clear the frames that called `func`, as far as they have ended.

    An exception keeps them by its traceback, and they would keep it, with the items of its chunk, until the garbage
    collector comes. The frames of `func` stay as they are, for debuggers.
    """
    for failure in failures:
        trace = traceback_of(failure.error)
        frame = None if trace is None else trace.tb_frame.f_back
        while frame is not None:
            try:
                frame.clear()
            except RuntimeError:  # it is still running, and so are those that called it
                break
            frame = frame.f_back
