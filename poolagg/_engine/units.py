"""Count what items advance the progress bar, each attempt that ends well once.

A chunk's units count as its worker holds them; they are settled when the parent commits a state that covers the chunk.
Units of a worker that dies are dropped with its state, since its items run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from poolagg._scheduler.messages import ChunkResult
from poolagg._scheduler.ranges import Interval

__all__ = ["Units"]


class _Ran(NamedTuple):
    slot: int
    start: int
    stop: int
    units: int


class Units:
    """The units of a run.

    `advanced(slot)` returns the chunk that runs in one of so many slots, and its units so far.

    >>> running = [(0, 50), (1, 7)]
    >>> units = Units(running.__getitem__, slots=2)
    >>> units.ran(0, ChunkResult(slot=0, chunk=0, stop=5, seconds=0.1, units=50))
    >>> units.total()  # chunk 0 has ended, chunk 1 runs
    57
    >>> units.lost(0)
    >>> units.total()
    7
    """

    def __init__(self, advanced: Callable[[int], tuple[int, int]], slots: int) -> None:
        self._advanced, self._slots = advanced, range(slots)
        self._settled = 0
        self._used = False
        self._held: list[_Ran] = []
        self._last: dict[int, int] = {}

    def ran(self, start: int, finished: ChunkResult) -> None:
        """Count the units of a chunk; they replace those of earlier attempts at parts of it."""
        self._last[finished.slot] = finished.chunk
        if self._held:
            self._held = [one for one in self._held if one.start < start or one.stop > finished.stop]
        if finished.units:
            self._held.append(_Ran(finished.slot, start, finished.stop, finished.units))

    def covered(self, covers: Iterable[Interval]) -> None:
        """Settle the chunks that a committed state covers."""
        if self._held:
            done = [one for one in self._held if any(a < one.stop and one.start < b for a, b in covers)]
            self._settled += sum(one.units for one in done)
            self._held = [one for one in self._held if one not in done]

    def lost(self, slot: int) -> None:
        """Drop what a dead worker had not flushed."""
        self._held = [one for one in self._held if one.slot != slot]

    def total(self, ended: bool = False) -> int | None:
        """Return the sum, with what running chunks have advanced so far; None if no item has ever advanced.

        `ended`: the run is over, and what still runs does not count.
        """
        running = () if ended else [(slot, self._advanced(slot)) for slot in self._slots]
        live = sum(units for slot, (chunk, units) in running if chunk > self._last.get(slot, -1))
        total = self._settled + sum(one.units for one in self._held) + live
        self._used = self._used or total != 0
        return total if self._used else None
