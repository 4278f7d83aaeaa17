"""The types of many values, quickly: workers need them for each batch of partials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["types_of"]


def types_of(values: Sequence[Any]) -> set[type]:
    """Return the types of the values in linear time; quickest for a single type, which takes no hashing.

    >>> types_of([1, 2, 3]), types_of([])
    ({<class 'int'>}, set())
    """
    types = list(map(type, values))
    if types and types.count(types[0]) == len(types):
        return {types[0]}
    return set(types)
