"""What goes into a lane and what comes out of it, as plain values and bytes, and back: for lanes in other processes.

Each payload is pickled and unpickled in its own try, so that a bad one costs no more than itself. What stands for an
exception that does not survive is its type's name and its traceback as text, never its repr, which may raise as well.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, chain, islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from poolagg._chunks import Interval
from poolagg._orders import Failure, Piece
from poolagg._parcels import PACKED, Encoded, Packed, Parcel
from poolagg._signals import raised_by_handler
from poolagg.errors import PoolAggError, ReducerError, RemoteError, WorkerLost, clipped
from poolagg.pools._arena import Apart, Arena, Loan, Place, Span
from poolagg.pools._channel import Bytes
from poolagg.pools._travel import dumps, works
from poolagg.reducers import Reducer
from poolagg.strategies import Payload, Strategy

if TYPE_CHECKING:
    from poolagg.pools._beside import Beside

__all__ = [
    "PackedFailure",
    "PackedPiece",
    "as_reducer_error",
    "job_does_not_open",
    "pack_failure",
    "pack_failures",
    "pack_items",
    "pack_pieces",
    "start_failed",
    "unpack_failure",
    "unpack_failures",
    "unpack_items",
    "unpack_pieces",
]

PackedFailure: TypeAlias = tuple[int, str, str, int]
"""Index, type's name, traceback as text, and the length of the pickled exception: 0 if it does not pickle."""

PackedPiece: TypeAlias = tuple[tuple[Interval, ...], int, PackedFailure | None, list[Span]]
"""The intervals covered, the length of the payload, why there is none, and where its large buffers are."""


LONGEST = 16_000
"""Characters that travel of a traceback: it ends with the exception's message, which may contain a whole item."""

IN_THE_WORKER = "\nIn the worker:\n"
"""What the note on an exception begins with that came from another process."""


class PackedItems(NamedTuple):
    """Where the items of a chunk are: kind and offset of a parcel; the length of each pickle in the payload; and the
    spans of each one's large buffers, in the slot that is lent or else behind the pickles."""

    kind: str
    offset: int
    sizes: list[int]
    spans: list[list[Span]] | None = None
    place: tuple[int, int, int] | None = None


# -- items, from the parent to the lane --------------------------------------------------------------------------------


def pack_items(parcel: Parcel, start: int, stop: int, arena: Arena | None) -> tuple[PackedItems, list[Bytes]]:
    """Some items of a parcel as they travel, and their bytes, save those that are in a slot from now on."""
    kind, data, offset = parcel.cut(start, stop)
    encoded: list[Encoded] = data if kind == PACKED else [data]
    apart = [item for item in encoded if isinstance(item, Packed)]
    pickles: list[bytes] = [item.pickle if isinstance(item, Packed) else item for item in encoded]
    items = PackedItems(kind, offset, list(map(len, pickles)))
    payload = b"".join(pickles) if len(pickles) > 1 else pickles[0]
    if not apart:
        return items, [payload]
    buffers = [buffer for item in apart for buffer in item.buffers]
    place, where = (arena and arena.put(buffers)) or (None, _side_by_side(buffers))
    spans = iter(where)
    items = items._replace(
        spans=[list(islice(spans, len(item.buffers) if isinstance(item, Packed) else 0)) for item in encoded],
        place=place and (place.slot, place.offset, place.size),
    )
    return items, [payload] if place else [payload, *buffers]


def _side_by_side(buffers: Sequence[Bytes]) -> list[Span]:
    return list(pairwise(accumulate(map(len, buffers), initial=0)))


def unpack_items(items: PackedItems, payload: memoryview, lent: Callable[[Place], Loan]) -> tuple[str, Any, int]:
    """Kind and data of a parcel, and where in it the chunk begins. The lane may write to what it is given."""
    kind, offset, sizes, spans, place = items
    encoded: list[Any] = []
    for size in sizes:
        encoded.append(payload[:size])
        payload = payload[size:]
    if spans is not None:
        view = partial(_copy, payload) if place is None else lent(Place(*place)).view
        encoded = [
            Packed(item, list(map(view, where))) if where else item for item, where in zip(encoded, spans, strict=True)
        ]
    return kind, encoded if kind == PACKED else encoded[0], offset


def _copy(payload: memoryview, span: Span) -> bytearray:
    """A buffer that arrays can lie in: they want an even address."""
    return bytearray(payload[slice(*span)])


# -- packing, in the lane ----------------------------------------------------------------------------------------------


def pack_failure(index: int, error: BaseException) -> tuple[PackedFailure, bytes]:
    """An exception, and the bytes it pickles to. Here it is over: its frames, which hold items, are let go of."""
    trace = clipped(_told_before(error) or "".join(traceback.format_exception(error)), LONGEST)
    try:
        blob = dumps(error)
    except Exception:
        blob = b""
    _forget_frames(error)
    return (index, type(error).__qualname__, trace, len(blob)), blob


def _told_before(error: BaseException) -> str:
    """The traceback that it came with, if it was not raised here but in yet another process: it is told once."""
    notes: list[str] = getattr(error, "__notes__", [])
    if error.__traceback__ is not None or not notes or not notes[-1].startswith(IN_THE_WORKER):
        return ""
    return notes.pop().removeprefix(IN_THE_WORKER)


