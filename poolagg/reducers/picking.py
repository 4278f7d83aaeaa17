"""Min, Max, Top, Bottom, First, Last, Sample: some of the partials, picked by a key and by their positions.

Rule: every entry carries its position, so input order breaks ties in any order of arrival, and the reducers commute.
An accumulator is a tuple of at most k entries, best first; that of Min and Max, which often is one of millions under
keys, is the entry itself. An entry is flat, since Python's garbage collector walks each tuple: key, value, *position.

First, AnyTrue and AllTrue end a run early, as soon as one partial decides the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from numbers import Real
from operator import itemgetter
from typing import Any, TypeAlias

from poolagg._runtime.arguments import call, need_callable, need_count, shown
from poolagg._runtime.value_types import types_of
from poolagg.reducers.keys import are_held_as_they_are
from poolagg.reducers.reducer import Groups, Position, Positions, R, Reducer, Rejection

__all__ = ["AllTrue", "AnyTrue", "Bottom", "First", "Last", "Max", "Min", "Sample", "Top"]

Entry: TypeAlias = tuple[Any, ...]
Entries: TypeAlias = tuple[Entry, ...]
IN_ORDER = {int, float, str, bytes, bool, date, datetime, timedelta}
"""Types whose values compare with one another."""

FEW = 20
"""Up to so many entries, putting one more among them costs less than sorting them again."""

NUMBERS = {int, float}

MISSING = {"MaskedConstant", "NaTType"}
"""Names of the types of missing values: in numpy's masked arrays, and among the dates of pandas."""

_key, _place = itemgetter(0), itemgetter(slice(2, None))


