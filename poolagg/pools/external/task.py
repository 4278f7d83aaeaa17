"""A chunk as one stateless call, which the workers of external pools run.

Each call carries the whole job; the worker opens it once, and keeps it by the name of its run. On clusters a call is a
*task*. It returns its partial states as a `State`, which may stay there as a *leaf*, and which a later task merges into
its own. A leaf is packed, so each merge opens it anew for an accumulator of its own: however often an engine repeats a
merge, no leaf is counted twice. An engine that reruns a lost task may produce another leaf than the driver knows (an
item now fails, a budget ends sooner): a merge of such a leaf returns `Lost`, and the driver runs those items again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

from poolagg._input.batches import InputBatch, open_batch
from poolagg._scheduler.messages import Broken, ChunkResult, Failure, Flush, Lost, PartialState, PoolEvent, RunChunk
from poolagg._scheduler.ranges import Interval
from poolagg.errors import WorkerLost
from poolagg.pools.batch_mapper import Heartbeat
from poolagg.pools.chunk_runner import ChunkRunner, Job, pickle_job
from poolagg.pools.process.arena import LEAST_BUFFER, Extent
from poolagg.pools.process.progress_cell import NO_CHUNK
from poolagg.pools.serial import NoHeartbeat, carry_out
from poolagg.pools.serialization.out_of_band import OutOfBandBuffers
from poolagg.pools.serialization.outbox import Outbox
from poolagg.pools.serialization.shared_value import open_job, pickle_far
from poolagg.pools.serialization.wire import (
    WireState,
    as_reducer_error,
    job_does_not_open,
    pack_error,
    pack_failure,
    put_states,
    unpack_failure,
    unpack_states,
)

__all__ = [
    "RETURNED",
    "Call",
    "Ended",
    "Kept",
    "Returned",
    "Sent",
    "State",
    "halves",
    "is_open",
    "run_here",
    "run_task",
    "unpack",
]

LARGE = LEAST_BUFFER
"""Least bytes of a state that stays on the cluster; a smaller one is sent with the facts of its chunk."""


# -- arguments of a task -----------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A job on its way to a cluster: its pickle, and the values that it shares, out of band and so never copied."""

    pickle: bytes
    values: dict[bytes, tuple[Extent, ...]]
    """The extents of each value's buffers, by its ident."""
    out_of_band: OutOfBandBuffers

    @classmethod
    def packed(cls, job: Job) -> Sent:
        """Pickle a job."""
        pickled, values = pickle_far(lambda: pickle_job(job))
        buffers = OutOfBandBuffers()
        return cls(pickled, {ident: tuple(buffers.put(segments)[1]) for ident, segments in values.items()}, buffers)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return len(self.pickle) + self.out_of_band.nbytes

    def open(self) -> Any:
        """Open the job in a worker; shared values are read-only there."""
        view = self.out_of_band.view
        views = {ident: [view(span).toreadonly() for span in spans] for ident, spans in self.values.items()}
        return open_job(self.pickle, views)


class Call(NamedTuple):
    """The argument of one task; without `run`, the task only merges leaves."""

    name: str
    job: Any
    run: tuple[Any, ...] | None
    items: tuple[str, Any, int] | None
    """Kind and data of an input batch, and where in it the chunk begins."""
    told: tuple[tuple[Interval, ...], ...] = ()
    """The items that each leaf of the call covers, as far as the driver knows."""


# -- results of a task -------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """The packed partial states of a task, as wire values, bytes and out-of-band buffers."""

    states: list[WireState]
    payload: bytes
    out_of_band: OutOfBandBuffers | None

    @property
    def covers(self) -> tuple[Interval, ...]:
        """The items that it covers."""
        return tuple(interval for covers, *_ in self.states for interval in covers)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return len(self.payload) + (0 if self.out_of_band is None else self.out_of_band.nbytes)


class Returned(NamedTuple):
    """The result of a call. The facts hold packed failures and no partial states; these are in `state`."""

    facts: ChunkResult
    state: State


class Kept(NamedTuple):
    """The result of a call whose state stays on the cluster: the facts, the items it covers, and its size."""

    facts: ChunkResult
    covers: tuple[Interval, ...]
    nbytes: int


class Ended(NamedTuple):
    """The result of a call that failed: its event, and separately the packed error.

    Clusters pickle exceptions in their own way, which fails for some.
    """

    event: Lost | Broken
    failure: Failure

    @classmethod
    def of(cls, event: Lost | Broken) -> Ended:
        """Pack the event's error."""
        return cls(event._replace(error=PACKED_SEPARATELY), pack_failure(Failure(0, "raised", event.error)))

    def open(self, slot: int) -> Lost | Broken:
        """Return the event, for this slot."""
        error = unpack_failure(self.failure).error
        broken = isinstance(self.event, Broken)
        return self.event._replace(slot=slot, error=as_reducer_error(error) if broken else error)


PACKED_SEPARATELY = Exception()
"""Takes the place of an error that is packed separately."""

RETURNED = Returned, Kept, Ended
"""All types that a task may return."""