def _forget_frames(error: BaseException | None) -> None:
    """They refer to frames of ours, and those to the exception: a cycle that would stay until it is collected."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        _forget_frames(error.__cause__)
        error = error.__context__


def pack_failures(failures: Sequence[Failure]) -> tuple[list[PackedFailure], list[bytes]]:
    """The failures of a chunk, and their bytes."""
    packed = [pack_failure(failure.index, failure.error) for failure in failures]
    return [failure for failure, _ in packed], [blob for _, blob in packed]


def pack_pieces(
    payloads: Sequence[Payload], reducer: Reducer, strategy: Strategy, arena: Arena | Beside | None = None
) -> tuple[list[PackedPiece], list[bytes], Place | None]:
    """The payloads of a lane, their bytes, and the slot of the arena that their large buffers are in, if any.

    Raises `ReducerError` if the reducer's accumulators never pickle.
    """
    pieces: list[PackedPiece] = []
    packed: list[bytes] = []
    aparts: list[Sequence[pickle.PickleBuffer]] = []
    for covers, data in payloads:
        failure, apart = None, None if arena is None else Apart(arena.least)
        try:
            blob = dumps(strategy.packed(reducer, data), apart)
        except Exception as error:
            _blame_reducer(reducer, error)
            failure, blob = pack_failure(covers[0][0], error)
        pieces.append((covers, len(blob), failure, []))
        packed.append(blob)
        aparts.append(apart or ())
    if arena is None or not any(aparts):
        return pieces, packed, None
    put = arena.put([buffer.raw() for buffer in chain.from_iterable(aparts)])
    if put is None:
        return pack_pieces(payloads, reducer, strategy)
    place, spans = put[0], iter(put[1])
    for (*_, where), buffers in zip(pieces, aparts, strict=True):
        where.extend(islice(spans, len(buffers)))
    return pieces, packed, place


def _blame_reducer(reducer: Reducer, error: Exception) -> None:
    """An accumulator that does not even travel fresh is no item's fault."""
    if not reducer.mergeable:
        return
    try:
        dumps(reducer.init())
    except Exception:
        raise ReducerError(
            f"the accumulator of {reducer!r} does not pickle ({error}), so it can't leave its worker: wrap "
            f"what does not pickle in a class with __reduce__, or fold in the parent with strategy=Stream()"
        ) from error


# -- unpacking, in the parent ------------------------------------------------------------------------------------------


def unpack_failure(failure: PackedFailure, blob: Any) -> BaseException:
    """The exception itself, with the worker's traceback as a note; or what stands for it."""
    _, kind, trace, size = failure
    error = None
    try:
        error = pickle.loads(blob) if size else None
    except BaseException as unpickling:
        if isinstance(unpickling, KeyboardInterrupt) or works(pickle.loads, blob):
            raise
    if isinstance(error, BaseException):
        error.add_note(IN_THE_WORKER + trace)
        return error
    return RemoteError(kind, trace)


def unpack_failures(failures: Sequence[PackedFailure], payload: Any) -> tuple[Any, tuple[Failure, ...]]:
    """The failures of a chunk, and the bytes that are left."""
    unpacked = []
    for failure in failures:
        size = failure[3]
        unpacked.append(Failure(failure[0], "raised", unpack_failure(failure, payload[:size])))
        payload = payload[size:]
    return payload, tuple(unpacked)


def unpack_pieces(
    pieces: Sequence[PackedPiece], payload: Any, loan: Loan | Beside | None = None, keeps: bool = True
) -> tuple[Piece, ...]:
    """The pieces of a lane; one that does not unpickle carries the error.

    `keeps`: what is in the slot that was lent is to be kept, so it is copied; else it is opened where it lies.
    """
    unpacked = []
    for covers, size, failure, spans in pieces:
        blob, payload = payload[:size], payload[size:]
        if failure is not None:
            unpacked.append(Piece(covers, error=unpack_failure(failure, blob)))
            continue
        loads = partial(_loads, loan=loan, spans=spans, keeps=keeps)
        nbytes = size + sum(stop - start for start, stop in spans)
        unpacked.append(_unpack_piece(covers, nbytes, loads, blob))
    return tuple(unpacked)


def _loads(blob: Any, loan: Loan | Beside | None, spans: Sequence[Span], keeps: bool) -> Any:
    if loan is None:
        return pickle.loads(blob)
    return pickle.loads(blob, buffers=[loan.copy(span) if keeps else loan.view(span) for span in spans])


def _unpack_piece(covers: Any, nbytes: int, loads: Callable[[Any], Any], blob: Any) -> Piece:
    try:
        return Piece(covers, loads(blob), nbytes)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or works(loads, blob):
            raise
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        error.__traceback__ = None  # its frames look at the slot
        return Piece(covers, error=error)


def as_reducer_error(error: BaseException) -> PoolAggError:
    """What ended a lane's work, as the reducer's error, if it is not known better."""
    if isinstance(error, (ReducerError, WorkerLost)):
        return error
    if raised_by_handler(error):
        return _struck(error)
    told = ReducerError(f"the reducer failed in a worker: {type(error).__name__}: {error}")
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
    """What to tell people when func or reducer does not unpickle where it is to run."""
    told = ReducerError(
        f"func or reducer could not be unpickled in the worker: {type(error).__name__}: {error}. Is a module "
        f"it needs importable there? sys.path is {sys.path}"
    )
    told.__cause__ = error
    return told


def start_failed(error: BaseException) -> WorkerLost:
    """What to tell people when an initializer raised."""
    text = f"a worker could not start, for its initializer failed: {type(error).__name__}: {error}"
    lost = WorkerLost(text, exitcode=None, signal=None, index=None, item=None)
    lost.__cause__ = error
    return lost
