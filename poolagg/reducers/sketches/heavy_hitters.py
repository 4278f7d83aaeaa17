"""HeavyHitters: the most frequent partials, from a sketch of their counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from poolagg._runtime.arguments import need_count
from poolagg._runtime.plain_values import plain
from poolagg.reducers.keys import EMPTY, as_key, as_result
from poolagg.reducers.reducer import Reducer
from poolagg.reducers.sketches.library import library
from poolagg.reducers.sketches.texts import text_of

__all__ = ["CountSketch", "HeavyHitters"]

SHARPNESS = 10
"""How many times smaller than its threshold the error of `HeavyHitters` is."""

LARGEST_LOG = 26
"""The base-2 logarithm of the largest table."""


class HeavyHitters(Reducer[list[tuple[Any, int]]]):
    """All items that may be more than 1/k of the total: a list of (item, count), largest first, ties by the item.

    Partials are any hashable items; every nan is the same item, `math.nan`. No item with more than 1/k of the total is
    missing. A count is never too small, and too large by at most 1/(10 k) of the total, so each item in the list has
    more than 0.9/k of it. Counts are exact while there are fewer than 26 k different items. Memory: 35 k to 70 k items.

    The sketch (Misra and Gries 1982, as improved by Anderson et al. 2017) depends on `hash()`, which differs between
    two programs, so a run with reproducible=True is refused. Raises ValueError for k below 2 or above a million,
    ImportError without the `datasketches` library, and TypeError for a partial that is not hashable.

    >>> from poolagg.reducers import reduced
    >>> reduced(HeavyHitters(3).flat(), ["abba", "cab", "a"])
    [('a', 4), ('b', 3)]
    """

    varies = "its sketch depends on hash(), which differs between two programs"

    def __init__(self, k: int) -> None:
        library("HeavyHitters")
        self.k = need_count("HeavyHitters(k)", k, least=2)
        if k > 1_000_000:
            raise ValueError(f"HeavyHitters(k) is at most 1,000,000, got {k!r}: Frequencies() counts all")

    def prepare(self, partial: Any) -> Any:
        hash(partial)
        return EMPTY if partial is None else as_key(partial)  # the library refuses None

    def init(self) -> CountSketch:
        # The library's error is 3.5 / 2**size of the total.
        size = math.ceil(math.log2(3.5 * SHARPNESS * self.k))
        return CountSketch(min(size, LARGEST_LOG))

    def step(self, acc: CountSketch, prepared: Any) -> CountSketch:
        acc.sketch.update(prepared)
        return acc

    def steps(self, acc: CountSketch, prepareds: Sequence[Any]) -> CountSketch:
        for item, count in Counter(iter(prepareds)).items():
            acc.sketch.update(item, count)
        return acc

    def merge(self, acc: CountSketch, other: CountSketch) -> CountSketch:
        acc.sketch.merge(other.sketch)
        return acc

    def finish(self, acc: CountSketch) -> list[tuple[Any, int]]:
        all_of_them = library("HeavyHitters").frequent_items_error_type.NO_FALSE_NEGATIVES
        found = acc.sketch.get_frequent_items(all_of_them, acc.sketch.total_weight // self.k)
        hitters = [(None if item is EMPTY else as_result(item), upper) for item, _, _, upper in found]
        return sorted(hitters, key=lambda hitter: (-hitter[1], text_of(hitter[0])))


@plain
class CountSketch:
    """A sketch of the counts of items. Its pickle holds the items beside the sketch, which knows them by number."""

    def __init__(self, size: int, data: bytes | None = None, items: Sequence[Any] = ()) -> None:
        kind = library("HeavyHitters").frequent_items_sketch
        self.size = size
        self.sketch = kind(size) if data is None else kind.deserialize(data, _by_number([*items]))

    def __reduce__(self) -> tuple[Any, ...]:
        items: list[Any] = []
        return CountSketch, (self.size, self.sketch.serialize(_by_number(items)), items)


CountSketch.__module__ = "poolagg.reducers"


def _by_number(items: list[Any]) -> Any:
    """Return what writes items of a sketch as their indices in `items`, and reads them again."""

    class ByNumber(library("HeavyHitters").PyObjectSerDe):  # type: ignore[misc]
        def get_size(self, item: Any) -> int:
            return 4

        def to_bytes(self, item: Any) -> bytes:
            items.append(item)
            return (len(items) - 1).to_bytes(4, "little")

        def from_bytes(self, data: bytes, offset: int) -> tuple[Any, int]:
            return items[int.from_bytes(data[offset : offset + 4], "little")], 4

    return ByNumber()
