"""Combine: partials meet inside each worker. Partition: and so do the workers' states, a part of the keys in each.

With millions of keys the one core of the parent is the limit, which opens and merges what the workers flush. So states
that large travel in parts, by the hash of their keys; the parent keeps the parts as they come, unopened, and in the end
has the workers merge them, part by part (the `final_stage`). What it gets back are disjoint parts, which only need to
be put together, while the workers go on merging. Nothing depends on a worker's life: until all is done the parent has
all.
"""

from __future__ import annotations

import functools
from typing import Any

from poolagg._runtime.arguments import checked_count
from poolagg._scheduler.ranges import Interval, LeafGrid
from poolagg._scheduler.worker_messages import PartialState
from poolagg.reducers import Reducer, fold, join
from poolagg.strategies.keyed import (
    KEY,
    Divided,
    PackedPart,
    Parts,
    SortedRuns,
    compact,
    divided,
    merged,
    opened,
    put,
    update,
)
from poolagg.strategies.strategy import FinalStage, ParentFold, Strategy, WorkerFold

__all__ = ["Combine", "Partition"]

PARTS = 128
"""Parts of a large state: many, so that one fits into the cache of the core that merges it, and the parent can put some
together while others are merged; few enough for each to be worth an order."""

LARGE = 20_000
"""Keys of a state from which on it travels in parts: that costs a little, and leaves the choice to the end."""

MANY = 400_000
"""Keys in all that the parent would take longer, some 0.2 s, to merge than to have the workers do it."""

KEPT = 256 << 20
"""Bytes of unopened parts at most, unless the result itself is larger: then the parent merges them after all."""

ADDED_TO = 1 << 18
"""Counts that a worker adds to: what adds to more waits for memory so long that runs are as quick."""

RUN = 1 << 13
"""Counts of a run at least, for each of its parts is packed on its own."""


class Combine(Strategy):
    """Partials meet inside each worker, across chunks; the parent merges the accumulators that workers flush.

    Dicts of many keys are merged as `Partition` does it.
    """

    stateful = True
    merges_remotely = True

    def refusal(self, reducer: Reducer) -> str | None:
        """It takes a merge, and one that commutes."""
        if not reducer.mergeable:
            return (
                f"{reducer!r} has no merge, so only the parent can fold it: use Stream() or Ordered(), or give it one"
            )
        if reducer.ordered:
            return f"{reducer!r} merges in input order only, and {self!r} in any: use Tree() or Ordered()"
        return None

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """Folds in the worker."""
        del grid
        return _Carried(reducer, PARTS)

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """Merges."""
        return _Merging(reducer, PARTS, MANY)

    def packed(self, reducer: Reducer, data: Any) -> Any:
        """A large dict in parts, a small one in compact form; what has travelled already, as it is."""
        if not reducer.keyed:
            return data
        if isinstance(data, Divided):
            return data
        return Divided([divided(data, PARTS)]) if len(data) >= LARGE else compact(data)

    def final_stage(self, parent_fold: Any) -> FinalStage | None:
        """Merging the parts."""
        return parent_fold.final_stage() if isinstance(parent_fold, _Merging) else None


class Partition(Combine):
    """Partials meet inside each worker, and states in workers too, each of `n` parts of the keys in one of them.

    For reducers whose accumulator is a dict (`Frequencies`, `MergeCounts`, `GroupBy`, `.by`), and millions of keys.
    """

    def __init__(self, n: int = PARTS) -> None:
        self.n = checked_count("Partition(n): the number of parts", n)

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """Folds in the worker."""
        del grid
        return _Carried(reducer, self.n)

    def refusal(self, reducer: Reducer) -> str | None:
        """It takes keys."""
        if not reducer.keyed:
            return f"{reducer!r} has no keys that {self!r} could divide among workers: use Combine()"
        return super().refusal(reducer)

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """Keeps parts, to be merged in the end."""
        return _Merging(reducer, self.n, 1)

    def packed(self, reducer: Reducer, data: Any) -> Any:
        """In parts."""
        return data if isinstance(data, Divided) else Divided([divided(data, self.n)])

    def __repr__(self) -> str:
        return f"Partition({self.n})"


