"""What a reducer is: five functions and their laws. Everything else in this folder is made of this.

A reducer says how many partial results become one: `prepare` in the map phase, `init` and `step` to fold, `merge`
to join what two workers folded, `finish` to present. The laws, which `poolagg.testing.check_reducer` runs on any
reducer:

    init() is fresh at every call                   merge(a, init()) == a
    step(a, x) == merge(a, step(init(), x))         merge is associative, and commutative unless `ordered`
    steps(a, xs) is looped step                     merge neither mutates nor keeps its right argument
    finish(a) leaves a as it was, does not alias it; the accumulator survives pickling

A reducer whose result depends on where a partial stood in the input (ties, first, last, lists) is *placed*: it
defines `step_at` and keeps places in its accumulator, and so commutes all the same.

A reducer made of reducers. What holds of it follows from its parts, so it is said once, here.

Rule: a combinator folds through `steps_at` alone, which every reducer has, placed or not. The other three
ways to fold are written in terms of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from poolagg._runtime.arguments import call

__all__ = ["Combinator", "Position", "R", "Reducer", "Untouched", "fold", "join", "reduced"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    R = TypeVarWithDefault("R", default=Any)
else:
    R = TypeVar("R")
K = TypeVar("K")
S = TypeVar("S")


Position: TypeAlias = tuple[int, ...]
"""Where a partial stood: the item's index first, then its position in each `flat` it came through. Sortable."""


class Reducer(Generic[R]):
    """How partial results become one result. Subclass it, or use `Fold` to make one from functions.

    `Reducer[int]` names the type of the result, for type checkers; it may be left out.

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
    """False: nothing that `step` or `merge` is given lives on in the accumulator, so that large arrays need not be
    copied out of the memory that their worker lends. Who keeps one all the same keeps its memory from being reused."""

    accepts_iterators: bool = True
    """False: partials are numbers, and an iterator among them is an error whether it is drained or not, so that nobody
    need look at the type of each."""

    keyed: bool = False
    """True: the accumulator is a dict, empty at first, that merges key by key, so that parts of its keys can be merged
    apart. Of its right argument `merge` uses `items()` and nothing else."""

    def prepare(self, partial: Any, /) -> Any:
        """Turn one result of `func` into what `step` takes: pure, in the map phase; an error here is the item's."""
        return partial

    def init(self) -> Any:
        """Return a fresh accumulator, a new one at every call."""
        raise NotImplementedError(f"{type(self).__name__} must define init(self)")

    def step(self, acc: Any, prepared: Any, /) -> Any:
        """Return `acc` with one prepared partial folded in; it may mutate and return `acc`."""
        del acc, prepared
        missing = "is placed: call step_at" if self.positional else "must define step(self, acc, prepared)"
        raise NotImplementedError(f"{type(self).__name__} {missing}")

    def steps(self, acc: Any, prepareds: Sequence[Any], /) -> Any:
        """Fold many: equal to looped `step`. Override it where a bulk form is faster."""
        for prepared in prepareds:
            acc = self._checked(acc, self.step(acc, prepared), "step")
        return acc

    def step_at(self, acc: Any, place: Position, prepared: Any, /) -> Any:
        """Like `step`, for reducers that depend on where the partial stood; define it instead of `step`."""
        del place
        return self.step(acc, prepared)

    def steps_at(self, acc: Any, place: Position, prepareds: Sequence[Any], /) -> Any:
        """Fold many at consecutive places: the k-th stands at `(*place[:-1], place[-1] + k)`."""
        if not self.positional:
            return self._checked(acc, self.steps(acc, prepareds), "steps")
        *front, last = place
        for k, prepared in enumerate(prepareds, last):
            acc = self._checked(acc, self.step_at(acc, (*front, k), prepared), "step_at")
        return acc

    def merge(self, acc: Any, other: Any, /) -> Any:
        """Join two accumulators; it may mutate `acc`, never mutates or keeps `other`.

        Without it only the parent folds.
        """
        raise NotImplementedError(f"{self!r} has no merge")

    def finish(self, acc: Any, /) -> R:
        """Present the result: pure, repeatable, and it shares no mutable state with `acc`."""
        result: R = acc
        return result

    def finish_last(self, acc: Any, /) -> R:
        """`finish` where `acc` is not used any more, and may itself be the result: saves `Fold` a copy."""
        return self.finish(acc)

    def done(self, acc: Any, /) -> bool:
        """True when nothing that is still to come can change the result: ends the run early."""
        del acc
        return False

    @property
    def mergeable(self) -> bool:
        """Whether accumulators can meet in workers: the class defines `merge` (combinators: if their parts do)."""
        return type(self).merge is not Reducer.merge

    @property
    def positional(self) -> bool:
        """Whether the result depends on places: the class defines `step_at` (combinators: if any part does)."""
        return type(self).step_at is not Reducer.step_at

    @property
    def has_prepare(self) -> bool:
        """Whether `prepare` does anything, so that the map phase can leave it out."""
        return type(self).prepare is not Reducer.prepare

    # The derived forms. Their classes are subclasses of this one, so they are imported when asked for.

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

        A `where` to the left of it leaves partials out of their group, which is there all the same; one to the
        right leaves them out before they are grouped.

        >>> from poolagg.reducers import Count
        >>> reduced(Count().by(str.lower), "aAb")
        {'a': 2, 'b': 1}
        """
        from poolagg.reducers.grouping import By

        return By(self, key)

    def flat(self) -> Reducer[R]:
        """Take each partial as an iterable of partials: what MapReduce calls emitting.

        >>> from poolagg.reducers import Sum
        >>> reduced(Sum().flat(), [[1, 2], [], [3]])
        6
        """
        from poolagg.reducers.derived import Flat

        return Flat(self)

    def then(self, f: Callable[[R], S]) -> Reducer[S]:
        """Present `f(result)` instead of the result.

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
        """What runs beside `func`: itself; of what only the parent folds, just `prepare`: the rest need not travel."""
        return self

    def _checked(self, before: Any, after: Any, method: str) -> Any:
        if after is None and before is not None:
            raise TypeError(
                f"{self!r}.{method} returned None: return the accumulator, also when it was mutated in place"
            )
        return after


