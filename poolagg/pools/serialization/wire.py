"""Convert items, failures and results to plain values and bytes, and back, for workers in other processes.

Each object is pickled and unpickled in its own try, so that a bad one costs no other. An exception that does not pickle
is replaced by its type's name and its traceback as text, never by its repr, which may raise as well.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, islice, pairwise
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from poolagg._input.batches import PACKED, Encoded, InputBatch, PackedItem
from poolagg._runtime.exception_text import (
    add_note,
    forget_frames,
    is_a,
    message_of,
    notes_of,
    said,
    trace_of,
    traceback_of,
    works,
)
from poolagg._runtime.signals import raised_by_handler
from poolagg._scheduler.ranges import Interval
from poolagg._scheduler.worker_messages import ChunkResult, Failure, PartialState, Pickled
from poolagg.errors import PoolAggError, ReducerError, RemoteError, WorkerLost, clipped
from poolagg.pools.process.arena import Arena, ArenaBuffers, Borrowed, BorrowedSegments, Extent, Region
from poolagg.pools.process.channel import Bytes
from poolagg.pools.serialization.pickling import dumps
from poolagg.pools.serialization.proof import dumps_proved
from poolagg.reducers import Reducer
from poolagg.strategies import Strategy

if TYPE_CHECKING:
    from poolagg.pools.serialization.out_of_band import OutOfBandBuffers

__all__ = [
    "WireFailure",
    "WireState",
    "as_reducer_error",
    "job_does_not_open",
    "pack_error",
    "pack_failure",
    "pack_items",
    "pack_state",
    "put_failures",
    "put_result",
    "put_states",
    "start_failed",
    "unpack_failure",
    "unpack_failures",
    "unpack_items",
    "unpack_result",
    "unpack_states",
]

WireFailure: TypeAlias = tuple[int, str, str, str, int]
"""A failure on the wire: index, the item's repr, the error's type and traceback, the length of its pickle."""

WireState: TypeAlias = tuple[tuple[Interval, ...], tuple[str, str] | None, list[tuple[int, int, list[Extent]]]]
"""A partial state on the wire: the items it covers; the error's type and traceback; for each pickle its count, its
length, and the extents of its large buffers, in the segment or else in the bytes of all states."""

LONGEST = 16_000
"""Most characters of a traceback that are sent: its message may contain a whole item."""

IN_THE_WORKER = "\nIn the worker:\n"
"""The head of the note on an exception that came from another process."""


class PackedItems(NamedTuple):
    """The items of a chunk on the wire: kind and offset of an input batch, and the length of each pickle in the bytes.

    `spans`: the extents of each item's large buffers, in the lent segment `region`, or else behind the pickles.
    """

    kind: str
    offset: int
    sizes: list[int]
    spans: list[list[Extent]] | None = None
    region: tuple[int, int, int] | None = None


# -- items, from the parent to the worker ------------------------------------------------------------------------------


def pack_items(input_batch: InputBatch, start: int, stop: int, arena: Arena | None) -> tuple[PackedItems, list[Bytes]]:
    """Pack some items of an input batch; return also their bytes, except buffers copied into a segment of the arena."""
    kind, data, offset = input_batch.cut(start, stop)
    encoded: list[Encoded] = data if kind == PACKED else [data]
    out_of_band = [item for item in encoded if isinstance(item, PackedItem)]
    pickles: list[bytes] = [item.pickle if isinstance(item, PackedItem) else item for item in encoded]
    items = PackedItems(kind, offset, list(map(len, pickles)))
    payload = b"".join(pickles) if len(pickles) > 1 else pickles[0]
    if not out_of_band:
        return items, [payload]
    buffers = [buffer for item in out_of_band for buffer in item.buffers]
    region, where = (arena and arena.put(buffers)) or (None, _side_by_side(buffers))
    spans = iter(where)
    items = items._replace(
        spans=[list(islice(spans, len(item.buffers) if isinstance(item, PackedItem) else 0)) for item in encoded],
        region=region and (region.segment, region.offset, region.size),
    )
    return items, [payload] if region else [payload, *buffers]


def _side_by_side(buffers: Sequence[Bytes], begin: int = 0) -> list[Extent]:
    return list(pairwise(accumulate(map(len, buffers), initial=begin)))


def unpack_items(items: PackedItems, payload: memoryview, lent: Callable[[Region], Borrowed]) -> tuple[str, Any, int]:
    """Return kind and data of an input batch, and where the chunk begins in it. The worker may write to the data."""
    kind, offset, sizes, spans, region = items
    encoded: list[Any] = []
    for size in sizes:
        encoded.append(payload[:size])
        payload = payload[size:]
    if spans is not None:
        view = partial(_copy, payload) if region is None else lent(Region(*region)).view
        encoded = [
            PackedItem(item, list(map(view, where))) if where else item
            for item, where in zip(encoded, spans, strict=True)
        ]
    return kind, encoded if kind == PACKED else encoded[0], offset


def _copy(payload: memoryview, span: Extent) -> bytearray:
    """Copy a buffer to aligned memory, as arrays require."""
    return bytearray(payload[slice(*span)])


# -- packing, in the worker --------------------------------------------------------------------------------------------


def pack_failure(failure: Failure) -> Failure:
    """Pickle the exception, and clear its frames, which hold items."""
    error = failure.error
    trace = clipped(_told_before(error) or trace_of(error), LONGEST)
    blob = _proven(error)
    forget_frames(error)
    return failure._replace(error=RemoteError(type(error).__qualname__, trace), pickle=blob)


def pack_error(partial_state: PartialState) -> PartialState:
    """Pickle the exception of a partial state that could not be packed or opened."""
    assert partial_state.error is not None
    failure = pack_failure(Failure(partial_state.covers[0][0], "raised", partial_state.error))
    return partial_state._replace(error=failure.error, pickles=[Pickled(0, failure.pickle or b"")])


def _proven(error: BaseException) -> bytes:
    """Pickle an exception; return no bytes if it does not pickle and open again.

    The worker opens it first, since the parent opens it unguarded, and an exception may exit or hang when opened.
    """
    try:
        blob = dumps(error)
        return blob if issubclass(type(pickle.loads(blob)), BaseException) else b""
    except BaseException:
        return b""


def _told_before(error: BaseException) -> str:
    """Return the traceback note of an exception raised in a third process, and remove it, so that it appears once."""
    notes = notes_of(error)
    if traceback_of(error) is not None or not notes or type(notes[-1]) is not str:
        return ""
    return str(notes.pop()).removeprefix(IN_THE_WORKER) if notes[-1].startswith(IN_THE_WORKER) else ""


def pack_state(
    state: PartialState,
    reducer: Reducer,
    strategy: Strategy,
    least: int | None,
    alive: Callable[[], None] | None = None,
) -> PartialState:
    """Pickle a state; take out buffers of `least` bytes or more (None: none). Call `alive` repeatedly meanwhile.

    The result keeps the data, whose deallocation may take long. Raise `ReducerError` if no accumulator of the reducer
    pickles.
    """
    out_of_band = None if least is None else ArenaBuffers(least)
    try:
        blob = dumps_proved(strategy.packed(reducer, state.data), out_of_band, alive)
        return PartialState(state.covers, state.data, pickles=[Pickled(0, blob, out_of_band or ())])
    except BaseException as error:
        _reducer_error(reducer, error)
        return pack_error(state._replace(error=error))


def put_failures(failures: Sequence[Failure]) -> tuple[list[WireFailure], list[Bytes]]:
    """Convert packed failures to wire values; return also their bytes."""
    return [
        (index, item, error.kind, error.trace, len(blob))  # type: ignore[attr-defined, arg-type]
        for index, _, error, item, blob in failures
    ], [failure.pickle for failure in failures if failure.pickle]


def put_states(
    packed: Sequence[PartialState], arena: Arena | OutOfBandBuffers | None
) -> tuple[list[WireState], list[Bytes], Region | None]:
    """Convert packed states to wire values; return also their bytes, and the arena's segment of their large buffers.

    Without a segment, the buffers follow the pickles.
    """
    blobs: list[Bytes] = [blob for partial_state in packed for _, blob, _ in partial_state.pickles or ()]
    raw = [
        buffer.raw() for partial_state in packed for _, _, buffers in partial_state.pickles or () for buffer in buffers
    ]
    region, where = None, []
    if raw:
        region, where = (arena and arena.put(raw)) or (None, _side_by_side(raw, sum(map(len, blobs))))
    spans = iter(where)
    states: list[WireState] = []
    for covers, _, _, error, pickles in packed:
        told = None if error is None else (error.kind, error.trace)  # type: ignore[attr-defined]
        sizes = [(count, len(blob), list(islice(spans, len(buffers)))) for count, blob, buffers in pickles or ()]
        states.append((covers, told, sizes))
    return states, blobs if region else [*blobs, *raw], region


def put_result(result: ChunkResult, arena: Arena | None) -> tuple[tuple[Any, ...], list[Bytes]]:
    """Convert a packed result to wire values; return also its bytes, except buffers copied into the arena."""
    began = perf_counter()
    failures, blobs = put_failures(result.failures)
    states, payloads, region = (None, [], None) if result.states is None else put_states(result.states, arena)
    seconds = result.pack_seconds + perf_counter() - began
    _, chunk, stop, working, _, _, reducing, _, _, *others = result
    values = (chunk, stop, working, failures, states, reducing, seconds, *others, region and tuple(region))
    return values, [*blobs, *payloads]


def _reducer_error(reducer: Reducer, error: BaseException) -> None:
    """Raise `ReducerError` if even a fresh accumulator does not pickle, since then no item is to blame."""
    if not reducer.mergeable:
        return
    try:
        dumps(reducer.init())
    except Exception:
        raise ReducerError(
            f"the accumulator of {reducer!r} does not pickle ({message_of(error)}), so it can't leave its worker: wrap "
            f"what does not pickle in a class with __reduce__, or fold in the parent with strategy=Stream()"
        ) from error


# -- unpacking, in the parent ------------------------------------------------------------------------------------------


def unpack_error(error: BaseException, blob: Any) -> BaseException:
    """Return the exception itself, with the worker's traceback as a note; if it does not open, its replacement."""
    opened = None
    try:
        opened = pickle.loads(blob) if blob else None
    except BaseException as unpickling:
        if isinstance(unpickling, KeyboardInterrupt) or works(pickle.loads, blob):
            raise
    if not issubclass(type(opened), BaseException):
        return error
    if traceback_of(opened) is not None:  # type: ignore[arg-type]
        forget_frames(opened)  # type: ignore[arg-type]  # made by tblib: its frames refer to this one, a cycle
    add_note(opened, IN_THE_WORKER + error.trace)  # type: ignore[arg-type, attr-defined]
    return opened  # type: ignore[return-value]


