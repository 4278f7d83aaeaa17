"""Stream and Ordered: partials meet in the parent."""

from __future__ import annotations

from typing import Any

from poolagg._scheduler.ranges import LeafGrid
from poolagg._scheduler.worker_messages import PartialState
from poolagg.reducers import Reducer, fold
from poolagg.strategies.strategy import ParentFold, Strategy, WorkerFold

__all__ = ["Ordered", "Stream"]


class Stream(Strategy):
    """Workers send partials to the parent, which steps them as they arrive: the literal `imap_unordered` loop."""

    def refusal(self, reducer: Reducer) -> str | None:
        """Refuse an ordered reducer, which needs input order."""
        if reducer.ordered:
            return f"{reducer!r} folds in input order, and {self!r} folds as partials arrive: use Ordered()"
        return None

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """Return a fold that keeps the prepared partials of a chunk."""
        del reducer, grid
        return _ConsecutivePartials()

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """Return a fold that steps each partial."""
        return _SteppingFold(reducer)


class Ordered(Stream):
    """Workers send partials to the parent, which steps them in input order, within a bounded window."""

    in_order = True

    def refusal(self, reducer: Reducer) -> str | None:
        """Accept every reducer."""
        del reducer
        return None


class _ConsecutivePartials:
    flushes_partials = True
    """The data of a state is (index of the first, partials): a worker process pickles them batch by batch."""

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

    def payloads(self) -> list[PartialState]:
        runs, self._runs = self._runs, []
        return [PartialState(((start, start + len(run)),), (start, run)) for start, run in runs]


class _SteppingFold:
    def __init__(self, reducer: Reducer) -> None:
        self._reducer = reducer
        self._acc = reducer.init()
        self.at: int | None = None

    def commit(self, data: tuple[int, list[Any]]) -> None:
        index, prepareds = data
        if self._reducer.mergeable or self._reducer.positional:
            self._acc = fold(self._reducer, self._acc, index, prepareds)
        else:
            self._step_each(index, prepareds)

    def _step_each(self, index: int, prepareds: list[Any]) -> None:
        """Step one partial at a time: here `step` is the user's own function, and its exception must name the item."""
        reducer, step, acc = self._reducer, self._reducer.step, self._acc
        at = index
        try:
            for at, prepared in enumerate(prepareds, index):  # noqa: B007 - reported when step raises
                after = step(acc, prepared)
                acc = after if after is not None or acc is None else reducer._checked(acc, after, "step")
        except BaseException:
            self.at = at
            raise
        self._acc = acc

    def value(self, last: bool = False) -> Any:
        return self._reducer.finish_last(self._acc) if last else self._reducer.finish(self._acc)

    def done(self, settled: int) -> bool:
        return self._reducer.done(self._acc, settled)

    def state(self) -> Any:
        return self._acc

    def restore(self, state: Any) -> None:
        self._acc = state
