"""When to recycle a worker: it has run its items, or has too much memory.

    after a chunk     the worker has run `max_items`, or has more memory than the limit: it is retiring. It gets no more
                      chunks, flushes its state, and is replaced; no result is lost and no item runs again. The
                      scheduler never gives it more than `max_items`. Within a chunk, a worker above the limit hands
                      back the rest
    within an item    the item alone would take a fresh worker above the limit: the parent kills the worker, and the
                      item has lost it. Memory that earlier items have left does not count: it makes the worker retire

The parent lets a worker finish that merges, or packs its state: it runs no item, and would have to repeat the work.

So no item fails for the leaks of others, and an item that needs too much fails on any worker. A worker may exceed the
limit for a while: by what an item takes, and by the first item of a chunk that already waits for it.
"""

from __future__ import annotations

from time import monotonic

from poolagg._runtime.sizes import size
from poolagg.pools.process.memory import own_memory
from poolagg.pools.process.progress_cell import Batch

__all__ = ["Recycling"]

LOOK = 0.05
"""Seconds between two checks of workers that are within an item. A process can touch some 100 MB in that time, and a
check costs the parent some 20 microseconds a worker."""


class Recycling:
    """Decides when workers are replaced; a limit of None is not checked."""

    def __init__(self, max_items: int | None, memory_limit: int | None) -> None:
        self._max_items = max_items
        self._limit = memory_limit
        self._next_look = 0.0

    def has_run_all(self, items: int) -> bool:
        """Tell if a worker that has run so many items may run no other."""
        return self._max_items is not None and items >= self._max_items

    def after_chunk(self, pid: int, items: int) -> str:
        """Return why a worker is to be replaced after a chunk; empty if it may stay."""
        if self._max_items is not None and self.has_run_all(items):
            return f"it has run {items:,} items, and max_items_per_worker={self._max_items:,}"
        if self._limit is not None and (has := own_memory(pid)) > self._limit:
            return f"it has {size(has)} of memory, above memory_limit={size(self._limit)}"
        return ""

    def within_item(self, pid: int, batch: Batch) -> str:
        """Return how a worker has outgrown the limit within its current batch; empty if it has not."""
        has = own_memory(pid)
        if self._limit is None or has - batch.left <= self._limit:
            return ""
        before = f", {size(batch.left)} of it left there by items before" if batch.left > 0.01 * has else ""
        return f"grew to {size(has)} of memory{before}, above memory_limit={size(self._limit)}, and was stopped"

    def patience(self, timeout: float | None) -> float | None:
        """Return how long the parent may wait for workers before the next check."""
        if self._limit is None:
            return timeout
        left = max(0.0, self._next_look - monotonic())
        return left if timeout is None else min(timeout, left)

    def look_is_due(self) -> bool:
        """Tell if a check of workers within an item is due, and schedule the next."""
        if self._limit is None or (now := monotonic()) < self._next_look:
            return False
        self._next_look = now + LOOK
        return True
