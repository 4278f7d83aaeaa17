"""Reducers that collect: lists, concatenated frames and arrays, sets of distinct values, and counts of keys."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from operator import add, itemgetter, length_hint
from typing import Any, TypeAlias

from poolagg._runtime.arguments import shown
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
from poolagg.reducers.reducer import Groups, Position, Positions, R, Reducer, Rejection

__all__ = ["Collect", "Concat", "Frequencies", "MergeCounts", "Unique"]

Stretch: TypeAlias = tuple[Position, Sequence[Any]]

SHORT = 32
"""Up to this many elements, a tuple costs less to make, to pickle and for the garbage collector than a list."""

HASHABLE = SURE | {float, complex}
"""Types whose values are all hashable, and are found again by their hash, except nan."""


class InOrder(Reducer[R]):
    """Keeps partials in input order, whatever order they arrive in. The values are not copied.

    The accumulator lists stretches of partials that arrived together: the position of the first, and all of them in a
    sequence that never changes.
    """

    def init(self) -> list[Stretch]:
        return []

    def step_at(self, acc: list[Stretch], place: Position, prepared: Any) -> list[Stretch]:
        acc.append((place, (prepared,)))
        return acc

    def _steps_among(self, acc: list[Stretch], places: Positions, prepareds: Sequence[Any]) -> list[Stretch]:
        if len(prepareds):
            acc.append((places[0], tuple(prepareds)))
        return acc

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups) -> dict[Any, Any]:
        new, lists, places = {}, groups.new_lists(), groups.places
        appearances = enumerate(groups.pairs)
        for key, prepareds in lists.items():
            for k, (appeared, _) in appearances:
                if appeared is key:  # groups are in order of appearance, so all these loops are one walk at most
                    new[key] = state = states.get(key, [])
                    state.append((places[k], prepareds if len(prepareds) > SHORT else tuple(prepareds)))
                    break
        return new

    def merge(self, acc: list[Stretch], other: list[Stretch]) -> list[Stretch]:
        acc.extend(other)
        return acc

    def finish(self, acc: list[Stretch]) -> Any:
        return list(chain.from_iterable([stretch for _, stretch in sorted(acc, key=itemgetter(0))]))


class Collect(InOrder[list[Any]]):
    """The list of the partials in input order, whatever order they arrive in. The values are not copied.

    Linear; only `finish` sorts, by stretches of partials that arrived together.

    >>> from poolagg.reducers import reduced
    >>> reduced(Collect(), "abc")
    ['a', 'b', 'c']
    """


class Concat(InOrder[Any]):
    """All partials in one, in input order, as their library concatenates them; None for no partials.

    Partials are DataFrames or Series of pandas or polars, Tables of pyarrow, or arrays of numpy, all of one kind. The
    function is `pandas.concat`, `polars.concat`, `pyarrow.concat_tables` or `numpy.concatenate`, with its defaults.
    Linear; the partials are kept as they are until the end.

    Each worker keeps to the kind of its first partial: one of another kind is its item's error. Raises TypeError for a
    partial that cannot be concatenated (`Collect().flat()` joins lists); and, at the end, if workers kept to different
    kinds.

    >>> import numpy as np
    >>> from poolagg.reducers import reduced
    >>> reduced(Concat(), [np.array([1, 2]), np.array([3])])
    array([1, 2, 3])
    """

    def __init__(self) -> None:
        self._kept_to: list[str] | None = None

    def worker_side(self) -> Concat:
        """Return a reducer for the workers of one run, which knows the kind of the first partial that it gets."""
        clone = Concat()
        clone._kept_to = []
        return clone

    def prepare(self, partial: Any, /) -> Any:
        found = _kind_of(partial)
        if found is None:
            raise TypeError(
                f"Concat() requires DataFrames, Series, Tables or arrays, got {shown(partial)}: .where(f) leaves "
                f"partials out, Collect().flat() joins lists"
            )
        if self._kept_to is not None:
            self._kept_to = self._kept_to or [found]
            self._need_one_kind([*self._kept_to, found])
        return partial

    def finish(self, acc: list[Stretch]) -> Any:
        parts = super().finish(acc)
        found = [str(_kind_of(part)) for part in parts]
        self._need_one_kind(found)
        return _concatenated(found[0], parts) if found else None

    def _need_one_kind(self, found: Sequence[str]) -> None:
        if len(several := list(dict.fromkeys(found))) > 1:
            raise TypeError(f"Concat() got {several[1]} after {several[0]}: convert them to one kind with .of(f)")


CONCATENATED = {
    ("numpy", "ndarray"): "an array of numpy",
    ("pandas", "DataFrame"): "a DataFrame of pandas",
    ("pandas", "Series"): "a Series of pandas",
    ("polars", "DataFrame"): "a DataFrame of polars",
    ("polars", "Series"): "a Series of polars",
    ("pyarrow", "Table"): "a Table of pyarrow",
}
"""The kinds of data for `Concat`, by package and class. They are known by name, since none need be installed."""


def _kind_of(partial: Any) -> str | None:
    own: Any = type(partial)
    for base in own.__mro__:
        kind = CONCATENATED.get((base.__module__.partition(".")[0], base.__name__))
        if base.__name__ == "ndarray" and (base is not own or not partial.shape):
            return None  # numpy would drop a mask, say, and concatenates along an axis
        if kind is not None:
            return kind
    return None


def _concatenated(kind: str, parts: list[Any]) -> Any:
    package = importlib.import_module(kind.rpartition(" ")[2])
    function = {"numpy": "concatenate", "pyarrow": "concat_tables"}.get(package.__name__, "concat")
    return getattr(package, function)(parts)


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
            _add(acc, counts)
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


def _add(acc: Counter[Any], counts: Mapping[Any, Any]) -> None:
    """Add counts. No loop in Python: it takes three quarters of the time of `Counter.update`."""
    sums = zip(counts, map(add, counts.values(), map(acc.get, counts, repeat(0))), strict=True)
    dict.update(acc, sums if acc else counts)


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
