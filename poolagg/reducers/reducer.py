"""Reducer: five functions and their laws. Every other class of this package is built on it.

A reducer turns many partial results into one: `prepare` runs in the map phase, `init` and `step` fold, `merge` joins
the states of two workers, `finish` presents the result. `poolagg.testing.check_reducer` tests these laws on any
reducer:

    init() is fresh at every call                   merge(a, init()) == a
    step(a, x) == merge(a, step(init(), x))         merge is associative, and commutative unless `ordered`
    steps(a, xs) is looped step                     merge neither mutates nor keeps its right argument
    finish(a) leaves a as it was, does not alias it; the accumulator survives pickling

A reducer whose result depends on the position of a partial in the input (ties, first, last, lists) is *positional*: it
defines `step_at`, keeps positions in its accumulator, and therefore still commutes.

A `Combinator` is a reducer made of reducers; its properties follow from its parts.

Rule: a combinator folds through `_steps_among` alone, which every reducer has. Its other ways to fold call it.
"""

from __future__ import annotations

import copy
from bisect import bisect
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from poolagg._input.reused_buffers import listed
from poolagg._runtime.arguments import call
from poolagg.reducers.keys import are_held_as_they_are, as_key

__all__ = [
    "Combinator",
    "Groups",
    "Position",
    "Positions",
    "R",
    "Reducer",
    "Rejection",
    "Untouched",
    "fold",
    "join",
    "reduced",
]

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    R = TypeVarWithDefault("R", default=Any)
else:
    R = TypeVar("R")
K = TypeVar("K")
S = TypeVar("S")


Position: TypeAlias = tuple[int, ...]
"""The position of a partial: its item's index, then its index in each `flat` it came through. Sortable."""


ANYWHERE: Position = (0,)
"""The position for reducers that ignore it."""


class Positions:
    """The positions of partials that are folded together, in input order; each is made only when it is asked for.

    `Positions(place)` are consecutive ones. The partials are some of those of a stretch of consecutive items, and no
    other partial of that stretch is folded elsewhere.
    """

    def __init__(self, first: Position) -> None:
        self._first = first

    def __getitem__(self, k: int) -> Position:
        return (*self._first[:-1], self._first[-1] + k)

    def chosen(self, indices: Sequence[int]) -> Positions:
        """Return the positions at some indices, which ascend."""
        return _Chosen(self, indices)

    def inside(self, lengths: Iterable[int]) -> Positions:
        """Return the positions of elements, where the k-th partial has the k-th number of them."""
        return _Inside(self, list(accumulate(lengths, initial=0)))


class _Chosen(Positions):
    def __init__(self, outer: Positions, indices: Sequence[int]) -> None:
        self._outer, self._indices = outer, indices

    def __getitem__(self, k: int) -> Position:
        return self._outer[self._indices[k]]


class _Inside(Positions):
    def __init__(self, outer: Positions, starts: Sequence[int]) -> None:
        self._outer, self._starts = outer, starts
        self._begin = self._end = 0
        """The elements of the partial asked for last: the next one is mostly among them."""

    def __getitem__(self, k: int) -> Position:
        if not self._begin <= k < self._end:
            which = bisect(self._starts, k) - 1
            self._begin, self._end, self._place = self._starts[which], self._starts[which + 1], self._outer[which]
        return (*self._place, k - self._begin)


class Groups:
    """The partials of a batch by their keys; nothing is made that a reducer does not ask for."""

    def __init__(self, places: Positions, pairs: Sequence[tuple[Any, Any]]) -> None:
        self.places = places
        self._lists: dict[Any, list[Any]] | None = None
        self.pairs = pairs
        """The keys and partials. Keys are as `func` returned them, until `keys` or `lists` puts a mark for each nan."""

    @property
    def keys(self) -> Iterable[Any]:
        """The keys as an accumulator holds them, in order of appearance."""
        keys = dict(self.pairs)
        return keys if are_held_as_they_are(list(keys)) else self.lists

    @property
    def lists(self) -> dict[Any, list[Any]]:
        """The partials of each of the `keys`, in their order."""
        if self._lists is None:
            self._lists = self.new_lists()
        return self._lists

    def new_lists(self) -> dict[Any, list[Any]]:
        """Return the same in new lists, which the caller may keep."""
        lists = _grouped(self.pairs, map(_value, self.pairs))
        if are_held_as_they_are(list(lists)):
            return lists
        self.pairs = [(as_key(key), prepared) for key, prepared in self.pairs]
        return _grouped(self.pairs, map(_value, self.pairs))

    @cached_property
    def indices(self) -> dict[Any, list[int]]:
        """The indices of each key's partials in the batch; most groups ask for no position, as no entry changes."""
        return _grouped(self.pairs, range(len(self.pairs)))

    def with_each(self, f: Callable[[Any], Any]) -> Groups:
        """Return groups with `f(partial)` instead of each partial."""
        return Groups(self.places, [(key, f(prepared)) for key, prepared in self.pairs])

    def places_of(self, key: Any) -> Positions:
        """Return the positions of the partials of one key."""
        return _PositionsOfKey(self, key)


