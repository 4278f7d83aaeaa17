"""A pool of the CPUs of a Ray cluster, or of Ray on this machine.

A task is a chunk of at least `task_seconds` of work. The pool puts the job into Ray's store once, and each worker opens
it once. Ray retries no task, so it reports a death at once, and for one task: the scheduler runs that again, and if it
dies again, bisection finds the item. A task whose state stays in the store has two results, and the pool fetches only
the first, which holds the facts.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
import time
import weakref
from collections.abc import Iterable
from typing import Any

import ray
from ray import exceptions

from poolagg._runtime.arguments import checked_count
from poolagg._scheduler.messages import PoolEvent, RunChunk
from poolagg.pools.chunk_runner import Job
from poolagg.pools.cpus import usable_cpus
from poolagg.pools.external.backend import CONTINUE, Backend, Result, Task, cannot_run, lost
from poolagg.pools.external.external_pool import ExternalPool
from poolagg.pools.external.task import RETURNED, Call, Sent, State, halves, is_open, run_task

__all__ = ["RayPool"]

DIED = {
    exceptions.WorkerCrashedError: "lost a worker",
    exceptions.OutOfMemoryError: "lost a worker for want of memory",
}
"""Ray's errors for a task whose worker died."""

GONE = (exceptions.NodeDiedError, exceptions.ObjectLostError)
"""Ray's errors for a task whose machine died, or held its result: no item is to blame."""


class RayPool(ExternalPool):
    """The CPUs of a Ray cluster; without `address`, the one that this program is connected to, else a local Ray.

    `address` is what `ray.init` takes: "auto", "ray-head:6379", or None. `workers` says how many CPUs to use, by
    default all. Closing the pool ends the Ray or the connection that it has started; a Ray that the program had before
    stays as it is. Workers need poolagg, and what `func` imports. With `item_timeout`, items run in processes that the
    workers start.

    >>> with RayPool(workers=1) as pool:      # doctest: +SKIP
    ...     aggregate(abs, range(-4, 1), Sum(), pool=pool)
    10
    """

    def __init__(self, address: str | None = None, *, workers: int | None = None) -> None:
        self._ray = _RayBackend(address, workers)
        super().__init__(self._ray)
        weakref.finalize(self, self._ray.close)

    def open(self) -> None:
        """Start Ray, or connect to it, ahead of the first run."""
        self._ray.connect()


class _RayBackend(Backend):
    slots = 3  # with two, Ray at times finds no task for a worker, and has to release and reacquire it
    keeps_states = True
    task_seconds = 0.1  # long compared with the 0.7 ms that a task costs
    task_rate = 1200  # measured at a few workers

    def __init__(self, address: str | None, workers: int | None) -> None:
        self._address = address
        self._here = address in (None, "local")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ours = not ray.is_initialized()
        self._process = os.getpid()
        self._cpus = None if workers is None else checked_count("workers", workers)
        found = not self._ours or not self._here
        if found:
            self.connect()
            workers = workers or int(ray.cluster_resources().get("CPU", 1))
        self.workers = max(1, workers or usable_cpus())
        self._running: dict[Any, tuple[Task, Any]] = {}
        """By the reference to fetch: the task, and the reference of the state that stays."""
        self._job: Any = None
        # For its dashboard, if it has one, Ray keeps some kilobytes about each of the last 100,000 tasks.
        self._whole = ray.remote(max_retries=0, enable_task_events=found)(_run_task)
        self._in_halves = self._whole.options(num_returns=2)

    def __repr__(self) -> str:
        return f"RayPool({self._address!r}, workers={self.workers})"

    def connect(self) -> None:
        """Start Ray, or connect to it, if that is not done."""
        if ray.is_initialized():
            return
        if not self._here:
            ray.init(address=self._address, log_to_driver=False)
            return
        # Ray would leave the folder of its session behind. Not in TMPDIR, since paths of sockets have to be short.
        where = os.environ.get("RAY_TMPDIR", "/tmp")
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir=where, ignore_cleanup_errors=True)
        cpus = self._cpus or usable_cpus()
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, _temp_dir=self._folder.name)

    def place(self, name: str, job: Job) -> None:
        """Put the job into Ray's store."""
        self.connect()
        self._job = ray.put(Sent.packed(job))

    def submit(self, task: Task) -> None:
        """Submit a task with one result, or two if it keeps its state."""
        # Ray opens each leaf before the task; in a list, the job's reference is opened only if the worker needs it.
        arguments = task.keep, [self._job], pickle.dumps(task.call(), 5), *task.states
        if task.keep:
            facts, state = self._in_halves.remote(*arguments)
        else:
            facts, state = self._whole.remote(*arguments), None
        self._running[facts] = task, state

    def wait(self, timeout: float | None) -> Iterable[Result]:
        """Wait until some tasks have ended, and fetch their results."""
        if not self._running:
            time.sleep(timeout or 0)
            return ()
        if not ray.wait(list(self._running), num_returns=1, timeout=timeout)[0]:
            return ()
        return map(self._result, ray.wait(list(self._running), num_returns=len(self._running), timeout=0)[0])

    def _result(self, ref: Any) -> Result:
        task, state = self._running.pop(ref)
        began = time.monotonic()
        try:
            value = ray.get(ref)
        except exceptions.RayError as error:
            value = error
        seconds = time.monotonic() - began
        return Result(task, value if isinstance(value, RETURNED) else self._explain(task, value), state, seconds)

    def _explain(self, task: Task, error: BaseException) -> PoolEvent:
        if (died := DIED.get(type(error))) is not None and isinstance(task.instruction, RunChunk):
            return task.died(lost(self, died, error))
        if isinstance(error, (*DIED, *GONE)) or isinstance(getattr(error, "cause", None), GONE):
            return task.lost(lost(self, "lost a node", error))
        if isinstance(error, exceptions.LocalRayletDiedError):
            return task.broken(lost(self, f"lost the raylet of this machine, and Ray with it. {CONTINUE}", error))
        return task.broken(cannot_run(self, error))

    def cancel(self) -> None:
        """Cancel what runs."""
        running, self._running, self._job = self._running, {}, None
        with contextlib.suppress(exceptions.RayError):  # Ray itself may be lost
            for ref in running:
                ray.cancel(ref, force=True)

    def close(self) -> None:
        """End Ray or the connection, if this pool has started it; a forked child has started none."""
        if os.getpid() != self._process:
            return
        if self._ours and ray.is_initialized():
            ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _run_task(keep: bool, job: list[Any], pickled: bytes, *leaves: State) -> Any:
    """Run one chunk on a worker; with `keep`, return its state as a separate result."""
    call: Call = pickle.loads(pickled)
    returned = run_task(call if is_open(call.name) else call._replace(job=ray.get(job[0])), leaves=leaves)
    return halves(returned) if keep else returned
