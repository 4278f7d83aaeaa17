"""Pull the input, on the caller's thread, and seal it into batches as the plan wants them."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from poolagg._orders import Pulled, SourceEnded
from poolagg._pace import PARCEL
from poolagg._parcels import Parcels
from poolagg._plan import Plan
from poolagg._source import Source
from poolagg._texts import add_note
from poolagg._verdicts import note_of_input
from poolagg._watching import Account
from poolagg.errors import CheckpointMismatch

if TYPE_CHECKING:
    from poolagg._continuation import Continuation

__all__ = ["InputFeed"]

PULLING = 0.001
"""Seconds of pulling between two looks at the lanes."""

IN_HAND = 0.05
"""Seconds after which items in hand are sent, though there could be more in the chunk."""


class InputFeed:
    """The input of one run: what is still to be pulled, and the batches that a retry may need."""

    def __init__(self, source: Source, account: Account) -> None:
        self.source = source
        self.parcels = Parcels()
        self.kept: Continuation | None = None
        self._account = account
        self._pulling_since: float | None = None
        self._end_told = False

    def next_event(self, plan: Plan) -> Pulled | SourceEnded | None:
        """Pull for a millisecond at most; return what the plan should hear of the input, None if there is nothing."""
        source = self.source
        if not source.ended and (wanted := self._wanted(plan)):
            now = monotonic()
            if self._pulling_since is None:
                self._pulling_since = now
            if source.in_hand < wanted:
                self._pull(wanted, now + PULLING)
            enough = source.in_hand >= wanted or source.ended or source.nbytes > PARCEL
            enough = enough or plan.demand.urgent or monotonic() - self._pulling_since > IN_HAND
            if enough and (sealed := self._seal(plan)):
                return sealed
        if source.ended and source.in_hand and not plan.finished:
            return self._seal(plan)
        if source.ended and not source.in_hand and not self._end_told:
            self._end_told = True
            return SourceEnded()
        return None

    def is_wanted(self, plan: Plan) -> bool:
        """Tell whether there are items to pull now."""
        return not self.source.ended and plan.demand.items > self.source.in_hand

    def _wanted(self, plan: Plan) -> int:
        """Count the items that should be in hand, once those that the result has already are passed."""
        demand = plan.demand
        passed = demand.start - self.source.position
        if self.kept is not None and not self.source.in_hand and passed > 0:
            self.kept.skip(self.source, passed)
        return demand.items

    def _pull(self, wanted: int, until: float) -> None:
        try:
            self.source.pull(wanted, PARCEL, monotonic, until)
        except CheckpointMismatch:
            raise
        except Exception as error:
            add_note(error, note_of_input(self.source.position))
            raise
        self._account.pulling += monotonic() - (until - PULLING)

    def _seal(self, plan: Plan) -> Pulled | None:
        count = plan.sealable(self.source.in_hand, self.source.ended)
        if not count:
            return None
        began, packing = monotonic(), self.source.packing
        if self.kept is not None:
            self.kept.check_start(plan.demand.start)
        parcel = self.source.seal(count)
        self._account.sealed(packing, monotonic() - began)
        self.parcels.add(parcel)
        self._pulling_since = None
        return Pulled(parcel.start, parcel.stop, parcel.nbytes, self.parcels.nbytes)
