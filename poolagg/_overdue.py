"""Which lanes have been at one thing for too long, by the time that the parent was there to see. Arithmetic.

A clock on the wall goes on while a program is stopped (Ctrl-Z, a frozen container), and so it tells nothing of how long
an item ran. So the parent looks often, and between two looks no more counts than what lies between them as a rule. A
parent that is busy elsewhere counts less than has passed: an item may then run longer, and never shorter, than it may.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

__all__ = ["Overdue", "Task"]

LOOKS = 10
"""Looks within the limit: what is counted may be wrong by two intervals each time that the program is stopped."""

LONGEST = 1.0
"""Seconds between two looks at most."""


class Task(NamedTuple):
    """What a lane is at: `what` tells it from all others, `since` is when it began, `limit` how long it may take."""

    what: Hashable
    since: float
    limit: float


class Overdue:
    """Looks at what each lane is at; `limit` is the shortest that anything may take.

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
        """Look at the lanes that are at something; those that have been at it for too long."""
        gap = 0.0 if self._looked is None else min(now - self._looked, 2 * self.interval)
        seen: dict[int, tuple[Hashable, float]] = {}
        for lane, (what, since, _) in tasks.items():
            before, seconds = self._tasks.get(lane, (None, 0.0))
            if before == what:
                seen[lane] = what, seconds + gap
            else:
                seen[lane] = what, min(max(0.0, now - since), gap)
        self._looked, self._tasks = now, seen
        return [lane for lane, (_, seconds) in seen.items() if seconds > tasks[lane].limit]
