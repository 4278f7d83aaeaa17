"""Work stealing: idle workers take over a chunk that waits, or the rest of one that runs.

The scheduler cancels a chunk that waits. It divides a running chunk that has spent long on one batch, and so holds
heavy items: it tells the worker to yield, once for each chunk, and other workers run the items not yet begun.
"""

from __future__ import annotations

from poolagg._scheduler.items import ItemTracker
from poolagg._scheduler.messages import Cancel, Cancelled, Instructions, Yield, Yielded
from poolagg._scheduler.ranges import LeafGrid
from poolagg._scheduler.slots import Slot, Slots

__all__ = ["Stealing"]


class Stealing:
    """Moves work between workers. The scheduler calls it while a worker is idle and no items wait."""

    def __init__(self, items: ItemTracker, slots: Slots, grid: LeafGrid | None, instructions: Instructions) -> None:
        self._items = items
        self._slots = slots
        self._grid = grid
        self._instructions = instructions

    # -- chunks that wait ----------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Cancel chunks that wait behind others: one for each idle worker."""
        idle = self._slots.idle - sum(len(slot.cancelling) for slot in self._slots)
        for slot in self._slots:
            if idle > 0 and len(slot.chunks) > 1 and not slot.cancelling:
                chunk = slot.chunks[-1].chunk
                if chunk == slot.refused:
                    continue
                slot.cancelling.add(chunk)
                self._instructions.add(Cancel(slot.number, chunk))
                idle -= 1

    def cancelled(self, event: Cancelled) -> None:
        """Let the items of a cancelled chunk wait; if its worker had begun it, do not cancel it again."""
        slot, chunk = self._slots[event.slot], event.chunk
        if chunk not in slot.cancelling:  # the worker was lost meanwhile, and the chunk with it
            return
        slot.cancelling.discard(chunk)
        if not event.ok:
            slot.refused = chunk  # the worker has begun it, or is about to
            return
        run = self._slots.take_back(slot, chunk)
        self._items.wait((run.start, run.stop))

    # -- chunks that run -----------------------------------------------------------------------------------------------

    def divisible(self) -> list[tuple[int, int]]:
        """Return the slots, each with its running chunk, that may be told to give items away."""
        running = [(number, self._slots[number].chunks[0]) for number in sorted(self._slots.busy)]
        return [
            (number, run.chunk)
            for number, run in running
            if not run.alone and run.stop - run.start > 1 and self._slots[number].yielding != run.chunk
        ]

    def divide(self, slot: Slot, chunk: int) -> None:
        """Tell a worker to give the rest of its chunk away."""
        slot.yielding = chunk
        self._instructions.add(Yield(slot.number, chunk))

    def yielded(self, event: Yielded) -> None:
        """Let the items that a worker gave away wait for other workers."""
        slot = self._slots[event.slot]
        if event.reached is None or not slot.chunks or slot.chunks[0].chunk != event.chunk:
            return
        run = slot.chunks[0]
        stop = event.reached if self._grid is None else self._grid.ceil(event.reached)
        if stop < run.stop:
            left_out = tuple(index for index in run.without if index < stop)
            slot.chunks[0] = run._replace(stop=stop, without=left_out)
            self._slots.spend(slot, slot.chunks[0].items() - run.items())
            self.give_back(stop, run.stop)

    def give_back(self, start: int, stop: int) -> None:
        """Let the rest of a chunk wait, in one part for each idle worker, because its items may be heavy."""
        if start == stop:
            return
        size = -(-(stop - start) // max(1, self._slots.idle))
        while start < stop:
            end = min(stop, self._items.chunk_end(start, size))
            self._items.wait((start, end))
            start = end