class Picking(Reducer[R]):
    """The `k` best partials by `key`, ties by input order; a key that is nan (NaT, masked) is worse than every other.

    Linear in the partials, plus k log k for each batch that changes the accumulator.
    """

    largest = False
    _rejection = Rejection.PERSISTENT

    def __init__(self, k: int, key: Callable[[Any], Any] | None = None) -> None:
        name = type(self).__name__
        if key is not None:
            need_callable(f"{name}(key=...)", key)
        self.k = need_count(f"{name}(k)", k)
        self.key = key

    @property
    def has_prepare(self) -> bool:
        return self.key is not None

    def prepare(self, partial: Any) -> Any:
        return partial if self.key is None else (self.key(partial), partial)

    def init(self) -> Entries:
        return ()

    def step_at(self, acc: Entries, place: Position, prepared: Any) -> Entries:
        return self._steps_among(acc, Positions(place), (prepared,))

    def _steps_among(self, acc: Entries, places: Positions, prepareds: Sequence[Any]) -> Entries:
        if self.key is None:
            return self._admit(acc, places, prepareds, prepareds)
        return self._admit(acc, places, [key for key, _ in prepareds], [value for _, value in prepareds])

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups) -> dict[Any, Any]:
        if self.k > FEW:
            return super()._steps_by_key(states, groups)
        pairs = groups.pairs if self.key is None else [(group, key) for group, (key, _) in groups.pairs]
        self._need_order([key for _, key in pairs])
        try:
            new = self._admit_each(states, pairs, groups)
        except Exception:  # the fold of each key alone raises it, too, or knows better
            return super()._steps_by_key(states, groups)
        return new if are_held_as_they_are(list(new)) else super()._steps_by_key(states, groups)

    def _admit_each(
        self, states: Mapping[Any, Any], pairs: Sequence[tuple[Any, Any]], groups: Groups
    ) -> dict[Any, Any]:
        """Admit each pair of a group and a key to the entries of its group; most are worse than all of k entries."""
        new: dict[Any, Any] = {}
        get, full, largest, places = new.get, self.k, self.largest, groups.places
        latest = places[len(pairs) - 1]
        for i, (group, key) in enumerate(pairs):
            entries = get(group)
            if entries is None:
                entries = new[group] = states.get(group, ())
            if len(entries) == full:
                worst = entries[-1][0]
                # An equal entry of this batch comes before this one.
                if (key < worst if largest else worst < key) or (key == worst and entries[-1][2:] <= latest):
                    continue
            prepared = groups.pairs[i][1]
            new[group] = self._with(entries, (key, prepared if self.key is None else prepared[1], *places[i]))
        return new

    def _with(self, entries: Entries, entry: Entry) -> Entries:
        """Return the best k of some entries and one more."""
        if _is_nan(entry[0]) or (entries and _is_nan(entries[-1][0])):
            return self._best([*entries, entry])
        k = 0
        while k < len(entries) and not self._is_better(entry, entries[k]):
            k += 1
        return (*entries[:k], entry, *entries[k:])[: self.k]

    def _is_better(self, entry: Entry, other: Entry) -> bool:
        if entry[0] == other[0]:
            return entry[2:] < other[2:]
        return bool(other[0] < entry[0] if self.largest else entry[0] < other[0])

    def merge(self, acc: Entries, other: Entries) -> Entries:
        return self._best([*acc, *other]) if acc and other else acc or other

    def finish(self, acc: Entries) -> Any:
        return [entry[1] for entry in acc]

    def _admit(self, acc: Entries, places: Positions, keys: Sequence[Any], values: Sequence[Any]) -> Entries:
        plain = _are_plain(keys)
        chosen = self._best_of(keys) if plain else range(len(keys))
        chosen = self._contenders(acc, keys, chosen)
        if not chosen:
            return acc
        if not plain:
            self._need_order(keys if len(chosen) == len(keys) else [keys[i] for i in chosen])
        entries = [(keys[i], values[i], *places[i]) for i in chosen]
        return tuple(entries) if self.k == 1 and plain and not acc else self._best([*acc, *entries])

    def _best_of(self, keys: Sequence[Any]) -> Sequence[int]:
        """Return the indices of the best k of some numbers or texts, and of those equal to the last of them."""
        if self.k == 1:
            return (keys.index(max(keys) if self.largest else min(keys)),)
        if len(keys) <= 2 * self.k:
            return range(len(keys))
        last = sorted(keys, reverse=self.largest)[self.k - 1]
        return self._not_worse(last, keys, range(len(keys)))

    def _not_worse(self, than: Any, keys: Sequence[Any], indices: Sequence[int]) -> Sequence[int]:
        if self.largest:
            return [i for i in indices if not keys[i] < than]
        return [i for i in indices if not than < keys[i]]

    def _contenders(self, acc: Entries, keys: Sequence[Any], indices: Sequence[int]) -> Sequence[int]:
        """Return the indices of the keys that may enter: all, or those not worse than the worst of k entries."""
        if len(acc) < self.k or _is_nan(worst := acc[-1][0]):
            return indices
        try:
            return self._not_worse(worst, keys, indices)
        except InvalidOperation:  # a Decimal that is nan raises it; `_best` handles it
            return indices

    def validate(self, prepareds: Sequence[Any]) -> None:
        self._need_order(prepareds if self.key is None else [key for key, _ in prepareds])

    def _need_order(self, keys: Sequence[Any]) -> None:
        """Raise TypeError for a key that does not even compare with itself."""
        if types_of(keys) <= IN_ORDER:
            return
        for key in keys:
            try:
                _is_nan(key) or bool(key < key)
            except Exception as error:
                raise TypeError(
                    f"{self!r} compares with <, which raises {type(error).__name__} for {shown(key)}: .where(f) "
                    f"leaves partials out, key=f compares f(partial)"
                ) from error

    def _best(self, entries: list[Entry]) -> Entries:
        entries.sort(key=_place)  # stable sorts: by place first, so that equal keys stay in input order
        ranked = sorted((entry for entry in entries if not _is_nan(entry[0])), key=_key, reverse=self.largest)
        if len(ranked) < self.k:
            ranked += [entry for entry in entries if _is_nan(entry[0])]
        return tuple(ranked[: self.k])


class Bottom(Picking[list[Any]]):
    """The k smallest partials, smallest first: `heapq.nsmallest(k, partials, key)`.

    Ties go by input order. The key is computed in the map phase; only keys are compared, with `<`. A key that is nan
    is larger than every other. Raises ValueError for k below 1.

    >>> from poolagg.reducers import reduced
    >>> reduced(Bottom(2), [3, 1, 2])
    [1, 2]
    """

    def __repr__(self) -> str:
        return call(type(self).__name__, self.k, key=self.key)


class Top(Bottom):
    """The k largest partials, largest first: `heapq.nlargest(k, partials, key)`.

    Ties go by input order. The key is computed in the map phase; only keys are compared, with `<`. A key that is nan
    is smaller than every other. Raises ValueError for k below 1.

    >>> from poolagg.reducers import reduced
    >>> reduced(Top(2, key=len), ["a", "to", "be", "or"])
    ['to', 'be']
    """

    largest = True


