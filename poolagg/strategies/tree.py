"""Tree: states of fixed leaves merge with aligned neighbours, in a shape that only the items' indices decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from poolagg._scheduler.ranges import Interval, LeafGrid
from poolagg._scheduler.worker_messages import PartialState
from poolagg.reducers import Reducer, fold, join
from poolagg.strategies.strategy import ParentFold, Strategy, WorkerFold

__all__ = ["Tree"]


class Tree(Strategy):
    """States of fixed leaves merge with aligned neighbours, in a shape that depends on the item indices alone.

    The result has the same bits for any number of workers, any pool and any timing. Tree keeps input order, so that it
    serves ordered reducers that merge.
    """

    def refusal(self, reducer: Reducer) -> str | None:
        """Refuse a reducer without merge."""
        if not reducer.mergeable:
            return f"{reducer!r} has no merge, and {self!r} merges: use Ordered(), or give it one"
        return None

    def grid(self, chunksize: int | None) -> LeafGrid | None:
        """Return leaves of `chunksize` items; by default, leaves that grow with the index."""
        return LeafGrid(chunksize)

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """Return a fold that folds each leaf and merges aligned leaves of a chunk."""
        assert grid is not None
        return _LeafFold(reducer, grid)

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """Return a fold that merges aligned neighbours."""
        return _NodeFold(reducer)


# -- the half that runs in a worker ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    level: int
    position: int
    covers: list[Interval]
    acc: Any
    whole: bool


class _LeafFold:
    """Collects the partials of one leaf at a time, because `steps` must get exactly one leaf; then merges upwards."""

    def __init__(self, reducer: Reducer, grid: LeafGrid) -> None:
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

    def payloads(self) -> list[PartialState]:
        nodes, self._nodes = self._nodes, []
        return [PartialState(tuple(node.covers), (node.level, node.position, node.acc)) for node in nodes]

    def _fold_leaf(self) -> None:
        if not self._open:
            return
        runs, self._open = self._open, []
        number, start, stop = self._grid.leaf(runs[0][0])
        acc = fold_runs(self._reducer, runs)
        covers = [(i, i + len(run)) for i, run in runs]
        whole = sum(len(run) for _, run in runs) == stop - start
        self._nodes.append(_Node(0, number, covers, acc, whole))
        while self._merge_upwards():
            pass

    def _merge_upwards(self) -> bool:
        """Merge the last two nodes if they are the halves of the node above."""
        if len(self._nodes) < 2:
            return False
        left, right = self._nodes[-2:]
        siblings = left.level == right.level and left.position + 1 == right.position and left.position % 2 == 0
        # A leaf with a missing item stays separate: the scheduler may still have it folded again.
        if not (siblings and left.whole and right.whole):
            return False
        acc = join(self._reducer, left.acc, right.acc)
        covers = [(left.covers[0][0], right.covers[-1][1])]
        self._nodes[-2:] = [_Node(left.level + 1, left.position // 2, covers, acc, True)]
        return True


def fold_runs(reducer: Reducer, runs: Sequence[tuple[int, list[Any]]]) -> Any:
    """Fold one leaf from its runs of consecutive partials: in one `steps`, unless the reducer is positional."""
    acc = reducer.init()
    if not reducer.positional:
        return fold(reducer, acc, runs[0][0], [x for _, run in runs for x in run] if len(runs) > 1 else runs[0][1])
    for index, run in runs:
        acc = fold(reducer, acc, index, run)
    return acc


# -- the half that runs in the parent ----------------------------------------------------------------------------------


class _Absent(Enum):
    """Stands for the state of a leaf or node whose items all failed; an Enum, so that it pickles for checkpoints."""

    ABSENT = "absent"


class _NodeFold:
    """Nodes by (level, position). A node merges with its sibling as soon as both exist: O(log n) nodes if in order."""

    def __init__(self, reducer: Reducer) -> None:
        self._reducer = reducer
        self._nodes: dict[tuple[int, int], Any] = {}
        self.at: int | None = None

    def commit(self, data: tuple[int, int, Any]) -> None:
        level, position, acc = data
        if not self._reducer.retains_input:  # acc may lie in borrowed memory, and a node stays for long
            acc = self._merge(self._reducer.init(), acc)
        self._merge_upwards(level, position, acc)

    def leave_out(self, leaf: int) -> None:
        """Fill the position of a leaf without a state, for which its sibling would otherwise wait for ever."""
        self._merge_upwards(0, leaf, _Absent.ABSENT)

    def _merge_upwards(self, level: int, position: int, acc: Any) -> None:
        while (sibling := (level, position ^ 1)) in self._nodes:
            other = self._nodes.pop(sibling)
            acc = self._merge(other, acc) if position & 1 else self._merge(acc, other)
            level, position = level + 1, position >> 1
        self._nodes[level, position] = acc

    def value(self, last: bool = False) -> Any:
        del last
        return self._reducer.finish(self._merged())

    def done(self, settled: int) -> bool:
        return self._reducer.done(self._merged(), settled)

    def _merged(self) -> Any:
        """Merge all nodes, in a shape that depends on the leaves alone."""
        # A node without a sibling (at the input's end, next to a skipped leaf) moves up unmerged: the shape depends
        # only on the leaves that exist. Merging into a fresh accumulator leaves the nodes untouched.
        nodes = {key: self._merge(self._reducer.init(), acc) for key, acc in self._present().items()}
        level = 0
        while len(nodes) > 1:
            for position in sorted(p for lev, p in nodes if lev == level and p % 2):
                acc = nodes.pop((level, position))
                if (left := (level, position - 1)) in nodes:
                    acc = self._merge(nodes.pop(left), acc)
                nodes[level + 1, position >> 1] = acc
            for position in [p for lev, p in nodes if lev == level]:
                nodes[level + 1, position >> 1] = nodes.pop((level, position))
            level += 1
        return nodes.popitem()[1] if nodes else self._reducer.init()

    def _present(self) -> dict[tuple[int, int], Any]:
        return {key: acc for key, acc in self._nodes.items() if acc is not _Absent.ABSENT}

    def state(self) -> Any:
        return self._nodes

    def restore(self, state: Any) -> None:
        self._nodes = state

    def _merge(self, acc: Any, other: Any) -> Any:
        if other is _Absent.ABSENT:
            return acc
        if acc is _Absent.ABSENT:
            return other
        return join(self._reducer, acc, other)
