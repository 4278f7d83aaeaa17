"""Count, Sum, Mean, Variance, Std: exact states, rounded once at the end.

All of them commute exactly: the same result, to the last bit, for any number of workers and any timing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from poolagg._runtime.arguments import need_count
from poolagg._runtime.plain_values import plain
from poolagg._runtime.value_types import types_of
from poolagg.reducers.exact_sum import FloatSum, Numbers, Total, numbers, parts_of, quotient, square_root
from poolagg.reducers.keys import are_held_as_they_are
from poolagg.reducers.reducer import Groups, Reducer, Rejection

__all__ = ["Count", "Mean", "Std", "Sum", "Variance"]

WAITING = 16
"""Up to so many numbers of a key wait in its state: adding them all costs little more than adding one."""


class Count(Reducer[int]):
    """The number of partials; 0 for none.

    >>> from poolagg.reducers import reduced
    >>> reduced(Count(), ["a", "b", None])
    3
    """

    retains_input = False
    _rejection = Rejection.PERSISTENT

    def init(self) -> int:
        return 0

    def step(self, acc: int, prepared: Any) -> int:
        del prepared
        return acc + 1

    def steps(self, acc: int, prepareds: Sequence[Any]) -> int:
        return acc + len(prepareds)

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups) -> dict[Any, Any]:
        counts = Counter([key for key, _ in groups.pairs])
        if not are_held_as_they_are(list(counts)):
            return super()._steps_by_key(states, groups)
        return {key: states.get(key, 0) + n for key, n in counts.items()}

    def merge(self, acc: int, other: int) -> int:
        return acc + other

    def validate(self, prepareds: Sequence[Any]) -> None:
        """Accept everything."""


class Sum(Reducer[Any]):
    """The sum of the partials; 0 for none. Floats are summed exactly and rounded once.

    Ints, Fractions and Decimals keep their type, as with `sum`; one float makes the result a float, one complex a
    complex. Decimals are added exactly and rounded to the context's precision at the end. Infinities and nan add as in
    IEEE 754; a sum beyond the largest float is infinite; a zero is never negative, as with `sum`.

    The accumulator is a few numbers; a float costs about three passes of `math.fsum`. Raises TypeError for an array
    (see ArraySum), for anything that is not a number (a date, None), and for Decimals together with floats.

    >>> from poolagg.reducers import reduced
    >>> reduced(Sum(), [1e308, 1e308, 0.1, -1e308, -1e308])
    0.1
    """

    retains_input = False
    accepts_iterators = False
    _rejection = Rejection.PERSISTENT

    def init(self) -> SumState:
        return 0

    def step(self, acc: SumState, prepared: Any) -> SumState:
        return self.steps(acc, (prepared,))

    def steps(self, acc: SumState, prepareds: Sequence[Any]) -> SumState:
        if type(prepareds) is list and prepareds and type(prepareds[0]) is int:
            try:
                total = sum(prepareds)
            except Exception:  # `numbers` raises a better error
                total = None
            if type(total) is int:  # then all were ints: checking the type of each takes longer than adding it
                return acc + total if type(acc) is int else _state(_total(acc).plus(Numbers((total,))))
        batch = numbers(prepareds)
        if not batch.plain and not batch.imags and (parts := _parts(acc, batch.reals)) is not None:
            return parts
        return _state(_total(acc).plus(batch))

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups) -> dict[Any, Any]:
        kind = type(groups.pairs[0][1]) if groups.pairs else None
        if kind is float and types_of([x for _, x in groups.pairs]) == {float}:
            new = {key: _parts(states.get(key, 0), floats) for key, floats in groups.lists.items()}
            if None not in new.values():
                return new
        sums = _int_sums(groups.pairs) if kind is int else None
        if sums is None or not are_held_as_they_are(list(sums)):
            return super()._steps_by_key(states, groups)
        return {key: self.merge(states[key], n) if key in states else n for key, n in sums.items()}

    def merge(self, acc: SumState, other: SumState) -> SumState:
        if type(acc) is int and type(other) is int:
            return acc + other
        if type(other) is tuple and (parts := _parts(acc, other)) is not None:
            return parts
        return _state(_total(acc).join(_total(other)))

    def validate(self, prepareds: Sequence[Any]) -> None:
        if not _are_reals(prepareds):
            super().validate(prepareds)

    def finish(self, acc: SumState) -> Any:
        if type(acc) is tuple:
            return acc[0] if acc else 0.0
        return acc if type(acc) is int else acc.value()


SumState: TypeAlias = Any
"""An int, if all partials are; the parts of the exact sum, if all are finite floats; for any others, a `Total`."""


def _total(state: SumState) -> Total:
    if type(state) is int:
        return Total(state)
    return Total(0, FloatSum(state)) if type(state) is tuple else state


def _state(total: Total) -> SumState:
    if total.only_ints:
        return total.plain
    real = total.real
    if real is None or real.special or total.imag is not None or type(real.finite) is int:
        return total
    return real.finite if type(total.plain) is int and total.plain == 0 else total


def _parts(acc: SumState, floats: Sequence[float]) -> SumState | None:
    """Return the parts of the sum of both; None if the sum has none."""
    if type(acc) is tuple or (type(acc) is int and acc == 0 and len(floats)):
        try:
            return parts_of(acc if type(acc) is tuple else (), floats)
        except (OverflowError, ValueError):
            pass  # an overflow, or not all are finite: `Total` tells which
    return None


def _int_sums(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, int] | None:
    """Return the sum of each key's ints; None if not all are ints."""
    sums: dict[Any, Any] = {}
    get = sums.get
    try:
        for key, x in pairs:
            sums[key] = get(key, 0) + x
    except Exception:  # `numbers` raises a better error
        return None
    return sums if types_of(list(sums.values())) == {int} else None


