"""Accumulators that are dicts, as they travel: in compact form, and in parts by the hash of their keys.

A million strings are slow to pickle and to open, for each is an object of its own. One string with all keys in it, and
one array with all the counts, are several times as quick. Parts are packed once more, so that nobody opens them on the
way to who merges them.
"""

from __future__ import annotations

import pickle
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poolagg._kinds import kinds
from poolagg.reducers import Reducer, join

__all__ = ["Entries", "Parts", "compact", "merged", "put", "update"]

BETWEEN = "\0"


class Parts:
    """A dict in `count` parts, each packed. A key is in the same part whatever worker it comes from, as far as workers
    agree about its hash; of equal keys (1, True, 1.0) all are in one.
    """

    def __init__(self, entries: Mapping[Any, Any], count: int) -> None:
        self.keys = len(entries)
        bins: list[tuple[list[Any], list[Any]]] = [([], []) for _ in range(count)]
        adds = [(keys.append, values.append) for keys, values in bins]
        for key, value in entries.items():
            add_key, add_value = adds[hash(key) % count]
            add_key(key)
            add_value(value)
        self.packed = [_packed(*entries) for entries in bins]

    @property
    def nbytes(self) -> int:
        """How much memory they take."""
        return sum(map(len, self.packed))


class Entries:
    """The entries of one part, without the dict: what `merge` of a keyed reducer asks for is no more than `items`."""

    def __init__(self, part: bytes) -> None:
        keys, values = pickle.loads(part)
        self._keys, self._values = _loose(keys), _loose(values)

    def __len__(self) -> int:
        return len(self._keys)

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Keys and values."""
        return zip(self._keys, self._values, strict=True)


def merged(reducer: Reducer, parts: Sequence[bytes]) -> bytes:
    """The same part of several accumulators, merged by the reducer, and packed again."""
    acc = reducer.init()
    for part in parts:
        acc = update(reducer, acc, Entries(part))
    return _packed(list(acc), list(acc.values()))


def update(reducer: Reducer, acc: Any, entries: Entries) -> Any:
    """Merge entries into an accumulator."""
    if acc:
        return join(reducer, acc, entries)
    put(acc, entries)
    return acc


def put(acc: dict[Any, Any], entries: Entries) -> None:
    """Put in keys that are not there yet. (For a Counter, too, where its own `update` would add.)

    By way of a dict that fits into the cache: a large one is quicker to extend by hashes that are known.
    """
    dict.update(acc, dict(entries.items()))


class _Compact:
    """A dict that pickles in compact form, and comes out as a dict."""

    def __init__(self, entries: Mapping[Any, Any]) -> None:
        self._entries = entries

    def __reduce__(self) -> tuple[Any, ...]:
        entries = self._entries
        return _restored, (type(entries), _dense(list(entries)), _dense(list(entries.values())))


def compact(entries: Any) -> Any:
    """What to pickle in a dict's place; anything else as it is."""
    return _Compact(entries) if type(entries) in (dict, Counter) else entries


def _restored(kind: type[dict[Any, Any]], keys: Any, values: Any) -> dict[Any, Any]:
    entries = kind()
    dict.update(entries, zip(_loose(keys), _loose(values), strict=True))
    return entries


def _packed(keys: list[Any], values: list[Any]) -> bytes:
    return pickle.dumps((_dense(keys), _dense(values)), 5)


def _dense(values: list[Any]) -> Any:
    """Strings as one string, small ints as one array; what is neither as it is."""
    types = kinds(values)
    if types == {str}:
        joined = BETWEEN.join(values)
        return joined if joined.count(BETWEEN) == len(values) - 1 else values
    if types == {int}:
        try:
            return array("q", values)
        except OverflowError:
            pass
    return values


def _loose(values: Any) -> Sequence[Any]:
    if isinstance(values, str):
        return values.split(BETWEEN)
    return values.tolist() if isinstance(values, array) else values
