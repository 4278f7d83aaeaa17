"""A chunk as one stateless call, for pools that are not ours: what their workers run.

A worker is told the whole job with every chunk, and opens it once: jobs are kept by the name of their run. On clusters
a call is a *lease*. It returns what it gathered as a `State`, which may stay there as a *leaf*, to be merged by a later
lease into what that has gathered itself. A leaf is packed, so every merge opens it anew, for an accumulator of its own:
however often an engine runs a merge again, nothing is in it twice. And an engine that runs a lost lease again may come
to another leaf than the one the driver was told of (an item fails that did not, a budget is over sooner): such a merge
comes to nothing, and the driver runs those items again.
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
"""Bytes of a state that had better stay where it is; a smaller one comes along with what is told of its chunk."""


# -- what travels there ------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A job on its way to a cluster: its pickle, and beside it the values it shares, which nobody has to copy."""

    pickle: bytes
    values: dict[bytes, tuple[Extent, ...]]
    """Where the buffers of each are, by what it is known as."""
    beside: OutOfBandBuffers

    @classmethod
    def packed(cls, job: Job) -> Sent:
        """Pickle a job."""
        pickled, values = pickle_far(lambda: pickle_job(job))
        beside = OutOfBandBuffers()
        return cls(pickled, {ident: tuple(beside.put(segments)[1]) for ident, segments in values.items()}, beside)

    @property
    def nbytes(self) -> int:
        """How large it is."""
        return len(self.pickle) + self.beside.nbytes

    def open(self) -> Any:
        """The job, in a worker, where nobody may write to what is shared."""
        views = {ident: [self.beside.view(span).toreadonly() for span in spans] for ident, spans in self.values.items()}
        return open_job(self.pickle, views)


class Call(NamedTuple):
    """Everything that one chunk takes; with no `run`, only leaves are merged."""

    name: str
    job: Any
    run: tuple[Any, ...] | None
    items: tuple[str, Any, int] | None
    """Kind and data of an input batch, and where in it the chunk begins."""
    told: tuple[tuple[Interval, ...], ...] = ()
    """What each leaf covers that comes with the call, as far as the driver knows."""


# -- what comes back ---------------------------------------------------------------------------------------------------


class State(NamedTuple):
    """What was gathered: pieces, and bytes that are opened apart."""

    states: list[WireState]
    payload: bytes
    beside: OutOfBandBuffers | None

    @property
    def covers(self) -> tuple[Interval, ...]:
        """The items it is made of."""
        return tuple(interval for covers, *_ in self.states for interval in covers)

    @property
    def nbytes(self) -> int:
        """How large it is."""
        return len(self.payload) + (0 if self.beside is None else self.beside.nbytes)


class Returned(NamedTuple):
    """Everything that comes of a call. In the facts, failures are packed, and there are no pieces: see `state`."""

    facts: ChunkResult
    state: State


class Kept(NamedTuple):
    """What comes of a call whose state stays there: what the state covers, and how large it is."""

    facts: ChunkResult
    covers: tuple[Interval, ...]
    nbytes: int


class Ended(NamedTuple):
    """What comes of a call that gathered nothing: its answer, and apart from that the error.

    Clusters pickle exceptions their own way, and not every one can be.
    """

    event: Lost | Broken
    failure: Failure

    @classmethod
    def of(cls, event: Lost | Broken) -> Ended:
        """Pack the answer's error."""
        return cls(event._replace(error=PACKED_APART), pack_failure(Failure(0, "raised", event.error)))

    def open(self, slot: int) -> Lost | Broken:
        """Return the answer, as that worker's."""
        error = unpack_failure(self.failure).error
        broken = isinstance(self.event, Broken)
        return self.event._replace(slot=slot, error=as_reducer_error(error) if broken else error)


PACKED_APART = Exception()
"""In the place of an error that travels apart."""

RETURNED = Returned, Kept, Ended
"""The types of all that a task returns."""


def unpack(run: RunChunk, facts: ChunkResult, state: State | None, retains_input: bool = True) -> ChunkResult:
    """The answer that a chunk's return stands for; without a state, the worker holds on to it."""
    failures = tuple(map(unpack_failure, facts.failures))
    began = perf_counter()
    states = None if state is None else open_state(state, retains_input)
    opening = perf_counter() - began
    # The clock of the worker may be another's.
    return facts._replace(
        slot=run.slot, chunk=run.chunk, failures=failures, states=states, open_seconds=opening, began=0.0
    )


def open_state(state: State, retains_input: bool) -> Any:
    """Its pieces. `retains_input`: their large buffers are to be kept, or may be written to."""
    return unpack_states(state.states, memoryview(state.payload), state.beside, retains_input)


# -- in a worker -------------------------------------------------------------------------------------------------------

_jobs: dict[str, Job] = {}
_opening = threading.RLock()
"""A worker may have several threads, and a job is opened by one of them."""


def run_task(call: Call, heartbeat: Heartbeat | None = None, leaves: Sequence[State | None] = ()) -> Returned | Ended:
    """Run one chunk, and merge leaves into what it gathers; never raises."""
    there = [leaf for leaf in leaves if leaf is not None]
    try:
        if [leaf.covers for leaf in there] != list(call.told):
            return Ended.of(Lost(0, None, "died", _made_anew(), certain=True))
        return _run(call, heartbeat or NoHeartbeat(), there)
    except BaseException as error:  # SystemExit in a reducer must not end a worker of somebody else's
        return Ended.of(Broken(0, as_reducer_error(error)))


def _made_anew() -> WorkerLost:
    text = "a state was lost, and the one that was made again covers other items"
    return WorkerLost(text, exitcode=None, signal=None, index=None, item=None)


def halves(returned: Any) -> tuple[Any, State | None]:
    """What the driver is to have at once, and the state that may stay where it is, if it is large."""
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
            else:  # it does not open, and is given back
                spoiled.append(pack_error(partial_state))
    return _returned(work.flushed(finished), spoiled)


def _returned(finished: ChunkResult, spoiled: Sequence[PartialState]) -> Returned:
    """A packed chunk, and its pieces as a state."""
    beside, began = OutOfBandBuffers(), perf_counter()
    states, parts, _ = put_states([*(finished.states or ()), *spoiled], beside)
    payload = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
    seconds = finished.pack_seconds + perf_counter() - began
    return Returned(finished.with_states(None, seconds), State(states, payload, beside))


def _with_timeout(call: Call, job: Job) -> Returned | Ended:
    """Run one chunk where its items can be ended."""
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
    """Run one chunk in a thread of this process; nothing is pickled, and nothing raised, as in a task."""
    try:
        return carry_out(ChunkRunner(job, NoHeartbeat()), instruction, input_batch)
    except BaseException as error:
        return Broken(instruction.slot, as_reducer_error(error))


def is_open(name: str) -> bool:
    """Whether this process has the job of that run, and need not be told it again."""
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
