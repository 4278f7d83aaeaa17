"""Reducers that collect: lists, sets of distinct values, and counts of keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import length_hint
from typing import Any

from poolagg._runtime.value_types import types_of
from poolagg.reducers.keys import (
    SURE,
    all_equal_themselves,
    as_key,
    as_result,
    mark_new,
    may_hold_marks,
    without_marks,
)
from poolagg.reducers.reducer import Position, Positions, Reducer, Rejection

__all__ = ["Collect", "Frequencies", "MergeCounts", "Unique"]

HASHABLE = SURE | {float, complex}
"""Types whose values are all hashable, and are found again by their hash, except nan."""


class Collect(Reducer[list[Any]]):
    """The list of the partials in input order, whatever order they arrive in. The values are not copied.

    The accumulator maps the position of each stretch's first partial to the stretch, an immutable tuple. Linear; only
    `finish` sorts.

    >>> from poolagg.reducers import reduced
    >>> reduced(Collect(), "abc")
    ['a', 'b', 'c']
    """

    def init(self) -> dict[Position, tuple[Any, ...]]:
        return {}

    def step_at(self, acc: dict[Position, tuple[Any, ...]], place: Position, prepared: Any) -> Any:
        acc[place] = (prepared,)
        return acc

    def _steps_among(self, acc: dict[Position, tuple[Any, ...]], places: Positions, prepareds: Sequence[Any]) -> Any:
        if len(prepareds):
            acc[places[0]] = tuple(prepareds)
        return acc

    def merge(self, acc: dict[Position, tuple[Any, ...]], other: dict[Position, tuple[Any, ...]]) -> Any:
        acc.update(other)
        return acc

    def finish(self, acc: dict[Position, tuple[Any, ...]]) -> list[Any]:
        return list(chain.from_iterable(acc[place] for place in sorted(acc)))


class Unique(Reducer[set[Any]]):
    """The set of the partials, which must be hashable; every nan is the same element, `math.nan`.

    >>> from poolagg.reducers import reduced
    >>> sorted(reduced(Unique().flat(), ["abba", "cab"]))
    ['a', 'b', 'c']
    """

    _rejection = Rejection.ATOMIC

    def init(self) -> set[Any]:
        return set()

    def step(self, acc: set[Any], prepared: Any) -> set[Any]:
        return self.steps(acc, [prepared])

    def steps(self, acc: set[Any], prepareds: Sequence[Any]) -> set[Any]:
        elements = prepareds if isinstance(prepareds, (list, str)) else list(prepareds)
        found = types_of(elements)
        try:
            if not found <= SURE and not all_equal_themselves(elements):
                elements = list(map(as_key, elements))
            acc.update(elements if found <= HASHABLE else set(elements))  # a set of its own: all of them, or none
        except TypeError as error:
            error.add_note("Unique() collects hashable partials; .flat() collects the elements of each")
            raise
        return acc

    def validate(self, prepareds: Sequence[Any]) -> None:
        if not types_of(prepareds) <= HASHABLE:
            super().validate(prepareds)

    def merge(self, acc: set[Any], other: set[Any]) -> set[Any]:
        acc.update(other)
        return acc

    def finish(self, acc: set[Any]) -> set[Any]:
        return set(map(as_result, acc)) if may_hold_marks(acc) else set(acc)


class MergeCounts(Reducer[Counter[Any]]):
    """The sum of partials that are mappings of counts, as a Counter. Zero and negative counts stay in it.

    Linear in the counts. Every nan is the same key. Raises TypeError for a partial that is not a mapping of numbers.

    >>> from poolagg.reducers import reduced
    >>> reduced(MergeCounts(), [{"a": 2, "b": 1}, {"a": -2}])
    Counter({'b': 1, 'a': 0})
    """

    keyed = True

    def prepare(self, partial: Any, /) -> Any:
        if not isinstance(partial, Mapping):
            raise TypeError(
                f"MergeCounts() adds mappings of counts, got {partial!r}: Frequencies().flat() counts elements"
            )
        try:
            sum(partial.values())
        except TypeError as error:
            error.add_note("MergeCounts() adds counts; GroupBy(reducer).flat().of(dict.items) reduces other values")
            raise
        return partial

    def init(self) -> Counter[Any]:
        return Counter()

    def step(self, acc: Counter[Any], prepared: Any) -> Counter[Any]:
        return self.steps(acc, (prepared,))

    def steps(self, acc: Counter[Any], prepareds: Sequence[Any]) -> Counter[Any]:
        before = len(acc)
        for counts in prepareds:
            acc.update(counts)
        if len(acc) > before:
            mark_new(acc, before)
        return acc

    def merge(self, acc: Counter[Any], other: Mapping[Any, Any]) -> Counter[Any]:
        count = acc.get
        for key, more in other.items():
            acc[key] = count(key, 0) + more
        return acc

    def finish(self, acc: Counter[Any]) -> Counter[Any]:
        result = Counter(acc)
        if (entries := without_marks(acc)) is not None:
            result.clear()
            dict.update(result, entries)
        return result


class Frequencies(MergeCounts):
    """How often each partial occurs, as a Counter; with `.flat()`, each element of the partials, at C speed.

    Partials must be hashable, and every nan is the same key, `math.nan`. `.flat()` counts the keys of a Counter once
    each; MergeCounts adds Counters.

    >>> from poolagg.reducers import reduced
    >>> reduced(Frequencies().flat(), ["abba", "cab"]).most_common(1)
    [('a', 3)]
    """

    _rejection = Rejection.ATOMIC
    prepare = Reducer.prepare

    def steps(self, acc: Counter[Any], prepareds: Sequence[Any]) -> Counter[Any]:
        before = len(acc)
        elements = prepareds if type(prepareds) in (list, tuple, str) else list(prepareds)
        remaining = iter(elements)  # an iterator: a mapping would be added, not counted
        try:
            acc.update(remaining)
        except Exception as error:
            _take_back(acc, before, elements, remaining)
            if isinstance(error, TypeError):
                error.add_note("Frequencies() counts hashable partials; .flat() counts the elements of each")
            raise
        if len(acc) > before:
            mark_new(acc, before)
        return acc

    def validate(self, prepareds: Sequence[Any]) -> None:
        if not types_of(prepareds) <= HASHABLE:
            super().validate(prepareds)


def _take_back(counts: Counter[Any], before: int, elements: Sequence[Any], remaining: Iterator[Any]) -> None:
    """Take back what a failed count has added to `counts`, which had `before` keys, oldest first."""
    counted = len(elements) - 1 - length_hint(remaining)
    for key in islice(elements, counted):
        counts[key] -= 1
    for key in list(islice(reversed(counts), len(counts) - before)):
        del counts[key]
