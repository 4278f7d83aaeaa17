"""What the plan tells lanes and what lanes answer, as values: the one vocabulary of plan, engine and pools.

A lane is a place where chunks run one after another: a worker process, a thread, a slot of somebody's executor.
Orders go from the plan through the engine to a pool, answers come back. Nothing here does anything. They are named
tuples, for dataclasses take ten times as long to make. A worker process imports `_worker_messages` and not this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from poolagg._chunks import Interval
from poolagg._worker_messages import NONE_YET, Cause, Failure, Finished, Pickled, Piece, Run, Slowest

__all__ = [
    "NONE_YET",
    "Again",
    "Answer",
    "Broken",
    "Cause",
    "ChunkRan",
    "Commit",
    "Event",
    "Fail",
    "Failure",
    "Finished",
    "ItemsRun",
    "Late",
    "LeaveOut",
    "Lost",
    "Merged",
    "Order",
    "Pickled",
    "Piece",
    "Pulled",
    "Release",
    "Replace",
    "Revoke",
    "Revoked",
    "Run",
    "Ship",
    "Shipped",
    "Skip",
    "Slowest",
    "SourceEnded",
    "Tick",
    "Worn",
    "Yield",
    "Yielded",
    "nbytes_of",
]

# -- orders --------------------------------------------------------------------------------------------------------


class Ship(NamedTuple):
    """Ship the lane's state, after the chunks it was given before."""

    lane: int


class Revoke(NamedTuple):
    """Take back a chunk that waits behind another; answered by `Revoked`."""

    lane: int
    chunk: int


class Yield(NamedTuple):
    """End a running chunk early, for another lane has nothing to do; answered by `Yielded`."""

    lane: int
    chunk: int


class Replace(NamedTuple):
    """The lane is empty and is to have a new worker: its old one is lost, or worn out; `reason`: what only the plan
    knows of that."""

    lane: int
    reason: str = ""


# -- answers -------------------------------------------------------------------------------------------------------


class Shipped(NamedTuple):
    """The lane's state, as ordered by `Ship`."""

    lane: int
    pieces: tuple[Piece, ...]
    pack_seconds: float = 0.0
    open_seconds: float = 0.0


class Revoked(NamedTuple):
    """Whether a chunk was taken back (`ok`) or had been started."""

    lane: int
    chunk: int
    ok: bool


class Yielded(NamedTuple):
    """The lane will run no item of a chunk from `reached` on, but to end a leaf; None: nobody knows."""

    lane: int
    chunk: int
    reached: int | None


class Lost(NamedTuple):
    """The lane's worker is gone, with all it held; it was running the items of `suspect`, or none that is known.

    `reason`: why its pool has killed it; empty if it has not. `certain`: it is this lane's own loss, and no other item
    can be to blame, even where lanes share their fate. `silent`: the worker was in no item, so that `suspect` is
    the chunk it had begun, if any; what it held may be to blame as well. `packing`: it died while it packed its state,
    so that all that the lane held is suspect, beside `suspect`.
    """

    lane: int
    suspect: Interval | None
    cause: Cause
    error: BaseException
    reason: str = ""
    certain: bool = False
    silent: bool = False
    packing: bool = False


class Worn(NamedTuple):
    """The lane asks to be replaced when that costs nothing, for a reason: it has run its items, say."""

    lane: int
    reason: str = ""


class Broken(NamedTuple):
    """The reducer failed in the lane, or the lane cannot work at all: the run cannot go on."""

    lane: int
    error: BaseException


# -- what the engine tells the plan, beside the answers of lanes -----------------------------------------------------


class Pulled(NamedTuple):
    """Items `start` to `stop` were pulled from the source, `nbytes` in all.

    `kept_bytes`: the size of all parcels that are kept for re-runs by now; a parcel is kept whole for any of its items.
    """

    start: int
    stop: int
    nbytes: int
    kept_bytes: int = 0


class SourceEnded(NamedTuple):
    """There is nothing more to pull."""


class Merged(NamedTuple):
    """A piece took the parent `seconds` to fold."""

    seconds: float


class ItemsRun(NamedTuple):
    """Workers, by their lanes, have run so many items in earlier runs."""

    items: Mapping[int, int]


class Late(NamedTuple):
    """The lane's running chunk has been at one batch for long."""

    lane: int
    chunk: int


class Tick(NamedTuple):
    """States are wanted, for a snapshot or a commit."""


# -- what the plan tells the engine, beside orders to lanes ----------------------------------------------------------


class Commit(NamedTuple):
    """Fold this piece into the result."""

    piece: Piece


class ChunkRan(NamedTuple):
    """A chunk that began with item `start` has run; the engine tells its watchers."""

    start: int
    finished: Finished


class Release(NamedTuple):
    """Forget these items of a parcel: they failed in an earlier run, and are not run."""

    start: int
    stop: int


class Again(NamedTuple):
    """The item failed for the `attempt`-th time, and runs again."""

    failure: Failure
    attempt: int


class Skip(NamedTuple):
    """The item failed for good, and is left out."""

    failure: Failure
    attempt: int


class LeaveOut(NamedTuple):
    """All items of a leaf failed for good: there will be no state of it."""

    leaf: int


class Fail(NamedTuple):
    """The run cannot go on: `index` is the item that failed for good, None if no item is to blame."""

    index: int | None  # type: ignore[assignment]
    error: BaseException
    attempt: int = 0
    cause: Cause = "raised"
    item: str = ""


Answer: TypeAlias = Finished | Shipped | Revoked | Yielded | Lost | Worn | Broken
Event: TypeAlias = Answer | Pulled | SourceEnded | Merged | ItemsRun | Late | Tick
Order: TypeAlias = Run | Ship | Revoke | Yield | Replace | Commit | ChunkRan | Release | Again | Skip | LeaveOut | Fail


def nbytes_of(pieces: Iterable[Piece]) -> int:
    """How much was shipped."""
    return sum(piece.nbytes for piece in pieces)
