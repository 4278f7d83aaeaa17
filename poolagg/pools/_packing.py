"""What a lane made of a chunk, as plain values and bytes, and back: for lanes in other processes.

Each payload is pickled and unpickled in its own try, so that a bad one costs no more than itself. What stands for an
exception that does not survive is its type's name and its traceback as text, never its repr, which may raise as well.
"""

from __future__ import annotations

import functools
import pickle
import traceback
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any, TypeAlias

from poolagg._chunks import Interval
from poolagg._orders import Failure, Piece
from poolagg.errors import ReducerError, RemoteError, WorkerLost
from poolagg.pools._arena import Apart, Arena, Loan, Place, Span
from poolagg.pools._travel import dumps, works
from poolagg.reducers import Reducer
from poolagg.strategies import Payload, Strategy

__all__ = [
    "PackedFailure",
    "PackedPiece",
    "as_reducer_error",
    "pack_failure",
    "pack_failures",
    "pack_pieces",
    "start_failed",
    "unpack_failure",
    "unpack_failures",
    "unpack_pieces",
]

PackedFailure: TypeAlias = tuple[int, str, str, int]
"""Index, type's name, traceback as text, and the length of the pickled exception: 0 if it does not pickle."""

PackedPiece: TypeAlias = tuple[tuple[Interval, ...], int, PackedFailure | None, list[Span]]
"""The intervals covered, the length of the payload, why there is none, and where its large buffers are."""


# -- packing, in the lane ----------------------------------------------------------------------------------------------


def pack_failure(index: int, error: BaseException) -> tuple[PackedFailure, bytes]:
    """An exception, and the bytes it pickles to."""
    trace = "".join(traceback.format_exception(error))
    try:
        blob = dumps(error)
    except Exception:
        blob = b""
    return (index, type(error).__qualname__, trace, len(blob)), blob


def pack_failures(failures: Sequence[Failure]) -> tuple[list[PackedFailure], list[bytes]]:
    """The failures of a chunk, and their bytes."""
    packed = [pack_failure(failure.index, failure.error) for failure in failures]
    return [failure for failure, _ in packed], [blob for _, blob in packed]


def pack_pieces(
    payloads: Sequence[Payload], reducer: Reducer, strategy: Strategy, arena: Arena | None = None
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
    put = arena.put(list(chain.from_iterable(aparts)))
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
        error.add_note(f"\nIn the worker:\n{trace}")
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
    pieces: Sequence[PackedPiece], payload: Any, loan: Loan | None = None, keeps: bool = True
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
        loads = functools.partial(_loads, loan=loan, spans=spans, keeps=keeps)
        nbytes = size + sum(stop - start for start, stop in spans)
        unpacked.append(_unpack_piece(covers, nbytes, loads, blob))
    return tuple(unpacked)


def _loads(blob: Any, loan: Loan | None, spans: Sequence[Span], keeps: bool) -> Any:
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


def as_reducer_error(error: BaseException) -> ReducerError:
    """What ended a lane's work, as the reducer's error."""
    if isinstance(error, ReducerError):
        return error
    told = ReducerError(f"the reducer failed in a worker: {type(error).__name__}: {error}")
    told.__cause__ = error
    return told


def start_failed(error: BaseException) -> WorkerLost:
    """What to tell people when an initializer raised."""
    text = f"a worker could not start, for its initializer failed: {type(error).__name__}: {error}"
    lost = WorkerLost(text, exitcode=None, signal=None, index=None, item=None)
    lost.__cause__ = error
    return lost
