"""Accumulators that are dicts, as they travel: in compact form, and in parts by the hash of their keys.

A million strings are slow to pickle and to open, for each is an object of its own. One string with all keys in it, and
one array with all the counts, are several times as quick. Parts are packed once more, so that nobody opens them on the
way to who merges them.

Adding to a dict that is larger than the caches waits for memory with each key, which takes several times what adding
takes. So a worker with counts of many keys does not add to them: it keeps what comes as runs, packed in parts, which
are merged part by part, in a cache, when there are many. (Radix-partitioned aggregation: Manegold, Boncz, Kersten 2002,
"Optimizing main-memory join on modern hardware"; merging runs when they are as long as what they are merged into:
O'Neil et al. 1996, "The log-structured merge-tree".)
"""

from __future__ import annotations

import pickle
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from poolagg._runtime.plain_values import pickled, plain
from poolagg._runtime.value_types import types_of
from poolagg.reducers import Reducer, join

__all__ = ["KEY", "Divided", "Entries", "Parts", "SortedRuns", "compact", "merged", "opened", "put", "update"]

BETWEEN = "\0"

KEY = 100
"""Bytes of memory that a key takes with its count, or more."""

WAITING = 32 << 20
"""Bytes of runs that a worker keeps, before it looks for keys that are in several of them."""


@plain
class Entries:
    """Entries without a dict: what `merge` of a keyed reducer asks for is no more than `items`."""

    def __init__(self, keys: Sequence[Any], values: Sequence[Any]) -> None:
        self._keys, self._values = keys, values

    def __len__(self) -> int:
        return len(self._keys)

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Keys and values."""
        return zip(self._keys, self._values, strict=True)

    def packed(self) -> PackedPart:
        """As they travel; as they are if they don't pickle, for in a thread they need not.

        Also as they are unless they are plain, so that no pickle within a pickle runs the user's code.
        """
        try:
            data, harmless = pickled((_dense(self._keys), _dense(self._values)))
        except Exception:
            return self
        return data if harmless else self


PackedPart: TypeAlias = bytes | Entries


def opened(part: PackedPart) -> Entries:
    """Entries that have travelled."""
    if isinstance(part, Entries):
        return part
    keys, values = pickle.loads(part)
    return Entries(_loose(keys), _loose(values))


@plain
class Parts(NamedTuple):
    """A dict of so many keys in parts, each packed. A key is in the same part whatever worker it comes from, as far as
    workers agree about its hash; of equal keys (1, True, 1.0) all are in one.
    """

    keys: int
    nbytes: int
    packed: list[PackedPart]


def divided(entries: Mapping[Any, Any], count: int) -> Parts:
    """A dict in so many parts."""
    parts: list[list[Any]] = [[] for _ in range(count)]  # keys and values in turns: quicker to fill than a list of each
    adds = [part.extend for part in parts]
    for entry in entries.items():
        adds[hash(entry[0]) % count](entry)
    return _parts(Entries(part[::2], part[1::2]) for part in parts)


def _parts(parts: Iterable[Entries]) -> Parts:
    keys, packed = zip(*((len(part), part.packed()) for part in parts), strict=True)
    nbytes = (len(part) * (KEY if isinstance(part, Entries) else 1) for part in packed)
    return Parts(sum(keys), sum(nbytes), list(packed))


@plain
class Divided(list[Parts]):
    """An accumulator as it leaves its worker: one or several dicts that are not merged yet."""


class SortedRuns:
    """An accumulator in its worker: what came, in `count` parts, merged whenever it has doubled."""

    def __init__(self, reducer: Reducer, count: int) -> None:
        self._reducer = reducer
        self._count = count
        self.runs = Divided()

    def add(self, entries: Mapping[Any, Any]) -> None:
        """Add what comes."""
        self.runs.append(divided(entries, self._count))
        first, *more = (run.nbytes for run in self.runs)
        if sum(more) > max(WAITING, first):
            parts = zip(*(run.packed for run in self.runs), strict=True)
            self.runs = Divided([_parts(_merged(self._reducer, part) for part in parts)])


def merged(reducer: Reducer, parts: Sequence[PackedPart]) -> PackedPart:
    """The same part of several accumulators, merged by the reducer, and packed again."""
    return _merged(reducer, parts).packed()


def _merged(reducer: Reducer, parts: Iterable[PackedPart]) -> Entries:
    acc = reducer.init()
    for part in parts:
        acc = update(reducer, acc, opened(part))
    return Entries(list(acc), list(acc.values()))


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


@plain
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


def _dense(values: Sequence[Any]) -> Any:
    """Strings as one string, small ints as one array; what is neither as it is."""
    types = types_of(values)
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