def unpack_failure(failure: Failure) -> Failure:
    """Replace a packed failure's error by the exception itself, if it opens."""
    return failure._replace(error=unpack_error(failure.error, failure.pickle), pickle=None)


def unpack_failures(failures: Sequence[WireFailure], payload: Any) -> tuple[Any, tuple[Failure, ...]]:
    """Unpack the failures of a chunk; return the remaining bytes, and the failures."""
    unpacked = []
    for index, item, kind, trace, size in failures:
        error = unpack_error(RemoteError(kind, trace), payload[:size])
        unpacked.append(Failure(index, "raised", error, item))
        payload = payload[size:]
    return payload, tuple(unpacked)


def unpack_result(
    slot: int, values: tuple[Any, ...], payload: Any, borrowed_segments: BorrowedSegments, retains_input: bool
) -> ChunkResult:
    """Unpack a worker's result. `retains_input`: see `unpack_states`."""
    chunk, stop, seconds, failures, states, reducing, packing, *others, region = values
    began = monotonic()
    rest, opened = unpack_failures(failures, payload)
    if states is not None:
        states = unpack_states(states, rest, region and borrowed_segments.open(Region(*region)), retains_input)
    opening = monotonic() - began
    return ChunkResult(slot, chunk, stop, seconds, opened, states, reducing, packing, opening, *others)