def unpack(run: RunChunk, facts: ChunkResult, state: State | None, retains_input: bool = True) -> ChunkResult:
    """Unpack the result of a chunk; without `state`, the worker keeps its state."""
    failures = tuple(map(unpack_failure, facts.failures))
    began = perf_counter()
    states = None if state is None else open_state(state, retains_input)
    opening = perf_counter() - began
    # The worker may run on another machine, with another clock.
    return facts._replace(
        slot=run.slot, chunk=run.chunk, failures=failures, states=states, open_seconds=opening, began=0.0
    )


def open_state(state: State, retains_input: bool) -> Any:
    """Unpack the partial states. `retains_input`: their large buffers may be kept or written to, so copy them."""
    return unpack_states(state.states, memoryview(state.payload), state.out_of_band, retains_input)


# -- in a worker -------------------------------------------------------------------------------------------------------

_jobs: dict[str, Job] = {}
_opening = threading.RLock()
"""Held to open a job, so that only one of a worker's threads does."""


def run_task(call: Call, heartbeat: Heartbeat | None = None, leaves: Sequence[State | None] = ()) -> Returned | Ended:
    """Run one chunk, and merge leaves into its state. Errors become an `Ended`, and none is raised."""
    there = [leaf for leaf in leaves if leaf is not None]
    try:
        if [leaf.covers for leaf in there] != list(call.told):
            return Ended.of(Lost(0, None, "died", _made_anew(), certain=True))
        return _run(call, heartbeat or NoHeartbeat(), there)
    except BaseException as error:  # SystemExit in a reducer must not end the engine's worker
        return Ended.of(Broken(0, as_reducer_error(error)))


def _made_anew() -> WorkerLost:
    text = "a state was lost, and the one that was made again covers other items"
    return WorkerLost(text, exitcode=None, signal=None, index=None, item=None)


def halves(returned: Any) -> tuple[Any, State | None]:
    """Split a result into what the driver fetches at once, and the state that stays on the cluster, if it is large."""
    if not isinstance(returned, Returned) or returned.state.nbytes < LARGE or _is_spoiled(returned.state):
        return returned, None
    facts, state = returned
    return Kept(facts, state.covers, state.nbytes), state


def _is_spoiled(state: State) -> bool:
    return any(error is not None for _, error, _ in state.states)


def _run(call: Call, heartbeat: Heartbeat, leaves: Sequence[State]) -> Returned | Ended:
    job = _job(call)
    if job.item_timeout is not None and call.run is not None:
        return _with_timeout(call, job)
    work = ChunkRunner(job, heartbeat, outbox=Outbox(job.reducer, job.strategy, OutOfBandBuffers.least))
    finished = ChunkResult(0, NO_CHUNK, 0, 0.0)
    if call.run is not None:
        assert call.items is not None
        run = RunChunk(*call.run)
        finished = work.run(run, *open_batch(*call.items, run.stop - run.start))
    spoiled = []
    for leaf in leaves:
        for partial_state in open_state(leaf, job.reducer.retains_input):
            if partial_state.error is None:
                work.adopt(partial_state.covers, partial_state.data)
            else:  # it does not open: return it to the driver
                spoiled.append(pack_error(partial_state))
    return _returned(work.flushed(finished), spoiled)


def _returned(finished: ChunkResult, spoiled: Sequence[PartialState]) -> Returned:
    """Return a packed result, with its partial states as a `State`."""
    buffers, began = OutOfBandBuffers(), perf_counter()
    states, parts, _ = put_states([*(finished.states or ()), *spoiled], buffers)
    payload = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
    seconds = finished.pack_seconds + perf_counter() - began
    return Returned(finished.with_states(None, seconds), State(states, payload, buffers))


def _with_timeout(call: Call, job: Job) -> Returned | Ended:
    """Run one chunk in a process that enforces the time limit of items."""
    from poolagg.pools.external.item_timeout import run_with_timeout

    assert call.run is not None
    assert call.items is not None
    run, (kind, data, offset) = RunChunk(*call.run), call.items
    event = run_with_timeout(call.name, job, run, InputBatch(run.start - offset, run.stop, kind, data, 0))
    if isinstance(event, Lost):
        return Ended.of(Lost(0, event.suspect, event.cause, event.error, event.reason, certain=True))
    states = event.states or ()
    outbox = Outbox(job.reducer, job.strategy, OutOfBandBuffers.least)
    packed, seconds = outbox.pack([partial_state for partial_state in states if partial_state.error is None], 0, 0)
    spoiled = [pack_error(partial_state) for partial_state in states if partial_state.error is not None]
    failures = tuple(map(pack_failure, event.failures))
    return _returned(event._replace(failures=failures, states=packed, pack_seconds=seconds), spoiled)


def run_here(job: Job, instruction: RunChunk | Flush, input_batch: InputBatch | None) -> PoolEvent:
    """Run one chunk in a thread of this process, by reference; errors become a `Broken`, and none is raised."""
    try:
        return carry_out(ChunkRunner(job, NoHeartbeat()), instruction, input_batch)
    except BaseException as error:
        return Broken(instruction.slot, as_reducer_error(error))


def is_open(name: str) -> bool:
    """Tell if this process has opened the job of the run called `name`."""
    return name in _jobs


def _job(call: Call) -> Job:
    with _opening:
        job = _jobs.get(call.name)
        if job is None:
            try:
                job = call.job.open() if isinstance(call.job, Sent) else open_job(call.job)
            except Exception as error:
                raise job_does_not_open(error) from error
            _jobs.clear()
            _jobs[call.name] = job
        return job
