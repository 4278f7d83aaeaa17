"""The form in which dict accumulators are sent: compact, and in parts by the hash of their keys.

A million strings are slow to pickle and unpickle, because each is an object. One string of all keys and one array of
all counts are several times as fast. Each part is pickled separately, so that only the worker that merges it
unpickles it.

Adding to a dict larger than the caches misses the cache with each key, which takes several times as long as the
addition. So a worker with counts of many keys keeps its input as runs, pickled in parts, and merges long runs part by
part, in the cache. (Radix-partitioned aggregation: Manegold, Boncz, Kersten 2002, "Optimizing main-memory join on
modern hardware"; merging runs once they are as long as the run they are merged into: O'Neil et al. 1996, "The
log-structured merge-tree".)
"""

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
"""Estimated bytes of memory that a key takes with its count, at least."""

WAITING = 32 << 20
"""Bytes of runs that a worker keeps before it merges those with common keys."""


@plain
class Entries:
    """Entries without a dict: `merge` of a keyed reducer calls only `items`."""

    def __init__(self, keys: Sequence[Any], values: Sequence[Any]) -> None:
        self._keys, self._values = keys, values

    def __len__(self) -> int:
        return len(self._keys)

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Iterate over pairs of key and value."""
        return zip(self._keys, self._values, strict=True)

    def packed(self) -> "PackedPart":
        """Return the pickled entries, or the entries themselves if they do not pickle, which threads allow.

        Entries that are not plain stay as they are, too, so that no pickle within a pickle runs the user's code.
        """
        try:
            data, harmless = pickled((_dense(self._keys), _dense(self._values)))
        except Exception:
            return self
        return data if harmless else self


PackedPart: TypeAlias = bytes | Entries


def opened(part: PackedPart) -> Entries:
    """Unpickle entries."""
    if isinstance(part, Entries):
        return part
    keys, values = pickle.loads(part)
    return Entries(_loose(keys), _loose(values))


@plain
class Parts(NamedTuple):
    """A dict of `keys` keys in parts, each pickled.

    A key is in the same part on all workers that hash it alike; equal keys (1, True, 1.0) share a part.
    """

    keys: int
    nbytes: int
    packed: list[PackedPart]


def divided(entries: Mapping[Any, Any], count: int) -> Parts:
    """Divide a dict into `count` parts."""
    parts: list[list[Any]] = [[] for _ in range(count)]  # key, value, key, ...: faster to fill than two lists
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
    """An accumulator in the form in which it leaves its worker: one or several dicts, not merged yet."""


class SortedRuns:
    """An accumulator in its worker: runs in `count` parts, merged whenever their size has doubled."""

    def __init__(self, reducer: Reducer, count: int) -> None:
        self._reducer = reducer
        self._count = count
        self.runs = Divided()

    def add(self, entries: Mapping[Any, Any]) -> None:
        """Add a run."""
        self.runs.append(divided(entries, self._count))
        first, *more = (run.nbytes for run in self.runs)
        if sum(more) > max(WAITING, first):
            parts = zip(*(run.packed for run in self.runs), strict=True)
            self.runs = Divided([_parts(_merged(self._reducer, part) for part in parts)])


def merged(reducer: Reducer, parts: Sequence[PackedPart]) -> PackedPart:
    """Merge the same part of several accumulators, and pickle it again."""
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
    """Insert keys that `acc` lacks, also into a Counter, whose own `update` would add.

    A dict that fits into the cache comes between: extending a large dict is faster with known hashes.
    """
    dict.update(acc, dict(entries.items()))


@plain
class _Compact:
    """Pickles a dict in compact form, which unpickles as a dict."""

    def __init__(self, entries: Mapping[Any, Any]) -> None:
        self._entries = entries

    def __reduce__(self) -> tuple[Any, ...]:
        entries = self._entries
        return _restored, (type(entries), _dense(list(entries)), _dense(list(entries.values())))


def compact(entries: Any) -> Any:
    """Return what to pickle in place of a dict; return anything else unchanged."""
    return _Compact(entries) if type(entries) in (dict, Counter) else entries


def _restored(kind: type[dict[Any, Any]], keys: Any, values: Any) -> dict[Any, Any]:
    entries = kind()
    dict.update(entries, zip(_loose(keys), _loose(values), strict=True))
    return entries


def _dense(values: Sequence[Any]) -> Any:
    """Return strings as one string, small ints as one array, and other values unchanged."""
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
