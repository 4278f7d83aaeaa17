"""`map`, `starmap`, `imap` and `imap_unordered` of every pool: runs whose result is the partials themselves.

As in the standard library, the caller gets the exception that `func` or the input raised, after the results that came
before it. So the run leaves a failed item out, and goes on until the items before it are done.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from poolagg._engine.failures import note_of_item
from poolagg._engine.options import RunOptions
from poolagg._engine.run import Run
from poolagg._input.functions import name_of
from poolagg._input.kept_items import unopened
from poolagg._runtime.exception_text import add_note
from poolagg._runtime.threads import here
from poolagg.errors import WorkerLost
from poolagg.events import ItemFailed
from poolagg.pools import Pool
from poolagg.reducers import Into
from poolagg.strategies import Ordered, Stream

__all__ = ["imap", "mapped"]


def mapped(pool: Pool, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None) -> list[Any]:
    """Return the list of the results of `func`, in the order of the items."""
    results = _Results(func, in_order=True)
    with results.run_of(pool, iterable, chunksize) as run:
        while results.step(run):
            pass
    results.raise_error(run)
    return list(results.arrived)


def imap(
    pool: Pool, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None, in_order: bool = True
) -> Iterator[Any]:
    """Yield the results of `func`, in the order of the items or as they come."""
    results = _Results(func, in_order)
    return _drain(results, results.run_of(pool, iterable, chunksize))


def _drain(results: _Results, run: Run) -> Iterator[Any]:
    arrived = results.arrived
    with run:
        thread = here.thread
        while results.step(run):
            while arrived:
                yield arrived.popleft()
                if here.thread is not thread:
                    thread = here.thread
                    run.turn.step()
    while arrived:
        yield arrived.popleft()
    results.raise_error(run)


class _Results:
    """The results that have arrived from one run, and the exception to raise after them.

    The run refers to this object, so this must not refer to the run: a cycle would keep the pool until a collection.
    """

    def __init__(self, func: Callable[[Any], Any], in_order: bool) -> None:
        self.arrived: deque[Any] = deque()
        self._func = func
        self._in_order = in_order
        self._next = 0
        """In order: the item after the last one whose result has arrived."""
        self._failed_at: float = math.inf
        self._error: BaseException | None = None

    def run_of(self, pool: Pool, iterable: Iterable[Any], chunksize: int | None) -> Run:
        """Return the run, whose results arrive here."""
        reducer, strategy = _Arriving(self._arrive), Ordered() if self._in_order else Stream()
        settings = RunOptions(
            self._func, iterable, reducer, pool=pool, strategy=strategy, chunksize=chunksize, on_error=self._fail
        )
        return Run(settings, error_last=True)

    def step(self, run: Run) -> bool:
        """Do one round of the run; return False if it is over, or if all results before the error have arrived."""
        if not run.step():
            return False
        if self._error is None:
            return True
        run.feed.end(drop=True)
        return self._in_order and self._next < self._failed_at

    def raise_error(self, run: Run) -> None:
        """Raise the exception of the first failed item, or of the input, if there is one."""
        error, self._error = self._error, None
        if error is None:
            error = run.feed.take_error()
        if error is not None:
            try:
                raise error
            finally:  # the traceback refers to this frame
                del error

    def _arrive(self, index: int, results: Sequence[Any]) -> None:
        if self._in_order:
            self._next = index + len(results)
            if self._next > self._failed_at:
                results = results[: max(0, int(self._failed_at) - index)]
        self.arrived.extend(results)

    def _fail(self, failed: ItemFailed) -> None:
        """Keep the error of the first failed item, which a plain loop would raise."""
        if failed.index >= self._failed_at:
            return
        error, self._failed_at, self._error = failed.error, failed.index, failed.error
        if type(error) is WorkerLost and error.index is None:
            error.__dict__.update(index=failed.index, item=unopened(failed))
        add_note(error, note_of_item(name_of(self._func), failed.index, failed.item_repr))


class _Arriving(Into):
    """Passes the results of consecutive items to `arrive`, with the index of the first."""

    def __init__(self, arrive: Callable[[int, Sequence[Any]], None]) -> None:
        super().__init__(arrive)
        self.arrive = arrive

    def steps_at(self, acc: None, place: tuple[Any, ...], prepareds: Sequence[Any]) -> None:
        self.arrive(place[-1], prepareds)
        return acc

    def step_at(self, acc: None, place: tuple[Any, ...], prepared: Any) -> None:
        return self.steps_at(acc, place, (prepared,))
