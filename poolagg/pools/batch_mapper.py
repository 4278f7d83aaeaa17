"""Map one batch of items: run `func` and `prepare` on each, and record which items failed.

A failure concerns its item alone: it splits the consecutive partials, and the next item follows. An item that raises
never leaves an accumulator half changed, for the mapper folds no partial.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from poolagg._input import reused_buffers
from poolagg._input.reused_buffers import Aliasing
from poolagg._input.worker_state import here
from poolagg._runtime.exception_text import set_traceback, short_repr, traceback_of
from poolagg._runtime.signals import raised_by_handler
from poolagg._scheduler.worker_messages import Failure
from poolagg.pools.forked_child import leave
from poolagg.pools.process.progress_cell import Sharing
from poolagg.pools.serialization.outbox import Outbox
from poolagg.reducers import Reducer

__all__ = ["BatchMapper", "Heartbeat", "let_callers_go"]

OUR_FILES = {__file__, reused_buffers.__file__}
"""Files whose frames are cut from the head of a traceback of `func`."""


class Heartbeat(Protocol):
    """Receives what a worker is doing."""

    @property
    def sharing(self) -> Sharing | None:
        """How a running chunk is divided; None if the pool divides none."""

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Report that the worker begins to map items `start` to `stop` of a chunk."""

    def rest(self) -> None:
        """Report that the worker is mapping no item."""

    def full(self) -> bool:
        """Tell if the worker has too much memory to go on; it then hands back the rest of a chunk that may be cut."""


