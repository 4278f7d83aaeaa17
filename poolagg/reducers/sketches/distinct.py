"""Distinct: how many different partials there are, from a sketch of their set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poolagg._runtime.plain_values import plain
from poolagg.reducers.reducer import Reducer
from poolagg.reducers.sketches.library import library
from poolagg.reducers.sketches.texts import text_of

__all__ = ["Distinct", "SetSketch"]

LOG_DISTINCT = 13
"""The base-2 logarithm of the number of hashes in a sketch."""


class Distinct(Reducer[float]):
    """About how many different partials there are, as a float; partials are any hashable items.

    Exact up to 8,192 different ones. Beyond, the standard error is 1.1 %: 95 of 100 results are within 2.2 %, 99.7 of
    100 within 3.3 %. The result depends neither on workers nor on order. At most 123 kB; about a microsecond a partial.

    Items are the same if they are equal numbers, texts, bytes, or tuples and frozensets of these; every nan is the same
    item. Other objects are the same if their types are and `__reduce_ex__` gives the same parts. (Theta sketch:
    Dasgupta, Lang, Rhodes and Thaler 2016.) Raises ImportError without the `datasketches` library, TypeError for a
    partial that is not hashable.

    >>> from poolagg.reducers import reduced
    >>> reduced(Distinct().flat(), ["abba", "cab"])
    3.0
    """

    retains_input = False

    def __init__(self) -> None:
        library("Distinct")

    def prepare(self, partial: Any) -> str:
        hash(partial)
        return text_of(partial)

    def init(self) -> SetSketch:
        return SetSketch()

    def step(self, acc: SetSketch, prepared: str) -> SetSketch:
        acc.sketch.update(prepared)
        return acc

    def steps(self, acc: SetSketch, prepareds: Sequence[str]) -> SetSketch:
        for text in set(prepareds):
            acc.sketch.update(text)
        return acc

    def merge(self, acc: SetSketch, other: SetSketch) -> SetSketch:
        acc.others.update(other.union())
        return acc

    def finish(self, acc: SetSketch) -> float:
        estimate: float = acc.union().get_estimate()
        return estimate


@plain
class SetSketch:
    """A sketch of a set of texts: of those that were added here, and the union of those that were merged into it."""

    def __init__(self, data: bytes | None = None) -> None:
        self.library = library("Distinct")
        self.sketch = self.library.update_theta_sketch(LOG_DISTINCT)
        self.others = self.library.theta_union(LOG_DISTINCT)
        if data is not None:
            self.others.update(self.library.compact_theta_sketch.deserialize(data))

    def union(self) -> Any:
        """Return a sketch of all, which depends on the set alone."""
        union = self.library.theta_union(LOG_DISTINCT)
        union.update(self.sketch)
        union.update(self.others.get_result())
        return union.get_result()

    def __reduce__(self) -> tuple[Any, ...]:
        return SetSketch, (self.union().serialize(),)


SetSketch.__module__ = "poolagg.reducers"