class _PositionsOfKey(Positions):
    def __init__(self, groups: Groups, key: Any) -> None:
        self._groups, self._key = groups, key

    def __getitem__(self, k: int) -> Position:
        return self._groups.places[self._groups.indices[self._key][k]]


def _grouped(pairs: Sequence[tuple[Any, Any]], values: Iterable[Any]) -> dict[Any, list[Any]]:
    """Return the values that go with each key, in their order. No loop in Python: 50 ns a value."""
    groups: defaultdict[Any, list[Any]] = defaultdict(list)
    deque(map(list.append, map(groups.__getitem__, map(_key, pairs)), values), maxlen=0)
    return groups


_key, _value = itemgetter(0), itemgetter(1)


FOLDING = {"step", "steps", "step_at", "steps_at"}
"""The methods that fold partials."""


class Rejection(Enum):
    """The accumulator after `steps_at` has raised because of a partial that cannot be folded even alone."""

    NONE = "no partial is rejected"
    PERSISTENT = "the old accumulator: folding returns a new one"
    ATOMIC = "the old accumulator, unchanged or restored"
    MIDWAY = "perhaps a changed accumulator, so `validate` must run first"


class Reducer(Generic[R]):
    """Turns partial results into one result. Subclass it, or use `Fold` to make one from functions.

    `Reducer[int]` tells type checkers the type of the result; the parameter is optional.

    >>> class Product(Reducer[int]):
    ...     def init(self): return 1
    ...     def step(self, acc, prepared): return acc * prepared
    ...     def merge(self, acc, other): return acc * other
    >>> reduced(Product(), [2, 3, 7])
    42
    """

    ordered: bool = False
    """True: `merge` does not commute, so states meet in input order only."""

    retains_input: bool = True
    """False: the accumulator keeps no argument of `step` or `merge`, so the parent folds large arrays in shared memory
    without a copy. An accumulator that keeps one anyway blocks the reuse of that memory."""

    accepts_iterators: bool = True
    """False: partials are numbers and an iterator is an error, drained or not, so the engine skips the type check of
    each partial."""

    varies: str | None = None
    """Why two runs may give different results, in however fixed a shape states merge; such runs are not reproducible.
    """

    keyed: bool = False
    """True: the accumulator is a dict, empty at first, that merges key by key, so that subsets of its keys can be
    merged independently. `merge` uses only `items()` of its right argument."""

    def prepare(self, partial: Any, /) -> Any:
        """Turn a result of `func` into an argument of `step`. Pure; runs in the map phase: an error fails the item."""
        return partial

    def init(self) -> Any:
        """Return a new accumulator at every call."""
        raise NotImplementedError(f"{type(self).__name__} must define init(self)")

    def step(self, acc: Any, prepared: Any, /) -> Any:
        """Return `acc` with one prepared partial folded in; it may mutate and return `acc`."""
        del acc, prepared
        missing = "is positional: call step_at" if self.positional else "must define step(self, acc, prepared)"
        raise NotImplementedError(f"{type(self).__name__} {missing}")

    def steps(self, acc: Any, prepareds: Sequence[Any], /) -> Any:
        """Fold many, equal to a loop of `step`. Override it where a bulk form is faster."""
        for prepared in prepareds:
            acc = self._checked(acc, self.step(acc, prepared), "step")
        return acc

    def step_at(self, acc: Any, place: Position, prepared: Any, /) -> Any:
        """Fold one partial at its position. A reducer that depends on positions defines it instead of `step`."""
        del place
        return self.step(acc, prepared)

    def steps_at(self, acc: Any, place: Position, prepareds: Sequence[Any], /) -> Any:
        """Fold many at consecutive positions: the k-th is at `(*place[:-1], place[-1] + k)`."""
        return self._steps_among(acc, Positions(place), prepareds)

    def _steps_among(self, acc: Any, places: Positions, prepareds: Sequence[Any], /) -> Any:
        """Fold many; the k-th is at `places[k]`."""
        if not self.positional:
            return self._checked(acc, self.steps(acc, prepareds), "steps")
        for k, prepared in enumerate(prepareds):
            acc = self._checked(acc, self.step_at(acc, places[k], prepared), "step_at")
        return acc

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups, /) -> dict[Any, Any]:
        """Fold the partials of each key into its state; return the new state of each key, in order of appearance.

        Override it where one loop over the batch is faster than a fold of each key. `states` gets no new entry; if the
        fold raises, its states stay as the reducer's `rejection` says.
        """
        fold, positional, new = self._steps_among, self.positional, {}
        for key, prepareds in groups.lists.items():
            places = groups.places_of(key) if positional else groups.places
            new[key] = fold(states[key] if key in states else self.init(), places, prepareds)
        return new

    def _prepare_all(self, partials: Sequence[Any], /) -> Sequence[Any]:
        """Prepare the elements of one partial."""
        return listed(lambda: map(self.prepare, partials)) if self.has_prepare else partials

    def merge(self, acc: Any, other: Any, /) -> Any:
        """Join two accumulators. It may mutate `acc`; it must not mutate or keep `other`.

        Without it, only the parent folds.
        """
        raise NotImplementedError(f"{self!r} has no merge")

    def finish(self, acc: Any, /) -> R:
        """Return the result. Pure and repeatable; the result shares no mutable state with `acc`."""
        result: R = acc
        return result

    def finish_last(self, acc: Any, /) -> R:
        """Return the result, which may be `acc` itself: nothing uses `acc` afterwards. This saves `Fold` a copy."""
        return self.finish(acc)

    def done(self, acc: Any, settled: int, /) -> bool:
        """Return True when no further partial can change the result; the run then ends early.

        All items before index `settled` are in `acc`, except those that the run left out; later ones may be, too. The
        parent also asks with the number of items it has pulled as `settled`. If the answer is True, it pulls no more
        items until those are in `acc`.
        """
        del acc, settled
        return False

    @property
    def ends_early(self) -> bool:
        """Whether the run may end early: the class defines `done` (combinators: all parts that they ask do)."""
        return type(self).done is not Reducer.done

    @property
    def mergeable(self) -> bool:
        """Whether workers can merge accumulators: the class defines `merge` (combinators: all parts do)."""
        return type(self).merge is not Reducer.merge

    @property
    def positional(self) -> bool:
        """Whether the result depends on positions: the class defines `step_at` (combinators: any part does)."""
        return type(self).step_at is not Reducer.step_at

    @property
    def has_prepare(self) -> bool:
        """Whether `prepare` does anything; if not, the map phase skips it."""
        return type(self).prepare is not Reducer.prepare

    # Rejection. A partial that cannot be folded even alone is rejected: it is the failure of its item.

    _rejection: Rejection = Rejection.NONE

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "_rejection" not in vars(cls) and not FOLDING.isdisjoint(vars(cls)):
            cls._rejection = Rejection.NONE  # a subclass that folds in its own way may take what its base rejects
        if "_steps_by_key" not in vars(cls) and not (FOLDING | {"init", "_steps_among"}).isdisjoint(vars(cls)):
            cls._steps_by_key = Reducer._steps_by_key  # type: ignore[method-assign]  # that of its base folds otherwise

    @property
    def rejection(self) -> Rejection:
        """How the reducer rejects partials. An exception for any other reason is the reducer's failure."""
        return self._rejection

    def validate(self, prepareds: Sequence[Any], /) -> None:
        """Raise if the reducer rejects one of the prepared partials. Runs in the map phase."""
        self.steps_at(self.init(), ANYWHERE, prepareds)

    # The derived forms. Their classes are subclasses of this one, so each method imports its own.

    def of(self, f: Callable[[Any], Any]) -> Reducer[R]:
        """Reduce `f(partial)` instead of the partial.

        >>> from poolagg.reducers import Sum
        >>> r = Sum().of(len)
        >>> r, reduced(r, ["to", "fold"])
        (Sum().of(len), 6)
        """
        from poolagg.reducers.derived import Of

        return Of(self, f)

    def where(self, pred: Callable[[Any], Any]) -> Reducer[R]:
        """Reduce only the partials for which `pred(partial)` is true.

        >>> from poolagg.reducers import Count
        >>> reduced(Count().where(str.isupper), "AbC")
        2
        """
        from poolagg.reducers.derived import Where

        return Where(self, pred)

    def by(self, key: Callable[[Any], K]) -> Reducer[dict[K, R]]:
        """Reduce each group of partials with the same `key(partial)` on its own; the result is a dict.

        `r.where(pred).by(key)` filters within groups and keeps empty ones; `r.by(key).where(pred)` filters before
        grouping.

        >>> from poolagg.reducers import Count
        >>> reduced(Count().by(str.lower), "aAb")
        {'a': 2, 'b': 1}
        """
        from poolagg.reducers.grouping import By

        return By(self, key)

    def flat(self) -> Reducer[R]:
        """Treat each partial as an iterable of partials (emitting, in MapReduce).

        >>> from poolagg.reducers import Sum
        >>> reduced(Sum().flat(), [[1, 2], [], [3]])
        6
        """
        from poolagg.reducers.derived import Flat

        return Flat(self)

    def then(self, f: Callable[[R], S]) -> Reducer[S]:
        """Return `f(result)` instead of the result.

        >>> from poolagg.reducers import Collect
        >>> reduced(Collect().then(sorted), "cab")
        ['a', 'b', 'c']
        """
        from poolagg.reducers.derived import Then

        return Then(self, f)

    def __repr__(self) -> str:
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return call(type(self).__name__, **public)

    def worker_side(self) -> Reducer:
        """Return the part that workers run: all of it; just `prepare` where only the parent folds."""
        return self

    def _checked(self, before: Any, after: Any, method: str) -> Any:
        if after is None and before is not None:
            raise TypeError(
                f"{self!r}.{method} returned None: return the accumulator, also when it is mutated in place"
            )
        return after


