"""Tee, several reducers in one pass; and `as_reducer`, which converts what may stand for a reducer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar, overload

from poolagg.reducers.functions import Fold
from poolagg.reducers.reducer import Combinator, Groups, Positions, R, Reducer, Rejection, join
from poolagg.reducers.suggestions import no_reducer, outdated

__all__ = ["ReducerLike", "Tee", "as_reducer"]

K = TypeVar("K")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")

ReducerLike: TypeAlias = (
    "Reducer[Any] | Mapping[Any, ReducerLike] | tuple[ReducerLike, ...] | Callable[[Any, Any], Any]"
)
"""The type of everything that `as_reducer` accepts."""


class Tee(Combinator[R]):
    """Several reducers over the same partials in one pass: a dict or a tuple of results.

    A dict or tuple of reducers in a reducer's place means a Tee, nested ones too. A Tee merges if all its members do,
    and is done when all are. Raises ValueError for no members, and the errors of `as_reducer` for each.

    >>> from poolagg.reducers import Count, Mean, reduced
    >>> reduced(Tee({"n": Count(), "mean": Mean().of(len)}), ["a", "bcd"])
    {'n': 2, 'mean': 2.0}
    """

    @overload
    def __init__(self: Tee[dict[K, R1]], members: Mapping[K, Reducer[R1]]) -> None: ...
    @overload
    def __init__(self: Tee[dict[K, Any]], members: Mapping[K, ReducerLike]) -> None: ...
    @overload
    def __init__(self: Tee[tuple[R1, R2]], members: tuple[Reducer[R1], Reducer[R2]]) -> None: ...
    @overload
    def __init__(self: Tee[tuple[R1, R2, R3]], members: tuple[Reducer[R1], Reducer[R2], Reducer[R3]]) -> None: ...
    @overload
    def __init__(
        self: Tee[tuple[R1, R2, R3, R4]], members: tuple[Reducer[R1], Reducer[R2], Reducer[R3], Reducer[R4]]
    ) -> None: ...
    @overload
    def __init__(self: Tee[tuple[Any, ...]], members: tuple[ReducerLike, ...]) -> None: ...
    def __init__(self, members: Any) -> None:
        if not members:
            raise ValueError(f"a Tee needs at least one reducer, got {members!r}")
        self.keys: tuple[Any, ...] | None = tuple(members) if isinstance(members, Mapping) else None
        super().__init__(*map(as_reducer, members.values() if isinstance(members, Mapping) else members))

    def prepare(self, partial: Any) -> Any:
        return tuple([part.prepare(partial) for part in self.parts]) if self.has_prepare else partial

    def init(self) -> tuple[Any, ...]:
        return tuple([part.init() for part in self.parts])

    def _steps_among(self, acc: tuple[Any, ...], places: Positions, prepareds: Sequence[Any]) -> tuple[Any, ...]:
        columns = self._columns(prepareds)
        members = zip(self.parts, acc, columns, strict=True)
        return tuple([part._steps_among(member, places, column) for part, member, column in members])

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups) -> dict[Any, Any]:
        keys = groups.keys
        known = [key for key in keys if key in states]
        members = list(zip(*[states[key] for key in known], strict=True)) or [()] * len(self.parts)
        columns = [groups] * len(self.parts)
        if self.has_prepare:
            columns = [groups.with_each(itemgetter(i)) for i in range(len(self.parts))]
        new = [
            part._steps_by_key(dict(zip(known, member, strict=True)), column).values()
            for part, member, column in zip(self.parts, members, columns, strict=True)
        ]
        return dict(zip(keys, zip(*new, strict=True), strict=True))

    def validate(self, prepareds: Sequence[Any]) -> None:
        for part, column in zip(self.parts, self._columns(prepareds), strict=True):
            if part.rejection is not Rejection.NONE:
                part.validate(column)

    def merge(self, acc: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple([join(part, mine, theirs) for part, mine, theirs in zip(self.parts, acc, other, strict=True)])

    def finish(self, acc: tuple[Any, ...]) -> Any:
        results = tuple([part.finish(member) for part, member in zip(self.parts, acc, strict=True)])
        return results if self.keys is None else dict(zip(self.keys, results, strict=True))

    @property
    def ends_early(self) -> bool:
        return all(part.ends_early for part in self.parts)

    def done(self, acc: tuple[Any, ...], settled: int) -> bool:
        return all(part.done(member, settled) for part, member in zip(self.parts, acc, strict=True))

    def _columns(self, prepareds: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """Return the sequence of prepared partials for each member."""
        if self.has_prepare and len(prepareds):
            return list(zip(*prepareds, strict=True))
        return [prepareds] * len(self.parts)

    def __repr__(self) -> str:
        return f"Tee({self.parts if self.keys is None else dict(zip(self.keys, self.parts, strict=True))!r})"


@overload
def as_reducer(what: Reducer[R]) -> Reducer[R]: ...
@overload
def as_reducer(what: ReducerLike) -> Reducer[Any]: ...
def as_reducer(what: Any) -> Reducer[Any]:
    """Convert a Reducer, a dict or tuple of them, or a two-argument function to a Reducer.

    A two-argument function means exactly `functools.reduce(f, map(func, iterable))`, input order included. Anything
    else, such as `list`, `sum` or a function of one argument, raises a TypeError that suggests what to write.

    >>> import operator
    >>> as_reducer(operator.add), as_reducer((max, min))
    (Fold(add), Tee((Fold(max), Fold(min))))
    """
    if isinstance(what, Reducer):
        if reason := outdated(what):
            raise TypeError(reason)
        return what
    if isinstance(what, (Mapping, tuple)):
        return Tee(what)
    if reason := no_reducer(what):
        raise TypeError(reason)
    return Fold(what)
