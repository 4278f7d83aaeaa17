"""The watch over `item_timeout`: it looks at what each lane is at, and ends the lanes that are at it for too long.

A lane that packs its state is at no one item. It may take longer than one, as long as it shows signs of life: what it
has packed so far. A worker that was stopped between two items is ended as well, for else the run would wait for it for
ever; no item is to blame. One that was stopped in the middle of an item is over its time as if the item hung.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from poolagg._overdue import Overdue, Task
from poolagg.pools._cell import Batch
from poolagg.pools._pool import Pool

__all__ = ["Watch"]

PACKING = 10.0
"""Seconds without a sign of life in which a state may be packed, though an item may take less: hashing and dividing
millions of keys takes some tenths of a second, and gives none."""


class Watch:
    """Looks at the lanes of a pool whose items may take `timeout` seconds."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._overdue = Overdue(timeout)

    @property
    def next(self) -> float:
        """When to look again."""
        return self._overdue.next

    def look(self, lanes: Iterable[int]) -> None:
        """Look at these lanes, if it is time to."""
        now = monotonic()
        if now < self.next:
            return
        batches: dict[int, Batch | None] = {}
        tasks: dict[int, Task] = {}
        for lane in lanes:
            batch = batches[lane] = self._pool.batch(lane)
            if batch is not None:
                limit = max(self._timeout, PACKING) if batch.packing else self._timeout
                tasks[lane] = Task(batch, batch.since, limit)
            elif self._pool.stopped(lane):
                tasks[lane] = Task("stopped", now, self._timeout)
        for lane in self._overdue.look(now, tasks):
            self._pool.kill(lane, self._how(batches[lane]), batches[lane])

    def _how(self, batch: Batch | None) -> str:
        timeout = f"item_timeout={self._timeout} s"
        if batch is None:
            return f"was stopped (SIGSTOP) between two items for longer than {timeout}, and was then killed"
        if batch.packing:
            return (
                f"packed its state for longer than {max(self._timeout, PACKING)} s without a sign of life ({timeout})"
            )
        return f"ran longer than {timeout}"
