"""What a strategy is: two halves, `gather` beside `func` and `folding` in the parent, and what the plan has to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from poolagg._chunks import Grid
from poolagg._worker_messages import Piece
from poolagg.reducers import Reducer

__all__ = ["Errand", "Folding", "Gather", "Strategy"]


class Gather(Protocol):
    """The half of a strategy beside `func`: takes runs of consecutive prepared partials, gives pieces."""

    def add(self, index: int, prepareds: list[Any]) -> None:
        """Take the prepared partials of consecutive items, the first of which is item `index`."""

    def close(self, stop: int) -> None:
        """The chunk has ended, at item `stop`."""

    def payloads(self) -> list[Piece]:
        """Give what is gathered, and start afresh."""


class Folding(Protocol):
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


class Errand(NamedTuple):
    """Work for the lanes on what was committed: `func` of each of `items`, whose results `take` takes, in any order.

    If it comes to nothing, a worker having died too often say, the folding has everything still, and `value` does it.
    """

    func: Callable[[Any], Any]
    items: Sequence[Any]
    take: Callable[[Any], None]
    why: str


class Strategy:
    """How partials meet. The class attributes tell the plan what it needs to know."""

    carries: bool = False
    """Lanes keep state across chunks and ship it when that is cheap."""
    in_order: bool = False
    """Payloads are committed in input order."""
    meets: bool = False
    """What several lanes gathered can be merged outside the parent: `gather` has `adopt(covers, data)`, which is given
    a payload as it travels."""

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

    def packed(self, reducer: Reducer, data: Any) -> Any:
        """What a payload's data travels as where it has to leave its process; `folding` is given that.

        On a cluster it may have travelled before, and is what this has made of it.
        """
        del reducer
        return data

    def errand(self, folding: Any) -> Errand | None:
        """What is left to be done in lanes when everything is committed."""
        del folding
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *sorted(vars(self).items())))
