"""Choose the size of chunks and the time of flushes from measured costs. Pure arithmetic.

Each constant trades two costs. A longer chunk costs the parent less per item, but leaves workers idle for longer at the
end of a run. A state that is flushed more often costs more time, but less work is lost when its worker dies.
"""

from __future__ import annotations

from math import sqrt

__all__ = ["ChunkSizer"]

TARGET = 0.05
"""Seconds of work in a chunk: long against the 100 us that a chunk costs, short against a user's patience."""

LONGEST_CHUNK = 1.0
"""Most seconds of work in a chunk, however much a chunk costs the parent."""

SHORTEST_CHUNK = 0.002
"""Fewest seconds of work in a chunk, however few items are left."""

LAST_CHUNKS_DIVISOR = 2
"""Where a pool sets a minimum length because each chunk is expensive, the last chunks may be shorter by this factor.
Still shorter ones would cost the parent more time than the workers gain by ending together."""

COST_MULTIPLE = 20
"""A chunk, or the work between two flushes, takes at least this many times as long as the parent spends on it."""

BATCH_BYTES = 1 << 20
"""Most bytes of pickled input, and of flushed partials, in one chunk, unless a single item is larger."""

UNFLUSHED = 30.0
"""Most seconds of unflushed work in a worker, which would have to run again if it died."""

PATIENCE = 8
"""Largest factor by which the cost of a state is assumed to have grown since the last flush."""

GROWTH = 8
"""A chunk has at most this many times the items of the largest that ran: the first items may be unlike the others."""

FADE = 0.7
"""The part of its weight that a measurement keeps when the next one arrives."""


class ChunkSizer:
    """Estimates of what items, chunks and states cost. `first`: the size of a chunk before any has been measured.

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
        self,
        slots: int,
        chunksize: int | None = None,
        flushes_chunks: bool = False,
        at_least: float = 0.0,
        first: int = 1,
    ) -> None:
        self._slots = slots
        self._chunksize = chunksize
        self._flushes_chunks = flushes_chunks
        self._at_least = at_least
        self._first = first
        self._items = self._seconds = 0.0
        self._work = self._pack = self._open = self._merge = 0.0
        self._flushed = self._tried = False
        self._out_bytes = 0.0
        self.item_bytes = 0.0
        self.largest = chunksize or 1

    # -- measurements --------------------------------------------------------------------------------------------------

    def pulled(self, items: int, nbytes: int) -> None:
        """Record the size of an input batch: `nbytes` for `items`."""
        self.item_bytes = _blend(self.item_bytes, nbytes / items)

    def finished(self, items: int, seconds: float) -> None:
        """Record that a chunk of `items` took `seconds`."""
        self._items = self._items * FADE + items
        self._seconds = self._seconds * FADE + max(seconds, 1e-9)
        self.largest = max(self.largest, items)

    def flushed(self, work: float, pack: float, opening: float) -> None:
        """Record a flush: the worker pickled the state of `work` seconds in `pack` seconds, the parent unpickled it in
        `opening`."""
        self._work = _blend(self._work, work)
        self._pack = _blend(self._pack, pack)
        self._open = _blend(self._open, opening)

    def weighed(self, nbytes: int, items: int) -> None:
        """Record on arrival that partials of `items` take `nbytes`; an ordered run may merge them much later."""
        if self._flushes_chunks and items:
            self._out_bytes = _blend(self._out_bytes, nbytes / items)

    def merged(self, seconds: float) -> None:
        """Record that the parent took `seconds` to fold a partial state."""
        self._flushed = True
        self._merge = _blend(self._merge, seconds)

    # -- estimates -----------------------------------------------------------------------------------------------------

    def seconds(self, items: int) -> float:
        """Estimate how long `items` take."""
        return items * self._seconds / self._items if self._items else 0.0

    @property
    def target(self) -> float:
        """Seconds of work that the next chunk should hold."""
        cost = self._parents_cost if self._flushes_chunks else 0.0
        return max(min(max(TARGET, COST_MULTIPLE * cost), LONGEST_CHUNK), self._at_least)

    @property
    def budget(self) -> float:
        """Seconds after which a chunk that takes too long gives its remaining items back."""
        return 2 * self.target

    def size(self, remaining: int | None) -> int:
        """Return how many items the next chunk should have; `remaining`: items still to be pulled, if known."""
        if self._chunksize is not None:
            return self._chunksize
        if not self._items:
            return self._first
        per_item = self._seconds / self._items
        most = min(
            self.target / per_item,
            GROWTH * self.largest,
            BATCH_BYTES / self.item_bytes if self.item_bytes else float("inf"),
            BATCH_BYTES / self._out_bytes if self._out_bytes else float("inf"),
        )
        if remaining is not None:
            # Guided self-scheduling: chunks of half an equal share of the rest let workers end together.
            least = max(SHORTEST_CHUNK, self._at_least / LAST_CHUNKS_DIVISOR)
            most = min(most, max(remaining / (2 * self._slots), least / per_item))
        return max(1, int(most + 1e-6))

    def worth_flushing(self, work: float) -> bool:
        """Return whether a worker with `work` seconds of unflushed work should flush.

        A state after more work than the last one is assumed to have grown like the distinct values of a sample, by
        about the square root (Heaps' law). If it has not, the flush corrects the estimate, so the error is short-lived.
        """
        if not self._flushed:  # one worker measures the cost
            tried, self._tried = self._tried, True
            return not tried or work >= UNFLUSHED
        growth = min(max(1.0, sqrt(work / self._work)), PATIENCE) if self._work else 1.0
        return work >= min(COST_MULTIPLE * growth * (self._pack + self._parents_cost), UNFLUSHED)

    @property
    def _parents_cost(self) -> float:
        """Seconds that a state waits for the parent to unpickle and merge it while all workers flush theirs."""
        return (self._open + self._merge) * max(1.0, self._slots / 2)


def _blend(old: float, new: float) -> float:
    return new if not old else FADE * old + (1 - FADE) * new
