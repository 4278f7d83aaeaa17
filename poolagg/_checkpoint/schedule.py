"""When a checkpoint is committed: arithmetic, so that commits take one percent of a run."""

from __future__ import annotations

__all__ = ["CheckpointSchedule"]

COMMIT_SHARE = 0.01
"""The part of a run that commits may take. A checkpoint may cost 2 %: the other half is for the last commit, which is
made whatever it costs, for states that have grown, and for looking at the input."""

SHORTEST_PAUSE = 1.0
"""Seconds between two commits, however cheap they are: what is lost to `kill -9` is no more than that and what workers
have not flushed."""

DEAR = 1e-8
"""Seconds that a byte of state is taken to cost, until a commit has shown it: about that in dicts, and a third of it in
arrays. Too high a guess makes the first commit late, too low a one makes it dear."""

LAG = 0.25
"""Seconds that workers are given to flush what they hold, before a commit that `every` asks for."""


class CheckpointSchedule:
    """When to commit next, and whether to ask workers before it for what they hold.

    A commit that took 1 s is followed by 99 s without one. The first commit comes after 99 s, if states came of a size
    that is likely to take 1 s. `flushes`: workers hold states that only a request makes them flush in time.

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
        """States have this size, or more."""
        if self._began is not None:
            self.next = max(self.next, self._began + self._pause(nbytes * DEAR))

    def wrote(self, seconds: float, now: float) -> None:
        """A commit took `seconds`, and ended `now`."""
        self._began, self.will_ask = None, self._flushes
        self.next = now + self._pause(seconds)

    def asks(self, now: float) -> bool:
        """Tell whether to ask workers now, once before each commit; then the commit waits for what they hold."""
        if not self.will_ask or now < self.next:
            return False
        self.will_ask = False
        self.next = now + min(LAG, self._every or LAG)
        return True

    def _pause(self, seconds: float) -> float:
        pause = max(SHORTEST_PAUSE, seconds * (1 - COMMIT_SHARE) / COMMIT_SHARE)
        return pause if self._every is None else min(self._every, pause)
