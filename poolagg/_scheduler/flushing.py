"""Decide when workers flush: when it is cheap, when much work would be lost with a worker, and when no items wait."""

from __future__ import annotations

from poolagg._scheduler.chunk_sizing import ChunkSizer
from poolagg._scheduler.items import ItemTracker
from poolagg._scheduler.messages import Flush, Instructions
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.slots import Slot, Slots

__all__ = ["Flushing"]

HELD = 4096
"""Most intervals that a worker holds: each failed item leaves a gap, and a gap takes memory in parent and worker."""


class Flushing:
    """Decides when a worker's state is due; `kept_bytes` is the size of the input that the parent keeps for re-runs."""

    def __init__(
        self, options: SchedulerOptions, sizer: ChunkSizer, items: ItemTracker, slots: Slots, instructions: Instructions
    ) -> None:
        self._options, self._sizer, self._items, self._slots = options, sizer, items, slots
        self._instructions = instructions
        self.kept_bytes = 0

    def is_due(self, slot: Slot, items: int) -> bool:
        """Return whether a worker should flush after `items` more."""
        work = slot.held_seconds
        if self._options.share and not slot.chunks:
            return True
        if 0 < self._options.leaves <= slot.held_chunks + len(slot.chunks) + 1:
            return True
        for run in slot.chunks:
            work = 0.0 if run.flush else work + self._sizer.seconds(run.stop - run.start)
        kept_bytes = max(self.kept_bytes, self._sizer.item_bytes * self._items.uncovered)
        if kept_bytes > self._options.kept_bytes or len(slot.held) > HELD:
            return True
        return self._sizer.worth_flushing(work + self._sizer.seconds(items))

    def of(self, slot: Slot) -> None:
        """Tell a worker to flush, unless it was told already."""
        if not slot.flushing:
            slot.flushing = True
            self._instructions.add(Flush(slot.number))

    def of_all(self) -> None:
        """Tell all workers to flush that hold a state or run chunks."""
        for slot in self._slots:
            if self._options.stateful and (slot.held or slot.chunks):
                self.of(slot)

    def of_idle(self) -> None:
        """Tell idle workers to flush: when no items wait, only the held states are missing from the result."""
        for slot in self._slots:
            if self._options.stateful and slot.held and not slot.chunks:
                self.of(slot)
