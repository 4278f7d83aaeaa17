"""Run stateless tasks on any `concurrent.futures.Executor`, and on any pool with `imap_unordered`.

These engines can neither end one item nor name the item that killed a worker: the scheduler finds it by bisection.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from importlib import import_module
from multiprocessing.pool import ThreadPool
from typing import Any

from poolagg._input.functions import star
from poolagg._runtime.exception_text import said
from poolagg._runtime.interrupts import interrupts_allowed, interrupts_held_back
from poolagg._scheduler.messages import PoolEvent
from poolagg.pools.chunk_runner import Job, pickle_job
from poolagg.pools.cpus import usable_cpus
from poolagg.pools.external.backend import Backend, Inbox, Result, Task, cannot_run, lost
from poolagg.pools.external.task import run_here, run_task

__all__ = ["ExecutorBackend", "ImapBackend"]


class ExecutorBackend(Backend):
    """A `concurrent.futures.Executor`: the standard library's, loky's, mpi4py's, and others.

    Each call carries the job, and returns its state. If possible (the standard library's and loky's processes), the
    backend replaces an executor that broke, and shuts the new one down at the end of the run; the old one stays broken.
    """

    name = "ExecutorPool"
    one_failure_domain = True
    threads: type = ThreadPoolExecutor

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.workers = _workers_of(engine)
        self.by_reference = isinstance(engine, self.threads) and not _has_interpreters(engine)
        self._renewed: Executor | None = None
        self._futures: set[Future[Any]] = set()

    def __repr__(self) -> str:
        return f"{self.name}({self._engine!r})"

    def place(self, name: str, job: Job) -> None:
        """Pickle the job."""
        self._job: Any = job if self.by_reference else pickle_job(job)
        self._inbox = Inbox()

    def submit(self, task: Task) -> None:
        """Submit a call; if the executor is broken, deliver that as the result."""
        deliver, func, *arguments = self._call(task)
        try:
            future = (self._renewed or self._engine).submit(func, *arguments)
        except BrokenExecutor as error:
            deliver(error)
            return
        self._futures.add(future)
        future.add_done_callback(lambda future: self._ended(future, deliver))

    def _call(self, task: Task) -> tuple[Any, ...]:
        """Return a callback for the result, the function to call, and its arguments."""
        put = self._inbox.put

        def deliver(value: Any) -> None:
            if value is not None:  # else the thread has delivered it itself
                put((task, value))

        if self.by_reference:
            return deliver, _run_here, self._job, task, deliver
        return deliver, run_task, task.call(self._job)

    def _ended(self, future: Future[Any], deliver: Callable[[Any], None]) -> None:
        self._futures.discard(future)
        error = CancelledError() if future.cancelled() else future.exception()
        deliver(future.result() if error is None else error)

    def wait(self, timeout: float | None) -> list[Result]:
        """Wait for the next result."""
        return [
            Result(task, self._explain(task, value) if isinstance(value, BaseException) else value)
            for task, value in self._inbox.wait(timeout, self._look)
        ]

    def _explain(self, task: Task, error: BaseException) -> PoolEvent:
        if not isinstance(error, (BrokenExecutor, CancelledError)):
            return task.broken(cannot_run(self, error))
        died = lost(self, f"lost a worker ({said(error)})", error)
        renewed = isinstance(error, BrokenExecutor) and self._renew()
        return task.died(died) if renewed else task.broken(died)

    def _look(self) -> None:
        """Do nothing: an executor itself reports tasks that will never end."""

    def _renew(self) -> bool:
        """Replace a broken executor, if a new one can be made; return True if the current one works."""
        current = self._renewed or self._engine
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
        """Shut down the replacement executor, and kill what it still runs."""
        if self._renewed is not None:
            with interrupts_held_back():
                renewed, self._renewed = self._renewed, None
                for process in list((getattr(renewed, "_processes", None) or {}).values()) if self._futures else ():
                    process.kill()
                renewed.shutdown(wait=False)  # first, so that it ends even if the wait is interrupted
                with interrupts_allowed():
                    renewed.shutdown(wait=True)

    def cancel(self) -> None:
        """Cancel what has not begun."""
        self._job = None
        try:
            # A future that is cancelled early kills executorlib's thread, and then all others wait forever.
            if not type(self._engine).__module__.startswith("executorlib."):
                for future in list(self._futures):
                    future.cancel()
        finally:
            self._shut_down_renewed()


class ImapBackend(ExecutorBackend):
    """A `multiprocessing.Pool` or similar, by `apply_async` if it has that, else by `imap_unordered`."""

    name = "ImapPool"
    one_failure_domain = False
    threads = ThreadPool

    def place(self, name: str, job: Job) -> None:
        """Pickle the job, and note the pool's processes."""
        super().place(name, job)
        self._processes = set(getattr(self._engine, "_pool", ()))

    def submit(self, task: Task) -> None:
        """Call a function in the pool, or in a thread that waits for it."""
        deliver, func, *arguments = self._call(task)
        if hasattr(self._engine, "apply_async"):
            self._engine.apply_async(func, arguments, callback=deliver, error_callback=deliver)
        else:
            threading.Thread(target=self._imap, args=(func, arguments, deliver), daemon=True).start()

    def _imap(self, func: Callable[..., Any], arguments: Any, deliver: Callable[[Any], None]) -> None:
        try:
            (value,) = self._engine.imap_unordered(star(func), [arguments])
        except BaseException as error:
            value = error
        deliver(value)

    def _look(self) -> None:
        """Raise `WorkerLost` if a worker has died with its chunk, as a `multiprocessing.Pool` would wait forever."""
        self._processes.update(getattr(self._engine, "_pool", ()))
        for process in self._processes:
            if exitcode := getattr(process, "exitcode", None):
                text = (
                    f"lost a worker, which ended with exit code {exitcode}, and does not say with which items: "
                    f"use a ProcessPool, which runs them again"
                )
                raise lost(self, text, exitcode=exitcode)


def _run_here(job: Job, task: Task, deliver: Callable[[Any], None]) -> None:
    """Run a chunk in the executor's thread, and deliver the event instead of returning it.

    A variable of the executor that held the event would form a cycle with its exceptions, whose tracebacks refer to the
    frame.
    """
    deliver(run_here(job, task.instruction, task.input_batch))


def _workers_of(pool: Any) -> int:
    for name in ("_max_workers", "_processes", "max_workers", "n_jobs"):
        if isinstance(count := getattr(pool, name, None), int) and count > 0:
            return count
    return usable_cpus()


def _has_interpreters(executor: Any) -> bool:
    """Tell if each thread of the executor has an interpreter of its own (Python 3.14), so that calls are pickled."""
    module = sys.modules.get("concurrent.futures.interpreter")
    return module is not None and isinstance(executor, module.InterpreterPoolExecutor)


def _another(executor: Any) -> Executor | None:
    """Make an executor like this broken one; return None for an unknown kind."""
    module = type(executor).__module__
    if module == "concurrent.futures.process":
        factory, options = "concurrent.futures", {"mp_context": executor._mp_context}
    elif module.startswith("loky."):
        factory, options = "loky.process_executor", {"context": executor._context}
    else:
        return None
    initializer = {"initializer": executor._initializer, "initargs": executor._initargs}
    made: Executor = import_module(factory).ProcessPoolExecutor(executor._max_workers, **initializer, **options)
    return made
