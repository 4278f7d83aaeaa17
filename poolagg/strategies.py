"""Where partials meet: in the parent as they arrive, in input order, inside each worker, or in a fixed tree.

    strategy     partials meet                       a lane ships              the parent
    Stream()     in the parent, as they arrive       prepared partials         steps
    Ordered()    in the parent, in input order       prepared partials         steps, in input order
    Combine()    inside each worker, across chunks   its accumulator           merges
    Tree()       in aligned pairs of fixed leaves    subtrees of its chunk     merges aligned neighbours

A strategy is a small pure object with two halves: `gather` makes the half that runs beside `func` and turns prepared
partials into payloads, `folding` the half that folds payloads into the result. Subclass `Strategy` to write another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from poolagg._chunks import Grid, Interval
from poolagg.reducers import Reducer, fold, join

__all__ = ["Combine", "Folding", "Gather", "Ordered", "Strategy", "Stream", "Tree"]

Payload = tuple[tuple[Interval, ...], Any]
"""What a lane ships: the intervals it covers, and the data."""


class Gather(Protocol):
    """The half of a strategy beside `func`: takes runs of consecutive prepared partials, gives payloads."""

    def add(self, index: int, prepareds: list[Any]) -> None:
        """Take the prepared partials of consecutive items, the first of which is item `index`."""

    def close(self, stop: int) -> None:
        """The chunk has ended, at item `stop`."""

    def payloads(self) -> list[Payload]:
        """Give what is gathered, and start afresh."""


class Folding(Protocol):
    """The half of a strategy in the parent: the one result."""

    at: int | None
    """The item whose partial is being stepped, where that is known: for the notes on exceptions."""

    def commit(self, data: Any) -> None:
        """Fold one payload's data in. If it raises, the accumulator is torn and nothing may be committed after it."""

    def value(self, last: bool = False) -> Any:
        """The finished result of what is committed. The accumulator stays as it was, unless it is the `last` time."""

    def done(self) -> bool:
        """Whether nothing that is still to come can change the result."""