class Untouched(Reducer[Any]):
    """The worker side of a reducer that only the parent folds: it does nothing, and its partials stay borrowed."""

    retains_input = False


def fold(reducer: Reducer, acc: Any, index: int, prepareds: Sequence[Any]) -> Any:
    """Fold the prepared partials of consecutive items, the first at `index`. The engine folds through this alone."""
    return reducer._checked(acc, reducer.steps_at(acc, (index,), prepareds), "steps_at")


def join(reducer: Reducer, acc: Any, other: Any) -> Any:
    """Return `reducer.merge(acc, other)`, or raise an error that says that `merge` returned no accumulator."""
    return reducer._checked(acc, reducer.merge(acc, other), "merge")


def reduced(reducer: Reducer[R], partials: Iterable[Any]) -> R:
    """Reduce the partials in this process. Every run must give this result, however it is distributed.

    >>> from poolagg.reducers import Mean
    >>> reduced(Mean(), [1, 2, 6])
    3.0
    """
    return reducer.finish(fold(reducer, reducer.init(), 0, [reducer.prepare(partial) for partial in partials]))


class Combinator(Reducer[R]):
    """A reducer made of `parts`: mergeable if all are; ordered, positional or with `prepare` if any is."""

    def __init__(self, *parts: Reducer) -> None:
        self.parts = parts
        self.ordered = any(part.ordered for part in parts)
        self.retains_input = any(part.retains_input for part in parts)

    @property
    def inner(self) -> Reducer:
        """The only part of a combinator that has one."""
        return self.parts[0]

    def step(self, acc: Any, prepared: Any) -> Any:
        return self.steps(acc, (prepared,))

    def steps(self, acc: Any, prepareds: Sequence[Any]) -> Any:
        if self.positional:
            raise TypeError(f"{self!r} depends on the position of a partial: call step_at or steps_at")
        return self.steps_at(acc, ANYWHERE, prepareds)

    def step_at(self, acc: Any, place: Position, prepared: Any) -> Any:
        return self.steps_at(acc, place, (prepared,))

    @property
    def rejection(self) -> Rejection:
        """How its only part rejects. Several parts that differ, or change their accumulators, fail MIDWAY."""
        ways = {part.rejection for part in self.parts}
        if len(ways) == 1 and (len(self.parts) == 1 or not ways & {Rejection.ATOMIC, Rejection.MIDWAY}):
            return ways.pop()
        return Rejection.MIDWAY

    def _steps_among(self, acc: Any, places: Positions, prepareds: Sequence[Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _steps_among(self, acc, places, prepareds)")

    @property
    def mergeable(self) -> bool:
        return all(part.mergeable for part in self.parts)

    @property
    def positional(self) -> bool:
        return any(part.positional for part in self.parts)

    @property
    def has_prepare(self) -> bool:
        return any(part.has_prepare for part in self.parts)

    def worker_side(self) -> Reducer:
        clone = copy.copy(self)
        clone.parts = tuple(part.worker_side() for part in self.parts)
        clone.retains_input = any(part.retains_input for part in clone.parts)
        return clone
