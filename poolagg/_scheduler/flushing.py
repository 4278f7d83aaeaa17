"""When workers flush what they hold: where it pays, where much would have to run again, and when nothing is left."""

from __future__ import annotations

from poolagg._scheduler.chunk_sizing import ChunkSizer
from poolagg._scheduler.items import ItemTracker
from poolagg._scheduler.messages import Flush, Instructions
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.slots import Slot, Slots

__all__ = ["Flushing"]

HELD = 4096
"""RangeSet that a worker holds at most: each item that fails leaves a gap, and a gap takes memory here and there."""


class Flushing:
    """Decides when a worker's state is due; `kept_bytes` is what the parent keeps of the input for a re-run."""

    def __init__(
        self, terms: SchedulerOptions, sizer: ChunkSizer, items: ItemTracker, slots: Slots, instructions: Instructions
    ) -> None:
        self._options, self._sizer, self._items, self._slots = terms, sizer, items, slots
        self._instructions = instructions
        self.kept_bytes = 0

    def is_due(self, slot: Slot, items: int) -> bool:
        """Whether a worker flushes after so many items more: it is cheap, or much would have to run again."""
        work = slot.held_seconds
        if 0 < self._options.leaves <= slot.held_chunks + len(slot.chunks) + 1:
            return True
        for run in slot.chunks:
            work = 0.0 if run.flush else work + self._sizer.seconds(run.stop - run.start)
        kept_bytes = max(self.kept_bytes, self._sizer.item_bytes * self._items.uncovered)
        if kept_bytes > self._options.kept_bytes or len(slot.held) > HELD:
            return True
        return self._sizer.worth_flushing(work + self._sizer.seconds(items))

    def of(self, slot: Slot) -> None:
        """Have a worker flush, unless it is about to."""
        if not slot.flushing:
            slot.flushing = True
            self._instructions.add(Flush(slot.number))

    def of_all(self) -> None:
        """Have all workers flush that hold something, or are about to."""
        for slot in self._slots:
            if self._options.stateful and (slot.held or slot.chunks):
                self.of(slot)

    def of_idle(self) -> None:
        """Have workers without work flush: with nothing left to run, what they hold is all that is missing."""
        for slot in self._slots:
            if self._options.stateful and slot.held and not slot.chunks:
                self.of(slot)