class Min(Picking[Any]):
    """The smallest partial, the first of equals: `min(partials, key=key)`; None for no partials.

    The key is computed in the map phase. A key that is nan is larger than every other, so the result does not depend
    on the order, unlike that of `min`.

    >>> from poolagg.reducers import reduced
    >>> reduced(Min(), [2.5, float("nan"), 1.5])
    1.5
    """

    def __init__(self, key: Callable[[Any], Any] | None = None) -> None:
        super().__init__(1, key)

    def _steps_among(self, acc: Entry, places: Positions, prepareds: Sequence[Any]) -> Entry:
        keys = prepareds if self.key is None else [key for key, _ in prepareds]
        if _are_plain(keys):
            k = self._best_of(keys)[0]
            return self._better(acc, keys[k], prepareds[k], places, k)
        entries = super()._steps_among((acc,) if acc else (), places, prepareds)
        return entries[0] if entries else ()

    _steps_by_key = Picking._steps_by_key  # which calls `_admit_each`

    def _admit_each(
        self, states: Mapping[Any, Any], pairs: Sequence[tuple[Any, Any]], groups: Groups
    ) -> dict[Any, Any]:
        """Do the same with the one entry of a group; a loop of its own, as a call for each pair would cost as much."""
        new: dict[Any, Any] = {}
        get, largest, places = new.get, self.largest, groups.places
        latest = places[len(pairs) - 1]
        for i, (group, key) in enumerate(pairs):
            held = get(group)
            if held is None:
                held = new[group] = states.get(group, ())
            if held:
                best = held[0]
                # An equal entry of this batch comes before this one.
                if (key < best if largest else best < key) or (key == best and held[2:] <= latest):
                    continue
            prepared = groups.pairs[i][1]
            entry = (key, prepared if self.key is None else prepared[1], *places[i])
            new[group] = self.merge(held, entry) if held else entry
        return new

    def _better(self, held: Entry, key: Any, prepared: Any, places: Positions, k: int) -> Entry:
        """Return the better entry: `held`, or that of `key`, no nan; a position is made only if it matters."""
        try:
            if held and (key < held[0] if self.largest else held[0] < key):
                return held
            if held and held[0] == key and held[2:] < places[0]:
                return held
        except InvalidOperation:  # a Decimal that is nan raises it; `merge` handles it
            pass
        return self.merge(held, (key, prepared if self.key is None else prepared[1], *places[k]))

    def merge(self, acc: Entry, other: Entry) -> Entry:
        if not (acc and other):
            return acc or other
        if type(acc[0]) in IN_ORDER and type(other[0]) in IN_ORDER:  # else `_best` tells what is missing
            if acc[0] < other[0]:
                return other if self.largest else acc
            if other[0] < acc[0]:
                return acc if self.largest else other
            if acc[0] == other[0]:
                return min(acc, other, key=_place)
        return self._best([acc, other])[0]

    def finish(self, acc: Entry) -> Any:
        return acc[1] if acc else None

    def __repr__(self) -> str:
        return call(type(self).__name__, key=self.key)


class Max(Min):
    """The largest partial, the first of equals: `max(partials, key=key)`; None for no partials.

    The key is computed in the map phase. A key that is nan is smaller than every other, so the result does not depend
    on the order, unlike that of `max`.

    >>> from poolagg.reducers import reduced
    >>> reduced(Max(key=len), ["a", "to", "be"])
    'to'
    """

    largest = True


class Sample(Picking[list[Any]]):
    """A uniform random sample of k partials, without replacement, in input order; all of them if there are fewer.

    It depends on the seed and the positions of the partials, not on workers or timing: it hashes each position with
    the seed and keeps the k smallest hashes (bottom-k sampling: Cohen and Kaplan 2007). About a microsecond a partial.
    Raises ValueError for k below 1, TypeError for a seed that is not an integer.

    >>> from poolagg.reducers import reduced
    >>> reduced(Sample(3, seed=1), range(1000)) == reduced(Sample(3, seed=1), range(1000))
    True
    """

    def __init__(self, k: int, seed: int) -> None:
        super().__init__(k)
        self.seed = need_count("Sample(seed)", seed, least=0)

    def _steps_among(self, acc: Entries, places: Positions, prepareds: Sequence[Any]) -> Entries:
        keys = [_hash(self.seed, places[k]) for k in range(len(prepareds))]
        return self._admit(acc, places, keys, prepareds)

    def finish(self, acc: Entries) -> list[Any]:
        return [entry[1] for entry in sorted(acc, key=_place)]

    def __repr__(self) -> str:
        return call("Sample", self.k, seed=self.seed)


