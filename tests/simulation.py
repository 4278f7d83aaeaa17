"""A world without clock and process for the plan to live in: lanes that answer in any legal order, and die.

`World` is what the engine is to the plan: it pulls, cuts parcels, sends orders, folds what is committed. Its lanes do
their orders first in, first out, with the real halves of the strategies; everything else is up to the schedule.
`Rough` chooses the next thing that happens at random, among all that may; `Timed` does things in the order of a clock
of its own, for the claims about pace. Both check the plan after every event, and fail if nothing can happen any more.
"""

from __future__ import annotations

import contextlib
import pickle
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from poolagg._chunks import overlaps, without
from poolagg._orders import (
    Again,
    Commit,
    Fail,
    Failure,
    Finished,
    Late,
    LeaveOut,
    Lost,
    Merged,
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
    Yield,
    Yielded,
)
from poolagg._parcels import Parcels, Source, open_parcel
from poolagg._plan import Plan
from poolagg._terms import Terms
from poolagg.reducers import Reducer
from poolagg.strategies import Strategy

ALWAYS = 10**9


class Listing(Reducer):
    """All partials, in input order: a wrong order and a double count both show."""

    ordered = True

    def init(self):
        return []

    def step(self, acc, prepared):
        acc.append(prepared)
        return acc

    def merge(self, acc, other):
        acc.extend(other)
        return acc

    def finish(self, acc):
        return list(acc)


class Bag(Reducer):
    """How often each partial was met."""

    def init(self):
        return Counter()

    def step(self, acc, prepared):
        acc[prepared] += 1
        return acc

    def merge(self, acc, other):
        acc.update(other)
        return acc

    def finish(self, acc):
        return Counter(acc)


class Shape(Reducer):
    """The expression tree itself: which leaves there were, and what met what."""

    ordered = True

    def init(self):
        return ()

    def steps(self, acc, prepareds):
        assert acc == (), f"a second `steps` for one leaf: {prepareds} onto {acc}"
        return "leaf", *prepareds

    def merge(self, acc, other):
        return (acc, other) if acc and other else acc or other


class Unpackable:
    """A partial that folds but does not travel."""

    def __init__(self, index):
        self.index = index

    def __eq__(self, other):
        return isinstance(other, Unpackable) and self.index == other.index

    def __hash__(self):
        return hash(self.index)

    def __reduce__(self):
        raise TypeError(f"item {self.index}'s partial does not pickle")


@dataclass
class Faults:
    """How many times an item raises, kills its worker or hangs, before it succeeds; and which do not pickle.

    `silences`: it kills its worker when its chunk is done, and `sinks` when its state is packed: then nobody is named.
    """

    raises: dict[int, int] = field(default_factory=dict)
    kills: dict[int, int] = field(default_factory=dict)
    hangs: dict[int, int] = field(default_factory=dict)
    unpackable: frozenset[int] = frozenset()
    silences: dict[int, int] = field(default_factory=dict)
    sinks: dict[int, int] = field(default_factory=dict)

    def next(self, index: int) -> str:
        """What the next attempt at the item comes to."""
        for outcome in ("raises", "kills", "hangs"):
            left = getattr(self, outcome)
            if left.get(index, 0) > 0:
                left[index] -= 1
                return outcome
        return "ok"

    def strikes(self, kind: str, intervals: Iterable[tuple[int, int]]) -> bool:
        """Whether one of these items kills its worker without being named; that counts for it."""
        left = getattr(self, kind)
        for index in sorted(left):
            if left[index] > 0 and any(start <= index < stop for start, stop in intervals):
                left[index] -= 1
                return True
        return False


class Died(Exception):
    """The worker is gone."""


class DiedPacking(Exception):
    """A worker died while it packed its state."""


@dataclass
class Worker:
    """One lane's worker, and what is on the way to and from it."""

    gather: Any
    inbox: deque = field(default_factory=deque)
    outbox: deque = field(default_factory=deque)
    revokes: deque = field(default_factory=deque)
    running: Run | None = None
    until: float = 0.0
    dead: bool = False
    begun: int = -1  # the chunk it has begun last
    items: int = 0  # that it was given and did not give back
    in_flight: list = field(default_factory=list)  # orders whose answer the plan has not seen


