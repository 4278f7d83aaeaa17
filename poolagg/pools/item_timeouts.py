"""The watch over `item_timeout`: it looks at what each worker is at, and ends the workers that are at it for too long.

A worker that packs its state is at no one item. It may take longer than one, as long as it shows signs of life: what it
has packed so far. A worker that was stopped between two items is ended as well, for else the run would wait for it for
ever; no item is to blame. One that was stopped in the middle of an item is over its time as if the item hung.

Which workers have been at one thing for too long, by the time that the parent was there to see. Arithmetic.

A clock on the wall goes on while a program is stopped (Ctrl-Z, a frozen container), and so it tells nothing of how long
an item ran. So the parent looks often, and between two looks no more counts than what lies between them as a rule. A
parent that is busy elsewhere counts less than has passed: an item may then run longer, and never shorter, than it may.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from time import monotonic
from typing import NamedTuple

from poolagg.pools.pool import Pool
from poolagg.pools.process.progress_cell import Batch

__all__ = ["Overdue", "Task", "Watch"]

LOOKS = 10
"""Looks within the limit: what is counted may be wrong by two intervals each time that the program is stopped."""

LONGEST = 1.0
"""Seconds between two looks at most."""


class Task(NamedTuple):
    """What a worker is at: `what` tells it from all others, `since` is when it began, `limit` how long it may take."""

    what: Hashable
    since: float
    limit: float


class Overdue:
    """Looks at what each worker is at; `limit` is the shortest that anything may take.

    >>> overdue = Overdue(1.0)
    >>> [overdue.look(now / 10, {0: Task("item 7", 0.0, 1.0)}) for now in range(13)][-3:]
    [[], [0], [0]]
    >>> overdue = Overdue(1.0)  # it is not there to see for an hour
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
        """Look at the workers that are at something; those that have been at it for too long."""
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
"""Seconds without a sign of life in which a state may be packed, though an item may take less: hashing and dividing
millions of keys takes some tenths of a second, and gives none."""


class Watch:
    """Looks at the workers of a pool whose items may take `timeout` seconds."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._overdue = Overdue(timeout)

    @property
    def next(self) -> float:
        """When to look again."""
        return self._overdue.next

    def look(self, slots: Iterable[int]) -> None:
        """Look at these workers, if it is time to."""
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
