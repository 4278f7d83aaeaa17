"""Find the item at fault: count attempts, run suspects alone, and halve intervals where no item is named.

A *suspect* is an interval that was running when its worker died, or whose partials could not be pickled. It runs alone,
in batches of one, on a worker that holds nothing, so that the next death names the item and loses no other work. A
leaf is never cut: its parts run as *probes*, whose states are dropped, and then the whole leaf is folded again.

A *silent* death names no item. The worker's items may be innocent and run again; after a second silent death with the
same items present, they are suspects. An item whose worker dies silently while it runs alone is at fault.
"""

from __future__ import annotations

from collections import Counter, deque

from poolagg._scheduler.items import ItemTracker
from poolagg._scheduler.messages import Cause, Fail, Failure, Instructions, LeaveOut, Retry, Skip
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import Interval

__all__ = ["SuspectTracker"]

DEATHS = 2
"""With `retries=None`: how often an item runs again whose worker died. The item seldom causes a worker's death."""

TIDY = 1024
"""Items with counted attempts from which on the tracker forgets those that are covered."""


class SuspectTracker:
    """Searches for the item at fault; `suspects` are the intervals that run alone next."""

    def __init__(self, items: ItemTracker, options: SchedulerOptions, instructions: Instructions) -> None:
        self.suspects: deque[Interval] = deque()
        self.probing: Counter[Interval] = Counter()  # leaves, each with the number of its parts that are suspects
        self._blameless: set[Interval] = set()  # leaves whose probes found no item at fault
        self._items = items
        self._retries, self._skip = options.retries, options.skip
        self._instructions = instructions
        self._attempts: dict[int, Counter[Cause]] = {}
        self._most_unexplained = max(3, options.retries or 0) + 2 * options.slots
        self._unexplained = 0
        self._unexplained_at: Counter[int] = Counter()
        self._silent_at: Counter[int] = Counter()
        self._tidy_at = TIDY

    # -- counting ------------------------------------------------------------------------------------------------------

    def charge(self, failure: Failure) -> bool:
        """Count a failed attempt; return whether the item runs again. If not, it is skipped or ends the run."""
        attempt, again = self._count(failure)
        if again:
            self._instructions.add(Retry(failure, attempt))
        elif self._skip:
            leaf = self._items.skip(failure.index)
            self._instructions.add(Skip(failure, attempt, self._items.covered.prefix))
            if leaf is not None:
                self._instructions.add(LeaveOut(leaf))
        else:
            self._instructions.fail(Fail(failure.index, failure.error, attempt, failure.cause, failure.item))
        return again

    def _count(self, failure: Failure) -> tuple[int, bool]:
        """Return the number of the attempt, and whether another is allowed."""
        if self._items.grid is not None:
            self._blameless.discard(self._items.leaf(failure.index))
        self.progress()
        attempts = self._attempts.setdefault(failure.index, Counter())
        attempts[failure.cause] += 1
        if len(self._attempts) > self._tidy_at:
            self._forget_covered()
        if self._retries is not None:
            return attempts.total(), attempts.total() <= self._retries
        return attempts.total(), failure.cause == "died" and attempts["died"] <= DEATHS

    def _forget_covered(self) -> None:
        """Forget attempts at covered items: rarely enough to be O(1) for each attempt."""
        covered = self._items.covered
        self._attempts = {index: count for index, count in self._attempts.items() if index not in covered}
        for counts in (self._unexplained_at, self._silent_at):
            for index in [index for index in counts if index in covered]:
                del counts[index]
        self._blameless = {leaf for leaf in self._blameless if covered.end(leaf[0]) < leaf[1]}
        self._tidy_at = max(TIDY, 2 * len(self._attempts))

    def unexplained(self, start: int | None) -> int:
        """Count the death of a worker that had begun no item; return the number of such deaths if it is too high, or 0.

        Anything may kill a worker at any time. But the run must end if all workers die without progress, or if the
        chunk from item `start` on is lost each time it is sent while others succeed.
        """
        self._unexplained += 1
        if start is not None:
            self._unexplained_at[start] += 1
        deaths = self._unexplained if start is None else max(self._unexplained, self._unexplained_at[start])
        return deaths if deaths > self._most_unexplained else 0

    def present_at_silent_death(self, interval: Interval) -> None:
        """Run these items again after a silent death of their worker; after the second they are suspects."""
        self._silent_at[interval[0]] += 1
        if self._silent_at[interval[0]] > 1:
            self.suspects.append(interval)
        else:
            self._items.wait(interval)

    def progress(self) -> None:
        """Record that an item was covered or found at fault, so that the pool makes progress."""
        self._unexplained = 0

    # -- looking closer ------------------------------------------------------------------------------------------------

    def look_closer(self, start: int, stop: int) -> bool:
        """Run the halves of an interval alone, to find the item at fault; return False if its probes all succeeded."""
        middle = (start + stop + 1) // 2
        grid = self._items.grid
        if grid is None:
            self.suspects.extend([(start, middle), (middle, stop)])
        elif self._items.is_probe(start, stop):
            self._probe((start, middle), (middle, stop))
        elif (start, stop) != self._items.leaf(start):
            middle = min(grid.ceil(middle), grid.floor(stop - 1))
            self.suspects.extend([(start, middle), (middle, stop)])
        elif (start, stop) in self._blameless:  # the whole leaf fails, and its parts do not
            return False
        else:
            self._blameless.add((start, stop))
            self._probe((start, middle), (middle, stop))
        return True

    def _probe(self, *parts: Interval) -> None:
        for part in parts:
            if self._items.to_run(part):
                self.probing[self._items.leaf(part[0])] += 1
                self.suspects.append(part)

    def probed(self, start: int) -> None:
        """End the probe from `start` on; after the last probe of a leaf, let the whole leaf run again."""
        leaf = self._items.leaf(start)
        self.probing[leaf] -= 1
        if not self.probing[leaf]:
            del self.probing[leaf]
            self._items.wait(leaf)
