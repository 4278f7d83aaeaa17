"""Other people's pools: any `concurrent.futures.Executor`, and anything with `imap_unordered`.

A lane is a place in the executor's queue: there are twice as many as workers, each with one chunk in flight, so that
the input stays bounded. Chunks are stateless calls, each of which returns its combined state. What these pools cannot
do (end one item, name the item that killed a worker) poolagg can't do on them either: a killer is found by bisection.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

from poolagg._orders import Answer, Broken, Finished, Lost, Revoke, Revoked, Run
from poolagg._parcels import Parcel
from poolagg.errors import WorkerLost
from poolagg.functions import star
from poolagg.pools._packing import as_reducer_error
from poolagg.pools._pool import Pool, PoolOrder
from poolagg.pools._remote import Call, Returned, run_chunk, run_here, unpack
from poolagg.pools._travel import encode_by_value
from poolagg.pools._work import Job, pickle_job
from poolagg.pools.process import usable_cpus

__all__ = ["ExecutorPool", "ImapPool"]

LOOK = 0.5
"""Seconds between two looks at whether a `multiprocessing.Pool` has lost a worker; it tells nobody."""

_names = itertools.count()


class _ForeignPool(Pool):
    """What the two kinds have in common: lanes of stateless calls whose results come through one queue."""

    keeps_state = False
    in_flight = 1
    lanes_per_worker = 2

    def __init__(self, theirs: Any, workers: int, threads: bool) -> None:
        self._theirs = theirs
        self.workers = self.lanes_per_worker * workers
        self._threads = threads
        self._results: queue.SimpleQueue[tuple[int, Run, Any]] = queue.SimpleQueue()
        self._now: list[Answer] = []
        self._epoch = 0
        self._name = ""
        self._job: Any = b""
        self._entered = True  # it is not ours to close

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._theirs!r})"

    def encode(self) -> Callable[[Any], bytes] | None:
        """Items are pickled one by one, unless the workers are threads."""
        return None if self._threads else encode_by_value

    def perform(self, order: PoolOrder, parcel: Parcel | None) -> None:
        """Submit a chunk; there is never one that waits behind another, or a state to ship."""
        if isinstance(order, Revoke):
            self._now.append(Revoked(order.lane, order.chunk, ok=False))
        elif isinstance(order, Run):
            assert parcel is not None
            if self._threads:
                self._submit(order, run_here, self._job, order, parcel)
            else:
                self._submit(order, run_chunk, self._call(order, parcel))

    def _call(self, run: Run, parcel: Parcel) -> Call:
        return Call(self._name, self._job, tuple(run), parcel.cut(run.start, run.stop))

    def wait(self, timeout: float | None) -> list[Answer]:
        """Wait for answers of this run."""
        answers, self._now = self._now, []
        until = None if timeout is None else monotonic() + timeout
        while not answers:
            began = monotonic()
            left = None if until is None else max(0.0, until - began)
            try:
                epoch, run, result = self._results.get(timeout=self._shorter(left))
                self.waited += monotonic() - began
            except queue.Empty:
                self.waited += monotonic() - began
                answers.extend(self._look())
                if left is not None and not answers and monotonic() >= (until or 0):
                    break
                continue
            if epoch == self._epoch:
                answers.append(self._answer(run, result))
        return answers

    def _put(self, run: Run, result: Any, epoch: int) -> None:
        self._results.put((epoch, run, result))

    def _answer(self, run: Run, result: Any) -> Answer:
        if isinstance(result, Returned):
            return unpack(run, result)
        if isinstance(result, (Finished, Broken)):
            return result
        if isinstance(result, (BrokenExecutor, CancelledError)):
            return self._broken(run, result)
        return Broken(run.lane, as_reducer_error(result))

    def _begin(self, job: Job, lanes: int) -> None:
        self._epoch += 1
        self._now = []
        self._name = f"{os.getpid()}-{next(_names)}"
        self._job = job if self._threads else pickle_job(job)

    def _end(self, clean: bool) -> None:
        self._epoch += 1
        self._job = b""

    def _close(self, at_once: bool) -> None:
        self._end(not at_once)

    def _shorter(self, left: float | None) -> float | None:
        return left

    def _look(self) -> list[Answer]:
        return []

    def _broken(self, run: Run, error: BaseException) -> Answer:
        return Broken(run.lane, as_reducer_error(error))

    @abstractmethod
    def _submit(self, run: Run, func: Callable[..., Any], *arguments: Any) -> None: ...


class ExecutorPool(_ForeignPool):
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
            self._put(run, future.exception() or future.result(), epoch)

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
        fresh = _another(current)
        if fresh is None:
            return False
        self._shut_down_renewed()
        self._renewed = fresh
        return True

    def _shut_down_renewed(self) -> None:
        """An executor of our own making; what it still runs, nobody wants."""
        if self._renewed is not None:
            for process in list((getattr(self._renewed, "_processes", None) or {}).values()) if self._futures else ():
                process.kill()
            self._renewed.shutdown(wait=True)
            self._renewed = None

    def _end(self, clean: bool) -> None:
        super()._end(clean)
        for future in list(self._futures):
            future.cancel()
        self._shut_down_renewed()


class ImapPool(_ForeignPool):
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
