"""The pool that is no pool: everything runs on the caller's thread. The debugger's choice."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from poolagg._orders import Answer, Broken, Finished, Revoke, Revoked, Run, Ship, Shipped
from poolagg._parcels import Parcel, open_parcel
from poolagg._signals import handlers, raised_by_handler
from poolagg.errors import ReducerError
from poolagg.pools._mapping import let_callers_go
from poolagg.pools._pool import Pool, PoolOrder
from poolagg.pools._work import Job, Work

__all__ = ["NoBeat", "SerialPool", "carry_out"]


class NoBeat:
    """Nobody watches."""

    sharing = None

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Nothing to say."""

    def rest(self) -> None:
        """Nothing to say."""

    def full(self) -> bool:
        """There is no limit."""
        return False


def carry_out(work: Work, order: Run | Ship, parcel: Parcel | None) -> Answer:
    """Do what an order says in this very thread; partials go by reference."""
    answer = _carry_out(work, order, parcel)
    if isinstance(answer, Finished):
        let_callers_go(answer.failures)
    try:
        return answer
    finally:  # this frame may be kept by their tracebacks, too
        del work, parcel, answer


def _carry_out(work: Work, order: Run | Ship, parcel: Parcel | None) -> Answer:
    try:
        if isinstance(order, Ship):
            return Shipped(order.lane, tuple(work.payloads()))
        assert parcel is not None
        start, count = order.start - parcel.start, order.stop - order.start
        return work.carry_out(order, partial(open_parcel, parcel.kind, parcel.data, start, count))
    except ReducerError as error:
        return Broken(order.lane, error)


def _interrupts() -> Callable[[BaseException], bool]:
    """What interrupts the caller, and not only an item: Ctrl-C, and what a handler of the caller's raises.

    Handlers that `func` installs are not among them, for it limits its own time by them.
    """
    callers = handlers() if threading.current_thread() is threading.main_thread() else frozenset()
    return lambda error: (
        issubclass(type(error), KeyboardInterrupt) or (bool(callers) and raised_by_handler(error, callers))
    )


class SerialPool(Pool):
    """One lane on the caller's thread: breakpoints, profilers and tracebacks work as in a plain loop.

    Items and partials go by reference, so nothing needs to pickle; a source that reuses one buffer for all its items is
    not for this pool. Ctrl-C and `KeyboardInterrupt` in `func` end the run, and so does what a signal handler raises
    that was installed before. There is no `item_timeout`.

    >>> list(SerialPool().imap_unordered(abs, [-1, -2]))
    [1, 2]
    """

    workers = 1

    def __init__(self) -> None:
        self._orders: deque[tuple[PoolOrder, Parcel | None]] = deque()
        self._work: Work | None = None

    def __repr__(self) -> str:
        return "SerialPool()"

    def perform(self, order: PoolOrder, parcel: Parcel | None) -> None:
        """Keep the order for `wait`."""
        self._orders.append((order, parcel))

    def wait(self, timeout: float | None) -> list[Answer]:
        """Carry out the oldest order."""
        while self._orders:
            order, parcel = self._orders.popleft()
            if isinstance(order, Revoke):
                return [Revoked(order.lane, order.chunk, ok=False)]
            if isinstance(order, (Run, Ship)):  # it has no other lane to share with
                assert self._work is not None
                began = monotonic()
                try:
                    return [carry_out(self._work, order, parcel)]  # in no variable, for tracebacks keep this frame
                finally:
                    del parcel
                    self.waited += monotonic() - began  # as its own worker
        return []

    def _begin(self, job: Job, lanes: int) -> None:
        self._orders.clear()
        self._work = Work(job, NoBeat(), fatal=_interrupts())

    def _end(self, clean: bool) -> None:
        self._orders.clear()
        self._work = None

    def _close(self, at_once: bool) -> None:
        self._end(not at_once)
