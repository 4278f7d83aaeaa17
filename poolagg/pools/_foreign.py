"""What all pools of other people's have in common: lanes of stateless calls, whose results come through one queue.

A lane is a place in their queue: there are a few for each worker, each with one chunk in flight, so that the input
stays bounded. Chunks are calls, each of which returns its combined state.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError
from time import monotonic
from typing import Any

from poolagg._orders import Answer, Broken, Finished, Revoke, Revoked, Run
from poolagg._parcels import Encoded, Parcel
from poolagg._texts import said
from poolagg.errors import PoolAggError, WorkerLost
from poolagg.pools._packing import as_reducer_error
from poolagg.pools._pool import Pool, PoolOrder
from poolagg.pools._remote import Call, Failed, Returned, run_here, run_lease, unpack
from poolagg.pools._travel import encode_by_value
from poolagg.pools._work import Job, pickle_job

__all__ = ["CONTINUE", "ForeignPool"]

CONTINUE = "With checkpoint=path the same call goes on from where it stopped"
"""What to do when others' machines are gone."""


class ForeignPool(Pool):
    """Lanes of stateless calls whose results come through one queue; how a call is submitted, its children know."""

    keeps_state = False
    in_flight = 1
    lanes_per_worker = 2

    def __init__(self, theirs: Any, workers: int, threads: bool) -> None:
        self._theirs = theirs
        self.workers = self.lanes_per_worker * workers
        self._threads = threads
        self._results: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
        self._now: list[Answer] = []
        self._epoch = 0
        self._name = ""
        self._job: Any = b""
        self._entered = True  # it is not ours to close

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._theirs!r})"

    def encode(self) -> Callable[[Any], Encoded] | None:
        """Items are pickled one by one, unless the workers are threads."""
        return None if self._threads else encode_by_value

    def perform(self, order: PoolOrder, parcel: Parcel | None) -> None:
        """Submit a chunk; there is never one that waits behind another, or a state to ship."""
        if isinstance(order, Revoke):
            self._now.append(Revoked(order.lane, order.chunk, ok=False))
        elif isinstance(order, Run):
            assert parcel is not None
            if self._threads:
                self._submit(order, self._run_here, self._job, order, parcel, self._epoch)
            else:
                self._submit(order, run_lease, self._call(order, parcel))

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
                epoch, what, result = self._results.get(timeout=self._shorter(left))
                self.waited += monotonic() - began
            except queue.Empty:
                self.waited += monotonic() - began
                answers.extend(self._look())
                if left is not None and not answers and monotonic() >= (until or 0):
                    break
                continue
            if epoch == self._epoch:
                answers.append(self._answer(what, result))
        return answers

    def _run_here(self, job: Job, run: Run, parcel: Parcel, epoch: int) -> None:
        """Run a chunk in a thread of theirs, and return nothing.

        A variable of theirs that held the answer would be in a cycle with the exceptions in it, whose tracebacks lead
        to the frame.
        """
        self._put(run, run_here(job, run, parcel), epoch)

    def _put(self, what: Any, result: Any, epoch: int) -> None:
        """The result of what was submitted has come; any thread may say so."""
        if result is not None:  # else it is there already
            self._results.put((epoch, what, result))

    def _answer(self, run: Any, result: Any) -> Answer:
        if isinstance(result, Returned):
            return unpack(run, *result)
        if isinstance(result, Failed):
            return Broken(run.lane, as_reducer_error(result.error))
        if isinstance(result, (Finished, Broken)):
            return result
        if isinstance(result, (BrokenExecutor, CancelledError)):
            return self._broken(run, result)
        return Broken(run.lane, result if isinstance(result, PoolAggError) else self._cannot_run(result))

    def _begin(self, job: Job, lanes: int) -> None:
        self._epoch += 1
        self._now = []
        self._name = os.urandom(8).hex()  # drivers on other machines use the same workers, and have the same pids
        self._job = job if self._threads else self._pickled(job)

    def _pickled(self, job: Job) -> Any:
        return pickle_job(job)

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

    def _cannot_run(self, error: BaseException) -> WorkerLost:
        """What to tell people of an error that is neither func's nor the reducer's, but their pool's own."""
        hint = "Are its workers alive, and do they have poolagg, as it is here?"
        return self._lost(f"can't run a chunk: {said(error).rstrip('.')}. {hint}", error)

    def _lost(self, text: str, cause: BaseException | None = None) -> WorkerLost:
        """What to tell people when something of theirs is gone; of processes elsewhere nobody knows how they ended."""
        lost = WorkerLost(f"{self!r} {text}", exitcode=None, signal=None, index=None, item=None)
        lost.__cause__ = cause
        return lost

    def _submit(self, run: Run, func: Callable[..., Any], *arguments: Any) -> None:
        raise NotImplementedError