@plain
class Moments(NamedTuple):
    """The count of numbers, their sum, and the sum of their squares (`Mean` leaves it at 0)."""

    n: int = 0
    total: Total = Total()
    squares: Total = Total()


Moments.__module__ = "poolagg.reducers"


MeanState: TypeAlias = Any
"""Moments; under a key a tuple of ints and floats that wait to be added, the first of which may be the moments."""


class Mean(Reducer[float]):
    """The arithmetic mean: the exact sum divided by the count, rounded once; nan for no partials.

    The mean of ints is a float, of Fractions a Fraction, of Decimals a Decimal. Costs and errors as Sum.

    >>> from poolagg.reducers import reduced
    >>> reduced(Mean(), [1e308, 1.5e308]), reduced(Mean(), [1, 2])
    (1.25e+308, 1.5)
    """

    retains_input = False
    accepts_iterators = False
    _rejection = Rejection.PERSISTENT

    def init(self) -> Moments:
        return Moments()

    def step(self, acc: MeanState, prepared: Any) -> Moments:
        return self.steps(acc, (prepared,))

    def steps(self, acc: MeanState, prepareds: Sequence[Any]) -> Moments:
        n, total, _ = self._moments(acc)
        return Moments(n + len(prepareds), total.plus(numbers(prepareds)))

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups) -> dict[Any, Any]:
        if not types_of([x for _, x in groups.pairs]) <= {int, float}:
            return super()._steps_by_key(states, groups)
        new: dict[Any, Any] = {}
        for key, xs in groups.lists.items():
            held = states.get(key, ())
            waiting = held if type(held) is tuple else (held,)
            new[key] = waiting + tuple(xs) if len(waiting) + len(xs) <= WAITING else self.steps(held, xs)
        return new

    def _moments(self, state: MeanState) -> Moments:
        """Return the moments of all numbers, those that wait included."""
        if type(state) is Moments:
            return state
        first = state[0] if state else None
        return self.steps(first, state[1:]) if type(first) is Moments else self.steps(Moments(), state)

    def merge(self, acc: MeanState, other: MeanState) -> MeanState:
        both_wait = type(acc) is tuple and type(other) is tuple and len(acc) + len(other) <= WAITING
        if both_wait and not (other and type(other[0]) is Moments):
            return (*acc, *other)
        a, b = self._moments(acc), self._moments(other)
        return Moments(a.n + b.n, a.total.join(b.total), a.squares.join(b.squares)) if a.n else other

    def validate(self, prepareds: Sequence[Any]) -> None:
        if not _are_reals(prepareds):
            super().validate(prepareds)

    def finish(self, acc: MeanState) -> Any:
        n, total, _ = self._moments(acc)
        return total.mean(n) if n else math.nan