def unpack_states(
    states: Sequence[WireState],
    payload: Any,
    borrowed: Borrowed | OutOfBandBuffers | None = None,
    retains_input: bool = True,
) -> tuple[PartialState, ...]:
    """Unpack a worker's partial states; one that does not unpickle carries the error.

    `retains_input`: the reducer keeps the buffers, so copy them out of the borrowed segment; else open them in place.
    """
    view = partial(_copy, payload) if borrowed is None else borrowed.copy if retains_input else borrowed.view
    unpacked: list[PartialState] = []
    for covers, error, pickles in states:
        run = None
        for count, size, spans in pickles:
            blob, payload = payload[:size], payload[size:]
            if error is not None:
                unpacked.append(PartialState(covers, error=unpack_error(RemoteError(*error), blob)))
                continue
            opens = partial(_loads, view=view, spans=spans) if spans else pickle.loads
            opened = _unpack_state(covers, size, opens, blob, spans)
            if count:
                run = run or _Series(covers)
                run.add(count, opened)
            else:
                unpacked.append(opened)
        unpacked += () if run is None else run.states
    return tuple(unpacked)


class _Series:
    """Joins the partials of consecutive items from the pickles of their batches."""

    def __init__(self, covers: tuple[Interval, ...]) -> None:
        self._start = self._stop = covers[0][0]
        self._partials: list[Any] = []
        self._nbytes = 0
        self._states: list[PartialState] = []

    def add(self, count: int, opened: PartialState) -> None:
        """Add the next `count` partials; those that do not open become a state of their own."""
        if opened.error is not None:
            start = self._stop
            self._states = self.states
            self._start = self._stop = start + count
            self._partials, self._nbytes = [], 0
            self._states.append(opened._replace(covers=((start, start + count),)))
            return
        self._stop += count
        self._nbytes += opened.nbytes
        if self._partials:
            self._partials += opened.data
        else:
            self._partials = opened.data

    @property
    def states(self) -> list[PartialState]:
        """The states added so far."""
        if not self._partials:
            return self._states
        covers = ((self._start, self._stop),)
        return [*self._states, PartialState(covers, (self._start, self._partials), self._nbytes)]


