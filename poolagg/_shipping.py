"""When lanes ship what they hold: where it pays, where much would have to run again, and when nothing is left."""

from __future__ import annotations

from poolagg._lanes import Lane, Lanes
from poolagg._ledger import Ledger
from poolagg._orders import Ship
from poolagg._pace import Pace
from poolagg._pending import Instructions
from poolagg._terms import Terms

__all__ = ["Shipping"]

HELD = 4096
"""Intervals that a lane holds at most: each item that fails leaves a gap, and a gap takes memory here and there."""


class Shipping:
    """Decides when a lane's state is due; `kept_bytes` is what the parent keeps of the input for a re-run."""

    def __init__(self, terms: Terms, pace: Pace, ledger: Ledger, lanes: Lanes, instructions: Instructions) -> None:
        self._terms, self._pace, self._ledger, self._lanes = terms, pace, ledger, lanes
        self._instructions = instructions
        self.kept_bytes = 0

    def is_due(self, lane: Lane, items: int) -> bool:
        """Whether a lane ships after so many items more: it is cheap, or much would have to run again."""
        work = lane.held_seconds
        if 0 < self._terms.leaves <= lane.held_chunks + len(lane.chunks) + 1:
            return True
        for run in lane.chunks:
            work = 0.0 if run.ship else work + self._pace.seconds(run.stop - run.start)
        kept_bytes = max(self.kept_bytes, self._pace.item_bytes * self._ledger.uncovered)
        if kept_bytes > self._terms.kept_bytes or len(lane.held) > HELD:
            return True
        return self._pace.worth_shipping(work + self._pace.seconds(items))

    def of(self, lane: Lane) -> None:
        """Have a lane ship, unless it is about to."""
        if not lane.shipping:
            lane.shipping = True
            self._instructions.add(Ship(lane.number))

    def of_all(self) -> None:
        """Have all lanes ship that hold something, or are about to."""
        for lane in self._lanes:
            if self._terms.carries and (lane.held or lane.chunks):
                self.of(lane)

    def of_idle(self) -> None:
        """Have lanes without work ship: with nothing left to run, what they hold is all that is missing."""
        for lane in self._lanes:
            if self._terms.carries and lane.held and not lane.chunks:
                self.of(lane)
