"""Who is at fault: attempts are counted, suspects wait to run alone, and where none is named, halving finds the item.

A *suspect* is an interval that was running when its worker died, or whose partials did not survive packing. It runs
alone, in batches of one, on a worker that holds nothing, so that its next death names the item and costs nobody else.
A leaf is never cut: its parts run as *probes*, whose pieces are dropped, and then it is folded anew, whole.

A *silent* death names nobody. What the worker had may be innocent, and runs again; at the second silent death with the
same items there, they are suspects. An item that dies silently while it runs alone is at fault.
"""

from __future__ import annotations

from collections import Counter, deque

from poolagg._scheduler.items import ItemTracker
from poolagg._scheduler.messages import Cause, Fail, Failure, Instructions, LeaveOut, Retry, Skip
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import Interval

__all__ = ["SuspectTracker"]

DEATHS = 2
"""With `retries=None`: how often an item whose worker died runs again. A killed worker is seldom the item's fault."""

TIDY = 1024
"""Items whose attempts are counted, before those that are covered are looked for."""


class SuspectTracker:
    """The search for the item at fault; `suspects` are what is to run alone next."""

    def __init__(self, items: ItemTracker, terms: SchedulerOptions, instructions: Instructions) -> None:
        self.suspects: deque[Interval] = deque()
        self.probing: Counter[Interval] = Counter()  # leaves, with how many of their parts are suspects
        self._blameless: set[Interval] = set()  # leaves that were probed, and no item was found at fault
        self._items = items
        self._retries, self._skip = terms.retries, terms.skip
        self._instructions = instructions
        self._attempts: dict[int, Counter[Cause]] = {}
        self._most_unexplained = max(3, terms.retries or 0) + 2 * terms.slots
        self._unexplained = 0
        self._unexplained_at: Counter[int] = Counter()
        self._silent_at: Counter[int] = Counter()
        self._tidy_at = TIDY

    # -- counting ------------------------------------------------------------------------------------------------------

    def charge(self, failure: Failure) -> bool:
        """Count a failed attempt; return whether the item runs again. If not, it is skipped, or ends the run."""
        attempt, again = self._count(failure)
        if again:
            self._instructions.add(Retry(failure, attempt))
        elif self._skip:
            self._instructions.add(Skip(failure, attempt))
            if (leaf := self._items.skip(failure.index)) is not None:
                self._instructions.add(LeaveOut(leaf))
        else:
            self._instructions.fail(Fail(failure.index, failure.error, attempt, failure.cause, failure.item))
        return again

    def _count(self, failure: Failure) -> tuple[int, bool]:
        """Return the attempt's number, and whether another is allowed."""
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
        """Attempts at items that are covered count no more; looked for seldom, so O(1) for each attempt."""
        covered = self._items.covered
        self._attempts = {index: count for index, count in self._attempts.items() if index not in covered}
        for counts in (self._unexplained_at, self._silent_at):
            for index in [index for index in counts if index in covered]:
                del counts[index]
        self._blameless = {leaf for leaf in self._blameless if covered.end(leaf[0]) < leaf[1]}
        self._tidy_at = max(TIDY, 2 * len(self._attempts))

    def unexplained(self, start: int | None) -> int:
        """Count a death of a worker that had not begun to work; the number of such deaths, if that is too many.

        Workers may be killed at any time, by whomever; but a pool that only dies must not go on for ever. Nor may a
        chunk, from item `start` on, that is lost each time it is sent, while others get through.
        """
        self._unexplained += 1
        if start is not None:
            self._unexplained_at[start] += 1
        deaths = self._unexplained if start is None else max(self._unexplained, self._unexplained_at[start])
        return deaths if deaths > self._most_unexplained else 0

    def present_at_silent_death(self, interval: Interval) -> None:
        """Run these items again: their worker died and named nobody. The second time they are suspects."""
        self._silent_at[interval[0]] += 1
        if self._silent_at[interval[0]] > 1:
            self.suspects.append(interval)
        else:
            self._items.wait(interval)

    def progress(self) -> None:
        """Something was covered, or is known to be at fault: the pool does not only die."""
        self._unexplained = 0

    # -- looking closer ------------------------------------------------------------------------------------------------

    def look_closer(self, start: int, stop: int) -> bool:
        """One of these items is at fault and nobody says which: run the halves alone. False if that was in vain."""
        middle = (start + stop + 1) // 2
        grid = self._items.grid
        if grid is None:
            self.suspects.extend([(start, middle), (middle, stop)])
        elif self._items.is_probe(start, stop):
            self._probe((start, middle), (middle, stop))
        elif (start, stop) != self._items.leaf(start):
            middle = min(grid.ceil(middle), grid.floor(stop - 1))
            self.suspects.extend([(start, middle), (middle, stop)])
        elif (start, stop) in self._blameless:  # whole it fails, and in parts it does not
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
        """A probe from `start` on is over; after the last one its leaf is folded anew, whole."""
        leaf = self._items.leaf(start)
        self.probing[leaf] -= 1
        if not self.probing[leaf]:
            del self.probing[leaf]
            self._items.wait(leaf)
