"""The interface of a strategy: `worker_fold` next to `func`, `parent_fold` in the parent, flags for the scheduler."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from poolagg._scheduler.ranges import LeafGrid
from poolagg._scheduler.worker_messages import PartialState
from poolagg.reducers import Reducer

__all__ = ["FinalStage", "ParentFold", "Strategy", "WorkerFold"]


class WorkerFold(Protocol):
    """The half of a strategy in a worker: takes runs of consecutive prepared partials, returns partial states."""

    def add(self, index: int, prepareds: list[Any]) -> None:
        """Take the prepared partials of consecutive items, from item `index` on."""

    def close(self, stop: int) -> None:
        """End the chunk, at item `stop`."""

    def payloads(self) -> list[PartialState]:
        """Return the partial states since the last call, and start afresh."""


class ParentFold(Protocol):
    """The half of a strategy in the parent: the one result.

    With a grid it may have `leave_out(leaf)`: the parent calls it for a leaf whose items have all failed, so that no
    state of the leaf will arrive.
    """

    at: int | None
    """The item whose partial is being stepped, if known: for the notes on exceptions."""

    def commit(self, data: Any) -> None:
        """Fold in the data of one partial state. If this raises, the accumulator is dirty: commit nothing more."""

    def value(self, last: bool = False) -> Any:
        """Return the finished result of the committed states. Only the `last` call may change the accumulator."""

    def done(self, settled: int) -> bool:
        """Return `reducer.done`: no further state can change the result. All items before `settled` are committed."""

    def state(self) -> Any:
        """Return the committed state for a checkpoint; the caller pickles it at once, because it changes later."""

    def restore(self, state: Any) -> None:
        """Continue from a state that was committed before, perhaps by another process."""


class FinalStage(NamedTuple):
    """The last work for the workers: they call `func` for each of `items`; `take` gets the results in any order.

    If the final stage fails, because a worker dies too often for example, the parent fold still has all states, and
    `value` merges them itself. `why` is the reason for the stage, as part of a sentence.
    """

    func: Callable[[Any], Any]
    items: Sequence[Any]
    take: Callable[[Any], None]
    why: str


class Strategy:
    """Decides where partials meet. The class attributes are for the scheduler."""

    stateful: bool = False
    """Workers keep state across chunks and flush it when that is cheap."""
    in_order: bool = False
    """Partial states are committed in input order."""
    merges_remotely: bool = False
    """States of several workers can be merged outside the parent: `worker_fold` has `adopt(covers, data)`, which takes
    data that `packed` returned."""

    def refusal(self, reducer: Reducer) -> str | None:
        """Return why this strategy cannot serve this reducer, or None."""
        del reducer
        return None

    def grid(self, chunksize: int | None) -> LeafGrid | None:
        """Return the leaves at whose boundaries chunks must be cut, if any."""
        del chunksize
        return None

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """Return the half that runs in a worker."""
        raise NotImplementedError

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """Return the half that runs in the parent."""
        raise NotImplementedError

    def packed(self, reducer: Reducer, data: Any) -> Any:
        """Return the form in which a state's data leaves its process; `parent_fold` gets that form.

        On a cluster, `data` may have been sent before, and already has that form.
        """
        del reducer
        return data

    def final_stage(self, parent_fold: Any) -> FinalStage | None:
        """Return the work that is left for workers when everything is committed, if any."""
        del parent_fold
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))
