"""Other people's pools: any `concurrent.futures.Executor`, and anything with `imap_unordered`.

What these pools cannot do (end one item, name the item that killed a worker) poolagg can't do on them either: a killer
is found by bisection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any

from poolagg._interrupts import interrupts_allowed, interrupts_held_back
from poolagg._orders import Answer, Broken, Lost, Run
from poolagg.errors import WorkerLost
from poolagg.functions import star
from poolagg.pools._cpus import usable_cpus
from poolagg.pools._foreign import ForeignPool
from poolagg.pools._work import Job

__all__ = ["ExecutorPool", "ImapPool"]

LOOK = 0.5
"""Seconds between two looks at whether a `multiprocessing.Pool` has lost a worker; it tells nobody."""


class ExecutorPool(ForeignPool):
    """Lanes on a `concurrent.futures.Executor`: the standard library's, loky's, mpi4py's, and others.

    An executor that broke is renewed where that can be done (the standard library's and loky's processes); the new one
    is shut down at the end of the run, the old one stays broken.
    """

    shared_fate = True

    def __init__(self, executor: Executor) -> None:
        threads = isinstance(executor, ThreadPoolExecutor)
        super().__init__(executor, _workers_of(executor), threads)
        self._renewed: Executor | None = None
        self._futures: set[Future[Any]] = set()

    def _submit(self, run: Run, func: Callable[..., Any], *arguments: Any) -> None:
        epoch = self._epoch
        try:
            future = (self._renewed or self._theirs).submit(func, *arguments)
        except BrokenExecutor as error:
            self._put(run, error, epoch)
            return
        self._futures.add(future)
        future.add_done_callback(lambda future: self._arrived(future, run, epoch))

    def _arrived(self, future: Future[Any], run: Run, epoch: int) -> None:
        self._futures.discard(future)
        if future.cancelled():
            self._put(run, CancelledError(), epoch)
        else:
            error = future.exception()
            self._put(run, future.result() if error is None else error, epoch)

    def _broken(self, run: Run, error: BaseException) -> Answer:
        lost = WorkerLost(
            f"a worker of {self._theirs!r} died ({type(error).__name__}: {error})",
            exitcode=None, signal=None, index=None, item=None,
        )  # fmt: skip
        if isinstance(error, CancelledError) or not self._renew():
            return Broken(run.lane, lost)
        return Lost(run.lane, (run.start, run.stop), "died", lost)

    def _renew(self) -> bool:
        """Have an executor that is not broken, if a new one can be made."""
        current = self._renewed or self._theirs
        if not getattr(current, "_broken", getattr(getattr(current, "_flags", None), "broken", None)):
            return True
        with interrupts_held_back():
            fresh = _another(current)
            if fresh is None:
                return False
            self._shut_down_renewed()
            self._renewed = fresh
            return True

    def _shut_down_renewed(self) -> None:
        """An executor of our own making; what it still runs, nobody wants."""
        if self._renewed is not None:
            with interrupts_held_back():
                renewed, self._renewed = self._renewed, None
                for process in list((getattr(renewed, "_processes", None) or {}).values()) if self._futures else ():
                    process.kill()
                renewed.shutdown(wait=False)  # it ends, whatever interrupts the wait for its end
                with interrupts_allowed():
                    renewed.shutdown(wait=True)

    def _end(self, clean: bool) -> None:
        super()._end(clean)
        try:
            # A thread of executorlib's dies of a future that was cancelled before it came to it, and all wait for ever.
            if not type(self._theirs).__module__.startswith("executorlib."):
                for future in list(self._futures):
                    future.cancel()
        finally:
            self._shut_down_renewed()


class ImapPool(ForeignPool):
    """Lanes on a `multiprocessing.Pool` or its kin: `apply_async` where there is one, else `imap_unordered`."""

    def __init__(self, pool: Any) -> None:
        from multiprocessing.pool import ThreadPool

        super().__init__(pool, _workers_of(pool), isinstance(pool, ThreadPool))
        self._processes: set[Any] = set()

    def _submit(self, run: Run, func: Callable[..., Any], *arguments: Any) -> None:
        epoch = self._epoch

        def arrived(result: Any) -> None:
            self._put(run, result, epoch)

        if hasattr(self._theirs, "apply_async"):
            self._theirs.apply_async(func, arguments, callback=arrived, error_callback=arrived)
        else:
            threading.Thread(target=self._imap, args=(func, arguments, arrived), daemon=True).start()

    def _imap(self, func: Callable[..., Any], arguments: Any, arrived: Callable[[Any], None]) -> None:
        try:
            (returned,) = self._theirs.imap_unordered(star(func), [arguments])
        except BaseException as error:
            returned = error
        arrived(returned)

    def _shorter(self, left: float | None) -> float | None:
        return LOOK if left is None else min(LOOK, left)

    def _look(self) -> list[Answer]:
        """Whether a worker is gone, and its chunk with it: a `multiprocessing.Pool` would wait for it for ever."""
        self._processes.update(getattr(self._theirs, "_pool", ()))
        for process in self._processes:
            exitcode = getattr(process, "exitcode", None)
            if exitcode:
                error = WorkerLost(
                    f"a worker of {self._theirs!r} ended with exit code {exitcode}, and nobody knows with which items: "
                    f"use a ProcessPool, which runs them again",
                    exitcode=exitcode, signal=None, index=None, item=None,
                )  # fmt: skip
                return [Broken(0, error)]
        return []

    def _begin(self, job: Job, lanes: int) -> None:
        super()._begin(job, lanes)
        self._processes = set(getattr(self._theirs, "_pool", ()))


def _workers_of(pool: Any) -> int:
    for name in ("_max_workers", "_processes", "max_workers", "n_jobs"):
        if isinstance(count := getattr(pool, name, None), int) and count > 0:
            return count
    return usable_cpus()


def _another(executor: Any) -> Executor | None:
    """An executor like this one, which broke; None where nobody knows how to make one."""
    module = type(executor).__module__
    if module == "concurrent.futures.process":
        arguments = {"mp_context": executor._mp_context}
    elif module.startswith("loky."):
        arguments = {"context": executor._context}
    else:
        return None
    from importlib import import_module

    made: Executor = import_module(
        "concurrent.futures" if module.startswith("concurrent") else "loky.process_executor"
    ).ProcessPoolExecutor(
        executor._max_workers, initializer=executor._initializer, initargs=executor._initargs, **arguments
    )
    return made