class Untouched(Reducer[Any]):
    """What travels of a reducer that only the parent folds: nothing. Its partials are handed over as they are lent."""

    retains_input = False


def fold(reducer: Reducer, acc: Any, index: int, prepareds: Sequence[Any]) -> Any:
    """Fold the prepared partials of consecutive items, the first at `index`. The engine's one way in."""
    return reducer._checked(acc, reducer.steps_at(acc, (index,), prepareds), "steps_at")


def join(reducer: Reducer, acc: Any, other: Any) -> Any:
    """`reducer.merge(acc, other)`, with an error that says so where a merge forgot to return its accumulator."""
    return reducer._checked(acc, reducer.merge(acc, other), "merge")


def reduced(reducer: Reducer[R], partials: Iterable[Any]) -> R:
    """What `reducer` makes of the partials, here and now: what every run must equal, however it is spread.

    >>> from poolagg.reducers import Mean
    >>> reduced(Mean(), [1, 2, 6])
    3.0
    """
    return reducer.finish(fold(reducer, reducer.init(), 0, [reducer.prepare(partial) for partial in partials]))


ANYWHERE: Position = (0,)
"""The place given to reducers that do not look at it."""


class Combinator(Reducer[R]):
    """A reducer made of `parts`: mergeable if all are; ordered, placed or preparing if any is."""

    def __init__(self, *parts: Reducer) -> None:
        self.parts = parts
        self.ordered = any(part.ordered for part in parts)
        self.retains_input = any(part.retains_input for part in parts)

    @property
    def inner(self) -> Reducer:
        """The one part, of those that have one."""
        return self.parts[0]

    def step(self, acc: Any, prepared: Any) -> Any:
        return self.steps(acc, (prepared,))

    def steps(self, acc: Any, prepareds: Sequence[Any]) -> Any:
        if self.positional:
            raise TypeError(f"{self!r} depends on where a partial stood: call step_at or steps_at")
        return self.steps_at(acc, ANYWHERE, prepareds)

    def step_at(self, acc: Any, place: Position, prepared: Any) -> Any:
        return self.steps_at(acc, place, (prepared,))

    def steps_at(self, acc: Any, place: Position, prepareds: Sequence[Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define steps_at(self, acc, place, prepareds)")

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
        twin = copy.copy(self)
        twin.parts = tuple(part.worker_side() for part in self.parts)
        twin.retains_input = any(part.retains_input for part in twin.parts)
        return twin
