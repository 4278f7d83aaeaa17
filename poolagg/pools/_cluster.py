"""Lanes of a cluster: what they gather stays there while it is large, and meets there; only roots travel.

    Run            a lease keeps its state there: a leaf of its lane    ── facts ──▶  Finished, without pieces
    Run, and ship  a lease merges the lane's leaves into what it has    ── root ───▶  Finished, with pieces
    Ship           a lease of no items merges the lane's leaves         ── root ───▶  Shipped

So trees are as flat as can be: up to `LEAVES` leaves, and one root, after which nothing of them is left on the cluster.
When a lane ships the plan decides, as for any lane that holds state: when that is cheap against the work since the last
time. While states are small they travel at once, for to keep them apart would cost a task, or a message, more.

A lane does one thing after another, so that answers come in the order of its orders.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from poolagg._chunks import Interval
from poolagg._orders import (
    Answer,
    Broken,
    Finished,
    Lost,
    Piece,
    Replace,
    Revoke,
    Revoked,
    Run,
    Ship,
    Shipped,
    Yield,
    Yielded,
)
from poolagg._parcels import Parcel
from poolagg.pools._foreign import ForeignPool
from poolagg.pools._packing import as_reducer_error
from poolagg.pools._pool import PoolOrder
from poolagg.pools._remote import LARGE, Call, Changed, Ended, Failed, Kept, Returned, Sent, open_state, unpack
from poolagg.pools._work import Job

__all__ = ["LEAVES", "ClusterPool", "Task"]

LEAVES = 16
"""Leaves of a tree: so many states that the parent need not merge; and if one is lost, and cannot be made again by
itself, so many chunks run again. Each is memory on the cluster until its lane ships."""


class _Leaf(NamedTuple):
    """A state that stays where it is: what an engine knows it by, and the items it is made of."""

    where: Any
    covers: tuple[Interval, ...]


class Task(NamedTuple):
    """What is submitted for a lane: its order, and what is sent. `keep`: its state is to stay there, if it is large."""

    order: Run | Ship
    call: Call
    leaves: Sequence[Any]
    keep: bool


@dataclass(slots=True)
class _Lane:
    orders: deque[tuple[Run | Ship, Any]] = field(default_factory=deque)
    """The first is under way; a Run comes with its items."""
    leaves: list[_Leaf] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    """What came along with the facts of a chunk, though the lane holds leaves: it ships with them."""


class ClusterPool(ForeignPool):
    """Lanes of leases; how a task is submitted, and how one is lost, its children know."""

    keeps_state = True
    can_kill = True
    leaves = LEAVES

    def _begin(self, job: Job, lanes: int) -> None:
        super()._begin(job, lanes)
        self._lanes = [_Lane() for _ in range(lanes)]
        self._meets = job.strategy.carries and job.strategy.meets and job.item_timeout is None
        # What the functions of people are given they may write to.
        self._keeps = job.reducer.keeps or not job.reducer.mergeable
        self._large = False

    def _pickled(self, job: Job) -> Any:
        return Sent.packed(job)

    def _end(self, clean: bool) -> None:
        super()._end(clean)
        self._lanes = []

    # -- orders ------------------------------------------------------------------------------------------------

    def perform(self, order: PoolOrder, parcel: Parcel | None) -> None:
        """Submit a lease, when the lane's last has been answered."""
        if isinstance(order, Yield):
            self._now.append(Yielded(order.lane, order.chunk, None))
        elif isinstance(order, Revoke):
            self._now.append(Revoked(order.lane, order.chunk, ok=False))
        elif not isinstance(order, Replace):
            items = parcel.cut(order.start, order.stop) if isinstance(order, Run) and parcel is not None else None
            orders = self._lanes[order.lane].orders
            orders.append((order, items))
            if len(orders) == 1:
                self._start_next(order.lane)

    def _start_next(self, number: int) -> None:
        lane = self._lanes[number]
        while lane.orders:
            order, items = lane.orders[0]
            run = order if isinstance(order, Run) else None
            if run is not None or lane.leaves:
                keep = self._meets and self._large and run is not None and not run.ship
                leaves = [] if keep else lane.leaves
                told = tuple(leaf.covers for leaf in leaves)
                call = Call(self._name, None, run and tuple(run), items, told)
                self._send(Task(order, call, [leaf.where for leaf in leaves], keep))
                return
            lane.orders.popleft()
            self._now.append(self._shipped(lane, number, ()))

    # -- answers -----------------------------------------------------------------------------------------------

    def _told(self, task: Task, result: Any, where: Any = None, seconds: float = 0.0) -> Answer:
        """The answer that a result stands for, which took so long to fetch; the state is `where`, if it stays."""
        number = task.order.lane
        answer = self._answer_of(task, result, where, seconds)
        if isinstance(answer, (Finished, Shipped)):
            self._lanes[number].orders.popleft()
            self._start_next(number)
        else:
            self._lanes[number] = _Lane()
        return answer

    def _answer_of(self, task: Task, result: Any, where: Any, seconds: float) -> Answer:
        order, lane = task.order, self._lanes[task.order.lane]
        if isinstance(result, Kept):
            assert isinstance(order, Run)
            self._large = result.nbytes >= LARGE
            lane.leaves.append(_Leaf(where, result.covers))
            return unpack(order, result.facts, None)
        if isinstance(result, Returned):
            return self._returned(task, result, lane, seconds)
        if isinstance(result, Ended):
            return result.lost(order.lane)
        if isinstance(result, Changed):
            return self._unknown_loss(order.lane, self._lost("lost a state, and made another of the same items"))
        return Broken(order.lane, as_reducer_error(result.error if isinstance(result, Failed) else result))

    def _returned(self, task: Task, result: Returned, lane: _Lane, seconds: float) -> Answer:
        order, (facts, state) = task.order, result
        self._large = state.nbytes >= LARGE
        if state.beside is not None:
            state.beside.only_here()
        if task.leaves:
            lane.leaves = []
        if isinstance(order, Ship):
            return self._shipped(lane, order.lane, open_state(state, self._keeps), facts.pack_seconds, seconds)
        finished = unpack(order, facts, state, self._keeps)
        finished = finished._replace(open_seconds=finished.open_seconds + seconds)
        pieces, lane.pieces = (*lane.pieces, *(finished.pieces or ())), []
        if lane.leaves:
            lane.pieces = list(pieces)
            return finished._replace(pieces=None)
        return finished._replace(pieces=pieces)

    def _shipped(
        self, lane: _Lane, number: int, pieces: Sequence[Piece], pack: float = 0.0, opening: float = 0.0
    ) -> Shipped:
        pieces, lane.pieces = (*lane.pieces, *pieces), []
        return Shipped(number, pieces, pack, opening)

    def _unknown_loss(self, lane: int, error: BaseException) -> Lost:
        """What a lane held is gone, and no item is to blame."""
        return Lost(lane, None, "died", error, certain=True)

    @abstractmethod
    def _send(self, task: Task) -> None:
        """Submit it."""
