"""A lease whose items may take so long and no longer: it runs in a process of its worker's own, which can be ended.

No cluster can end an item. Dask cannot end a task that has begun, and Ray only with its worker; and a worker may hold
what others have left there. So a worker does as a parent does on one machine: it has a `ProcessPool` of one process,
sees in its cell what it is running and since when, and kills it when that is too long, even where the item holds the
interpreter's lock. Nobody else on the cluster notices, and the lease returns who it was.

A process is kept from lease to lease of one run, and ends when there have been none for a while.
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

__all__ = ["run_with_timeout"]

IDLE = 1.0
"""Seconds that a process waits for another lease: long against the time between two, and to start one takes less."""


def run_with_timeout(name: str, job: Job, run: RunChunk, input_batch: InputBatch) -> ChunkResult | Lost:
    """Run a chunk of the run of that name; `Lost` if its process ended, as it is told to when an item is overdue."""
    pool = _take(name) or _started(job)
    try:
        event = _event(pool, run, input_batch, job.item_timeout or 0.0)
        if isinstance(event, Broken):
            raise event.error
        if isinstance(event, Lost):
            pool.perform(RestartWorker(0), None)
    except BaseException:  # what is broken answers nobody any more
        pool.end(clean=False)
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
"""Processes that have nothing to do, by what ends them, each with the name of the run whose job it has."""

_lock = threading.Lock()


def _started(job: Job) -> ProcessPool:
    pool = ProcessPool(1)  # which closes when its one run ends, as it was never entered
    pool.begin(job, 1)
    return pool


def _take(name: str) -> ProcessPool | None:
    with _lock:
        timer = next((timer for timer, (run, _) in _idle.items() if run == name), None)
        if timer is None:
            return None
        timer.cancel()
        return _idle.pop(timer)[1]


def _put_back(name: str, pool: ProcessPool) -> None:
    """Keep a process for the next task, and end it if none comes: no engine tells a worker that a run is over."""

    def end() -> None:
        with _lock:
            taken = _idle.pop(timer, None) is None
        if not taken:
            pool.end(clean=False)

    timer = threading.Timer(IDLE, end)
    timer.daemon = True
    with _lock:
        _idle[timer] = name, pool
    timer.start()
