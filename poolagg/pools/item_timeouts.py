"""Enforce `item_timeout`: look at each worker's current task, and kill a worker whose task takes too long.

A worker that packs its state runs no item. It may take longer than an item as long as it gives signs of life, by what
it has packed so far. A worker that was stopped between two items is killed as well, since the run would wait for it
forever; no item is to blame. One that was stopped within an item exceeds the limit as if the item hung.

Wall-clock time goes on while a program is stopped (Ctrl-Z, a frozen container), so it does not tell how long an item
ran. Therefore the parent looks often, and counts at most twice the usual interval between two looks. A parent that is
busy elsewhere counts less than has passed: an item may run longer than its limit, and is never killed too early.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from time import monotonic
from typing import NamedTuple

from poolagg.pools.pool import Pool
from poolagg.pools.process.progress_cell import Batch

__all__ = ["Overdue", "Task", "Watch"]

LOOKS = 10
"""Looks within the limit: each stop of the program falsifies the count by at most two intervals."""

LONGEST = 1.0
"""Longest interval between two looks, in seconds."""


class Task(NamedTuple):
    """A worker's current task: `what` identifies it, `since` is when it began, `limit` how long it may take."""

    what: Hashable
    since: float
    limit: float


class Overdue:
    """Accumulates how long each worker has been at its task. Pure; `limit` is the shortest limit of any task.

    >>> overdue = Overdue(1.0)
    >>> [overdue.look(now / 10, {0: Task("item 7", 0.0, 1.0)}) for now in range(13)][-3:]
    [[], [0], [0]]
    >>> overdue = Overdue(1.0)  # the program is stopped for an hour
    >>> [overdue.look(now, {0: Task("item 7", 0.0, 1.0)}) for now in (0.0, 0.1, 3600.0, 3600.1)]
    [[], [], [], []]
    """

    def __init__(self, limit: float) -> None:
        self.interval = min(limit / LOOKS, LONGEST)
        self._looked: float | None = None
        self._tasks: dict[int, tuple[Hashable, float]] = {}

    @property
    def next(self) -> float:
        """When to look again."""
        return 0.0 if self._looked is None else self._looked + self.interval

    def look(self, now: float, tasks: Mapping[int, Task]) -> list[int]:
        """Take in the current tasks; return the workers that have been at theirs for too long."""
        gap = 0.0 if self._looked is None else min(now - self._looked, 2 * self.interval)
        seen: dict[int, tuple[Hashable, float]] = {}
        for slot, (what, since, _) in tasks.items():
            before, seconds = self._tasks.get(slot, (None, 0.0))
            if before == what:
                seen[slot] = what, seconds + gap
            else:
                seen[slot] = what, min(max(0.0, now - since), gap)
        self._looked, self._tasks = now, seen
        return [slot for slot, (_, seconds) in seen.items() if seconds > tasks[slot].limit]


PACKING = 10.0
"""Seconds that packing a state may take without a sign of life, even if `item_timeout` is less: hashing and
partitioning millions of keys takes some tenths of a second, and gives none."""


class Watch:
    """Kills workers of a pool whose item takes longer than `timeout` seconds."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._overdue = Overdue(timeout)

    @property
    def next(self) -> float:
        """When to look again."""
        return self._overdue.next

    def look(self, slots: Iterable[int]) -> None:
        """Look at these workers if a look is due, and kill those that are overdue."""
        now = monotonic()
        if now < self.next:
            return
        batches: dict[int, Batch | None] = {}
        tasks: dict[int, Task] = {}
        for slot in slots:
            batch = batches[slot] = self._pool.batch(slot)
            if batch is not None:
                limit = max(self._timeout, PACKING) if batch.packing else self._timeout
                tasks[slot] = Task(batch, batch.since, limit)
            elif self._pool.stopped(slot):
                tasks[slot] = Task("stopped", now, self._timeout)
        for slot in self._overdue.look(now, tasks):
            self._pool.kill(slot, self._how(batches[slot]), batches[slot])

    def _how(self, batch: Batch | None) -> str:
        timeout = f"item_timeout={self._timeout} s"
        if batch is None:
            return f"was stopped (SIGSTOP) between two items for longer than {timeout}, and was then killed"
        if batch.packing:
            return (
                f"packed its state for longer than {max(self._timeout, PACKING)} s without a sign of life ({timeout})"
            )
        return f"ran longer than {timeout}"