class Variance(Mean):
    """The variance, exact and rounded once: the sum of squared deviations from the mean over `count - ddof`.

    `ddof=1` is the sample's variance, `ddof=0` the population's. Too few values, an infinity or a nan give nan. The
    variance of Fractions is a Fraction, of Decimals a Decimal, otherwise a float. The sums of x and of x*x are exact,
    so a large mean does not cancel a small spread. Errors as Sum, and a TypeError for complex numbers.

    >>> from poolagg.reducers import reduced
    >>> reduced(Variance(), [1e16, 1e16 + 2, 1e16 + 4])
    4.0
    """

    _rejection = Rejection.PERSISTENT

    def __init__(self, ddof: int = 1) -> None:
        self.ddof = need_count(f"{type(self).__name__}(ddof)", ddof, least=0)

    def steps(self, acc: MeanState, prepareds: Sequence[Any]) -> Moments:
        batch = numbers(prepareds)
        if batch.imags:
            raise TypeError(f"{self!r} requires real numbers, got complex ones: .of(abs), or a Tee of the parts")
        if others := types_of(batch.plain) - {int, bool}:
            for kind in others:
                if not issubclass(kind, (int, Fraction, Decimal)):
                    raise TypeError(f"{self!r} requires real numbers, got a {kind.__name__}: .of(float), or .of(f)")
        n, total, squares = self._moments(acc)
        return Moments(n + len(prepareds), total.plus(batch), squares.plus_squares(batch))

    _steps_by_key = Mean._steps_by_key  # which calls `steps`, so that this class need not have a loop of its own

    def finish(self, acc: MeanState) -> Any:
        acc = self._moments(acc)
        ratio = self._ratio(acc)
        if ratio is None:
            return Decimal("NaN") if _is_special(acc.total.plain) else math.nan
        if acc.total.real is None and isinstance(acc.total.plain, Fraction):
            return Fraction(*ratio)
        if isinstance(acc.total.plain, Decimal):
            return Decimal(ratio[0]) / Decimal(ratio[1])
        return quotient(*ratio)

    def _ratio(self, acc: Moments) -> tuple[int, int] | None:
        """Return (Sxx - Sx**2 / n) / (n - ddof) as a numerator and a denominator; None for a nan."""
        n, total, squares = acc
        if n <= self.ddof or (total.real is not None and total.real.special) or _is_special(total.plain):
            return None
        sx, unit = total.ratio()
        sxx, square_unit = squares.ratio()
        numerator = n * sxx * unit * unit - sx * sx * square_unit
        return numerator, square_unit * unit * unit * n * (n - self.ddof)


def _are_reals(batch: Sequence[Any]) -> bool:
    """Tell whether adding the batch, which is the fastest check, shows that it holds ints and floats alone."""
    try:
        return type(sum(batch)) in (int, float)
    except Exception:  # `numbers` raises a better error
        return False


def _is_special(x: Any) -> bool:
    """Tell whether `x` is a Decimal that is infinite or nan."""
    return isinstance(x, Decimal) and not x.is_finite()


class Std(Variance):
    """The standard deviation: the square root of the exact variance, rounded once. Always a float.

    Arguments and errors as Variance.

    >>> from poolagg.reducers import reduced
    >>> reduced(Std(ddof=0), [1, 3])
    1.0
    """

    def finish(self, acc: MeanState) -> float:
        ratio = self._ratio(self._moments(acc))
        return math.nan if ratio is None else square_root(*ratio)
