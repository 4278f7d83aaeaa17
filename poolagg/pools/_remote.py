"""A chunk as one stateless call, for pools that are not ours: what their workers run.

A worker is told the whole job with every chunk, and opens it once: jobs are kept by the name of their run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from poolagg._orders import NONE_YET, Answer, Broken, Finished, Run, Slowest
from poolagg._parcels import Parcel, open_parcel
from poolagg.errors import ReducerError
from poolagg.pools._packing import (
    PackedFailure,
    as_reducer_error,
    job_does_not_open,
    pack_failure,
    pack_failures,
    pack_pieces,
    unpack_failure,
    unpack_failures,
    unpack_pieces,
)
from poolagg.pools._share import open_job
from poolagg.pools._work import Beat, Job, Work
from poolagg.pools.serial import NoBeat, carry_out

__all__ = ["Call", "Failed", "Returned", "is_open", "run_chunk", "run_here", "run_lease", "unpack"]


class Call(NamedTuple):
    """Everything that one chunk takes."""

    name: str
    job: Any
    run: tuple[Any, ...]
    items: tuple[str, Any, int]
    """Kind and data of a parcel, and where in it the chunk begins."""


class Returned(NamedTuple):
    """Everything that comes of it: plain values, and bytes that are opened apart."""

    stop: int
    seconds: float
    reduce_seconds: float
    failures: list[Any]
    pieces: list[Any]
    payload: bytes
    slowest: Slowest = NONE_YET


class Failed(NamedTuple):
    """What a lease returns instead of raising: clusters pickle exceptions their own way, and not every one can be."""

    packed: PackedFailure
    blob: bytes

    @property
    def error(self) -> BaseException:
        """The exception, or what stands for it."""
        return unpack_failure(self.packed, self.blob)


_jobs: dict[str, Job] = {}


def run_lease(call: Call, beat: Beat | None = None) -> Returned | Failed:
    """Run one chunk on a cluster; never raises."""
    try:
        return run_chunk(call, beat)
    except BaseException as error:
        return Failed(*pack_failure(call.run[2], error))


def run_chunk(call: Call, beat: Beat | None = None) -> Returned:
    """Run one chunk, and return its combined state."""
    job, run = _job(call), Run(*call.run)
    work = Work(job, beat or NoBeat())
    try:
        outcome = work.run(run, *open_parcel(*call.items, run.stop - run.start))
        failures, blobs = pack_failures(outcome.failures)
        pieces, payloads, _ = pack_pieces(work.payloads(), job.reducer, job.strategy)
    except ReducerError:
        raise
    except BaseException as error:  # SystemExit in a reducer must not end a worker of somebody else's
        raise as_reducer_error(error) from error
    payload = b"".join([*blobs, *payloads])
    return Returned(outcome.stop, outcome.seconds, outcome.reduce_seconds, failures, pieces, payload, outcome.slowest)


def run_here(job: Job, run: Run, parcel: Parcel) -> Answer:
    """Run one chunk in a thread of this process; nothing is pickled, and nothing raised, as in a lease."""
    try:
        return carry_out(Work(job, NoBeat()), run, parcel)
    except BaseException as error:
        return Broken(run.lane, as_reducer_error(error))


def is_open(name: str) -> bool:
    """Whether this process has the job of that run, and need not be told it again."""
    return name in _jobs


def _job(call: Call) -> Job:
    job = _jobs.get(call.name)
    if job is None:  # another thread of this worker may be opening the same, or another run's
        try:
            job = open_job(call.job)
        except Exception as error:
            raise job_does_not_open(error) from error
        _jobs.clear()
        _jobs[call.name] = job
    return job


def unpack(run: Run, returned: Returned) -> Finished:
    """The answer that a chunk's return stands for."""
    rest, failures = unpack_failures(returned.failures, memoryview(returned.payload))
    pieces = unpack_pieces(returned.pieces, rest)
    times = returned.reduce_seconds, 0.0, 0.0, 0.0, returned.slowest
    return Finished(run.lane, run.chunk, returned.stop, returned.seconds, failures, pieces, *times)
