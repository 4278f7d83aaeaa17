"""How large a chunk should be and when flushing pays, from measured cost. Pure arithmetic.

Constants state their trade-off: a longer chunk costs the parent less per item and gives the last chunks of a run more
time to be the only ones running; a state flushed more often costs more and loses less when its worker dies.
"""

from __future__ import annotations

from math import sqrt

__all__ = ["ChunkSizer"]

TARGET = 0.05
"""Seconds of work in a chunk: long against the 100 us a chunk costs, short against the time people wait."""

LONGEST_CHUNK = 1.0
"""Seconds of work in a chunk at most, however much each one costs the parent."""

SHORTEST_CHUNK = 0.002
"""Seconds of work that are worth a chunk, however little is left."""

LAST_CHUNKS_DIVISOR = 2
"""Where chunks are to hold so much at least, for each costs so much, the last hold this part of it: smaller ones would
have workers end together within less, and take the parent more time than that saves."""

COST_MULTIPLE = 20
"""A chunk, or the work between two flushes, lasts this many times what it costs the parent."""

BATCH_BYTES = 1 << 20
"""Bytes of pickled input, and of flushed partials, in one chunk at most, unless one item is larger."""

UNFLUSHED = 30.0
"""Seconds of work in a worker that nobody wants to see run again."""

PATIENCE = 8
"""A state is taken to have become this many times as dear at most, since its kind was last flushed."""

GROWTH = 8
"""A chunk is at most this many times the largest that ran: the first items may not be like the others."""

FADE = 0.7
"""What a measurement keeps of its weight when the next one arrives."""


class ChunkSizer:
    """What is known of the cost of items, chunks and states.

    >>> sizer = ChunkSizer(slots=2)
    >>> sizer.size(None)
    1
    >>> for _ in range(9): sizer.finished(items := sizer.size(None), items * 1e-4)
    >>> sizer.size(None)        # 50 ms of items of 0.1 ms
    500
    >>> sizer.size(400)         # towards the end of the input, smaller
    100
    """

    def __init__(
        self, slots: int, chunksize: int | None = None, flushes_chunks: bool = False, at_least: float = 0.0
    ) -> None:
        self._slots = slots
        self._chunksize = chunksize
        self._flushes_chunks = flushes_chunks
        self._at_least = at_least
        self._items = self._seconds = 0.0
        self._work = self._pack = self._open = self._merge = 0.0
        self._flushed = self._tried = False
        self._out_bytes = 0.0
        self.item_bytes = 0.0
        self.largest = chunksize or 1

    # -- measurements --------------------------------------------------------------------------------------------------

    def pulled(self, items: int, nbytes: int) -> None:
        """A input batch of `items` takes `nbytes`."""
        self.item_bytes = _blend(self.item_bytes, nbytes / items)

    def finished(self, items: int, seconds: float) -> None:
        """A chunk of `items` took `seconds`."""
        self._items = self._items * FADE + items
        self._seconds = self._seconds * FADE + max(seconds, 1e-9)
        self.largest = max(self.largest, items)

    def flushed(self, work: float, pack: float, opening: float) -> None:
        """A worker took `pack` seconds to pack what `work` seconds had gathered, and the parent `opening` to open
        it."""
        self._work = _blend(self._work, work)
        self._pack = _blend(self._pack, pack)
        self._open = _blend(self._open, opening)

    def weighed(self, nbytes: int, items: int) -> None:
        """Flushed pieces of `nbytes` cover `items`: known on arrival, for an ordered run may merge them much later."""
        if self._flushes_chunks and items:
            self._out_bytes = _blend(self._out_bytes, nbytes / items)

    def merged(self, seconds: float) -> None:
        """The parent took `seconds` to fold a piece."""
        self._flushed = True
        self._merge = _blend(self._merge, seconds)

    # -- what follows from them ----------------------------------------------------------------------------------------

    def seconds(self, items: int) -> float:
        """How long `items` should take."""
        return items * self._seconds / self._items if self._items else 0.0

    @property
    def target(self) -> float:
        """Seconds of work that the next chunk should hold."""
        cost = self._parents_cost if self._flushes_chunks else 0.0
        return max(min(max(TARGET, COST_MULTIPLE * cost), LONGEST_CHUNK), self._at_least)

    @property
    def budget(self) -> float:
        """Seconds after which a chunk that turns out too long should give the rest back."""
        return 2 * self.target

    def size(self, remaining: int | None) -> int:
        """How many items the next chunk should have, when `remaining` (if known) are still to be pulled."""
        if self._chunksize is not None:
            return self._chunksize
        if not self._items:
            return 1
        per_item = self._seconds / self._items
        most = min(
            self.target / per_item,
            GROWTH * self.largest,
            BATCH_BYTES / self.item_bytes if self.item_bytes else float("inf"),
            BATCH_BYTES / self._out_bytes if self._out_bytes else float("inf"),
        )
        if remaining is not None:
            # Half an equal share of what is left, again and again, lets workers end together.
            least = max(SHORTEST_CHUNK, self._at_least / LAST_CHUNKS_DIVISOR)
            most = min(most, max(remaining / (2 * self._slots), least / per_item))
        return max(1, int(most + 1e-6))

    def worth_flushing(self, work: float) -> bool:
        """Whether a worker with `work` seconds of un-flushed work should flush.

        After more work than the last time its state will have grown: as the distinct values in a sample do, by about
        the square root (Heaps' law). If it has not, the next estimate knows: so it is not put off for long.
        """
        if not self._flushed:  # one worker tries what it costs
            tried, self._tried = self._tried, True
            return not tried or work >= UNFLUSHED
        growth = min(max(1.0, sqrt(work / self._work)), PATIENCE) if self._work else 1.0
        return work >= min(COST_MULTIPLE * growth * (self._pack + self._parents_cost), UNFLUSHED)

    @property
    def _parents_cost(self) -> float:
        """What a state costs that the one parent opens and merges, while all the workers flush theirs."""
        return (self._open + self._merge) * max(1.0, self._slots / 2)


def _blend(old: float, new: float) -> float:
    return new if not old else FADE * old + (1 - FADE) * new
