"""What a strategy is: two halves, `worker_fold` beside `func` and `parent_fold` in the parent, and what the scheduler
has to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from poolagg._scheduler.ranges import LeafGrid
from poolagg._scheduler.worker_messages import PartialState
from poolagg.reducers import Reducer

__all__ = ["FinalStage", "ParentFold", "Strategy", "WorkerFold"]


class WorkerFold(Protocol):
    """The half of a strategy beside `func`: takes runs of consecutive prepared partials, gives pieces."""

    def add(self, index: int, prepareds: list[Any]) -> None:
        """Take the prepared partials of consecutive items, the first of which is item `index`."""

    def close(self, stop: int) -> None:
        """The chunk has ended, at item `stop`."""

    def payloads(self) -> list[PartialState]:
        """Give what is gathered, and start afresh."""


class ParentFold(Protocol):
    """The half of a strategy in the parent: the one result.

    Where there is a grid it may have `leave_out(leaf)`, which is told of leaves whose items have all failed: no payload
    will come for such a leaf.
    """

    at: int | None
    """The item whose partial is being stepped, where that is known: for the notes on exceptions."""

    def commit(self, data: Any) -> None:
        """Fold one payload's data in. If it raises, the accumulator is torn and nothing may be committed after it."""

    def value(self, last: bool = False) -> Any:
        """The finished result of what is committed. The accumulator stays as it was, unless it is the `last` time."""

    def done(self) -> bool:
        """Whether nothing that is still to come can change the result."""

    def state(self) -> Any:
        """What is committed, for a checkpoint: it is pickled at once, and changes afterwards."""

    def restore(self, state: Any) -> None:
        """Go on from what was committed before, perhaps by another process."""


class FinalStage(NamedTuple):
    """Work for the workers on what was committed: `func` of each of `items`, whose results `take` takes, in any order.

    If it comes to nothing, a worker having died too often say, the folding has everything still, and `value` does it.
    """

    func: Callable[[Any], Any]
    items: Sequence[Any]
    take: Callable[[Any], None]
    why: str


class Strategy:
    """How partials meet. The class attributes tell the scheduler what it needs to know."""

    stateful: bool = False
    """Slots keep state across chunks and flush it when that is cheap."""
    in_order: bool = False
    """Payloads are committed in input order."""
    merges_remotely: bool = False
    """What several workers gathered can be merged outside the parent: `worker_fold` has `adopt(covers, data)`, which is
    given a payload as it travels."""

    def refusal(self, reducer: Reducer) -> str | None:
        """Why this strategy can't serve this reducer, or None."""
        del reducer
        return None

    def grid(self, chunksize: int | None) -> LeafGrid | None:
        """The leaves that chunks must be cut along, if any."""
        del chunksize
        return None

    def worker_fold(self, reducer: Reducer, grid: LeafGrid | None) -> WorkerFold:
        """The half that runs in a worker."""
        raise NotImplementedError

    def parent_fold(self, reducer: Reducer) -> ParentFold:
        """The half that runs in the parent."""
        raise NotImplementedError

    def packed(self, reducer: Reducer, data: Any) -> Any:
        """What a payload's data travels as where it has to leave its process; `parent_fold` is given that.

        On a cluster it may have travelled before, and is what this has made of it.
        """
        del reducer
        return data

    def final_stage(self, parent_fold: Any) -> FinalStage | None:
        """What is left to be done in workers when everything is committed."""
        del parent_fold
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))
