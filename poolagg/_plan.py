"""The plan of a run: which items go where, when states are shipped, and what is run again. A pure state machine.

Rule of the room: no clock, process or file; answers in, orders out, and every change of an item's state happens here.

             Pulled             Run                Finished             (Shipped)           Commit
    source ─────────▶ waiting ─────────▶ running ───────────▶ held ─────────────▶ arrived ─────────▶ covered
                         ▲                  │                  │                    │
                         └──── Lost, Revoked, given back ──────┴───── unreadable ───┘

Invariant: every item that was pulled is in exactly one of these places; `check()` asserts it. A lane that carries no
state ships with every chunk, so that nothing is ever held. Pieces of an in-order run wait in `arrived` until all
before them are covered; others are covered at once. Two parts have a room of their own: `_ledger.py` keeps what
waits, has arrived and is covered; `_blame.py` finds the item at fault if a worker dies or a payload does not travel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from poolagg._blame import Blame
from poolagg._chunks import Grid, Interval, Intervals, overlap, overlaps, without
from poolagg._lanes import Lane, Lanes
from poolagg._ledger import Ledger
from poolagg._orders import (
    Again,
    Broken,
    Commit,
    Event,
    Fail,
    Failure,
    Finished,
    Lost,
    Merged,
    Order,
    Piece,
    Pulled,
    Replace,
    Revoke,
    Revoked,
    Run,
    Ship,
    Shipped,
    Skip,
    SourceEnded,
    Tick,
    Worn,
)
from poolagg._pace import Pace

__all__ = ["Plan", "Terms"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a plan has to keep to; all of it is known before the run."""

    lanes: int
    carries: bool = False
    in_order: bool = False
    grid: Grid | None = None
    chunksize: int | None = None
    total: int | None = None
    retries: int | None = None
    skip: bool = False
    in_flight: int = 2
    """Chunks a lane has at most: one running, and one waiting so that it never idles while the parent is busy."""
    shared_fate: bool = False
    """A death in one lane takes all lanes with it, so that a suspect must run with nothing else in flight."""
    chunk_seconds: float = 0.0
    """Seconds of work in a chunk at least, where a pool says that each one costs it so much."""
    leaves: int = 0
    """Chunks whose states a lane ships together at most, where each is kept apart until then; 0: they meet at once."""
    window_chunks: int = 8
    window_bytes: int = 32 << 20
    kept_bytes: int = 16 << 20


