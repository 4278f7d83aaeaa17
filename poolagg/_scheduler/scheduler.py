"""The scheduler of a run: assigns items to workers, requests flushes, repeats lost work. A pure state machine.

Rule: no clock, process or file; events in, instructions out; an item changes its state only in this package.

             Pulled            RunChunk           ChunkResult           (Flushed)             Commit
    source ─────────▶ waiting ─────────▶ running ─────────────▶ held ─────────────▶ arrived ─────────▶ covered
                         ▲                  │                     │                    │
                         └── Lost, Cancelled, given back ─────────┴───── unreadable ───┘

Invariant: each pulled item is in exactly one of these states; `check()` asserts it. A stateless worker flushes with
each chunk, so that it holds nothing. Partial states of an in-order run stay in `arrived` until all items before them
are covered; others are covered at once.

The parts: `items.py` tracks the items that wait, have arrived or are covered, and `slots.py` those that a worker has.
`losses.py` decides what becomes of a dead worker's items, and `suspects.py` finds the item at fault. `stealing.py`
moves work to idle workers, and `flushing.py` requests flushes. Each appends to one list, `messages.Instructions`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from poolagg._scheduler.chunk_sizing import ChunkSizer
from poolagg._scheduler.flushing import Flushing
from poolagg._scheduler.items import Counts, ItemTracker
from poolagg._scheduler.losses import Losses
from poolagg._scheduler.messages import (
    Broken,
    Cancelled,
    ChunkRan,
    ChunkResult,
    Commit,
    Event,
    Fail,
    FlushAll,
    Flushed,
    Instruction,
    Instructions,
    ItemsRun,
    Late,
    Lost,
    Merged,
    PartialState,
    Pulled,
    Release,
    RestartWorker,
    Retiring,
    RunChunk,
    SourceEnded,
    Yielded,
)
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import Interval, RangeSet, overlaps, without
from poolagg._scheduler.slots import Slot, Slots
from poolagg._scheduler.stealing import Stealing
from poolagg._scheduler.suspects import SuspectTracker

__all__ = ["Counts", "Scheduler"]


class Demand(NamedTuple):
    """The items that the scheduler wants from the source: so many `items`, from `start` on, past those covered."""

    start: int
    items: int
    urgent: bool
    """A worker is idle, so that an item at hand must not wait for the next."""


class Scheduler:
    """Takes events by `handle`, which returns instructions; between two events the engine reads five properties."""

    def __init__(
        self, options: SchedulerOptions, covered: Iterable[Interval] = (), failed: Iterable[Interval] = ()
    ) -> None:
        self.options = options
        first = options.share or 1
        self.sizer = ChunkSizer(options.slots, options.chunksize, not options.stateful, options.chunk_seconds, first)
        self._ended = self._enough = False
        self._instructions = Instructions()
        self._items = ItemTracker(options.grid, covered, failed)
        self._suspects = SuspectTracker(self._items, options, self._instructions)
        self._losses = Losses(self._items, self._suspects, self._instructions, options.one_failure_domain)
        self._slots = Slots(options.slots, options.in_flight, options.most_items)
        self._stealing = Stealing(self._items, self._slots, options.grid, self._instructions)
        self._flushing = Flushing(options, self.sizer, self._items, self._slots, self._instructions)
        self._chunk = 0

    # -- queries of the engine -----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True if the source has ended and all items are covered, or if the run was stopped."""
        if self._instructions.stopped:
            return True
        if not self._ended or self._slots.busy or self._items.waiting or self._suspects.suspects or self._items.arrived:
            return False
        return all(slot.empty for slot in self._slots)

    @property
    def demand(self) -> Demand:
        """The items that the scheduler wants from the source now."""
        slot = self._free_slot()
        return Demand(self._items.pulled, self._wanted(slot), slot is not None and not slot.chunks)

    def _wanted(self, slot: Slot | None) -> int:
        """Return how many items a chunk for this slot should have, 0 if none is wanted."""
        if slot is None or self._instructions.stopped or self._ended or self._items.waiting:
            return 0
        if (self._enough and self._items.uncovered) or (self.options.in_order and not self._window_open()):
            return 0
        total, pulled = self.options.total, self._items.pulled
        # A total that the input exceeds was wrong, so it is ignored from then on.
        remaining = total - pulled if total is not None and total > pulled else None
        return self._items.wanted(self.sizer.size(remaining))

    def sealable(self, in_hand: int, ended: bool) -> int:
        """Return how many of the items at hand may become a chunk: chunks end at leaf boundaries."""
        if self.options.grid is None or ended:
            return in_hand
        pulled = self._items.pulled
        return max(0, self.options.grid.floor(pulled + in_hand) - pulled)

    @property
    def divisible(self) -> list[tuple[int, int]]:
        """Slots, each with its running chunk, that may be told to give items to idle workers."""
        return self._stealing.divisible() if self.options.chunksize is None and self._starving else []

    def counts(self, reached: Iterable[tuple[int, int, int]] = ()) -> Counts:
        """Count the items by their state; `reached`: slots, their chunks, and the item that each has come to."""
        in_workers = sum(stop - start for slot in self._slots for start, stop in slot.held)
        for slot, chunk, index in reached:
            in_workers += sum(index - run.start for run in self._slots[slot].chunks if run.chunk == chunk)
        return self._items.counts(in_workers)

    # -- events --------------------------------------------------------------------------------------------------------

    def stop(self, dropped: Iterable[Instruction] = ()) -> None:
        """End the run: give no more instructions. The engine has not carried out those `dropped`."""
        self._instructions.stopped = True
        self._items.drop(dropped)

    def handle(self, event: Event) -> list[Instruction]:
        """Take in an event; return the instructions that follow from it."""
        match event:  # the most frequent event is first
            case ChunkResult():
                self._finished(event)
            case Pulled(start, stop, nbytes, kept_bytes):
                self._flushing.kept_bytes = kept_bytes
                self.sizer.pulled(stop - start, nbytes)
                for interval in self._items.pull(start, stop):
                    self._instructions.add(Release(*interval))
            case Merged(seconds, enough):
                self.sizer.merged(seconds)
                self._enough = enough
            case SourceEnded():
                self._ended = True
            case ItemsRun(items_run):
                for slot, items in items_run.items():
                    self._slots.spend(self._slots[slot], items)
            case FlushAll():
                if not self._instructions.stopped:
                    self._flushing.of_all()
            case Flushed(slot, states, pack, opening):
                self._slots[slot].flushing = False
                self._flushed(self._slots[slot], states, pack, opening)
            case Cancelled():
                self._stealing.cancelled(event)
            case Late(slot, chunk):
                if (slot, chunk) in self.divisible:
                    self._stealing.divide(self._slots[slot], chunk)
            case Yielded():
                self._stealing.yielded(event)
            case Lost():
                self._lost(event)
            case Retiring(slot, _):
                self._slots[slot].retiring = True
                self._slots.settle(self._slots[slot])
            case Broken(_, error):
                self._instructions.fail(Fail(None, error))
        self._dispatch()
        return self._instructions.take()

    def _finished(self, event: ChunkResult) -> None:
        slot = self._slots[event.slot]
        run = self._slots.finish(slot, event.stop)
        assert run.chunk == event.chunk, (run, event)
        if event.stop > run.stop:
            raise AssertionError(f"worker {slot.number} ran up to item {event.stop}, beyond the end of {run}")
        self._instructions.add(ChunkRan(run.start, event))
        self._stealing.give_back(event.stop, run.stop)
        self.sizer.finished(event.stop - run.start, event.seconds)
        again = [failure.index for failure in event.failures if self._suspects.charge(failure)]
        if self._items.is_probe(run.start, run.stop):
            self._probed(run, event)
            return
        if self.options.grid is not None:
            self._leaves(event, again)
            return
        self._items.wait(*((index, index + 1) for index in again))
        failed = [failure.index for failure in event.failures]
        slot.held += without((run.start, event.stop), [*failed, *run.without])
        slot.held_seconds += event.seconds
        slot.held_chunks += 1
        if event.states is not None:
            self._flushed(slot, event.states, event.pack_seconds, event.open_seconds)

    def _leaves(self, event: ChunkResult, again: list[int]) -> None:
        """Accept the states of whole leaves; drop a leaf's state and fold it again if one of its items runs again."""
        assert event.states is not None
        repeated = {self._items.leaf(index) for index in again}
        for state in event.states:
            leaves = self._items.leaves(state)
            if leaves & repeated:
                repeated |= leaves
            elif state.error is None:
                self._arrive(state)
            else:
                self._losses.unreadable((min(leaves)[0], max(leaves)[1]), state.error)
        self._items.wait(*repeated)

    def _flushed(self, slot: Slot, states: tuple[PartialState, ...], pack: float, opening: float) -> None:
        self.sizer.flushed(slot.held_seconds, pack, opening)
        intervals = slot.forget()
        if len(states) != 1 or list(states[0].covers) != intervals:
            held, covers = RangeSet(intervals), RangeSet(interval for state in states for interval in state.covers)
            if held != covers:
                raise AssertionError(f"worker {slot.number} held {held!r} and flushed {covers!r}")
        for state in states:
            if state.error is None:
                self._arrive(state)
                continue
            parts = overlaps(state.covers, intervals)
            if len(parts) == 1:
                self._losses.unreadable(parts[0], state.error)
            else:
                self._suspects.suspects.extend(parts)

    def _arrive(self, state: PartialState) -> None:
        self.sizer.weighed(state.nbytes, state.items)
        if self.options.in_order:
            self._items.arrive(state)
        else:
            self._commit(state)

    def _commit(self, state: PartialState) -> None:
        self._suspects.progress()
        self._items.cover(state)
        self._instructions.add(Commit(state, self._items.covered.prefix))

    # -- failure -------------------------------------------------------------------------------------------------------

    def _lost(self, event: Lost) -> None:
        slot = self._slots[event.slot]
        self._slots.renew(event.slot)
        self._instructions.add(RestartWorker(event.slot))
        self._losses.lost(event, slot)

    def _probed(self, run: RunChunk, event: ChunkResult) -> None:
        """Drop the states of a probe, except for what they show about the item at fault."""
        assert event.states is not None
        for state in event.states:
            if state.error is not None:
                self._losses.unreadable((state.covers[0][0], state.covers[-1][1]), state.error)
        self._suspects.probed(run.start)

    # -- dispatch ------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if self._instructions.stopped:
            return
        while self.options.in_order and (state := self._items.in_order()):
            self._commit(state)
        if self._slots.retiring:
            self._restart_retiring()
        if self._suspects.suspects:
            self._run_suspects()
        while self._items.waiting and self._admissible() and (slot := self._free_slot()):
            self._run_some(slot, self._items.next(self.sizer.size(None)))
        if self._ended and self.options.stateful and not (self._items.waiting or self._suspects.suspects):
            self._flushing.of_idle()
        if self.options.in_flight > 1 and self._starving:
            self._stealing.cancel()

    @property
    def _starving(self) -> bool:
        """True if a worker is idle while others run chunks, and no item waits or will be pulled for it."""
        if not (self._slots.idle and self._slots.busy) or self._instructions.stopped:
            return False
        if self._items.waiting or self._suspects.suspects:
            return False
        return self._ended or not self._wanted(self._free_slot())

    def _free_slot(self) -> Slot | None:
        """Return the slot that gets the next chunk, if any may; while suspects wait, keep one slot free, or all."""
        if not self._suspects.suspects:
            return None if self.options.one_failure_domain and self._slots.alone else self._slots.most_capacity()
        if self.options.one_failure_domain:
            return None
        return self._slots.second_most_capacity()

    def _run_suspects(self) -> None:
        while self._suspects.suspects:
            if self.options.one_failure_domain and (self._slots.busy or any(slot.flushing for slot in self._slots)):
                return
            slots = [slot for slot in self._slots if not slot.retiring and not slot.chunks]
            if not slots:
                return
            slot = min(slots, key=lambda slot: len(slot.held))
            if not slot.empty:
                self._flushing.of(slot)
                return
            self._run_some(slot, self._suspects.suspects.popleft(), alone=True)

    def _run_some(self, slot: Slot, interval: Interval, alone: bool = False) -> None:
        """Run as many of the items as the slot's worker may still run."""
        start, stop = interval
        end = stop if stop - start <= slot.capacity else self._items.cut(interval, slot.capacity)
        if end < stop and alone:
            self._suspects.suspects.appendleft((end, stop))
        elif end < stop:
            self._items.wait((end, stop))
        if start < end:
            self._run(slot, (start, end), alone)
        else:  # the capacity is less than a leaf
            self._slots.close(slot)
            self._restart_retiring()

    def _run(self, slot: Slot, interval: Interval, alone: bool = False) -> None:
        start, stop = interval
        flush = not self.options.stateful or alone or self._flushing.is_due(slot, stop - start)
        budget = float("inf") if self.options.chunksize is not None or alone else self.sizer.budget
        run = RunChunk(slot.number, self._chunk, start, stop, flush, alone, budget, self._items.failed_in(start, stop))
        self._chunk += 1
        self._slots.give(slot, run)
        self._instructions.add(run)

    def _restart_retiring(self) -> None:
        more = not self._ended or self._items.waiting or self._suspects.suspects
        for slot in [self._slots[number] for number in sorted(self._slots.retiring)]:
            if not slot.chunks:
                if slot.empty and more:
                    self._slots.renew(slot.number)
                    self._instructions.add(RestartWorker(slot.number, slot.reason))
                elif not slot.empty:
                    self._flushing.of(slot)

    # -- input order ---------------------------------------------------------------------------------------------------

    def _window_open(self) -> bool:
        ahead = self._items.pulled - self._items.covered.prefix
        return (
            self._items.arrived_bytes <= self.options.window_bytes
            and ahead <= self.options.window_chunks * self.options.slots * self.sizer.largest
        )

    def _admissible(self) -> bool:
        """Return whether the oldest waiting items may run: in order, a full window admits only the very next item."""
        if not self.options.in_order or self._items.arrived_bytes <= self.options.window_bytes:
            return True
        return self._items.waiting[0][0] == self._items.covered.prefix

    # -- the invariant -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that each pulled item is in exactly one state, and that no slot exceeds its limits."""
        elsewhere = []
        for interval in [*self._suspects.suspects, *self._suspects.probing]:
            if not self._items.is_probe(*interval):
                elsewhere += self._items.to_run(interval)
        for slot in self._slots:
            assert len(slot.chunks) <= self.options.in_flight
            assert not (slot.held and not self.options.stateful)
            elsewhere += slot.held
            for run in slot.chunks:
                if not self._items.is_probe(run.start, run.stop):
                    elsewhere += without((run.start, run.stop), run.without)
        self._slots.check()
        self._items.check(elsewhere, self._instructions.stopped)
