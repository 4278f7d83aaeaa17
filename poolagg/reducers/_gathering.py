"""Collect and Unique: all the partials, kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from poolagg.reducers._keys import all_equal_themselves, as_key, as_result, may_hold_marks
from poolagg.reducers._reducer import Place, Reducer

__all__ = ["Collect", "Unique"]


class Collect(Reducer[list[Any]]):
    """The list of the partials, in input order whatever arrives first. The values themselves are not copied.

    The accumulator is the stretches of the list by the place each begins at, never changed once they are in; linear,
    and they are sorted at the end.

    >>> from poolagg.reducers import reduced
    >>> reduced(Collect(), "abc")
    ['a', 'b', 'c']
    """

    def init(self) -> dict[Place, tuple[Any, ...]]:
        return {}

    def step_at(self, acc: dict[Place, tuple[Any, ...]], place: Place, prepared: Any) -> Any:
        acc[place] = (prepared,)
        return acc

    def steps_at(self, acc: dict[Place, tuple[Any, ...]], place: Place, prepareds: Sequence[Any]) -> Any:
        if len(prepareds):
            acc[place] = tuple(prepareds)
        return acc

    def merge(self, acc: dict[Place, tuple[Any, ...]], other: dict[Place, tuple[Any, ...]]) -> Any:
        acc.update(other)
        return acc

    def finish(self, acc: dict[Place, tuple[Any, ...]]) -> list[Any]:
        return list(chain.from_iterable(acc[place] for place in sorted(acc)))


class Unique(Reducer[set[Any]]):
    """The set of the partials, which must be hashable; every nan is the same element, `math.nan`.

    >>> from poolagg.reducers import reduced
    >>> sorted(reduced(Unique().flat(), ["abba", "cab"]))
    ['a', 'b', 'c']
    """

    def init(self) -> set[Any]:
        return set()

    def step(self, acc: set[Any], prepared: Any) -> set[Any]:
        acc.add(as_key(prepared))
        return acc

    def steps(self, acc: set[Any], prepareds: Sequence[Any]) -> set[Any]:
        elements = prepareds if isinstance(prepareds, (list, str)) else list(prepareds)
        acc.update(elements if all_equal_themselves(elements) else map(as_key, elements))
        return acc

    def merge(self, acc: set[Any], other: set[Any]) -> set[Any]:
        acc.update(other)
        return acc

    def finish(self, acc: set[Any]) -> set[Any]:
        return set(map(as_result, acc)) if may_hold_marks(acc) else set(acc)
