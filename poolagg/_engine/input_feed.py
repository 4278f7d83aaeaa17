"""Pull the input on the caller's thread, and seal it into batches of the size that the scheduler demands."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from poolagg._engine.failures import note_of_input
from poolagg._engine.observers import ParentTimes
from poolagg._input.batches import RetryBuffer
from poolagg._input.source import Source
from poolagg._runtime.exception_text import add_note
from poolagg._scheduler.chunk_sizing import BATCH_BYTES
from poolagg._scheduler.messages import Pulled, SourceEnded
from poolagg._scheduler.scheduler import Scheduler
from poolagg.errors import CheckpointMismatch

if TYPE_CHECKING:
    from poolagg._engine.checkpointer import Checkpointer

__all__ = ["InputFeed"]

PULLING = 0.001
"""Seconds of pulling at most before the run looks at its workers again."""

IN_HAND = 0.05
"""Seconds after which the feed seals the pulled items, although their chunk could hold more."""


class InputFeed:
    """The input of one run: its source, and the batches that a retry may need.

    `error_last`: an exception of the input ends the input, and waits in `take_error` until all items before are done.
    """

    def __init__(self, source: Source, parent_times: ParentTimes, error_last: bool, chunksize: int | None) -> None:
        self.source = source
        self.retry_buffer = RetryBuffer()
        self.checkpointer: Checkpointer | None = None
        self._parent_times = parent_times
        self._pulling_since: float | None = None
        self._end_told = False
        self._error_last, self._chunksize = error_last, chunksize
        self._error: Exception | None = None

    def take_error(self) -> Exception | None:
        """Return what the input raised, once."""
        error, self._error = self._error, None
        return error

    def end(self, drop: bool) -> None:
        """Pull no more; `drop` the items in hand."""
        self.source.ended = True
        if drop and self.source.in_hand:
            self.source.seal(self.source.in_hand)

    def next_event(self, scheduler: Scheduler) -> Pulled | SourceEnded | None:
        """Pull for a millisecond at most; return the scheduler's next event of the input, None if there is none."""
        source = self.source
        if not source.ended and (wanted := self._wanted(scheduler)):
            now = monotonic()
            if self._pulling_since is None:
                self._pulling_since = now
            if source.in_hand < wanted:
                self._pull(wanted, now + PULLING)
            enough = source.in_hand >= wanted or source.ended or source.nbytes > BATCH_BYTES
            enough = enough or scheduler.demand.urgent or monotonic() - self._pulling_since > IN_HAND
            if enough and (sealed := self._seal(scheduler)):
                return sealed
        if source.ended and source.in_hand and not scheduler.finished:
            return self._seal(scheduler)
        if source.ended and not source.in_hand and not self._end_told:
            self._end_told = True
            return SourceEnded()
        return None

    def is_wanted(self, scheduler: Scheduler) -> bool:
        """Tell whether there are items to pull now."""
        return not self.source.ended and scheduler.demand.items > self.source.in_hand

    def _wanted(self, scheduler: Scheduler) -> int:
        """Return how many pulled items the scheduler demands; first pass those that the result covers already."""
        demand = scheduler.demand
        passed = demand.start - self.source.position
        if self.checkpointer is not None and not self.source.in_hand and passed > 0:
            self.checkpointer.skip(self.source, passed)
        return demand.items

    def _pull(self, wanted: int, until: float) -> None:
        try:
            self.source.pull(wanted, BATCH_BYTES, monotonic, until)
        except CheckpointMismatch:
            raise
        except Exception as error:
            add_note(error, note_of_input(self.source.position))
            if not self._error_last:
                raise
            self._error = error
            self.end(drop=self._chunksize is not None)  # as in the standard library: the chunk is not complete
        self._parent_times.pulling += monotonic() - (until - PULLING)

    def _seal(self, scheduler: Scheduler) -> Pulled | None:
        count = scheduler.sealable(self.source.in_hand, self.source.ended)
        if not count:
            return None
        began, packing = monotonic(), self.source.packing
        if self.checkpointer is not None:
            self.checkpointer.check_start(scheduler.demand.start)
        batch = self.source.seal(count)
        self._parent_times.sealed(packing, monotonic() - began)
        self.retry_buffer.add(batch)
        self._pulling_since = None
        return Pulled(batch.start, batch.stop, batch.nbytes, self.retry_buffer.nbytes)