class World:
    """A plan with its source, lanes and result; `run()` drives it to its end."""

    def __init__(
        self,
        strategy: Strategy,
        reducer: Reducer,
        items: Iterable[Any],
        *,
        faults: Faults | None = None,
        cost: Callable[[int], float] = lambda index: 0.001,
        naming: str = "item",
        guarded: bool = False,
        packing_kills: bool = False,
        nbytes: int = 8,
        seed: int = 0,
        covered=(),
        failed=(),
        result=None,
        **terms: Any,
    ) -> None:
        self.random = random.Random(seed)
        self.strategy, self.reducer = strategy, reducer
        grid = strategy.grid(terms.get("chunksize"))
        self.grid = grid and grid.within(terms.get("most_items"))
        self.terms = Terms(carries=strategy.carries, in_order=strategy.in_order, grid=self.grid, **terms)
        self.plan = Plan(self.terms, covered, failed)
        self.source = Source(items, None)
        self.faults = faults or Faults()
        self.cost, self.naming, self.guarded, self.nbytes = cost, naming, guarded, nbytes
        self.packing_kills = packing_kills and not self.terms.shared_fate
        self.parcels = Parcels()
        self.folding = strategy.folding(reducer) if result is None else result
        self.workers = [self.new_worker() for _ in range(self.terms.lanes)]
        self.reluctance = 0.0  # how often a chunk is not given back although it has not begun
        self.told_ended = False
        self.committed = 0
        self.now = 0.0
        # what happened
        self.orders: list[Any] = []
        self.events = 0
        self.offences: Counter[int] = Counter()
        self.silent_deaths = 0
        self.yields = 0
        self.unexplained = 0  # deaths of workers that had not begun to work, or had nothing
        self.ran: Counter[int] = Counter()
        self.failure: Fail | None = None
        self.skipped: dict[int, Skip] = {}

    def new_worker(self) -> Worker:
        return Worker(self.strategy.gather(self.reducer, self.grid))

    # -- the engine's part ---------------------------------------------------------------------------------------

    def run(self, most_events: int = 20_000) -> World:
        while not self.plan.finished:
            assert self.events < most_events, "the run does not end"
            self.step()
        if self.failure is None and not self.plan.stopped:
            assert all(not worker.in_flight for worker in self.workers)
            assert (len(self.parcels), self.parcels.nbytes) == (0, 0)
        return self

    def step(self) -> None:
        raise NotImplementedError

    @property
    def value(self) -> Any:
        return self.folding.value()

    def tell(self, event: Any) -> None:
        """Give the plan an event, and carry out what it orders."""
        events = deque([event])
        while events:
            self.events += 1
            orders = self.plan.handle(events.popleft())
            self.plan.check()
            for order in orders:
                self.orders.append(order)
                self.obey(order, events)
        self.check_promises()

    def obey(self, order: Any, events: deque) -> None:
        match order:
            case Run():
                self.check_run(order)
                self.send(order)
            case Ship():
                self.send(order)
            case Revoke(lane, _):
                if not self.workers[lane].dead:
                    self.workers[lane].revokes.append(order)
            case Yield(lane, chunk):
                events.append(Yielded(lane, chunk, self.divide(self.workers[lane], chunk)))
            case Replace(lane, _):
                worker = self.workers[lane]
                assert worker.dead or not (worker.in_flight or worker.inbox or worker.running), order
                assert not worker.gather.payloads() or worker.dead
                self.workers[lane] = self.new_worker()
            case Commit(piece):
                self.commit(piece, events)
            case LeaveOut(leaf):
                self.folding.leave_out(leaf)
            case Skip(failure, _):
                self.check_charge(failure.index, failure.cause)
                self.skipped[failure.index] = order
                self.parcels.release(failure.index, failure.index + 1)
            case Fail(index, _, _, cause):
                if index is not None:
                    self.check_charge(index, cause)
                self.failure = order
            case Again():
                pass

    def send(self, order: Any) -> None:
        worker = self.workers[order.lane]
        worker.in_flight.append(order)
        if not worker.dead:  # else nobody knows yet, and the order is lost
            worker.inbox.append(order)

    def commit(self, piece: Piece, events: deque) -> None:
        assert piece.error is None
        if self.strategy.in_order:
            assert piece.covers[0][0] >= self.committed, "out of order"
            self.committed = piece.covers[-1][1]
        self.folding.commit(pickle.loads(piece.data))
        for start, stop in piece.covers:
            self.parcels.release(start, stop)
        events.append(Merged(self.merge_seconds(piece)))

    def merge_seconds(self, piece: Piece) -> float:
        return 1e-5

    def pull(self, most: int) -> None:
        """Pull at most so many items; seal what may be sealed."""
        plan, source = self.plan, self.source
        if plan.pulled > source.position:
            assert not source.in_hand
            for _ in source.skip(plan.pulled - source.position):
                pass
        appetite = plan.appetite
        while source.in_hand < appetite and most and not source.ended:
            before = source.in_hand
            source.pull(source.in_hand + 1, 1 << 30, lambda: 0.0, 1.0)
            most -= 1
            if source.in_hand == before or (plan.hungry and plan.sealable(source.in_hand, False)):
                break
        count = plan.sealable(source.in_hand, source.ended)
        if count and appetite and (source.in_hand >= appetite or plan.hungry or source.ended):
            parcel = source.seal(count)
            self.parcels.add(parcel)
            for start, stop in overlaps(self.plan.failed, [(parcel.start, parcel.stop)]):
                self.parcels.release(start, stop)
            self.tell(Pulled(parcel.start, parcel.stop, self.nbytes * count))
        if source.ended and not source.in_hand and not self.told_ended:
            self.told_ended = True
            self.tell(SourceEnded())

    # -- the promises that hold at every moment ------------------------------------------------------------------

    def check_run(self, run: Run) -> None:
        parcel = self.parcels.find(run.start)
        assert run.stop <= parcel.stop, f"{run} crosses the end of {parcel}"
        if run.alone:
            assert not self.workers[run.lane].in_flight, f"{run} is not alone: {self.workers[run.lane].in_flight}"
            if self.terms.shared_fate:
                assert not any(worker.in_flight for worker in self.workers), f"{run} shares its fate"
            if not self.workers[run.lane].dead:
                assert self.holds_nothing(self.workers[run.lane]), f"{run} is to run beside other items' state"
        elif self.terms.shared_fate:
            assert not any(o.alone for w in self.workers for o in w.in_flight if isinstance(o, Run))

    def holds_nothing(self, worker: Worker) -> bool:
        return not getattr(worker.gather, "_covers", ())

    def check_charge(self, index: int, cause: str) -> None:
        """Nobody is skipped, or ends the run, for what others did."""
        retries = self.terms.retries
        allowed = retries if retries is not None else 2 if cause == "died" else 0
        assert self.offences[index] > allowed, f"item {index} offended {self.offences[index]} times only"

    def check_promises(self) -> None:
        plan = self.plan
        if plan.stopped:
            return
        idle = [n for n, w in enumerate(self.workers) if not w.in_flight and not plan._lanes[n].worn]
        calm = (
            not plan._ledger.waiting and not plan._blame.suspects and not self.alone_anywhere() and not self.told_ended
        )
        if idle and calm and not self.terms.in_order:
            assert plan.hungry, "a lane is idle and an item in hand would be kept"
            assert plan.appetite > 0, "a lane is idle and nothing is wanted"
        if not self.strategy.carries:
            chunks = (
                max(2, self.terms.in_flight) * self.terms.lanes
                + (self.terms.window_chunks * self.terms.lanes + 1) * self.terms.in_order
            )
            leaf = 0 if self.grid is None else self.grid.leaf(plan.pulled)[2] - self.grid.leaf(plan.pulled)[1]
            most = (chunks + 2) * (8 * plan.pace.largest + leaf)
            assert plan._ledger.uncovered <= most, f"{plan._ledger.uncovered} items ahead"

    def alone_anywhere(self) -> bool:
        return any(isinstance(o, Run) and o.alone for worker in self.workers for o in worker.in_flight)

    # -- the workers' part ---------------------------------------------------------------------------------------

    def begin(self, worker: Worker) -> None:
        """Take up the next order; ships are done at once, runs by `end`."""
        order = worker.inbox.popleft()
        if isinstance(order, Ship):
            with contextlib.suppress(Died, DiedPacking):
                worker.outbox.append(Shipped(order.lane, self.pack(worker), 0.0, self.ship_seconds(worker)))
            return
        worker.running, worker.begun = order, order.chunk
        worker.until = self.now + self.expected(order)

    def expected(self, run: Run) -> float:
        """How long it will take."""
        seconds = 0.0
        for index in range(run.start, run.stop):
            if seconds > run.budget and (self.grid is None or self.grid.floor(index) == index):
                break
            seconds += self.cost(index)
        return seconds

    def ship_seconds(self, worker: Worker) -> float:
        return 1e-5

    def pack(self, worker: Worker, suspect: tuple[int, int] | None = None) -> tuple[Piece, ...]:
        pieces = []
        payloads = worker.gather.payloads()
        if self.faults.strikes("sinks", [interval for piece in payloads for interval in piece.covers]):
            self.die(worker, None, None, "died")
            raise Died
        for covers, data, *_ in payloads:
            try:
                packed = pickle.dumps(data)
            except TypeError as error:
                bad = {i for start, stop in covers for i in range(start, stop)} & self.faults.unpackable
                self.offences.update(bad)
                if self.packing_kills:
                    cause = self.random.choice(["died", "timeout"])
                    self.lose(worker, suspect, cause, packing=True)
                    raise DiedPacking from None
                pieces.append(Piece(covers, error=error))
            else:
                pieces.append(Piece(covers, packed, len(packed)))
        return tuple(pieces)

    def end(self, worker: Worker) -> None:
        """Run the chunk that was begun, to its end or the worker's."""
        run, worker.running = worker.running, None
        parcel = self.parcels.find(run.start)
        items, _ = open_parcel(parcel.kind, parcel.data, run.start - parcel.start, run.stop - run.start)
        batch: list[Any] = []
        failures: list[Failure] = []
        seconds = 0.0
        stop = run.stop

        def flush(index: int) -> None:
            if batch:
                worker.gather.add(index - len(batch), list(batch))
                batch.clear()

        for index, item in enumerate(items, run.start):
            boundary = self.grid is None or self.grid.floor(index) == index
            if index > run.start and seconds > run.budget and boundary:
                stop = index
                break
            if index in run.without:
                flush(index)
                continue
            assert item == index * 10
            seconds += self.cost(index)
            self.ran[index] += 1
            worker.items += 1
            assert worker.items <= (self.terms.most_items or worker.items), "the worker has run all it may"
            match self.faults.next(index):
                case "raises":
                    self.offences[index] += 1
                    failures.append(Failure(index, "raised", ValueError(index)))
                    flush(index)
                    continue
                case "kills":
                    self.die(worker, run, index, "died")
                    return
                case "hangs":
                    self.die(worker, run, index, "timeout")
                    return
            batch.append(Unpackable(index) if index in self.faults.unpackable else index)
            if run.alone or self.random.random() < 0.2:
                flush(index + 1)
        flush(stop)
        worker.gather.close(stop)
        ran = without((run.start, stop), [*run.without, *(failure.index for failure in failures)])
        if self.faults.strikes("silences", ran):
            self.die(worker, run, None, "died")
            return
        try:
            pieces = self.pack(worker, (run.start, stop)) if run.ship else None
        except (Died, DiedPacking):
            return
        if pieces is None:
            assert self.strategy.carries
        worker.outbox.append(
            Finished(run.lane, run.chunk, stop, seconds, tuple(failures), pieces, 0.0, 0.0, self.ship_seconds(worker))
        )

    def revoke(self, worker: Worker) -> None:
        """Answer the oldest wish to take a chunk back."""
        order = worker.revokes.popleft()
        about_to_begin = self.random.random() < self.reluctance
        for run in worker.inbox:
            if isinstance(run, Run) and run.chunk == order.chunk and not about_to_begin:
                worker.inbox.remove(run)
                worker.outbox.append(Revoked(order.lane, order.chunk, True))
                return
        worker.outbox.append(Revoked(order.lane, order.chunk, False))

    def divide(self, worker: Worker, chunk: int) -> int | None:
        """End the running chunk early: before the item that the worker has come to, or after it, nobody knows."""
        run = worker.running
        if worker.dead or run is None or run.chunk != chunk or run.stop == run.start or self.random.random() < 0.1:
            return None
        at = self.random.randrange(run.start, run.stop)
        stop = self.random.choice([at, at + 1])
        stop = min(run.stop, stop if self.grid is None else self.grid.ceil(stop))
        worker.running = run._replace(stop=stop)
        worker.in_flight[worker.in_flight.index(run)] = worker.running
        self.yields += 1
        return at + 1

    def deliver(self, worker: Worker) -> None:
        """Let the plan have the worker's oldest answer."""
        answer = worker.outbox.popleft()
        match answer:
            case Finished():
                run = worker.in_flight.pop(0)
                assert isinstance(run, Run), (run, answer)
                assert run.chunk == answer.chunk, (run, answer)
            case Shipped():
                assert isinstance(worker.in_flight.pop(0), Ship)
            case Revoked(_, chunk, True):
                worker.in_flight = [o for o in worker.in_flight if not (isinstance(o, Run) and o.chunk == chunk)]
            case Lost(lane, suspect, _, _, _, _, _, packing):
                had = self.plan._lanes[lane]
                if suspect is None and packing:
                    self.unexplained += not had.held
                elif suspect is None:
                    self.silent_deaths += 1
                    self.unexplained += not answer.silent or (not had.held and all(run.alone for run in had.chunks))
        self.tell(answer)

    # -- death -----------------------------------------------------------------------------------------------------

    def die(self, worker: Worker, run: Run | None, index: int | None, cause: str) -> None:
        """The worker is gone; with shared fate all are, but for an item's own process, where lanes have such."""
        lane = self.workers.index(worker)
        own = self.guarded and run is not None and index is not None
        if self.terms.shared_fate and not own:
            for other in self.workers:
                if not other.dead:
                    self.lose(other, None, cause)
            return
        suspect = None
        if run is not None and index is not None:
            self.offences[index] += 1
            suspect = self.name(run, index)
        self.lose(self.workers[lane], suspect, cause, certain=own)

    def first_in_flight(self, worker: Worker) -> Run | None:
        """The oldest chunk that is not answered for: with shared fate nobody knows more."""
        answered = sum(isinstance(answer, Finished | Shipped) for answer in worker.outbox)
        return next((o for o in worker.in_flight[answered:] if isinstance(o, Run)), None)

    def name(self, run: Run, index: int) -> tuple[int, int] | None:
        """What is known of who it was."""
        if self.naming == "item" and run.alone:
            return index, index + 1
        how = self.random.choice(["item", "some", "some"]) if self.naming == "item" else self.naming
        if how == "none":
            return None
        if how == "item":
            return index, index + 1
        if how == "some":
            return self.random.randint(run.start, index), self.random.randint(index + 1, run.stop)
        return run.start, run.stop

    def lose(
        self,
        worker: Worker,
        suspect: tuple[int, int] | None,
        cause: str,
        certain: bool = False,
        packing: bool = False,
    ) -> None:
        for _ in range(self.random.randint(0, len(worker.outbox))):  # what it had not quite written is gone
            if not isinstance(worker.outbox[-1], Worn) or self.random.random() < 0.5:
                worker.outbox.pop()
        if self.terms.shared_fate and not certain:
            run = self.first_in_flight(worker)
            if run is not None:
                suspect = run.start, run.stop
                items = set(range(run.start, run.stop)) - set(run.without)
                self.offences.update(items if len(items) == 1 else ())
        silent = suspect is None and self.naming != "none" and not self.terms.shared_fate
        oldest = self.first_in_flight(worker) if silent else None
        if oldest is not None and worker.begun == oldest.chunk:
            suspect = oldest.start, oldest.stop
            if oldest.alone:  # it died while it ran alone: that is held against it
                items = set(range(oldest.start, oldest.stop)) - set(oldest.without)
                self.offences.update(items if len(items) == 1 else ())
        worker.inbox.clear()
        worker.revokes.clear()
        worker.running = None
        worker.dead = True
        lane = self.workers.index(worker)
        lost = Lost(lane, suspect, cause, RuntimeError("died"), certain=certain, silent=silent, packing=packing)
        worker.outbox.append(lost)