def _loads(blob: Any, view: Callable[[Extent], Any], spans: Sequence[Extent]) -> Any:
    return pickle.loads(blob, buffers=map(view, spans))


def _unpack_state(
    covers: Any, size: int, opens: Callable[[Any], Any], blob: Any, spans: Sequence[Extent]
) -> PartialState:
    try:
        return PartialState(covers, opens(blob), size + sum(stop - start for start, stop in spans))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or works(opens, blob):
            raise
        add_note(error, "".join(traceback.format_tb(traceback_of(error))))
        forget_frames(error)  # they hold views of the segment
        return PartialState(covers, error=error)


def as_reducer_error(error: BaseException) -> PoolAggError:
    """Convert what ended a worker's work to the reducer's error, unless another cause is known."""
    if is_a(error, ReducerError) or is_a(error, WorkerLost):
        return error
    if raised_by_handler(error):
        return _struck(error)
    told = ReducerError(f"the reducer failed in a worker: {said(error)}")
    told.__cause__ = error
    return told


def _struck(error: BaseException) -> WorkerLost:
    text = (
        f"a signal handler raised {type(error).__name__}: {error} in a worker, outside of func, when an item was over. "
        "If func sets an alarm, it has to cancel it: signal.alarm(0), in a finally block"
    )
    lost = WorkerLost(text, exitcode=None, signal=None, index=None, item=None)
    lost.__cause__ = error
    return lost


def job_does_not_open(error: BaseException) -> ReducerError:
    """Make the error for a func or reducer that does not unpickle in its worker."""
    told = ReducerError(
        f"func or reducer could not be unpickled in the worker: {said(error)}. Is a module it needs importable there? "
        f"sys.path is {sys.path}"
    )
    told.__cause__ = error
    return told


def start_failed(error: BaseException) -> WorkerLost:
    """Make the error for an initializer that raised."""
    text = f"a worker could not start, since its initializer failed: {said(error)}"
    lost = WorkerLost(text, exitcode=None, signal=None, index=None, item=None)
    lost.__cause__ = error
    return lost