class _Carried:
    def __init__(self, reducer: Reducer, count: int) -> None:
        self._reducer = reducer
        self._count = count
        self._acc: Any = None
        self._runs: SortedRuns | None = None
        self._covers: list[Interval] = []

    def add(self, index: int, prepareds: list[Any]) -> None:
        if not self._covers:
            self._acc = self._reducer.init()
        self._acc = fold(self._reducer, self._acc, index, prepareds)
        if self._reducer.keyed and len(self._acc) > (ADDED_TO if self._runs is None else RUN):
            self._put_apart()
        start, stop = index, index + len(prepareds)
        if self._covers and self._covers[-1][1] == start:
            start, _ = self._covers.pop()
        self._covers.append((start, stop))

    def adopt(self, covers: tuple[Interval, ...], data: Any) -> None:
        if not self._covers:
            self._acc = self._reducer.init()
        self._acc = _merged(self._reducer, self._acc, data)
        self._covers.extend(covers)

    def close(self, stop: int) -> None:
        pass

    def payloads(self) -> list[PartialState]:
        if not self._covers:
            return []
        if self._runs is not None:
            self._runs.add(self._acc)
        data = self._acc if self._runs is None else self._runs.runs
        partial_state = PartialState(tuple(self._covers), data)
        self._acc, self._runs, self._covers = None, None, []
        return [partial_state]

    def _put_apart(self) -> None:
        """Put counts into a run. (To merge accumulators that are not numbers twice would cost more than it saves.)"""
        if self._runs is None:
            if type(next(iter(self._acc.values()))) is not int:
                return
            self._runs = SortedRuns(self._reducer, self._count)
        self._runs.add(self._acc)
        self._acc = self._reducer.init()


def _merged(reducer: Reducer, acc: Any, data: Any) -> Any:
    """An accumulator, with what another worker gathered."""
    if not isinstance(data, Divided):
        return join(reducer, acc, data)
    for part in (part for parts in data for part in parts.packed):
        acc = update(reducer, acc, opened(part))
    return acc


class _Merging:
    def __init__(self, reducer: Reducer, count: int, many: int) -> None:
        self._reducer = reducer
        self._count = count
        self._many = many
        self._acc = reducer.init()
        self._fresh = True
        self._unopened: list[Parts] = []
        self._joined: _Joined | None = None
        self.at: int | None = None

    def commit(self, data: Any) -> None:
        if isinstance(data, Divided):
            self._unopened += data
            if sum(parts.nbytes for parts in self._unopened) > max(KEPT, KEY * len(self._acc)):
                self._open_all()
        elif (
            self._fresh and self._reducer.retains_input
        ):  # merge(init(), x) == x, and x is ours alone: its worker let go of it
            self._acc, self._fresh = data, False
        else:  # what is not kept may lie in memory that is only lent
            self._acc = join(self._reducer, self._acc, data)

    def value(self, last: bool = False) -> Any:
        acc = self.state()
        return self._reducer.finish_last(acc) if last else self._reducer.finish(acc)

    def done(self) -> bool:
        return self._reducer.done(self._acc)

    def state(self) -> Any:
        self._take_joined()
        self._open_all()  # else each commit would write them once more, with keys that are in most of them
        return self._acc

    def restore(self, state: Any) -> None:
        self._acc, self._fresh = state, False

    def final_stage(self) -> FinalStage | None:
        keys = sum(parts.keys for parts in self._unopened)
        if len(self._unopened) < 2 or keys < self._many:
            return None
        self._joined = _Joined(self._reducer.init(), self._count)
        items = [list(part) for part in zip(*(parts.packed for parts in self._unopened), strict=True)]
        why = f"the workers' states hold {keys:,} keys, which one core would merge for long"
        return FinalStage(functools.partial(merged, self._reducer), items, self._joined.take, why)

    def _take_joined(self) -> None:
        """What came of the errand, if it is all there."""
        if self._joined is not None and self._joined.complete:
            self._acc, self._unopened = self._both(self._joined.acc, self._acc), []
        self._joined = None

    def _both(self, left: Any, right: Any) -> Any:
        large, small = (left, right) if len(left) > len(right) else (right, left)
        return join(self._reducer, large, small) if small else large

    def _open_all(self) -> None:
        for parts in self._unopened:
            for part in parts.packed:
                self._acc = update(self._reducer, self._acc, opened(part))
        self._unopened = []


class _Joined:
    """Parts that were merged by workers, put together. They are disjoint, as far as workers agree about hashes."""

    def __init__(self, acc: Any, count: int) -> None:
        self.acc = acc
        self._missing = count

    @property
    def complete(self) -> bool:
        """Whether all parts are there, and disjoint."""
        return not self._missing

    def take(self, part: PackedPart) -> None:
        """Put in one more."""
        entries = opened(part)
        expected = len(self.acc) + len(entries)
        put(self.acc, entries)
        self._missing -= len(self.acc) == expected