class Plan:
    """Drive it with `handle`, which returns orders; ask it for `appetite` and `finished`."""

    def __init__(self, terms: Terms, covered: Iterable[Interval] = (), failed: Iterable[Interval] = ()) -> None:
        self.terms = terms
        self.pace = Pace(terms.lanes, terms.chunksize, not terms.carries, terms.chunk_seconds)
        self.stopped = False
        self._ended = False
        self._ledger = Ledger(terms.grid, covered, failed)
        self._blame = Blame(self._ledger, terms.retries, terms.lanes)
        self._lanes = Lanes(terms.lanes, terms.in_flight)
        self._chunk = 0
        self._orders: list[Order] = []

    @property
    def pulled(self) -> int:
        """The first item that is still to be pulled: of what an earlier run covered, nothing is."""
        return self._ledger.pulled

    @property
    def covered(self) -> Intervals:
        """The items that are in the result, or failed for good."""
        return self._ledger.covered

    @property
    def failed(self) -> Intervals:
        """The items that failed for good."""
        return self._ledger.failed

    # -- what the engine asks ----------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every item is covered and there will be no more, or the run was stopped."""
        if self.stopped:
            return True
        if not self._ended or self._lanes.busy or self._ledger.waiting or self._blame.suspects or self._ledger.arrived:
            return False
        return all(lane.empty for lane in self._lanes)

    @property
    def appetite(self) -> int:
        """How many items the source should have in hand now; 0 when nothing is wanted."""
        if self.stopped or self._ended or self._ledger.waiting or self._free_lane() is None:
            return 0
        if self.terms.in_order and not self._window_open():
            return 0
        total = self.terms.total
        # A total that is passed was wrong, and says nothing any more.
        remaining = total - self.pulled if total is not None and total > self.pulled else None
        return self._ledger.wanted(self.pace.size(remaining))

    @property
    def hungry(self) -> bool:
        """Whether a lane has nothing to do, so that an item in hand must not wait for the next."""
        lane = self._free_lane()
        return lane is not None and not lane.chunks

    def sealable(self, in_hand: int, ended: bool) -> int:
        """How many of the items in hand may be a chunk: chunks end at leaf boundaries."""
        if self.terms.grid is None or ended:
            return in_hand
        return max(0, self.terms.grid.floor(self.pulled + in_hand) - self.pulled)

    @property
    def settled(self) -> int:
        """How many items will not run again unless a worker dies: covered, arrived or held."""
        held = sum(stop - start for lane in self._lanes for start, stop in lane.held)
        return len(self.covered) + held + sum(piece.items for *_, piece in self._ledger.arrived)

    def start_of(self, lane: int, chunk: int) -> int:
        """The first item of a chunk in flight."""
        return next((run.start for run in self._lanes[lane].chunks if run.chunk == chunk), 0)

    def done_in(self, lane: int, chunk: int, reached: int) -> int:
        """How many items of a running chunk are done, when it has reached item `reached`."""
        return next((reached - run.start for run in self._lanes[lane].chunks if run.chunk == chunk), 0)

    def stop(self) -> None:
        """End the run: nothing more is ordered."""
        self.stopped = True

    # -- events in, orders out ---------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Order]:
        """Take in what happened; give the orders that follow from it."""
        match event:
            case Pulled(start, stop, nbytes):
                self.pace.pulled(stop - start, nbytes)
                self._ledger.pull(start, stop)
            case SourceEnded():
                self._ended = True
            case Merged(seconds):
                self.pace.merged(seconds)
            case Tick():
                self._ship_all()
            case Finished():
                self._finished(event)
            case Shipped(lane, pieces, pack, opening):
                self._lanes[lane].shipping = False
                self._shipped(self._lanes[lane], pieces, pack, opening)
            case Revoked(lane, chunk, ok):
                self._revoked(self._lanes[lane], chunk, ok)
            case Lost():
                self._lost(event)
            case Worn(lane, _):
                self._lanes[lane].worn = True
                self._lanes.settle(self._lanes[lane])
            case Broken(_, error):
                self._fail(Fail(None, error))
        self._dispatch()
        orders, self._orders = self._orders, []
        return orders

    def _finished(self, event: Finished) -> None:
        lane = self._lanes[event.lane]
        run = lane.chunks.popleft()
        self._lanes.settle(lane)
        assert run.chunk == event.chunk, (run, event)
        if event.stop < run.stop:
            self._ledger.wait((event.stop, run.stop))
        self.pace.finished(event.stop - run.start, event.seconds)
        again = [failure.index for failure in event.failures if self._charge(failure)]
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
                self._unreadable(min(leaves)[0], max(leaves)[1], piece.error)
        self._ledger.wait(*anew)

    def _shipped(self, lane: Lane, pieces: tuple[Piece, ...], pack: float, opening: float) -> None:
        self.pace.shipped(lane.held_seconds, pack, opening)
        runs = lane.forget()
        held, covers = Intervals(runs), Intervals(interval for piece in pieces for interval in piece.covers)
        if held != covers:
            raise AssertionError(f"lane {lane.number} held {held!r} and shipped {covers!r}")
        for piece in pieces:
            if piece.error is None:
                self._arrive(piece)
                continue
            parts = overlaps(piece.covers, runs)
            if len(parts) == 1:
                self._unreadable(*parts[0], piece.error)
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
        self._orders.append(Commit(piece))

    def _revoked(self, lane: Lane, chunk: int, ok: bool) -> None:
        if chunk not in lane.revoking:  # the lane was lost meanwhile, and the chunk with it
            return
        lane.revoking.discard(chunk)
        if not ok:
            lane.refused = chunk  # it has begun, or is about to: asking again would only get the same answer
        else:
            (run,) = (run for run in lane.chunks if run.chunk == chunk)
            lane.chunks.remove(run)
            self._lanes.settle(lane)
            self._ledger.wait((run.start, run.stop))

    # -- failure -----------------------------------------------------------------------------------------------

    def _charge(self, failure: Failure) -> bool:
        """Count a failed attempt; whether the item runs again. If not, it is skipped, or the run fails."""
        attempt, again = self._blame.charge(failure)
        if again:
            self._orders.append(Again(failure, attempt))
        elif self.terms.skip:
            self._ledger.skip(failure.index)
            self._orders.append(Skip(failure, attempt))
        else:
            self._fail(Fail(failure.index, failure.error, attempt, failure.cause, failure.item))
        return again

    def _fail(self, order: Fail) -> None:
        if not self.stopped:
            self.stopped = True
            self._orders.append(order)

    def _lost(self, event: Lost) -> None:
        """What the lane had not shipped runs again, free of charge but for the one item that can be named."""
        lane = self._lanes[event.lane]
        runs, held = list(lane.chunks), lane.forget()
        self._lanes.renew(event.lane)
        self._orders.append(Replace(event.lane))
        suspect, together = event.suspect, event.packing and bool(held)
        if together:  # one of all that were packed together is to blame
            self._blame.suspects.extend(held)
        else:
            self._ledger.wait(*held)
        # With shared fate one death is that of all lanes: whoever was in flight may be to blame, and runs alone.
        explained = self.terms.shared_fate and not (lane.alone or event.certain)
        if suspect is None and explained and runs:
            suspect = runs[0].start, runs[0].stop
        explained = explained or together
        for run in runs:
            if suspect is not None and (part := self._ledger.trimmed(*overlap(suspect, (run.start, run.stop)))):
                explained = True
                if together:
                    self._blame.suspects.append((run.start, run.stop))
                else:
                    self._suspect(run, part, event)
            elif run.alone:
                self._blame.suspects.append((run.start, run.stop))
            else:
                self._ledger.wait((run.start, run.stop))
        if not explained and (deaths := self._blame.silent_death(runs[0].start if runs else None)):
            self._fail(Fail(None, event.error, deaths, event.cause))

    def _suspect(self, run: Run, suspect: Interval, event: Lost) -> None:
        """Charge the suspect if it is one item, else run it alone; if it was, look closer. Neighbours just run."""
        start, stop = suspect
        unnamed = Fail(None, event.error, 0, event.cause)
        # With shared fate, who was one of many in flight may be innocent, even if it is but one item.
        named = stop - start == 1 and (run.alone or event.certain or not self.terms.shared_fate)
        again = named and self._charge(Failure(start, event.cause, event.error))
        if self._ledger.is_probe(run.start, run.stop):
            if not named:
                self._look_closer(run.start, run.stop, unnamed)
            self._blame.probed(run.start)
            return
        if self.terms.grid is not None:
            start, stop = self._ledger.leaf(start)[0], self._ledger.leaf(stop - 1)[1]
        self._ledger.wait((run.start, start), (stop, run.stop))
        if named and not again:
            self._ledger.wait((start, stop))
        elif named or not run.alone:
            self._blame.suspects.append((start, stop))
        else:
            self._look_closer(start, stop, unnamed)

    def _unreadable(self, start: int, stop: int, error: BaseException) -> None:
        """A payload that did not survive packing costs the one item at fault: halve it until that is found."""
        first, last = self._ledger.trimmed(start, stop) or (start, stop)
        if last - first > 1:
            self._look_closer(start, stop, Fail(None, error))
        elif self._charge(Failure(first, "raised", error)) and not self._ledger.is_probe(start, stop):
            self._blame.suspects.append((start, stop))

    def _look_closer(self, start: int, stop: int, failure: Fail) -> None:
        if not self._blame.look_closer(start, stop):
            self._fail(failure)

    def _probed(self, run: Run, event: Finished) -> None:
        """A probe's pieces are dropped, but for what they say about who is at fault."""
        assert event.pieces is not None
        for piece in event.pieces:
            if piece.error is not None:
                self._unreadable(piece.covers[0][0], piece.covers[-1][1], piece.error)
        self._blame.probed(run.start)

    # -- dispatch ----------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if self.stopped:
            return
        self._commit_in_order()
        self._replace_worn()
        self._run_suspects()
        while self._ledger.waiting and self._admissible() and (lane := self._free_lane()):
            self._run(lane, self._ledger.next(self.pace.size(None)))
        self._ship_last()
        self._revoke()

    def _free_lane(self) -> Lane | None:
        """The lane that gets the next chunk, if one may. While suspects wait, one is kept free for them, or all."""
        if not self._blame.suspects:
            return None if self.terms.shared_fate and self._lanes.alone else self._lanes.roomiest()
        if self.terms.shared_fate:
            return None
        lanes = sorted((lane for lane in self._lanes if not lane.worn and not lane.alone), key=_load)[1:]
        return next((lane for lane in lanes if len(lane.chunks) < self.terms.in_flight), None)

    def _run_suspects(self) -> None:
        while self._blame.suspects:
            if self.terms.shared_fate and (self._lanes.busy or any(lane.shipping for lane in self._lanes)):
                return
            lanes = [lane for lane in self._lanes if not lane.worn and not lane.chunks]
            if not lanes:
                return
            lane = min(lanes, key=lambda lane: len(lane.held))
            if not lane.empty:
                self._ship(lane)
                return
            self._run(lane, self._blame.suspects.popleft(), alone=True)

    def _run(self, lane: Lane, interval: Interval, alone: bool = False) -> None:
        start, stop = interval
        ship = not self.terms.carries or alone or self._ship_is_due(lane, stop - start)
        budget = float("inf") if self.terms.chunksize is not None or alone else self.pace.budget
        run = Run(lane.number, self._chunk, start, stop, ship, alone, budget, self._ledger.failed_in(start, stop))
        self._chunk += 1
        lane.chunks.append(run)
        self._lanes.settle(lane)
        self._orders.append(run)

    def _ship_is_due(self, lane: Lane, items: int) -> bool:
        """Shipping pays when it is cheap against the work since the last time, or much would have to run again."""
        work = lane.held_seconds
        if 0 < self.terms.leaves <= lane.held_chunks + len(lane.chunks) + 1:
            return True
        for run in lane.chunks:
            work = 0.0 if run.ship else work + self.pace.seconds(run.stop - run.start)
        kept_bytes = self.pace.item_bytes * self._ledger.uncovered
        return self.pace.worth_shipping(work + self.pace.seconds(items)) or kept_bytes > self.terms.kept_bytes

    def _ship(self, lane: Lane) -> None:
        if not lane.shipping:
            lane.shipping = True
            self._orders.append(Ship(lane.number))

    def _ship_all(self) -> None:
        for lane in self._lanes:
            if self.terms.carries and not self.stopped and (lane.held or lane.chunks):
                self._ship(lane)

    def _ship_last(self) -> None:
        """With nothing left to run, what lanes hold is all that is missing."""
        if not self._ended or not self.terms.carries or self._ledger.waiting or self._blame.suspects:
            return
        for lane in self._lanes:
            if lane.held and not lane.chunks:
                self._ship(lane)

    def _revoke(self) -> None:
        """A lane without work takes over a chunk that waits behind another."""
        if self._ledger.waiting or self._blame.suspects or self.terms.in_flight == 1 or not self._lanes.idle:
            return
        if not self._ended and self.appetite:
            return
        idle = self._lanes.idle - sum(len(lane.revoking) for lane in self._lanes)
        for lane in self._lanes:
            if idle > 0 and len(lane.chunks) > 1 and not lane.revoking:
                chunk = lane.chunks[-1].chunk
                if chunk == lane.refused:
                    continue
                lane.revoking.add(chunk)
                self._orders.append(Revoke(lane.number, chunk))
                idle -= 1

    def _replace_worn(self) -> None:
        for lane in [self._lanes[number] for number in sorted(self._lanes.worn)]:
            if not lane.chunks:
                if lane.empty:
                    self._lanes.renew(lane.number)
                    self._orders.append(Replace(lane.number))
                else:
                    self._ship(lane)

    # -- input order -------------------------------------------------------------------------------------------

    def _commit_in_order(self) -> None:
        while piece := self._ledger.in_order():
            self._commit(piece)

    def _window_open(self) -> bool:
        ahead = self.pulled - self.covered.prefix
        return (
            self._ledger.arrived_bytes <= self.terms.window_bytes
            and ahead <= self.terms.window_chunks * self.terms.lanes * self.pace.largest
        )

    def _admissible(self) -> bool:
        """In order and with the window's bytes used up, only the oldest item may run: all others wait for it."""
        if not self.terms.in_order or self._ledger.arrived_bytes <= self.terms.window_bytes:
            return True
        return self._ledger.waiting[0][0] == self.covered.prefix

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
        self._ledger.check(elsewhere, self.stopped)


def _load(lane: Lane) -> int:
    return len(lane.chunks)