class Strategy:
    """How partials meet. The class attributes tell the plan what it needs to know."""

    carries: bool = False
    """Lanes keep state across chunks and ship it when that is cheap."""
    in_order: bool = False
    """Payloads are committed in input order."""

    def refusal(self, reducer: Reducer) -> str | None:
        """Why this strategy can't serve this reducer, or None."""
        del reducer
        return None

    def grid(self, chunksize: int | None) -> Grid | None:
        """The leaves that chunks must be cut along, if any."""
        del chunksize
        return None

    def gather(self, reducer: Reducer, grid: Grid | None) -> Gather:
        """The half that runs in a lane."""
        raise NotImplementedError

    def folding(self, reducer: Reducer) -> Folding:
        """The half that runs in the parent."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))


class Stream(Strategy):
    """Partials travel to the parent, which steps them as they arrive: the literal `imap_unordered` loop."""

    def refusal(self, reducer: Reducer) -> str | None:
        """An ordered reducer needs input order."""
        if reducer.ordered:
            return f"{reducer!r} folds in input order, and {self!r} folds as partials arrive: use Ordered()"
        return None

    def gather(self, reducer: Reducer, grid: Grid | None) -> Gather:
        """Keeps the prepared partials of a chunk."""
        del reducer, grid
        return _Runs()

    def folding(self, reducer: Reducer) -> Folding:
        """Steps."""
        return _Stepping(reducer)


class Ordered(Stream):
    """Partials travel to the parent, which steps them in input order, within a bounded window."""

    in_order = True

    def refusal(self, reducer: Reducer) -> str | None:
        """Serves every reducer."""
        del reducer
        return None


class Combine(Strategy):
    """Partials meet inside each worker, across chunks; the parent merges the accumulators that workers ship."""

    carries = True

    def refusal(self, reducer: Reducer) -> str | None:
        """It takes a merge, and one that commutes."""
        if not reducer.mergeable:
            return (
                f"{reducer!r} has no merge, so only the parent can fold it: use Stream() or Ordered(), or give it one"
            )
        if reducer.ordered:
            return f"{reducer!r} merges in input order only, and {self!r} in any: use Tree() or Ordered()"
        return None

    def gather(self, reducer: Reducer, grid: Grid | None) -> Gather:
        """Folds in the lane."""
        del grid
        return _Carried(reducer)

    def folding(self, reducer: Reducer) -> Folding:
        """Merges."""
        return _Merging(reducer)


class Tree(Strategy):
    """States of fixed leaves meet aligned neighbours, in a shape that depends on the item indices alone.

    The same bits for any number of workers, any pool and any timing; and input order is kept, so that it serves
    ordered reducers that merge.
    """

    def refusal(self, reducer: Reducer) -> str | None:
        """It takes a merge."""
        if not reducer.mergeable:
            return f"{reducer!r} has no merge, and {self!r} merges: use Ordered(), or give it one"
        return None

    def grid(self, chunksize: int | None) -> Grid | None:
        """Leaves of `chunksize` items; by default, leaves that grow with the index."""
        return Grid(chunksize)

    def gather(self, reducer: Reducer, grid: Grid | None) -> Gather:
        """Folds each leaf, and merges aligned leaves of a chunk."""
        assert grid is not None
        return _Leaves(reducer, grid)

    def folding(self, reducer: Reducer) -> Folding:
        """Merges aligned neighbours."""
        return _Climbing(reducer)


# -- the halves that run in a lane ---------------------------------------------------------------------------------


class _Runs:
    def __init__(self) -> None:
        self._runs: list[tuple[int, list[Any]]] = []

    def add(self, index: int, prepareds: list[Any]) -> None:
        if self._runs:
            start, run = self._runs[-1]
            if start + len(run) == index:
                run.extend(prepareds)
                return
        self._runs.append((index, prepareds))

    def close(self, stop: int) -> None:
        pass

    def payloads(self) -> list[Payload]:
        runs, self._runs = self._runs, []
        return [(((start, start + len(run)),), (start, run)) for start, run in runs]


class _Carried:
    def __init__(self, reducer: Reducer) -> None:
        self._reducer = reducer
        self._acc: Any = None
        self._covers: list[Interval] = []

    def add(self, index: int, prepareds: list[Any]) -> None:
        if not self._covers:
            self._acc = self._reducer.init()
        self._acc = fold(self._reducer, self._acc, index, prepareds)
        start, stop = index, index + len(prepareds)
        if self._covers and self._covers[-1][1] == start:
            start, _ = self._covers.pop()
        self._covers.append((start, stop))

    def close(self, stop: int) -> None:
        pass

    def payloads(self) -> list[Payload]:
        if not self._covers:
            return []
        payload = (tuple(self._covers), self._acc)
        self._acc, self._covers = None, []
        return [payload]


@dataclass(slots=True)
class _Node:
    level: int
    place: int
    covers: list[Interval]
    acc: Any
    whole: bool


class _Leaves:
    """Collects the partials of one leaf at a time, for `steps` is to get exactly one leaf; then climbs."""

    def __init__(self, reducer: Reducer, grid: Grid) -> None:
        self._reducer = reducer
        self._grid = grid
        self._open: list[tuple[int, list[Any]]] = []
        self._nodes: list[_Node] = []

    def add(self, index: int, prepareds: list[Any]) -> None:
        while prepareds:
            _, start, stop = self._grid.leaf(index)
            if self._open and self._open[0][0] < start:
                self._fold_leaf()
            self._open.append((index, prepareds[: stop - index]))
            prepareds, index = prepareds[stop - index :], stop

    def close(self, stop: int) -> None:
        del stop
        self._fold_leaf()

    def payloads(self) -> list[Payload]:
        nodes, self._nodes = self._nodes, []
        return [(tuple(node.covers), (node.level, node.place, node.acc)) for node in nodes]

    def _fold_leaf(self) -> None:
        if not self._open:
            return
        runs, self._open = self._open, []
        number, start, stop = self._grid.leaf(runs[0][0])
        acc = fold_runs(self._reducer, runs)
        covers = [(i, i + len(run)) for i, run in runs]
        whole = sum(len(run) for _, run in runs) == stop - start
        self._nodes.append(_Node(0, number, covers, acc, whole))
        while self._climb():
            pass

    def _climb(self) -> bool:
        """Merge the last two nodes if they are the halves of the node above."""
        if len(self._nodes) < 2:
            return False
        left, right = self._nodes[-2:]
        siblings = left.level == right.level and left.place + 1 == right.place and left.place % 2 == 0
        # A leaf with a hole stays by itself: the plan may yet want it folded anew.
        if not (siblings and left.whole and right.whole):
            return False
        acc = join(self._reducer, left.acc, right.acc)
        covers = [(left.covers[0][0], right.covers[-1][1])]
        self._nodes[-2:] = [_Node(left.level + 1, left.place // 2, covers, acc, True)]
        return True


def fold_runs(reducer: Reducer, runs: Sequence[tuple[int, list[Any]]]) -> Any:
    """Fold one leaf from the runs of consecutive partials it consists of: one `steps` unless places matter."""
    acc = reducer.init()
    if not reducer.placed:
        return fold(reducer, acc, runs[0][0], [x for _, run in runs for x in run] if len(runs) > 1 else runs[0][1])
    for index, run in runs:
        acc = fold(reducer, acc, index, run)
    return acc


# -- the halves that run in the parent -----------------------------------------------------------------------------


class _Stepping:
    def __init__(self, reducer: Reducer) -> None:
        self._reducer = reducer
        self._acc = reducer.init()
        self.at: int | None = None

    def commit(self, data: tuple[int, list[Any]]) -> None:
        index, prepareds = data
        if self._reducer.mergeable:
            self._acc = fold(self._reducer, self._acc, index, prepareds)
            return
        # What only the parent can fold is the user's own function: one by one, so that an exception names its item.
        for self.at, prepared in enumerate(prepareds, index):
            self._acc = fold(self._reducer, self._acc, self.at, (prepared,))
        self.at = None

    def value(self, last: bool = False) -> Any:
        return self._reducer.finish_last(self._acc) if last else self._reducer.finish(self._acc)

    def done(self) -> bool:
        return self._reducer.done(self._acc)


class _Merging:
    def __init__(self, reducer: Reducer) -> None:
        self._reducer = reducer
        self._acc = reducer.init()
        self._fresh = True
        self.at: int | None = None

    def commit(self, data: Any) -> None:
        if self._fresh and self._reducer.keeps:  # merge(init(), x) == x, and x is ours alone: its lane let go of it
            self._acc, self._fresh = data, False
        else:  # what is not kept may lie in memory that is only lent
            self._acc = join(self._reducer, self._acc, data)

    def value(self, last: bool = False) -> Any:
        return self._reducer.finish_last(self._acc) if last else self._reducer.finish(self._acc)

    def done(self) -> bool:
        return self._reducer.done(self._acc)


class _Climbing:
    """Nodes by (level, place): a node meets its sibling as soon as both are there. O(log n) nodes when in order."""

    def __init__(self, reducer: Reducer) -> None:
        self._reducer = reducer
        self._nodes: dict[tuple[int, int], Any] = {}
        self.at: int | None = None

    def commit(self, data: tuple[int, int, Any]) -> None:
        level, place, acc = data
        while (sibling := (level, place ^ 1)) in self._nodes:
            other = self._nodes.pop(sibling)
            acc = self._merge(other, acc) if place & 1 else self._merge(acc, other)
            level, place = level + 1, place >> 1
        self._nodes[level, place] = acc

    def value(self, last: bool = False) -> Any:
        del last
        # A node without a sibling (the input's end, a leaf that was skipped whole) climbs as it is: the shape depends
        # on which leaves there are, and on nothing else. Merging into a fresh accumulator leaves the nodes untouched.
        nodes = {key: self._merge(self._reducer.init(), acc) for key, acc in self._nodes.items()}
        level = 0
        while len(nodes) > 1:
            for place in sorted(p for lev, p in nodes if lev == level and p % 2):
                acc = nodes.pop((level, place))
                if (left := (level, place - 1)) in nodes:
                    acc = self._merge(nodes.pop(left), acc)
                nodes[level + 1, place >> 1] = acc
            for place in [p for lev, p in nodes if lev == level]:
                nodes[level + 1, place >> 1] = nodes.pop((level, place))
            level += 1
        return self._reducer.finish(nodes.popitem()[1] if nodes else self._reducer.init())

    def done(self) -> bool:
        return len(self._nodes) == 1 and self._reducer.done(next(iter(self._nodes.values())))

    def _merge(self, acc: Any, other: Any) -> Any:
        return join(self._reducer, acc, other)
