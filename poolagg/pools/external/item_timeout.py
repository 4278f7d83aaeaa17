"""Run a task with a time limit for each item, in a process that its worker starts and can kill.

No cluster can end an item: dask cannot end a task that has begun, and Ray only with its worker, which may hold other
states. So a worker does what a parent does on one machine: it has a `ProcessPool` of one process, reads in the progress
cell what the process runs and since when, and kills it when that is too long, even if the item holds the GIL. The rest
of the cluster is not affected, and the task returns which item it was.

A worker keeps the process from task to task of one run, and ends it after an idle time.
"""

from __future__ import annotations

import threading
from time import monotonic

from poolagg._input.batches import InputBatch
from poolagg._runtime.durations import bounded
from poolagg._scheduler.messages import Broken, ChunkResult, Lost, RestartWorker, RunChunk
from poolagg.pools.chunk_runner import Job
from poolagg.pools.item_timeouts import Watch
from poolagg.pools.process.pool import ProcessPool
from poolagg.pools.turns import Turn

__all__ = ["run_with_timeout"]

IDLE = 1.0
"""Seconds that a process waits for another task: longer than the usual gap between tasks, or than a start takes."""


def run_with_timeout(name: str, job: Job, run: RunChunk, input_batch: InputBatch) -> ChunkResult | Lost:
    """Run a chunk of the run called `name`; return `Lost` if the process died, or was killed for an overdue item."""
    pool = _take(name) or _started(job)
    try:
        event = _event(pool, run, input_batch, job.item_timeout or 0.0)
        if isinstance(event, Broken):
            raise event.error
        if isinstance(event, Lost):
            pool.perform(RestartWorker(0), None)
    except BaseException:  # the process's state is unknown: do not use it again
        pool.close(at_once=True)
        raise
    _put_back(name, pool)
    return event._replace(slot=run.slot)


def _event(pool: ProcessPool, run: RunChunk, input_batch: InputBatch, timeout: float) -> ChunkResult | Lost | Broken:
    pool.perform(run._replace(slot=0, flush=True), input_batch)
    watch = Watch(pool, timeout)
    while True:
        for event in pool.wait(bounded(watch.next - monotonic())):
            if isinstance(event, (ChunkResult, Lost, Broken)):
                return event
        watch.look(range(1))


# -- processes ---------------------------------------------------------------------------------------------------------

_idle: dict[threading.Timer, tuple[str, ProcessPool]] = {}
"""Idle processes by the timer that ends them, each with the name of the run whose job it has."""

_lock = threading.Lock()


def _started(job: Job) -> ProcessPool:
    pool = ProcessPool(1)
    pool.begin(job, 1, Turn())
    return pool


def _take(name: str) -> ProcessPool | None:
    with _lock:
        timer = next((timer for timer, (run, _) in _idle.items() if run == name), None)
        if timer is None:
            return None
        timer.cancel()
        return _idle.pop(timer)[1]


def _put_back(name: str, pool: ProcessPool) -> None:
    """Keep a process for the next task, and end it if none comes, since no engine tells a worker that a run is over."""

    def end() -> None:
        with _lock:
            taken = _idle.pop(timer, None) is None
        if not taken:
            pool.close(at_once=True)

    timer = threading.Timer(IDLE, end)
    timer.daemon = True
    with _lock:
        _idle[timer] = name, pool
    timer.start()
