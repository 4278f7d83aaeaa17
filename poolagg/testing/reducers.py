"""Test the laws of a reducer: `check_reducer` runs all of them and shows the smallest example that breaks one.

Each law is a function from a trial (a reducer and some partials) to pairs of results that must be equal. Accumulators
are compared by their `finish` results, so that one value may have many forms.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, combinations_with_replacement
from typing import Any, NamedTuple, NoReturn, TypeAlias

from poolagg.reducers import Reducer, ReducerLike, as_reducer, join
from poolagg.testing.equality import alike
from poolagg.testing.laws import LawBroken, fewest

__all__ = ["LAWS", "check_reducer"]


SEVERAL = 6
"""Number of samples that are tried in pairs as well."""


def check_reducer(reducer: ReducerLike, samples: Iterable[Any], equal: Callable[[Any, Any], Any] = alike) -> None:
    """Raise LawBroken if `reducer` breaks a law on the samples, which are partials as `func` returns them.

    `reducer` may be anything that `aggregate` takes as one. `equal` compares results: by default like `==`, but nan
    equals nan and arrays are compared as a whole, also inside lists and dicts; pass `math.isclose` if floats are added.
    The laws of `merge` are skipped for a reducer without it. Samples should differ from one another; half a dozen is
    enough. Each trial copies them, so that a reducer may consume them.

    >>> from poolagg.reducers import Mean, Reducer
    >>> check_reducer(Mean(), [1, 2.5, 3])

    >>> class MeanOfMeans(Reducer):
    ...     def init(self): return None
    ...     def step(self, acc, prepared): return prepared if acc is None else (acc + prepared) / 2
    ...     def merge(self, acc, other): return other if acc is None else acc if other is None else (acc + other) / 2
    >>> check_reducer(MeanOfMeans(), [1, 2, 3, 7])
    Traceback (most recent call last):
    poolagg.testing.LawBroken: MeanOfMeans() breaks the law: merge is associative
      (a b) c and a (b c), cut at 1 and 2: 4.75 and 3.5
      samples: [2, 3, 7]
    """
    samples = [list(sample) if isinstance(sample, Iterator) else sample for sample in samples]
    if not samples:
        raise ValueError("check_reducer needs samples to try the laws on, got none: pass some partials")
    trial = Trial(as_reducer(reducer), samples, equal)
    law = _first_broken(trial)
    for pair in combinations(samples[:SEVERAL], 2):  # among many samples, one may hide a fault that two others show
        if law is None:
            trial = trial._replace(samples=list(pair))
            law = _first_broken(trial)
    while law:
        trial = _smallest(law, trial)
        simpler = _first_broken(trial) or law  # with fewer samples, an earlier law may be broken
        if simpler is law:
            law.report(trial)
        law = simpler


class Trial(NamedTuple):
    """A reducer and the partials to try it on; each fold starts from copies of the partials."""

    reducer: Reducer
    samples: list[Any]
    equal: Callable[[Any, Any], Any]

    def prepared(self) -> list[Any]:
        return [self.reducer.prepare(sample) for sample in copy.deepcopy(self.samples)]

    @property
    def n(self) -> int:
        return len(self.samples)

    def fold(self, start: int = 0, stop: int | None = None) -> Any:
        """Fold samples `start` to `stop`, each at its position, into a fresh accumulator."""
        return self.onto(self.reducer.init(), range(start, self.n if stop is None else stop))

    def onto(self, acc: Any, positions: Iterable[int], prepared: Sequence[Any] | None = None) -> Any:
        """Step the samples at these positions onto `acc`; positions beyond the last wrap around."""
        prepared = self.prepared() if prepared is None else prepared
        for i in positions:
            acc = self.reducer._checked(acc, self.reducer.step_at(acc, (i,), prepared[i % len(prepared)]), "step")
        return acc

    def join(self, acc: Any, other: Any) -> Any:
        return join(self.reducer, acc, other)

    def again(self) -> range:
        """Return positions for a second round of the samples, after the first."""
        return range(self.n, 2 * self.n)

    def cuts(self, count: int) -> Iterator[tuple[int, ...]]:
        """Yield cuts of the samples into `count + 1` pieces, some empty: all cuts of few samples, some of many."""
        return combinations_with_replacement(sorted({round(i * self.n / 6) for i in range(7)}), count)

    def result(self, acc: Any) -> Any:
        """Return a copy of `finish(acc)`, or `Raised` if it raises."""
        try:
            return copy.deepcopy(self.reducer.finish(acc))
        except Exception as error:  # an empty fold may have no result, as in functools.reduce
            return Raised(type(error).__name__)

    def same(self, left: Any, right: Any) -> bool:
        """Return whether two results are equal; two nan are."""
        if isinstance(left, Raised) or isinstance(right, Raised):
            return type(left) is type(right) and left.kind == right.kind
        return left is right or (_is_nan(left) and _is_nan(right)) or bool(self.equal(left, right))


class Raised(NamedTuple):
    """Stands for an exception that `finish` raised; equal to another of the same type."""

    kind: str


Pairs: TypeAlias = Iterator[tuple[str, Any, Any]]
"""A description of the comparison, and the two results that must be equal."""


class Law(NamedTuple):
    """A law by name, the reducers it applies to, and its check."""

    name: str
    applies: Callable[[Reducer], bool]
    check: Callable[[Trial], Pairs]

    def problem(self, trial: Trial) -> str | None:
        """Describe the first pair that is not equal; return None if there is none."""
        for what, left, right in self.check(trial):
            if not trial.same(left, right):
                return f"{what}: {reprlib.repr(left)} and {reprlib.repr(right)}"
        return None

    def broken(self, trial: Trial) -> bool:
        """Return whether the law is broken; an exception breaks it, too."""
        try:
            return self.problem(trial) is not None
        except Exception:
            return True

    def report(self, trial: Trial) -> NoReturn:
        """Raise LawBroken for a broken law."""
        cause = None
        try:
            problem = self.problem(trial)
        except Exception as error:
            problem, cause = f"{type(error).__name__}: {error}", error
        message = f"{trial.reducer!r} breaks the law: {self.name}\n  {problem}\n  samples: {trial.samples!r}"
        raise LawBroken(message, self.name, trial.samples) from cause


def _first_broken(trial: Trial) -> Law | None:
    return next((law for law in LAWS if law.applies(trial.reducer) and law.broken(trial)), None)


def _smallest(law: Law, trial: Trial) -> Trial:
    return trial._replace(samples=fewest(trial.samples, lambda fewer: law.broken(trial._replace(samples=fewer))))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _fresh(trial: Trial) -> Pairs:
    reducer = trial.reducer
    first, second = reducer.init(), reducer.init()
    if type(first).__hash__ is None:
        yield f"two calls returned the same {type(first).__name__}", first is second, False
    nothing = trial.result(first)
    with contextlib.suppress(Exception):  # the next law reports the faults of step
        for position, prepared in enumerate(trial.prepared()):
            stepped = reducer.step_at(first, (position,), prepared)
            first = first if stepped is None else stepped
    yield "finish(init()) before and after a fold of another", nothing, trial.result(second)
    yield "finish(init()) before and after a fold", nothing, trial.result(reducer.init())


def _steps_return(trial: Trial) -> Pairs:
    trial.fold()
    yield from ()


def _pure_prepare(trial: Trial) -> Pairs:
    partials = copy.deepcopy(trial.samples)
    once, twice = ([trial.reducer.prepare(partial) for partial in partials] for _ in range(2))
    folds = [trial.onto(trial.reducer.init(), range(trial.n), prepared) for prepared in (once, twice)]
    yield "prepared once, and prepared again", *map(trial.result, folds)


def _finish_leaves(trial: Trial) -> Pairs:
    for (cut,) in trial.cuts(1):
        acc = trial.fold(0, cut)
        yield "finished once and twice", trial.result(acc), trial.result(acc)
        later = trial.onto(acc, range(cut, trial.n))
        yield f"without and with a finish at {cut}", trial.result(trial.fold()), trial.result(later)


def _finish_copies(trial: Trial) -> Pairs:
    for (cut,) in trial.cuts(1):
        acc = trial.fold(0, cut)
        if isinstance(trial.result(acc), Raised):
            continue
        value = trial.reducer.finish(acc)
        before = copy.deepcopy(value)
        acc = trial.onto(acc, trial.again())
        if trial.reducer.mergeable:
            trial.join(acc, trial.fold())
        yield "a result before and after its accumulator went on", before, value


def _pickles(trial: Trial) -> Pairs:
    import cloudpickle  # states may be pickled by it

    for (cut,) in trial.cuts(1):
        acc = pickle.loads(cloudpickle.dumps(trial.fold(0, cut)))
        later = trial.onto(acc, range(cut, trial.n))
        yield f"not pickled and pickled at {cut}", trial.result(trial.fold()), trial.result(later)


def _bulk(trial: Trial) -> Pairs:
    reducer = trial.reducer
    for start, stop in trial.cuts(2):
        what, looped = f"looped and in bulk, samples {start} to {stop}", trial.result(trial.fold(0, stop))
        bulk = reducer.steps_at(trial.fold(0, start), (start,), trial.prepared()[start:stop])
        yield what, looped, trial.result(bulk)
        if not reducer.positional:
            bulk = reducer.steps(trial.fold(0, start), trial.prepared()[start:stop])
            yield what, looped, trial.result(bulk)


def _any_order(trial: Trial) -> Pairs:
    for (cut,) in trial.cuts(1):
        front, back = range(cut), range(cut, trial.n)
        for positions in ([*back, *front], [*reversed(front), *reversed(back)]):
            arrived = trial.onto(trial.reducer.init(), positions)
            yield f"in input order and in order {positions}", trial.result(trial.fold()), trial.result(arrived)


def _identity(trial: Trial) -> Pairs:
    alone, init = trial.result(trial.fold()), trial.reducer.init
    yield "a and merge(a, init())", alone, trial.result(trial.join(trial.fold(), init()))
    yield "a and merge(init(), a)", alone, trial.result(trial.join(init(), trial.fold()))


def _right_argument(trial: Trial) -> Pairs:
    for (cut,) in trial.cuts(1):
        other = trial.fold(cut)
        before = trial.result(other)
        merged = trial.join(trial.fold(0, cut), other)
        yield "mutated: `other` before and after", before, trial.result(other)
        before = trial.result(merged)
        other = trial.onto(other, trial.again())
        yield "kept: merge(acc, other) before and after `other` went on", before, trial.result(merged)
        before = trial.result(other)
        trial.onto(merged, trial.again())
        yield "kept: `other` before and after merge(acc, other) went on", before, trial.result(other)


def _agreement(trial: Trial) -> Pairs:
    for cut in range(trial.n):
        stepped = trial.fold(0, cut + 1)
        merged = trial.join(trial.fold(0, cut), trial.fold(cut, cut + 1))
        yield f"sample {cut} stepped and merged", trial.result(stepped), trial.result(merged)


def _associative(trial: Trial) -> Pairs:
    for i, j in trial.cuts(2):
        left = trial.join(trial.join(trial.fold(0, i), trial.fold(i, j)), trial.fold(j))
        right = trial.join(trial.fold(0, i), trial.join(trial.fold(i, j), trial.fold(j)))
        yield f"(a b) c and a (b c), cut at {i} and {j}", trial.result(left), trial.result(right)


def _commutative(trial: Trial) -> Pairs:
    for (cut,) in trial.cuts(1):
        left = trial.join(trial.fold(0, cut), trial.fold(cut))
        right = trial.join(trial.fold(cut), trial.fold(0, cut))
        yield f"merge(a, b) and merge(b, a), cut at {cut}", trial.result(left), trial.result(right)


def _done(trial: Trial) -> Pairs:
    for cut, stop in trial.cuts(2):
        if not trial.reducer.done(trial.fold(0, cut), cut):
            continue
        yield (
            f"done after {cut} samples, and asked again at {stop}",
            True,
            bool(trial.reducer.done(trial.fold(0, cut), stop)),
        )
        later = [trial.fold(0, stop)]
        if trial.reducer.mergeable:
            later.append(trial.join(trial.fold(0, cut), trial.fold(cut, stop)))
        for acc in later:
            what = f"done after {cut} samples, and after {stop}"
            yield what, trial.result(trial.fold(0, cut)), trial.result(acc)
            yield what, True, bool(trial.reducer.done(acc, stop))


def _done_with_gaps(trial: Trial) -> Pairs:
    for settled, start in trial.cuts(2):
        acc = trial.onto(trial.fold(0, settled), range(start, trial.n))
        if trial.reducer.done(acc, settled):
            what = f"done without samples {settled} to {start}, and after all"
            yield what, trial.result(acc), trial.result(trial.fold())


def _always(reducer: Reducer) -> bool:
    del reducer
    return True


def _prepares(reducer: Reducer) -> bool:
    return reducer.has_prepare


def _merges(reducer: Reducer) -> bool:
    return reducer.mergeable


def _ends(reducer: Reducer) -> bool:
    return reducer.ends_early


def _ends_out_of_order(reducer: Reducer) -> bool:
    return reducer.ends_early and (reducer.mergeable or not reducer.ordered)


# Freshness comes first: with a shared accumulator, all other laws would look broken.
LAWS = (
    Law("init() returns a fresh accumulator at every call", _always, _fresh),
    Law("step takes every sample and returns the accumulator", _always, _steps_return),
    Law("prepare is pure", _prepares, _pure_prepare),
    Law("finish leaves the accumulator as it was", _always, _finish_leaves),
    Law("finish shares no mutable state with the accumulator", _always, _finish_copies),
    Law("the accumulator survives pickling", _always, _pickles),
    Law("steps is looped step", _always, _bulk),
    Law("with step_at, what arrives first does not matter", lambda r: r.positional and not r.ordered, _any_order),
    Law("merge(a, init()) == a", _merges, _identity),
    Law("merge neither mutates nor keeps its right argument", _merges, _right_argument),
    Law("step(a, x) == merge(a, step(init(), x))", _merges, _agreement),
    Law("merge is associative", _merges, _associative),
    Law("merge commutes, unless ordered", lambda r: r.mergeable and not r.ordered, _commutative),
    Law("once done, nothing that comes changes the result", _ends, _done),
    Law("once done, items from `settled` on that are missing change nothing", _ends_out_of_order, _done_with_gaps),
)