class Rough(World):
    """Anything that may happen next does, at random; `chaos` is how often what nobody asked for happens."""

    def __init__(self, *args: Any, chaos: float = 0.0, most_kills: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chaos = chaos
        self.kills_left = most_kills
        self.reluctance = self.random.choice([0.0, 0.5, 1.0])

    def step(self) -> None:
        if self.random.random() < self.chaos:
            self.disturb()
            return
        steps: list[Callable[[], None]] = []
        for worker in self.workers:
            if worker.outbox:
                steps.append(lambda w=worker: self.deliver(w))
            if worker.dead:
                continue
            if worker.running is not None:
                steps.append(lambda w=worker: self.end(w))
                if self.plan.starving:
                    steps += [lambda w=worker: self.tell(Late(self.workers.index(w), w.running.chunk))] * 3
            elif worker.inbox:
                steps.append(lambda w=worker: self.begin(w))
            if worker.revokes:
                steps.append(lambda w=worker: self.revoke(w))
        if self.plan.appetite or self.source.in_hand or (self.source.ended and not self.told_ended):
            steps.append(lambda: self.pull(self.random.choice([1, 2, 10, 1000])))
        assert steps, f"stuck: {vars(self.plan)}"
        self.random.choice(steps)()

    def disturb(self) -> None:
        worker = self.random.choice(self.workers)
        lane = self.workers.index(worker)
        match self.random.choice(["kill", "worn", "tick", "tick"]):
            case "tick":
                self.tell(Tick())
            case "worn" if not worker.dead:
                worker.outbox.append(Worn(lane))
            case "kill" if not worker.dead and self.kills_left:
                self.kills_left -= 1
                run = worker.running
                index = None if run is None or run.stop == run.start else self.random.choice(range(run.start, run.stop))
                if run is not None and (index is None or index in run.without or self.random.random() < 0.1):
                    index = None
                self.die(worker, run, index, "died")


class Timed(World):
    """Things take the time they take: items `cost`, the source `pace` seconds an item, everything else none."""

    def __init__(self, *args: Any, pace: Callable[[int], float] = lambda index: 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.source_pace = pace
        self.next_item = 0.0
        self.timeline: list[tuple[float, int, int, int]] = []  # when a chunk began, its lane, start and stop

    def step(self) -> None:
        for worker in self.workers:
            if worker.outbox:
                return self.deliver(worker)
            if not worker.dead and worker.revokes:
                return self.revoke(worker)
            if not worker.dead and worker.running is None and worker.inbox:
                order = worker.inbox[0]
                if isinstance(order, Run):
                    self.timeline.append((self.now, order.lane, order.start, order.stop))
                return self.begin(worker)
        wants = self.plan.appetite or (self.source.ended and not self.told_ended)
        if wants and self.next_item <= self.now:
            before = self.source.position
            self.pull(1 if self.source_pace(before) else 1 << 30)
            self.next_item = self.now + self.source_pace(self.source.position)
            return None
        busy = [worker for worker in self.workers if worker.running is not None]
        first = min(busy, key=lambda worker: worker.until, default=None)
        if wants and (first is None or self.next_item < first.until):
            self.now = self.next_item
            return None
        assert first is not None, "stuck"
        self.now = max(self.now, first.until)
        return self.end(first)
