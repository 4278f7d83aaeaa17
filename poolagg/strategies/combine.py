"""Combine: partials meet inside each worker. Partition: workers also merge the states, each a part of the keys.

With millions of keys, the parent's one core is the bottleneck: it unpickles and merges all states. So workers send
large states in parts, by the hash of their keys. The parent keeps the parts pickled, and at the end has the workers
merge them part by part (the `final_stage`). It joins the disjoint parts that come back while the workers go on
merging. No data depends on a worker's survival: the parent keeps all parts until the end.
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
"""Parts of a large state: enough for one to fit into the cache of the core that merges it, and for the parent to join
some while workers merge others; few enough for each to be worth a task."""

LARGE = 20_000
"""Keys from which on a worker sends a state in parts: that costs little, and postpones the choice of who merges."""

MANY = 400_000
"""Keys in all from which on a final stage pays: the parent alone would take longer, some 0.2 s."""

KEPT = 256 << 20
"""Most bytes of pickled parts that the parent keeps, unless the result is larger; beyond, it merges them itself."""

ADDED_TO = 1 << 18
"""Most counts in a dict to which a worker adds: beyond, cache misses make adding as slow as sorted runs."""

RUN = 1 << 13
"""Fewest counts of a run, because each of its parts is pickled separately."""


class Combine(Strategy):
    """Partials meet inside each worker, across chunks; the parent merges the accumulators that workers flush.

    Dicts of many keys are merged as `Partition` does it.
    """

    stateful = True
    merges_remotely = True

    def refusal(self, reducer: Reducer) -> str | None:
        """Refuse a reducer without merge, or whose merge needs input order."""
        if not reducer.mergeable:
            return (
                f"{reducer!r} has no merge, so only the parent can fold it: use Stream() or Ordered(), or give it one"
            )
        if reducer.ordered:
            return f"{reducer!r} merges in input order only, and {self!r} in any: use Tree() or Ordered()"
        return None

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """Return a fold that keeps an accumulator in the worker."""
        del grid
        return _AccumulatorFold(reducer, PARTS)

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """Return a fold that merges accumulators."""
        return _MergingFold(reducer, PARTS, MANY)

    def packed(self, reducer: Reducer, data: Any) -> Any:
        """Return a large dict in parts, a small one in compact form, and any data that was sent before unchanged."""
        if not reducer.keyed:
            return data
        if isinstance(data, Divided):
            return data
        return Divided([divided(data, PARTS)]) if len(data) >= LARGE else compact(data)

    def final_stage(self, parent_fold: Any) -> FinalStage | None:
        """Return the merging of the parts, if there are keys enough."""
        return parent_fold.final_stage() if isinstance(parent_fold, _MergingFold) else None


class Partition(Combine):
    """Partials meet inside each worker; then workers merge the states too, each of `n` parts of the keys in one worker.

    For reducers whose accumulator is a dict (`Frequencies`, `MergeCounts`, `GroupBy`, `.by`) with millions of keys.
    """

    def __init__(self, n: int = PARTS) -> None:
        self.n = checked_count("Partition(n): the number of parts", n)

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """Return a fold that keeps an accumulator in the worker."""
        del grid
        return _AccumulatorFold(reducer, self.n)

    def refusal(self, reducer: Reducer) -> str | None:
        """Refuse a reducer without keys."""
        if not reducer.keyed:
            return f"{reducer!r} has no keys that {self!r} could divide among workers: use Combine()"
        return super().refusal(reducer)

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """Return a fold that keeps parts for the final stage."""
        return _MergingFold(reducer, self.n, 1)

    def packed(self, reducer: Reducer, data: Any) -> Any:
        """Return the accumulator in parts."""
        return data if isinstance(data, Divided) else Divided([divided(data, self.n)])

    def __repr__(self) -> str:
        return f"Partition({self.n})"


class _AccumulatorFold:
    folds_at_once = True
    """`add` folds its partials, and a reducer that raises and keeps its accumulator unchanged leaves this unchanged."""

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
            self._move_to_runs()
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
        state = PartialState(tuple(self._covers), data)
        self._acc, self._runs, self._covers = None, None, []
        return [state]

    def _move_to_runs(self) -> None:
        """Move counts into a run; merging other accumulators than numbers twice would cost more than it saves."""
        if self._runs is None:
            if type(next(iter(self._acc.values()))) is not int:
                return
            self._runs = SortedRuns(self._reducer, self._count)
        self._runs.add(self._acc)
        self._acc = self._reducer.init()


def _merged(reducer: Reducer, acc: Any, data: Any) -> Any:
    """Merge the state of another worker into an accumulator."""
    if not isinstance(data, Divided):
        return join(reducer, acc, data)
    for part in (part for parts in data for part in parts.packed):
        acc = update(reducer, acc, opened(part))
    return acc


class _MergingFold:
    def __init__(self, reducer: Reducer, count: int, many: int) -> None:
        self._reducer = reducer
        self._count = count
        self._many = many
        self._acc = reducer.init()
        self._fresh = True
        self._pickled: list[Parts] = []
        self._joined: _JoinedParts | None = None
        self.at: int | None = None

    def commit(self, data: Any) -> None:
        if isinstance(data, Divided):
            self._pickled += data
            if sum(parts.nbytes for parts in self._pickled) > max(KEPT, KEY * len(self._acc)):
                self._merge_pickled()
        elif self._fresh and self._reducer.retains_input:  # merge(init(), x) == x, and nothing else refers to x
            self._acc, self._fresh = data, False
        else:  # without retains_input, data may lie in borrowed memory
            self._acc = join(self._reducer, self._acc, data)

    def value(self, last: bool = False) -> Any:
        acc = self.state()
        return self._reducer.finish_last(acc) if last else self._reducer.finish(acc)

    def done(self, settled: int) -> bool:
        self._merge_pickled()
        return self._reducer.done(self._acc, settled)

    def state(self) -> Any:
        self._use_final_stage()
        self._merge_pickled()  # else each checkpoint would write all parts, which have most keys in common
        return self._acc

    def restore(self, state: Any) -> None:
        self._acc, self._fresh = state, False

    def final_stage(self) -> FinalStage | None:
        keys = sum(parts.keys for parts in self._pickled)
        if len(self._pickled) < 2 or keys < self._many:
            return None
        self._joined = _JoinedParts(self._reducer.init(), self._count)
        items = [list(part) for part in zip(*(parts.packed for parts in self._pickled), strict=True)]
        why = f"the workers' states hold {keys:,} keys, which one core would merge for long"
        return FinalStage(functools.partial(merged, self._reducer), items, self._joined.take, why)

    def _use_final_stage(self) -> None:
        """Use the result of the final stage, if it is complete."""
        if self._joined is not None and self._joined.complete:
            self._acc, self._pickled = self._both(self._joined.acc, self._acc), []
        self._joined = None

    def _both(self, left: Any, right: Any) -> Any:
        large, small = (left, right) if len(left) > len(right) else (right, left)
        return join(self._reducer, large, small) if small else large

    def _merge_pickled(self) -> None:
        for parts in self._pickled:
            for part in parts.packed:
                self._acc = update(self._reducer, self._acc, opened(part))
        self._pickled = []


class _JoinedParts:
    """Joins the parts that workers have merged. They are disjoint if all workers hash keys alike."""

    def __init__(self, acc: Any, count: int) -> None:
        self.acc = acc
        self._missing = count

    @property
    def complete(self) -> bool:
        """True if all parts have arrived and are disjoint."""
        return not self._missing

    def take(self, part: PackedPart) -> None:
        """Put in one more part."""
        entries = opened(part)
        expected = len(self.acc) + len(entries)
        put(self.acc, entries)
        self._missing -= len(self.acc) == expected
