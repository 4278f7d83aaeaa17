"""What the plan tells lanes and what lanes answer, as values: the one vocabulary of plan, engine and pools.

A lane is a place where chunks run one after another: a worker process, a thread, a slot of somebody's executor.
Orders go from the plan through the engine to a pool, answers come back. Nothing here does anything. They are named
tuples, for every worker begins by making these classes, and dataclasses take it ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from poolagg._chunks import Interval

__all__ = [
    "NONE_YET",
    "Again",
    "Answer",
    "Broken",
    "Cause",
    "Commit",
    "Event",
    "Fail",
    "Failure",
    "Finished",
    "Late",
    "LeaveOut",
    "Lost",
    "Merged",
    "Order",
    "Pickled",
    "Piece",
    "Pulled",
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

Cause: TypeAlias = Literal["raised", "died", "timeout"]

Slowest: TypeAlias = tuple[int, int, float]
"""Of the batches that a chunk ran in, the one that took longest: its first item, its end, its seconds."""

NONE_YET: Slowest = (0, 0, 0.0)


# -- orders --------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Run items `start` to `stop`, leaving out those in `without`; then ship the lane's state if `ship`.

    `alone`: in batches of one, so that a death names its item. After `budget` seconds a lane may stop at the next
    boundary and give the rest back.
    """

    lane: int
    chunk: int
    start: int
    stop: int
    ship: bool
    alone: bool = False
    budget: float = float("inf")
    without: tuple[int, ...] = ()

    def items(self, reached: int | None = None) -> int:
        """How many items there are to run; with `reached`, how many of them lie before that."""
        stop = self.stop if reached is None else reached
        left_out = sum(index < stop for index in self.without) if self.without else 0
        return stop - self.start - left_out


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


class Failure(NamedTuple):
    """One attempt at one item failed."""

    index: int  # type: ignore[assignment]  # of an item: nobody looks for a field in here
    cause: Cause
    error: BaseException
    item: str = ""
    """The item's repr, as its lane said it; empty where the parent has the item itself."""
    pickle: bytes | None = None
    """The error as it travels, empty if it does not pickle; `error` stands for it until it is opened."""


class Pickled(NamedTuple):
    """One pickle of a piece: `count` partials (0: it is a state), and the large buffers that it was made without."""

    count: int  # type: ignore[assignment]
    pickle: bytes
    buffers: Sequence[Any] = ()


class Piece(NamedTuple):
    """What was gathered of the items that it covers. With `error` it could not be packed or unpacked.

    `pickles`: the data as it travels, or the error; None where it goes by reference, or is opened.
    """

    covers: tuple[Interval, ...]
    data: Any = None
    nbytes: int = 0
    error: BaseException | None = None
    pickles: list[Pickled] | None = None

    @property
    def items(self) -> int:
        """How many items it covers."""
        return sum(stop - start for start, stop in self.covers)


class Finished(NamedTuple):
    """A chunk ran up to `stop` in `seconds`; the pieces are what it shipped, None if the lane holds on to them.

    A lane makes it. If the lane is in another process, it packs failures and pieces, and the parent opens them.
    """

    lane: int
    chunk: int
    stop: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    pieces: tuple[Piece, ...] | None = None
    reduce_seconds: float = 0.0
    pack_seconds: float = 0.0
    """What the lane took to pack the pieces."""
    open_seconds: float = 0.0
    """What the parent took to open them."""
    began: float = 0.0
    """When the lane began it (`time.monotonic()`); 0 if its clock may be another's."""
    slowest: Slowest = NONE_YET

    def with_pieces(self, pieces: tuple[Piece, ...] | None, pack_seconds: float) -> Finished:
        """Give the same with pieces. (`_replace` takes three times as long.)"""
        lane, chunk, stop, seconds, failures, _, reducing, _, opening, began, slowest = self
        return Finished(lane, chunk, stop, seconds, failures, pieces, reducing, pack_seconds, opening, began, slowest)


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


class Late(NamedTuple):
    """The lane's running chunk has been at one batch for long."""

    lane: int
    chunk: int


class Tick(NamedTuple):
    """`Terms.ship_every` seconds have passed: states are wanted."""


# -- what the plan tells the engine, beside orders to lanes ----------------------------------------------------------


class Commit(NamedTuple):
    """Fold this piece into the result."""

    piece: Piece


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
Event: TypeAlias = Answer | Pulled | SourceEnded | Merged | Late | Tick
Order: TypeAlias = Run | Ship | Revoke | Yield | Replace | Commit | Again | Skip | LeaveOut | Fail


def nbytes_of(pieces: Iterable[Piece]) -> int:
    """How much was shipped."""
    return sum(piece.nbytes for piece in pieces)
