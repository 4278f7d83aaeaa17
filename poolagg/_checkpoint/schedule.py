"""Decide when to commit a checkpoint: arithmetic that keeps commits at one percent of a run."""

from __future__ import annotations

__all__ = ["CheckpointSchedule"]

COMMIT_SHARE = 0.01
"""The part of a run that commits may take. A checkpoint may cost 2 %: the other half pays for the last commit, for
states that have grown, and for digesting the input."""

SHORTEST_PAUSE = 1.0
"""Fewest seconds between two commits, however cheap they are: `kill -9` loses at most that much and unflushed work."""

DEAR = 1e-8
"""Estimated seconds for each byte of state until a commit has measured it: dicts take about that, arrays a third. Too
high an estimate delays the first commit, too low a one makes it expensive."""

LAG = 0.25
"""Seconds that workers get to flush before a commit at the time that `every` sets."""


class CheckpointSchedule:
    """Decides when to commit next, and when to request flushes before that.

    After a commit that took 1 s, the next follows 99 s later. The first commit follows after 99 s if the size of the
    states suggests that it takes 1 s. `flushes`: workers hold states, which they flush in time only on request.

    >>> schedule = CheckpointSchedule(None, now=0.0)
    >>> schedule.wrote(0.5, now=10.0); round(schedule.next, 3)
    59.5
    >>> hurried = CheckpointSchedule(5.0, now=0.0)
    >>> hurried.wrote(0.5, now=10.0); hurried.next
    15.0
    >>> late = CheckpointSchedule(None, now=0.0)
    >>> late.expect(10_000_000); round(late.next, 3)
    9.9
    """

    def __init__(self, every: float | None, now: float, flushes: bool = False) -> None:
        self._every = every
        self._flushes = self.will_ask = flushes
        self._began: float | None = now  # until there is a commit
        self.next = now + self._pause(0.0)

    def expect(self, nbytes: int) -> None:
        """Record that states have at least this size."""
        if self._began is not None:
            self.next = max(self.next, self._began + self._pause(nbytes * DEAR))

    def wrote(self, seconds: float, now: float) -> None:
        """Record that a commit took `seconds` and ended at `now`."""
        self._began, self.will_ask = None, self._flushes
        self.next = now + self._pause(seconds)

    def asks(self, now: float) -> bool:
        """Return whether to request flushes now: once before each commit, which then waits for the states."""
        if not self.will_ask or now < self.next:
            return False
        self.will_ask = False
        self.next = now + min(LAG, self._every or LAG)
        return True

    def _pause(self, seconds: float) -> float:
        pause = max(SHORTEST_PAUSE, seconds * (1 - COMMIT_SHARE) / COMMIT_SHARE)
        return pause if self._every is None else min(self._every, pause)
