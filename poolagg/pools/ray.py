"""A cluster of Ray's, or Ray on this machine: the same run with a `RayPool`.

A task is a *lease*, as on dask: a chunk that is worth `LEASE` seconds of work or more. The job is put into Ray's store
once, and each worker opens it once. Tasks carry no retries of Ray's own, so that a death is told at once, and is that
of one task: it runs again by the plan, and if it dies again, halving finds the item. A task whose state is to stay in
the store has two results, of which only the first, which tells of it, is fetched.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
import time
from typing import Any

import ray
from ray import exceptions

from poolagg._arguments import checked_count
from poolagg._orders import Answer, Broken, Lost, Run
from poolagg.pools._cluster import ClusterPool, Task
from poolagg.pools._cpus import usable_cpus
from poolagg.pools._foreign import CONTINUE
from poolagg.pools._remote import Call, Changed, Ended, Failed, Kept, Returned, State, halves, is_open, run_lease
from poolagg.pools._work import Job

__all__ = ["RayPool"]

TASKS = 1200
"""Tasks a second that a driver bears, measured at a few workers."""

LEASE = 0.1
"""Seconds of work in a task at least: long against the 0.7 ms it costs, short for whoever looks at a bar."""

DIED = {
    exceptions.WorkerCrashedError: "lost a worker",
    exceptions.OutOfMemoryError: "lost a worker for want of memory",
}
"""What is told of a task whose worker died."""

ANSWERS = (Returned, Kept, Ended, Failed, Changed)
"""What a lease returns, however it went."""

GONE = (exceptions.NodeDiedError, exceptions.ObjectLostError)
"""What is told of a task whose machine died, or whose result was on one: no item's fault."""


class RayPool(ClusterPool):
    """The CPUs of a Ray cluster; without an address, and with none that this program is connected to, Ray right here.

    `address` is what `ray.init` takes: "auto", "ray-head:6379", or None. `workers` says how many CPUs to use, by
    default all. What this pool started or connected to, it ends when it is closed; a Ray that this program had before
    stays as it is. Workers need poolagg, and what `func` imports. With `item_timeout` items run in processes that the
    workers start.

    >>> with RayPool(workers=1) as pool:      # doctest: +SKIP
    ...     aggregate(abs, range(-4, 1), Sum(), pool=pool)
    10
    """

    lanes_per_worker = 3  # with two, Ray has at times none for a worker, gives it back, and has to ask for it again

    def __init__(self, address: str | None = None, *, workers: int | None = None) -> None:
        self._address = address
        self._here = address in (None, "local")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ours = not ray.is_initialized()
        if workers is not None:
            checked_count("workers", workers)
        self._cpus = workers
        found = not self._ours or not self._here
        if found:
            self._connect()
            workers = workers or int(ray.cluster_resources().get("CPU", 1))
        super().__init__(address or "here", max(1, workers or usable_cpus()), threads=False)
        self._entered = False  # it is ours to close
        self.chunk_seconds = max(LEASE, 2 * self.workers / self.lanes_per_worker / TASKS)
        self._refs: dict[Any, tuple[Task, Any]] = {}
        """Results to wait for, each with what it is of, and the state that stays."""
        self._sent: Any = None
        # Ray keeps some kilobytes about each of the last 100,000 tasks for its dashboard, where there is one.
        self._whole = ray.remote(max_retries=0, enable_task_events=found)(_run_lease)
        self._in_halves = ray.remote(max_retries=0, num_returns=2, enable_task_events=found)(_run_lease_in_halves)

    def __repr__(self) -> str:
        return f"RayPool({self._address!r}, workers={self.workers // self.lanes_per_worker})"

    def open(self) -> None:
        """Start Ray, or connect to it, ahead of the first run."""
        self._connect()

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        if not self._here:
            ray.init(address=self._address, log_to_driver=False)
            return
        # Ray would leave the folder of its session behind. Not in TMPDIR: paths of sockets have to be short.
        where = os.environ.get("RAY_TMPDIR", "/tmp")
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir=where, ignore_cleanup_errors=True)
        cpus = self._cpus or usable_cpus()
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, _temp_dir=self._folder.name)

    # -- one run -----------------------------------------------------------------------------------------------

    def _begin(self, job: Job, lanes: int) -> None:
        self._connect()
        super()._begin(job, lanes)
        self._sent, self._job = ray.put(self._job), b""

    def _send(self, task: Task) -> None:
        # The reference in a list is not opened for each task, but by whoever needs it; leaves are.
        arguments = [self._sent], pickle.dumps(task.call, 5), *task.leaves
        if task.keep:
            facts, state = self._in_halves.remote(*arguments)
        else:
            facts, state = self._whole.remote(*arguments), None
        self._refs[facts] = task, state

    def wait(self, timeout: float | None) -> list[Answer]:
        """Wait for answers of this run."""
        answers, self._now = self._now, []
        if answers:
            return answers
        began = time.monotonic()
        if not self._refs:
            time.sleep(timeout or 0)
        elif ray.wait(list(self._refs), num_returns=1, timeout=timeout)[0]:
            self.waited += time.monotonic() - began
            ready, _ = ray.wait(list(self._refs), num_returns=len(self._refs), timeout=0)
            return [self._fetched(ref) for ref in ready]
        self.waited += time.monotonic() - began
        return []

    def _fetched(self, ref: Any) -> Answer:
        task, state = self._refs.pop(ref)
        began = time.monotonic()
        result = _result(ref)
        return self._told(task, result, state, time.monotonic() - began)

    def _answer_of(self, task: Task, result: Any, where: Any, seconds: float) -> Answer:
        order = task.order
        if isinstance(result, ANSWERS):
            return super()._answer_of(task, result, where, seconds)
        if (died := DIED.get(type(result))) is not None and isinstance(order, Run):
            return Lost(order.lane, (order.start, order.stop), "died", self._lost(died, result))
        if isinstance(result, (*DIED, *GONE)) or isinstance(getattr(result, "cause", None), GONE):
            return self._unknown_loss(order.lane, self._lost("lost a node", result))
        if isinstance(result, exceptions.LocalRayletDiedError):
            text = f"lost the raylet of this machine, and Ray with it. {CONTINUE}"
            return Broken(order.lane, self._lost(text, result))
        hint = "Do all nodes have poolagg, as it is here?" if isinstance(result, exceptions.RayTaskError) else CONTINUE
        return Broken(order.lane, self._lost(f"can't run a chunk: {type(result).__name__}: {result}. {hint}", result))

    # -- the end -----------------------------------------------------------------------------------------------

    def _end(self, clean: bool) -> None:
        super()._end(clean)
        refs, self._refs, self._sent = list(self._refs), {}, None
        with contextlib.suppress(exceptions.RayError):  # Ray itself may be lost
            for ref in refs:
                ray.cancel(ref, force=True)

    def _close(self, at_once: bool) -> None:
        self._end(not at_once)
        if self._ours and ray.is_initialized():
            ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _result(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except exceptions.RayError as error:
        return error


def _run_lease(job: list[Any], pickled: bytes, *leaves: State) -> Any:
    """One chunk, on a worker."""
    call: Call = pickle.loads(pickled)
    return run_lease(call if is_open(call.name) else call._replace(job=ray.get(job[0])), leaves=leaves)


def _run_lease_in_halves(job: list[Any], pickled: bytes) -> tuple[Any, State | None]:
    """One chunk, whose state is to stay there."""
    return halves(_run_lease(job, pickled))
