"""What lanes without work take over from others: a chunk that waits, or the rest of one that runs.

A chunk that waits is revoked. One that runs is divided if it has been at one batch for long, so that it holds heavy
items: its lane is asked to yield, once for each chunk, and other lanes run what it has not come to.
"""

from __future__ import annotations

from poolagg._chunks import Grid
from poolagg._lanes import Lane, Lanes
from poolagg._ledger import Ledger
from poolagg._orders import Revoke, Revoked, Yield, Yielded
from poolagg._pending import Instructions

__all__ = ["Stealing"]


class Stealing:
    """Moves work between lanes. The plan says when: while a lane has nothing to do, and nothing else can be given."""

    def __init__(self, ledger: Ledger, lanes: Lanes, grid: Grid | None, instructions: Instructions) -> None:
        self._ledger = ledger
        self._lanes = lanes
        self._grid = grid
        self._instructions = instructions

    # -- chunks that wait --------------------------------------------------------------------------------------

    def revoke(self) -> None:
        """Ask for chunks that wait behind others: one for each lane without work."""
        idle = self._lanes.idle - sum(len(lane.revoking) for lane in self._lanes)
        for lane in self._lanes:
            if idle > 0 and len(lane.chunks) > 1 and not lane.revoking:
                chunk = lane.chunks[-1].chunk
                if chunk == lane.refused:
                    continue
                lane.revoking.add(chunk)
                self._instructions.add(Revoke(lane.number, chunk))
                idle -= 1

    def revoked(self, event: Revoked) -> None:
        """A chunk was taken back, or was not."""
        lane, chunk = self._lanes[event.lane], event.chunk
        if chunk not in lane.revoking:  # the lane was lost meanwhile, and the chunk with it
            return
        lane.revoking.discard(chunk)
        if not event.ok:
            lane.refused = chunk  # it has begun, or is about to: asking again would only get the same answer
            return
        run = self._lanes.take_back(lane, chunk)
        self._ledger.wait((run.start, run.stop))

    # -- chunks that run ---------------------------------------------------------------------------------------

    def divisible(self) -> list[tuple[int, int]]:
        """Give the lanes, with the chunk that each runs, that may be asked to give some of it away."""
        running = [(number, self._lanes[number].chunks[0]) for number in sorted(self._lanes.busy)]
        return [
            (number, run.chunk)
            for number, run in running
            if not run.alone and run.stop - run.start > 1 and self._lanes[number].yielding != run.chunk
        ]

    def divide(self, lane: Lane, chunk: int) -> None:
        """Ask for the rest of a chunk."""
        lane.yielding = chunk
        self._instructions.add(Yield(lane.number, chunk))

    def yielded(self, event: Yielded) -> None:
        """Have other lanes run what the lane will not."""
        lane = self._lanes[event.lane]
        if event.reached is None or not lane.chunks or lane.chunks[0].chunk != event.chunk:
            return
        run = lane.chunks[0]
        stop = event.reached if self._grid is None else self._grid.ceil(event.reached)
        if stop < run.stop:
            left_out = tuple(index for index in run.without if index < stop)
            lane.chunks[0] = run._replace(stop=stop, without=left_out)
            self._lanes.spend(lane, lane.chunks[0].items() - run.items())
            self.give_back(stop, run.stop)

    def give_back(self, start: int, stop: int) -> None:
        """Have the rest of a chunk wait, in as many parts as lanes have no work: its items may be heavy."""
        if start == stop:
            return
        size = -(-(stop - start) // max(1, self._lanes.idle))
        while start < stop:
            end = min(stop, self._ledger.chunk_end(start, size))
            self._ledger.wait((start, end))
            start = end
