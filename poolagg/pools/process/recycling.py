"""When a worker has had its day: it has run its items, or has too much memory.

    after a chunk     it has run `max_items`, or has more memory than the limit: it is worn. It is given no more,
    flushes
                      what it holds, and is replaced; nothing is lost and nothing runs again. The scheduler never gives
                      it more than `max_items`. In the middle of a chunk, one that is above the limit hands back the
                      rest
    within an item    the item alone would take a fresh worker above the limit: it is stopped, and the item has lost its
                      worker. What items before it have left there is not its fault: those make the worker worn

A worker that merges, or packs what it flushes, is in no item and is left to end it: else it would have to be done
again.

So no item fails for the leaks of others, and one that needs too much fails on any worker. For a while a worker may have
more than the limit: by what an item takes, and the first of a chunk that was waiting for it already.
"""

from __future__ import annotations

from time import monotonic

from poolagg._runtime.sizes import size
from poolagg.pools.process.memory import own_memory
from poolagg.pools.process.progress_cell import Batch

__all__ = ["Recycling"]

LOOK = 0.05
"""Seconds between two looks at workers that are in the middle of an item. A process can touch some 100 MB in that time,
and looking costs the parent some 20 microseconds a worker."""


class Recycling:
    """On which terms workers stay; what is None is not looked at."""

    def __init__(self, max_items: int | None, memory_limit: int | None) -> None:
        self._max_items = max_items
        self._limit = memory_limit
        self._next_look = 0.0

    def has_run_all(self, items: int) -> bool:
        """Whether a worker that has run so many items may run no other."""
        return self._max_items is not None and items >= self._max_items

    def after_chunk(self, pid: int, items: int) -> str:
        """Why a worker is to be replaced that has just ended a chunk; empty if it may stay."""
        if self._max_items is not None and self.has_run_all(items):
            return f"it has run {items:,} items, and max_items_per_worker={self._max_items:,}"
        if self._limit is not None and (has := own_memory(pid)) > self._limit:
            return f"it has {size(has)} of memory, above memory_limit={size(self._limit)}"
        return ""

    def within_item(self, pid: int, batch: Batch) -> str:
        """How a worker has outgrown the limit in the batch that it is running; empty if it has not."""
        has = own_memory(pid)
        if self._limit is None or has - batch.left <= self._limit:
            return ""
        before = f", {size(batch.left)} of it left there by items before" if batch.left > 0.01 * has else ""
        return f"grew to {size(has)} of memory{before}, above memory_limit={size(self._limit)}, and was stopped"

    def patience(self, timeout: float | None) -> float | None:
        """How long workers may be waited for without a look at them."""
        if self._limit is None:
            return timeout
        left = max(0.0, self._next_look - monotonic())
        return left if timeout is None else min(timeout, left)

    def look_is_due(self) -> bool:
        """Whether it is time to look at workers in the middle of an item; then it is not for a while."""
        if self._limit is None or (now := monotonic()) < self._next_look:
            return False
        self._next_look = now + LOOK
        return True
