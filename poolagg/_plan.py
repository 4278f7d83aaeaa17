"""The plan of a run: which items go where, when states are shipped, and what is run again. A pure state machine.

Rule of the room: no clock, process or file; answers in, orders out, and every change of an item's state happens here.

             Pulled             Run                Finished             (Shipped)           Commit
    source ─────────▶ waiting ─────────▶ running ───────────▶ held ─────────────▶ arrived ─────────▶ covered
                         ▲                  │                  │                    │
                         └──── Lost, Revoked, given back ──────┴───── unreadable ───┘

Invariant: every item that was pulled is in exactly one of these places; `check()` asserts it. A lane that carries no
state ships with every chunk, so that nothing is ever held. Pieces of an in-order run wait in `arrived` until all
before them are covered; others are covered at once. The parts have rooms of their own: `_ledger.py` keeps what waits,
has arrived and is covered, `_lanes.py` what each lane was given; `_losses.py` decides what becomes of a dead worker's
items, `_blame.py` finds the item at fault; `_stealing.py` moves work to lanes without any, `_shipping.py` has states
shipped. They add their orders to the one list in `_pending.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from poolagg._blame import Blame
from poolagg._chunks import Interval, Intervals, overlaps, without
from poolagg._lanes import Lane, Lanes
from poolagg._ledger import Ledger
from poolagg._losses import Losses
from poolagg._orders import (
    Broken,
    ChunkRan,
    Commit,
    Event,
    Fail,
    Finished,
    ItemsRun,
    Late,
    Lost,
    Merged,
    Order,
    Piece,
    Pulled,
    Release,
    Replace,
    Revoked,
    Run,
    Shipped,
    SourceEnded,
    Tick,
    Worn,
    Yielded,
)
from poolagg._pace import Pace
from poolagg._pending import Instructions
from poolagg._shipping import Shipping
from poolagg._stealing import Stealing
from poolagg._terms import Terms

__all__ = ["Counts", "Plan"]


class Demand(NamedTuple):
    """What the plan wants of the source: `items` in hand, from item `start` on; it passes what is covered before."""

    start: int
    items: int
    urgent: bool
    """A lane has nothing to do, so that an item in hand must not wait for the next."""


class Counts(NamedTuple):
    """How many items are in the result, how many failed for good, and how many have run without a failure."""

    merged: int = 0
    failed: int = 0
    done: int = 0


class Plan:
    """Tell it what happened, by `handle`, which returns orders; between two events the engine has five questions."""

    def __init__(self, terms: Terms, covered: Iterable[Interval] = (), failed: Iterable[Interval] = ()) -> None:
        self.terms = terms
        self.pace = Pace(terms.lanes, terms.chunksize, not terms.carries, terms.chunk_seconds)
        self._ended = False
        self._instructions = Instructions()
        self._ledger = Ledger(terms.grid, covered, failed)
        self._blame = Blame(self._ledger, terms, self._instructions)
        self._losses = Losses(self._ledger, self._blame, self._instructions, terms.shared_fate)
        self._lanes = Lanes(terms.lanes, terms.in_flight, terms.most_items)
        self._stealing = Stealing(self._ledger, self._lanes, terms.grid, self._instructions)
        self._shipping = Shipping(terms, self.pace, self._ledger, self._lanes, self._instructions)
        self._chunk = 0

    # -- what the engine asks ----------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every item is covered and there will be no more, or the run was stopped."""
        if self._instructions.stopped:
            return True
        if not self._ended or self._lanes.busy or self._ledger.waiting or self._blame.suspects or self._ledger.arrived:
            return False
        return all(lane.empty for lane in self._lanes)

    @property
    def demand(self) -> Demand:
        """What is wanted of the source now."""
        lane = self._free_lane()
        return Demand(self._ledger.pulled, self._wanted(lane), lane is not None and not lane.chunks)

    def _wanted(self, lane: Lane | None) -> int:
        """Return how many items a chunk for this lane should have, 0 if none is wanted."""
        if lane is None or self._instructions.stopped or self._ended or self._ledger.waiting:
            return 0
        if self.terms.in_order and not self._window_open():
            return 0
        total, pulled = self.terms.total, self._ledger.pulled
        # A total that is passed was wrong, and says nothing any more.
        remaining = total - pulled if total is not None and total > pulled else None
        return self._ledger.wanted(self.pace.size(remaining))

    def sealable(self, in_hand: int, ended: bool) -> int:
        """Return how many of the items in hand may be a chunk: chunks end at leaf boundaries."""
        if self.terms.grid is None or ended:
            return in_hand
        pulled = self._ledger.pulled
        return max(0, self.terms.grid.floor(pulled + in_hand) - pulled)

    @property
    def divisible(self) -> list[tuple[int, int]]:
        """Lanes, with the chunk that each runs, which may be asked to give some of it to lanes without work."""
        return self._stealing.divisible() if self.terms.chunksize is None and self._starving else []

    def counts(self, reached: Iterable[tuple[int, int, int]] = ()) -> Counts:
        """Count the items by what has become of them; `reached`: lanes, their chunks, the items that these are at."""
        failed, covered = self._ledger.failures, len(self._ledger.covered)
        held = sum(stop - start for lane in self._lanes for start, stop in lane.held)
        arrived = sum(piece.items for *_, piece in self._ledger.arrived)
        merged, done = covered - failed, held + arrived
        for lane, chunk, index in reached:
            done += sum(index - run.start for run in self._lanes[lane].chunks if run.chunk == chunk)
        return Counts(merged, failed, merged + done)

    # -- what the engine tells ---------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the run: nothing more is ordered."""
        self._instructions.stopped = True

    def handle(self, event: Event) -> list[Order]:
        """Take in what happened; give the orders that follow from it."""
        match event:  # what happens most often comes first
            case Finished():
                self._finished(event)
            case Pulled(start, stop, nbytes, kept_bytes):
                self._shipping.kept_bytes = kept_bytes
                self.pace.pulled(stop - start, nbytes)
                for interval in self._ledger.pull(start, stop):
                    self._instructions.add(Release(*interval))
            case Merged(seconds):
                self.pace.merged(seconds)
            case SourceEnded():
                self._ended = True
            case ItemsRun(items_run):
                for lane, items in items_run.items():
                    self._lanes.spend(self._lanes[lane], items)
            case Tick():
                if not self._instructions.stopped:
                    self._shipping.of_all()
            case Shipped(lane, pieces, pack, opening):
                self._lanes[lane].shipping = False
                self._shipped(self._lanes[lane], pieces, pack, opening)
            case Revoked():
                self._stealing.revoked(event)
            case Late(lane, chunk):
                if (lane, chunk) in self.divisible:
                    self._stealing.divide(self._lanes[lane], chunk)
            case Yielded():
                self._stealing.yielded(event)
            case Lost():
                self._lost(event)
            case Worn(lane, _):
                self._lanes[lane].worn = True
                self._lanes.settle(self._lanes[lane])
            case Broken(_, error):
                self._instructions.fail(Fail(None, error))
        self._dispatch()
        return self._instructions.take()

    def _finished(self, event: Finished) -> None:
        lane = self._lanes[event.lane]
        run = self._lanes.finish(lane, event.stop)
        assert run.chunk == event.chunk, (run, event)
        if event.stop > run.stop:
            raise AssertionError(f"lane {lane.number} ran up to item {event.stop}, and had given away all from {run}")
        self._instructions.add(ChunkRan(run.start, event))
        self._stealing.give_back(event.stop, run.stop)
        self.pace.finished(event.stop - run.start, event.seconds)
        again = [failure.index for failure in event.failures if self._blame.charge(failure)]
        if self._ledger.is_probe(run.start, run.stop):
            self._probed(run, event)
            return
        if self.terms.grid is not None:
            self._leaves(event, again)
            return
        self._ledger.wait(*((index, index + 1) for index in again))
        failed = [failure.index for failure in event.failures]
        lane.held += without((run.start, event.stop), [*failed, *run.without])
        lane.held_seconds += event.seconds
        lane.held_chunks += 1
        if event.pieces is not None:
            self._shipped(lane, event.pieces, event.pack_seconds, event.open_seconds)

    def _leaves(self, event: Finished, again: list[int]) -> None:
        """A leaf with an item that runs again is folded anew, whole; its piece is dropped."""
        assert event.pieces is not None
        anew = {self._ledger.leaf(index) for index in again}
        for piece in event.pieces:
            leaves = self._ledger.leaves(piece)
            if leaves & anew:
                anew |= leaves
            elif piece.error is None:
                self._arrive(piece)
            else:
                self._losses.unreadable((min(leaves)[0], max(leaves)[1]), piece.error)
        self._ledger.wait(*anew)

    def _shipped(self, lane: Lane, pieces: tuple[Piece, ...], pack: float, opening: float) -> None:
        self.pace.shipped(lane.held_seconds, pack, opening)
        intervals = lane.forget()
        held, covers = Intervals(intervals), Intervals(interval for piece in pieces for interval in piece.covers)
        if held != covers:
            raise AssertionError(f"lane {lane.number} held {held!r} and shipped {covers!r}")
        for piece in pieces:
            if piece.error is None:
                self._arrive(piece)
                continue
            parts = overlaps(piece.covers, intervals)
            if len(parts) == 1:
                self._losses.unreadable(parts[0], piece.error)
            else:
                self._blame.suspects.extend(parts)

    def _arrive(self, piece: Piece) -> None:
        self.pace.weighed(piece.nbytes, piece.items)
        if self.terms.in_order:
            self._ledger.arrive(piece)
        else:
            self._commit(piece)

    def _commit(self, piece: Piece) -> None:
        self._blame.progress()
        self._ledger.cover(piece)
        self._instructions.add(Commit(piece))

    # -- failure -----------------------------------------------------------------------------------------------

    def _lost(self, event: Lost) -> None:
        lane = self._lanes[event.lane]
        self._lanes.renew(event.lane)
        self._instructions.add(Replace(event.lane))
        self._losses.lost(event, lane)

    def _probed(self, run: Run, event: Finished) -> None:
        """A probe's pieces are dropped, but for what they say about who is at fault."""
        assert event.pieces is not None
        for piece in event.pieces:
            if piece.error is not None:
                self._losses.unreadable((piece.covers[0][0], piece.covers[-1][1]), piece.error)
        self._blame.probed(run.start)

    # -- dispatch ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if self._instructions.stopped:
            return
        while self.terms.in_order and (piece := self._ledger.in_order()):
            self._commit(piece)
        if self._lanes.worn:
            self._replace_worn()
        if self._blame.suspects:
            self._run_suspects()
        while self._ledger.waiting and self._admissible() and (lane := self._free_lane()):
            self._run_some(lane, self._ledger.next(self.pace.size(None)))
        if self._ended and self.terms.carries and not (self._ledger.waiting or self._blame.suspects):
            self._shipping.of_idle()
        if self.terms.in_flight > 1 and self._starving:
            self._stealing.revoke()

    @property
    def _starving(self) -> bool:
        """Whether a lane has nothing to do while others run chunks, and nothing is to come that it could be given."""
        if not (self._lanes.idle and self._lanes.busy) or self._instructions.stopped:
            return False
        if self._ledger.waiting or self._blame.suspects:
            return False
        return self._ended or not self._wanted(self._free_lane())

    def _free_lane(self) -> Lane | None:
        """The lane that gets the next chunk, if one may. While suspects wait, one is kept free for them, or all."""
        if not self._blame.suspects:
            return None if self.terms.shared_fate and self._lanes.alone else self._lanes.roomiest()
        if self.terms.shared_fate:
            return None
        return self._lanes.second_roomiest()

    def _run_suspects(self) -> None:
        while self._blame.suspects:
            if self.terms.shared_fate and (self._lanes.busy or any(lane.shipping for lane in self._lanes)):
                return
            lanes = [lane for lane in self._lanes if not lane.worn and not lane.chunks]
            if not lanes:
                return
            lane = min(lanes, key=lambda lane: len(lane.held))
            if not lane.empty:
                self._shipping.of(lane)
                return
            self._run_some(lane, self._blame.suspects.popleft(), alone=True)

    def _run_some(self, lane: Lane, interval: Interval, alone: bool = False) -> None:
        """Run as many of the items as the lane's worker may still run."""
        start, stop = interval
        end = stop if stop - start <= lane.room else self._ledger.cut(interval, lane.room)
        if end < stop and alone:
            self._blame.suspects.appendleft((end, stop))
        elif end < stop:
            self._ledger.wait((end, stop))
        if start < end:
            self._run(lane, (start, end), alone)
        else:  # there is room for some items, and none for a leaf
            self._lanes.close(lane)
            self._replace_worn()

    def _run(self, lane: Lane, interval: Interval, alone: bool = False) -> None:
        start, stop = interval
        ship = not self.terms.carries or alone or self._shipping.is_due(lane, stop - start)
        budget = float("inf") if self.terms.chunksize is not None or alone else self.pace.budget
        run = Run(lane.number, self._chunk, start, stop, ship, alone, budget, self._ledger.failed_in(start, stop))
        self._chunk += 1
        self._lanes.give(lane, run)
        self._instructions.add(run)

    def _replace_worn(self) -> None:
        more = not self._ended or self._ledger.waiting or self._blame.suspects
        for lane in [self._lanes[number] for number in sorted(self._lanes.worn)]:
            if not lane.chunks:
                if lane.empty and more:
                    self._lanes.renew(lane.number)
                    self._instructions.add(Replace(lane.number, lane.reason))
                elif not lane.empty:
                    self._shipping.of(lane)

    # -- input order -------------------------------------------------------------------------------------------

    def _window_open(self) -> bool:
        ahead = self._ledger.pulled - self._ledger.covered.prefix
        return (
            self._ledger.arrived_bytes <= self.terms.window_bytes
            and ahead <= self.terms.window_chunks * self.terms.lanes * self.pace.largest
        )

    def _admissible(self) -> bool:
        """In order and with the window's bytes used up, only the oldest item may run: all others wait for it."""
        if not self.terms.in_order or self._ledger.arrived_bytes <= self.terms.window_bytes:
            return True
        return self._ledger.waiting[0][0] == self._ledger.covered.prefix

    # -- the invariant -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that every pulled item is in exactly one place, and that nothing is ahead of what was promised."""
        elsewhere = []
        for interval in [*self._blame.suspects, *self._blame.probing]:
            if not self._ledger.is_probe(*interval):
                elsewhere += self._ledger.to_run(interval)
        for lane in self._lanes:
            assert len(lane.chunks) <= self.terms.in_flight
            assert not (lane.held and not self.terms.carries)
            elsewhere += lane.held
            for run in lane.chunks:
                if not self._ledger.is_probe(run.start, run.stop):
                    elsewhere += without((run.start, run.stop), run.without)
        self._lanes.check()
        self._ledger.check(elsewhere, self._instructions.stopped)