class Last(Reducer[Any]):
    """The last partial of the input; None for no partials.

    >>> from poolagg.reducers import reduced
    >>> reduced(Last(), "abc")
    'c'
    """

    def init(self) -> tuple[Position, Any] | None:
        return None

    def step_at(self, acc: tuple[Position, Any] | None, place: Position, prepared: Any) -> tuple[Position, Any]:
        return (place, prepared) if acc is None or place > acc[0] else acc

    def _steps_among(self, acc: tuple[Position, Any] | None, places: Positions, prepareds: Sequence[Any]) -> Any:
        return self.step_at(acc, places[len(prepareds) - 1], prepareds[-1]) if len(prepareds) else acc

    def merge(self, acc: tuple[Position, Any] | None, other: tuple[Position, Any] | None) -> Any:
        return acc if other is None else self.step_at(acc, *other)

    def finish(self, acc: tuple[Position, Any] | None) -> Any:
        return None if acc is None else acc[1]


class First(Last):
    """The first partial of the input; None for no partials.

    The run ends early: with `where`, soon after one is found and all items before it have run.

    >>> from poolagg.reducers import reduced
    >>> reduced(First().where(str.isupper), ["a", "B", "C"])
    'B'
    """

    def step_at(self, acc: tuple[Position, Any] | None, place: Position, prepared: Any) -> tuple[Position, Any]:
        return (place, prepared) if acc is None or place < acc[0] else acc

    def _steps_among(self, acc: tuple[Position, Any] | None, places: Positions, prepareds: Sequence[Any]) -> Any:
        return self.step_at(acc, places[0], prepareds[0]) if len(prepareds) else acc

    def done(self, acc: tuple[Position, Any] | None, settled: int) -> bool:
        return acc is not None and acc[0][0] <= settled


class AnyTrue(Reducer[bool]):
    """Whether any partial is true: `any(partials)`; False for no partials.

    The run ends early once one is. The map phase converts partials to bool, so an error in that is the item's.

    >>> from poolagg.reducers import reduced
    >>> reduced(AnyTrue(), [0, "", 3]), reduced(AnyTrue().of(str.isupper), "abc")
    (True, False)
    """

    retains_input = False
    decides = True

    def prepare(self, partial: Any) -> bool:
        return bool(partial)

    def init(self) -> bool:
        return not self.decides

    def step(self, acc: bool, prepared: bool) -> bool:
        return self.decides if prepared is self.decides else acc

    def steps(self, acc: bool, prepareds: Sequence[bool]) -> bool:
        return self.decides if self.decides in prepareds else acc

    merge = step

    def done(self, acc: bool, settled: int) -> bool:
        del settled
        return acc is self.decides


class AllTrue(AnyTrue):
    """Whether all partials are true: `all(partials)`; True for no partials.

    The run ends early once one is false. The map phase converts partials to bool, so an error in that is the item's.

    >>> from poolagg.reducers import reduced
    >>> reduced(AllTrue(), [1, "a", []]), reduced(AllTrue(), [])
    (False, True)
    """

    decides = False


def _are_plain(keys: Sequence[Any]) -> bool:
    """Tell whether all keys are texts, or all are numbers and none is nan."""
    found = types_of(keys)
    if found <= NUMBERS:
        total = sum(keys) if found != {int} else 0
        return bool(found) and total == total
    return found == {str}


def _is_nan(key: Any) -> bool:
    kind = type(key)
    if kind is int or kind is str:
        return False
    if kind is float or isinstance(key, (Real, Decimal)):
        return bool(key != key)
    if kind.__name__ in MISSING:
        return True
    return getattr(key, "shape", None) == () and bool(key != key)  # numpy's NaT


def _hash(seed: int, place: Position) -> bytes:
    from hashlib import blake2b  # slow to import, so only runs that sample pay for it

    return blake2b(f"{seed}:{place}".encode(), digest_size=16).digest()
