"""GroupBy and `.by`: one accumulator of the inner reducer for each key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, overload

from poolagg._runtime.arguments import need_callable, shown
from poolagg._runtime.value_types import types_of
from poolagg.reducers.keys import as_result, may_hold_marks
from poolagg.reducers.reducer import Combinator, Groups, Positions, R, Reducer, Rejection, join
from poolagg.reducers.tee import ReducerLike, as_reducer

__all__ = ["By", "GroupBy"]


class GroupBy(Combinator[dict[Any, R]]):
    """Reduce the values of each key on their own: partials are (key, value) pairs, the result is a dict.

    Linear; `steps` groups a batch first and folds each key's values in bulk. Keys must be hashable. Every nan, of any
    type and inside any tuple, is the same key, `math.nan`.

    >>> from poolagg.reducers import Sum, reduced
    >>> reduced(GroupBy(Sum()), [("a", 1), ("b", 2), ("a", 3)])
    {'a': 4, 'b': 2}
    """

    keyed = True

    @overload
    def __init__(self, reducer: Reducer[R]) -> None: ...
    @overload
    def __init__(self: GroupBy[Any], reducer: ReducerLike) -> None: ...
    def __init__(self, reducer: Any) -> None:
        super().__init__(as_reducer(reducer))

    @property
    def has_prepare(self) -> bool:
        return True

    def prepare(self, partial: Any) -> tuple[Any, Any]:
        try:
            key, value = partial
        except (TypeError, ValueError):
            raise TypeError(
                f"{self!r} requires (key, value) pairs, got {partial!r}; .by(key) groups by a function"
            ) from None
        return key, self.inner.prepare(value)

    def init(self) -> dict[Any, Any]:
        return {}

    def _prepare_all(self, partials: Sequence[Any]) -> Sequence[Any]:
        if not self.inner.has_prepare and types_of(partials) == {tuple} and _are_pairs(partials):
            return partials
        return super()._prepare_all(partials)

    def _steps_among(self, acc: dict[Any, Any], places: Positions, prepareds: Sequence[Any]) -> dict[Any, Any]:
        acc.update(self.inner._steps_by_key(acc, Groups(places, prepareds)))
        return acc

    @property
    def rejection(self) -> Rejection:
        """How it rejects keys that have no hash, and what `inner` rejects."""
        hashed_first = self.inner.rejection is Rejection.NONE and not self.positional
        return Rejection.ATOMIC if hashed_first or self.inner.rejection is Rejection.PERSISTENT else Rejection.MIDWAY

    def validate(self, prepareds: Sequence[Any]) -> None:
        try:
            deque(map(hash, [key for key, _ in prepareds]), maxlen=0)
        except TypeError as error:
            error.add_note(f"{self!r} requires hashable keys")
            raise
        if self.inner.rejection is not Rejection.NONE:
            self.inner.validate([prepared for _, prepared in prepareds])

    def merge(self, acc: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
        for key, theirs in other.items():
            acc[key] = join(self.inner, acc[key] if key in acc else self.inner.init(), theirs)
        return acc

    def finish(self, acc: dict[Any, Any]) -> dict[Any, R]:
        if may_hold_marks(acc):
            return {as_result(key): self.inner.finish(inner) for key, inner in acc.items()}
        return {key: self.inner.finish(inner) for key, inner in acc.items()}

    def __repr__(self) -> str:
        return f"GroupBy({self.inner!r})"


def _are_pairs(tuples: Sequence[Any]) -> bool:
    """Tell whether all tuples have two elements; unpacking them is the fastest check."""
    try:
        for _, _ in tuples:
            pass
    except ValueError:
        return False
    return True


class By(GroupBy[R]):
    """Reduces each group of partials with the same `key` with `inner`."""

    def __init__(self, inner: Reducer[R], key: Callable[[Any], Any]) -> None:
        need_callable(f"{inner!r}.by(key)", key)
        super().__init__(inner)
        self.key = key

    def prepare(self, partial: Any) -> tuple[Any, Any]:
        return self.key(partial), self.inner.prepare(partial)

    def __repr__(self) -> str:
        return f"{self.inner!r}.by({shown(self.key)})"
