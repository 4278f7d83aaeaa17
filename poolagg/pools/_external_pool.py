"""The pool of other people's workers: slots whose tasks an engine runs, and the states that stay on a cluster.

A slot is a place in the engine's queue: each worker has a few, each with one task in flight, so that the input stays
bounded. Where the engine can keep states, a large one stays where it was made, and meets others there:

    Run            a task leaves its state there: a leaf of the slot      ── facts ──▶  Finished, without pieces
    Run, and ship  a task merges the slot's leaves into what it gathers   ── root ───▶  Finished, with pieces
    Ship           a task of no items merges the slot's leaves            ── root ───▶  Shipped

So trees are as flat as can be: up to `LEAVES` leaves and one root, after which nothing of them is left on the cluster.
The scheduler decides when a slot ships, as for any worker that holds state. A small state travels at once, for to leave
it there would cost a task, or a message, more. A slot does one thing after another, so its answers come in order.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from poolagg._orders import Answer, Finished, Piece, Run, Ship, Shipped
from poolagg._parcels import Encoded, Parcel
from poolagg.pools._backend import Backend, Leaf, Result, Task
from poolagg.pools._pool import Pool, PoolOrder
from poolagg.pools._remote import LARGE, Ended, Kept, Returned, open_state, unpack
from poolagg.pools._travel import encode_by_value
from poolagg.pools._work import Job

__all__ = ["LEAVES", "ExternalPool"]

LEAVES = 16
"""Leaves of a tree: so many states that the parent need not merge. If one is lost for good, so many chunks run again.
Each is memory on the cluster until its slot ships."""


@dataclass(slots=True)
class _Slot:
    orders: deque[tuple[Run | Ship, Parcel | None]] = field(default_factory=deque)
    """The first is under way."""
    leaves: list[Leaf] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    """States that came along with the facts of a chunk, though the slot holds leaves: they ship with them."""


class ExternalPool(Pool):
    """Runs chunks as tasks of the engine behind `backend`."""

    in_flight = 1

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.workers = backend.slots * backend.workers
        self.lanes_per_worker = backend.slots
        self.shared_fate = backend.shared_fate
        self.keeps_state = self.can_kill = backend.keeps_states
        self.leaves = LEAVES if backend.keeps_states else 0
        self.chunk_seconds = max(backend.task_seconds, 2 * backend.workers / backend.task_rate)
        self._now: list[Answer] = []
        self._slots: list[_Slot] = []
        self._entered = True  # close() is the engine owner's to call

    def __repr__(self) -> str:
        return repr(self._backend)

    def encode(self) -> Callable[[Any], Encoded] | None:
        """Return what pickles an item, unless the workers are threads."""
        return None if self._backend.by_reference else encode_by_value

    def _begin(self, job: Job, lanes: int) -> None:
        self._name = os.urandom(8).hex()  # drivers on other machines use the same workers, and have the same pids
        self._now = []
        self._slots = [_Slot() for _ in range(lanes)]
        self._keeps_leaves = (
            self.keeps_state and job.strategy.carries and job.strategy.meets and job.item_timeout is None
        )
        # The user's functions may write to what they are given.
        self._copies = job.reducer.keeps or not job.reducer.mergeable
        self._large = False
        self._backend.place(self._name, job)

    def _end(self, clean: bool) -> None:
        self._slots = []
        self._backend.cancel()

    def _close(self, at_once: bool) -> None:
        self._end(not at_once)
        self._backend.close()

    # -- instructions to tasks ---------------------------------------------------------------------------------

    def perform(self, order: PoolOrder, parcel: Parcel | None) -> None:
        """Submit a task as soon as the slot's last one is answered. No worker is known, so none is replaced."""
        if isinstance(order, (Run, Ship)):
            orders = self._slots[order.lane].orders
            orders.append((order, parcel))
            if len(orders) == 1:
                self._start_next(order.lane)

    def _start_next(self, number: int) -> None:
        slot = self._slots[number]
        while slot.orders:
            order, parcel = slot.orders[0]
            if isinstance(order, Run) or slot.leaves:
                keep = self._keeps_leaves and self._large and isinstance(order, Run) and not order.ship
                self._backend.submit(Task(self._name, order, parcel, () if keep else slot.leaves, keep))
                return
            slot.orders.popleft()
            self._now.append(self._shipped(slot, number, ()))

    # -- results to answers ------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> list[Answer]:
        """Wait for answers of this run."""
        answers, self._now = self._now, []
        if answers:
            return answers
        began = monotonic()
        try:
            results = self._backend.wait(timeout)
        finally:
            self.waited += monotonic() - began
        return list(map(self._take, results))

    def _take(self, result: Result) -> Answer:
        """Answer for a slot, and start what it is to do next; after a loss it holds nothing."""
        number = result.task.order.lane
        answer = self._answer(result, self._slots[number])
        if isinstance(answer, (Finished, Shipped)):
            self._slots[number].orders.popleft()
            self._start_next(number)
        else:
            self._slots[number] = _Slot()
        return answer

    def _answer(self, result: Result, slot: _Slot) -> Answer:
        task, value = result.task, result.value
        if isinstance(value, Kept):
            assert isinstance(task.order, Run)
            self._large = value.nbytes >= LARGE
            slot.leaves.append(Leaf(result.state, value.covers))
            return unpack(task.order, value.facts, None)
        if isinstance(value, Returned):
            return self._returned(task, value, slot, result.seconds)
        if isinstance(value, Ended):
            return value.open(task.order.lane)
        return value

    def _returned(self, task: Task, result: Returned, slot: _Slot, seconds: float) -> Answer:
        order, (facts, state) = task.order, result
        self._large = state.nbytes >= LARGE
        if state.beside is not None:
            state.beside.only_here()
        if task.leaves:
            slot.leaves = []
        if isinstance(order, Ship):
            pieces = open_state(state, self._copies)
            return self._shipped(slot, order.lane, pieces, facts.pack_seconds, seconds)
        finished = unpack(order, facts, state, self._copies)
        if seconds:
            finished = finished._replace(open_seconds=finished.open_seconds + seconds)
        if slot.leaves:
            slot.pieces.extend(finished.pieces or ())
            return finished._replace(pieces=None)
        if slot.pieces:
            pieces, slot.pieces = (*slot.pieces, *(finished.pieces or ())), []
            return finished._replace(pieces=pieces)
        return finished

    def _shipped(
        self, slot: _Slot, number: int, pieces: Sequence[Piece], pack: float = 0.0, opening: float = 0.0
    ) -> Shipped:
        pieces, slot.pieces = (*slot.pieces, *pieces), []
        return Shipped(number, pieces, pack, opening)