class BatchMapper:
    """Maps the batches of one worker, and keeps the failures of its chunk.

    `holds`: a partial outlives its batch. An exception in `func` that is `fatal` ends the worker's thread; any other is
    the item's failure.
    """

    def __init__(
        self,
        func: Callable[[Any], Any],
        reducer: Reducer,
        holds: bool,
        heartbeat: Heartbeat,
        fatal: Callable[[BaseException], bool],
        outbox: Outbox | None,
    ) -> None:
        self._prepare = reducer.prepare if reducer.has_prepare else None
        self._aliasing = Aliasing(func, self._prepare, reducer.accepts_iterators or reducer.has_prepare)
        self._holds = holds
        self._heartbeat = heartbeat
        self._sharing = heartbeat.sharing
        self._now = 0, 0, 0
        self._fatal = fatal
        self._outbox = outbox
        self._opened: Sequence[tuple[int, Sequence[Any]]] = []
        self._pid = os.getpid()
        self.failures: list[Failure] = []
        self.cut: int | None = None
        """The item at which the batch ended early, because the parent asked its chunk to yield."""

    def begin(self) -> None:
        """Begin a chunk."""
        self.failures = []  # drops those of a chunk that was cancelled half way
        self._pid = os.getpid()

    def announce(self, chunk: int, start: int, stop: int) -> None:
        """Report which batch is mapped next."""
        self._now = chunk, start, stop
        self._heartbeat.batch(chunk, start, stop)

    def end(self) -> tuple[Failure, ...]:
        """End the chunk, and return its failures."""
        failures, self.failures, self._opened = tuple(self.failures), [], []
        return failures

    @property
    def singly(self) -> bool:
        """True if each item needs a batch of its own: `func` may reuse a buffer, which is folded before its next
        call."""
        return self._aliasing.careful and not self._holds

    def leave_fork(self, error: BaseException | None = None) -> None:
        """End this process if it is a child that the user's code has forked."""
        if os.getpid() != self._pid:
            leave(error)

    def map(
        self,
        index: int,
        items: Sequence[Any],
        unpack: Callable[[Any], Any] | None,
        chunk: int | None = None,
    ) -> list[tuple[int, list[Any]]]:
        """Map the announced batch, and return its partials as runs of consecutive items. `unpack` opens each item.

        With `chunk`, the batch ends early, at `cut`, once the parent asks that chunk to yield.
        """
        here.generators.clear()
        self.cut = None
        runs: Sequence[tuple[int, Sequence[Any]]] = [(index, items)]
        self._opened = []
        if unpack is not None:
            self._opened = runs = self._each(unpack, runs)
        mapped = self._mapped(runs, chunk)
        if chunk is not None and runs and self.cut is None:
            self._report_unopened(chunk, runs[-1][0] + len(runs[-1][1]), index + len(items))
        return mapped

    def _report_unopened(self, chunk: int, reached: int, end: int) -> None:
        """Report trailing items that did not unpack as done, unless the parent has given them to another worker."""
        if reached < end and self._sharing is not None:
            self._sharing.come_to(end - 1)
            if self._sharing.asked(chunk):
                self._leave(reached)

    def _mapped(self, runs: Sequence[tuple[int, Sequence[Any]]], chunk: int | None) -> list[tuple[int, list[Any]]]:
        """Map in bulk if that is safe; else item by item, if need be a second time."""
        if not self._aliasing.careful:
            failed = len(self.failures)
            mapped = self._mapped_in_bulk(runs, chunk)
            if mapped is not None:
                return mapped
            del self.failures[failed:]
            self.cut = None
            here.generators.clear()
            self._heartbeat.batch(*self._now)  # restarts the clock of item_timeout
        self._aliasing.copies = self._holds or sum(len(run) for _, run in runs) > 1
        mapped = self._each(self._aliasing, runs, chunk)
        self._aliasing.settle()
        return mapped

    def _mapped_in_bulk(
        self, runs: Sequence[tuple[int, Sequence[Any]]], chunk: int | None
    ) -> list[tuple[int, list[Any]]] | None:
        """Map a batch at C speed; return None if `func` may have overwritten some of its results."""
        mapped = self._each(self._aliasing.bulk, runs, chunk)
        if any(self._aliasing.suspects(run) for _, run in mapped):
            return None
        if self._prepare is not None:
            here.generators.clear()
            mapped = self._each(self._prepare, mapped)
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
            if chunk is not None and self.cut is not None:
                self._leave(before if self.cut == start else self.cut)
                break
            before = start + len(values)
        return mapped

    def _leave(self, cut: int) -> None:
        """Leave items from `cut` on to other workers, including those that failed to unpack."""
        self.cut = cut
        self.failures = [failure for failure in self.failures if failure.index < cut]

    def _apply(
        self, func: Callable[[Any], Any], start: int, values: Sequence[Any], chunk: int | None = None
    ) -> Iterator[tuple[int, list[Any]]]:
        """Apply `func` to consecutive items at C speed; an item on which it raises is a failure and splits the run."""
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
            except BaseException as raised:  # SystemExit and KeyboardInterrupt are the item's failure as well
                error = raised
            self.leave_fork(error)
            if error is not None and self._fatal(error):
                raise error
            if done:
                yield start, done
            start += len(done)
            if start < stop:
                if error is None and sharing is not None and chunk is not None and sharing.asked(chunk):
                    self.cut = start
                    return
                # With no exception and items left, `func` itself raised StopIteration, which ended the map.
                if error is None:
                    error = RuntimeError("the function raised StopIteration")
                self.fail(start, error)
                start += 1

    def validated(
        self, validate: Callable[[Sequence[Any]], None], runs: Sequence[tuple[int, list[Any]]]
    ) -> Sequence[tuple[int, list[Any]]]:
        """Return the runs without the partials that the reducer rejects, which fail their items."""
        try:
            for _, prepareds in runs:
                validate(prepareds)
            return runs
        except Exception as error:
            self.leave_fork(error)
            if raised_by_handler(error):
                raise

        def validated(prepared: Any) -> Any:
            validate((prepared,))
            return prepared

        return self._each(validated, runs)

    def fail(self, index: int, error: BaseException) -> None:
        """Record that an item has failed."""
        trace = traceback_of(error)
        while trace is not None and trace.tb_frame.f_code.co_filename in OUR_FILES:
            trace = trace.tb_next
        set_traceback(error, trace)
        self.failures.append(Failure(index, "raised", error))

    def pack_failures(self) -> None:
        """Pack the failures of the batch, within the batch's time, if they have to leave this process."""
        if self.failures and self._outbox is not None:
            for failure in self.failures:
                self._outbox.fail(failure._replace(item=self._text(failure.index)))
            self.failures = []

    def _text(self, index: int) -> str:
        """Return the repr of an item that the worker unpacked, so that the parent need not; else an empty text."""
        item = next((run[index - start] for start, run in self._opened if start <= index < start + len(run)), None)
        try:
            return "" if item is None else short_repr(item)
        except KeyboardInterrupt:  # raised by its __repr__
            return ""


def let_callers_go(failures: Iterable[Failure]) -> None:
    """Clear the frames that called `func`, as far as they have ended.

    A traceback keeps these frames and they keep the exception: a cycle that would hold the chunk's items until the
    garbage collector runs. The frames of `func` stay intact, for debuggers.
    """
    for failure in failures:
        trace = traceback_of(failure.error)
        frame = None if trace is None else trace.tb_frame.f_back
        while frame is not None:
            try:
                frame.clear()
            except RuntimeError:  # this frame still runs, and so do its callers
                break
            frame = frame.f_back
