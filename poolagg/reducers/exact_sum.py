"""Sums of floats without rounding: the same bits in any order, for any split among workers.

The exact sum of doubles is held as a short tuple of floats that do not overlap: the sum rounded to a float, then
what that left rounded to a float, and so on until nothing is left. `math.fsum` rounds an exact sum correctly, so
each part is one pass of it, and the tuple depends on the exact value alone: equal sums are equal tuples, whatever
way they came.
(Parts: Priest 1991 and Shewchuk 1997, "Adaptive Precision Floating-Point Arithmetic"; `fsum`: Hettinger.)

Where a tuple will not do, because the sum is beyond the largest float, below the least, or reaches over too many
decades, the state is an int in units of 2**-2148, the square of the least positive float; and again it is a tuple as
soon as the value allows.
`fsum` gives up when it overflows on the way; the ints don't.

Squares enter exactly as well, as the pair (rounded product, its error). (Dekker 1971, "A floating-point technique for
extending the available precision".)

>>> total = FloatSum().plus([1e308, 1e308, 0.1]).plus([-1e308])
>>> total, total.value()
(FloatSum(finite=(1e+308, 0.1), special=0), 1e+308)

Sums of numbers of any kind: what Python adds exactly stays what it is, floats are added exactly, complex by part.

    ints, Fractions   as `sum` adds them, which is exact
    Decimals          exactly, and rounded to the context's precision once, at the end
    floats            exactly (`_exact`), and rounded once, at the end; ints and Fractions beside them enter exactly
    complex           the real and the imaginary parts, each as floats
    numpy scalars     as the Python numbers they equal, so integers do not overflow; timedelta64 by its own `+`

A total is a function of the numbers alone, not of their order: totals are compared with `==`. An unknown type of
number is added by its own `+`, and is as exact as that; a float with a `+` of its own is refused.

>>> Total().plus(numbers([1, 2**53, 0.5])).plus(numbers([0.25])).value()
9007199254740994.0
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation, localcontext
from fractions import Fraction
from functools import reduce
from operator import add, mul
from typing import Any, NamedTuple

from poolagg._runtime.plain_values import plain
from poolagg._runtime.value_types import types_of

__all__ = ["FloatSum", "Numbers", "Total", "numbers", "quotient", "square_root", "squares"]

UNIT_BITS = 2148
UNIT = 1 << UNIT_BITS
LEAST_FLOAT = 1 << (UNIT_BITS - 1074)

MOST_PARTS = 6
"""Up to here a few passes of `fsum` are faster than ints; it is about 95 decades."""

PLUS_INFINITY, MINUS_INFINITY, NOT_A_NUMBER = 1, 2, 4


@plain
class FloatSum(NamedTuple):
    """The exact sum of floats: immutable, small, and equal to any other with the same value.

    `special` says which of inf, -inf and nan came; once one did, `finite` no longer matters and is ().
    """

    finite: tuple[float, ...] | int = ()
    special: int = 0

    def plus(self, floats: Sequence[float], units: int = 0) -> FloatSum:
        """Add floats, and a multiple of 2**-2148. Linear: a pass of `sum`, and two of `math.fsum` as a rule."""
        if self.special:
            return FloatSum((), self.special | _special(floats))
        if not units and isinstance(self.finite, tuple):
            try:
                return FloatSum(_parts([*self.finite, *_few(floats)]))
            except (OverflowError, ValueError):
                pass  # overflow on the way, or not all finite: the slow way tells which
        if special := _special(floats):
            return FloatSum((), special)
        return FloatSum(_parts_of_int(self.units() + units + _sum_units(floats)))

    def join(self, other: FloatSum) -> FloatSum:
        """The sum of both."""
        if other.special:
            return FloatSum((), self.special | other.special)
        return self.plus((), other.finite) if isinstance(other.finite, int) else self.plus(other.finite)

    def units(self) -> int:
        """The finite sum in units of 2**-2148."""
        return self.finite if isinstance(self.finite, int) else sum(map(_units, self.finite))

    def ratio(self) -> tuple[int, int]:
        """The finite sum as a numerator and a denominator, a power of two; not in lowest terms."""
        if isinstance(self.finite, int):
            return self.finite, UNIT
        ratios = [part.as_integer_ratio() for part in self.finite]
        denominator = max((d for _, d in ratios), default=1)
        return sum(n * (denominator // d) for n, d in ratios), denominator

    def value(self) -> float:
        """The sum rounded to the nearest float, ties to even; infinities and nan as IEEE 754 adds them."""
        if self.special:
            return _SPECIAL_VALUES.get(self.special, math.nan)
        if isinstance(self.finite, int):
            return quotient(self.finite, UNIT)
        return self.finite[0] if self.finite else 0.0


FloatSum.__module__ = "poolagg.reducers"


_SPECIAL_VALUES = {PLUS_INFINITY: math.inf, MINUS_INFINITY: -math.inf}


def quotient(numerator: int, denominator: int) -> float:
    """The quotient rounded to the nearest float; infinite where no float is that large.

    >>> quotient(1, 10), quotient(-(10**309), 1)
    (0.1, -inf)
    """
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if (numerator < 0) == (denominator < 0) else -math.inf


def square_root(numerator: int, denominator: int) -> float:
    """The square root of a ratio that is not negative, rounded to the nearest float.

    At least 55 bits of the integer root, with a sticky last bit for what lies below them, round as the root itself
    would. (Round to odd: Boldo and Melquiond 2008; as in CPython's `statistics`, by Dickinson.)

    >>> square_root(2, 1) == 2**0.5, square_root(10**40, 9)
    (True, 3.333333333333333e+19)
    """
    shift = (numerator.bit_length() - denominator.bit_length() - 109) // 2
    if shift >= 0:
        return quotient(_odd_root(numerator, denominator << 2 * shift) << shift, 1)
    return quotient(_odd_root(numerator << -2 * shift, denominator), 1 << -shift)


def squares(floats: Iterable[float]) -> tuple[list[float], int]:
    """SchedulerOptions whose exact sum is the sum of the squares, less some squares in units of 2**-2148 (the second
    value).

    A square is the rounded product and its error, where neither can overflow or fall below the least float.

    >>> squares([0.1, 1e200])[0]
    [0.010000000000000002, -8.326672684688674e-19]
    """
    terms: list[float] = []
    units = 0
    for x in floats:
        if 1e-140 < x < 1e150 or -1e150 < x < -1e-140:
            product = x * x
            scaled = 134217729.0 * x  # 2**27 + 1: `high` gets the upper 26 bits of x, `low` the rest
            high = scaled - (scaled - x)
            low = x - high
            terms += product, high * high - product + 2.0 * high * low + low * low
        elif x and math.isfinite(x):
            units += _units(x) ** 2 >> UNIT_BITS
        else:  # zero, infinity, nan: their squares are exact
            terms.append(x * x)
    return terms, units


def _few(floats: Sequence[float]) -> list[float]:
    """A few floats with the same exact sum: what `sum` makes of them, and the parts of what that leaves.

    It is a third of a pass of `fsum` that saves one. The total so far stays out: next to it the passes are longer.
    """
    most = sum(floats)
    return [most, *_parts([*floats, -most])]


def _parts(terms: list[float]) -> tuple[float, ...]:
    """Consume `terms` into the non-overlapping parts of their sum, largest first."""
    parts: list[float] = []
    while part := math.fsum(terms):
        if not math.isfinite(part):
            raise ValueError("not a finite sum")
        if len(parts) == MOST_PARTS:
            raise OverflowError("too wide a range for so few parts")
        parts.append(part)
        terms.append(-part)
    return tuple(parts)


def _parts_of_int(units: int) -> tuple[float, ...] | int:
    """The same parts from units of 2**-2148; the int itself where floats cannot hold it."""
    if units % LEAST_FLOAT:
        return units
    parts: list[float] = []
    rest = units
    while rest:
        if len(parts) == MOST_PARTS or abs(part := quotient(rest, UNIT)) == math.inf:
            return units
        parts.append(part)
        rest -= _units(part)
    return tuple(parts)


def _units(x: float) -> int:
    numerator, denominator = x.as_integer_ratio()
    return numerator << UNIT_BITS + 1 - denominator.bit_length()


def _sum_units(floats: Sequence[float]) -> int:
    try:
        floats = _parts([*floats])  # many times faster, where nothing overflows
    except OverflowError:
        pass
    return sum(map(_units, floats))


def _special(floats: Iterable[float]) -> int:
    special = 0
    for x in floats:
        if not math.isfinite(x):
            special |= NOT_A_NUMBER if x != x else PLUS_INFINITY if x > 0 else MINUS_INFINITY
    return special


def _odd_root(numerator: int, denominator: int) -> int:
    root = math.isqrt(numerator // denominator)
    return root | (root * root * denominator != numerator)


_UNBOUNDED = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])
_NUMBERS = (int, float, complex, Fraction, Decimal)


@plain
class Numbers(NamedTuple):
    """A batch of numbers, sorted by how they are added."""

    plain: Sequence[Any]
    reals: Sequence[float] = ()
    imags: Sequence[float] = ()


@plain
class Total(NamedTuple):
    """A sum of numbers: `plain` ones, and the exact sum of floats once there were any; `imag` once any was complex."""

    plain: Any = 0
    real: FloatSum | None = None
    imag: FloatSum | None = None

    def plus(self, batch: Numbers) -> Total:
        """Add numbers; a batch of ints, or of floats, runs at the speed of `sum` and `math.fsum`."""
        plain = _exact_sum(self.plain, batch.plain) if batch.plain else self.plain
        return _checked(Total(plain, _plus(self.real, batch.reals), _plus(self.imag, batch.imags)))

    def plus_squares(self, batch: Numbers) -> Total:
        """Add the squares of numbers, none of them complex."""
        with localcontext(_UNBOUNDED):
            plain = sum(map(mul, batch.plain, batch.plain), self.plain)
        return _checked(Total(plain, _plus(self.real, *squares(batch.reals))))

    def join(self, other: Total) -> Total:
        """The sum of both."""
        plain = _exact_sum(self.plain, (other.plain,))
        return _checked(Total(plain, _join(self.real, other.real), _join(self.imag, other.imag)))

    def value(self) -> Any:
        """The sum, of the type that Python's `+` gives, rounded once. A zero is never negative."""
        if self.real is None:
            return +self.plain if isinstance(self.plain, Decimal) else self.plain
        return self._rounded(1)

    def mean(self, count: int) -> Any:
        """The sum divided by `count`, rounded once."""
        if self.real is not None:
            return self._rounded(count)
        return quotient(self.plain, count) if isinstance(self.plain, int) else self.plain / count

    def ratio(self) -> tuple[int, int]:
        """The sum of finite numbers, none of them complex, as a numerator and a denominator."""
        numerator, denominator = self.plain.as_integer_ratio()
        n, d = self.real.ratio() if self.real else (0, 1)
        return numerator * d + n * denominator, denominator * d

    def _rounded(self, count: int) -> float | complex:
        real = _divided(self._replace(imag=None), count)
        return real if self.imag is None else complex(real, _divided(Total(0, self.imag), count))


Total.__module__ = "poolagg.reducers"


def numbers(batch: Iterable[Any]) -> Numbers:
    """Sort a batch by how its numbers are added; a TypeError for what is no number."""
    if not isinstance(batch, (list, tuple)):
        batch = batch.tolist() if hasattr(batch, "tolist") else list(batch)  # `flat` hands over arrays whole
    types = types_of(batch)
    if types == {float}:
        return Numbers((), batch)
    if types <= {int, bool}:
        return Numbers(batch)
    if all(issubclass(kind, float) and _adds_as(float, kind) for kind in types):
        return Numbers((), list(map(float, batch)))
    if any(hasattr(kind, "dtype") for kind in types):  # numpy's scalars and their kin
        batch = [_of_numpy(x) if getattr(x, "shape", None) == () else x for x in batch]
    checked = [_number(x) for x in batch]
    inexact = [x for x in checked if isinstance(x, (float, complex))]
    imags = [x.imag for x in inexact if isinstance(x, complex)]
    return Numbers([x for x in checked if not isinstance(x, (float, complex))], [x.real for x in inexact], imags)


def _number(x: Any) -> Any:
    if isinstance(x, _NUMBERS):
        for base in (float, complex):
            if isinstance(x, base) and not _adds_as(base, type(x)):
                raise TypeError(
                    f"expected a number that adds as a {base.__name__} does, got {reprlib.repr(x)} of type "
                    f"{type(x).__name__}, which has a + of its own: Reduce(operator.add), or .of({base.__name__})"
                )
        return x
    if type(x).__name__ in ("NAType", "NaTType"):  # of pandas, which need not be installed
        raise TypeError(f"expected a number, got {x!r}, a missing value: .where(pandas.notna)")
    if x is None:
        raise TypeError("expected a number, got None: does the function lack a return statement?")
    if getattr(x, "shape", ()) != ():
        raise TypeError(f"expected a number, got an array of shape {x.shape}: ArraySum() adds arrays, .flat() elements")
    if isinstance(x, (date, timedelta)):
        raise TypeError(
            f"expected a number, got {x!r}: .of(timedelta.total_seconds) makes numbers of time spans, "
            f"Reduce(operator.add) adds them, Min() and Max() compare dates"
        )
    if _is_span(x):
        return x
    if hasattr(x, "dtype") or hasattr(x, "__iter__"):
        kind, value = type(x).__name__, reprlib.repr(x)
        raise TypeError(f"expected a number, got {value} of type {kind}: .flat() takes elements, .of(f) converts")
    return x


def _adds_as(number: Any, kind: Any) -> bool:
    """Whether a subclass of a type of numbers adds as that does; numpy's do."""
    return (kind.__add__ is number.__add__ and kind.__radd__ is number.__radd__) or hasattr(kind, "dtype")


def _is_span(x: Any) -> bool:
    return hasattr(x, "dtype") and x.dtype.kind == "m"


def _of_numpy(x: Any) -> Any:
    """A scalar of numpy, or an array without dimensions, as the number it equals."""
    if type(x).__name__ == "MaskedConstant":
        raise TypeError("expected a number, got the masked value: .where(lambda x: x is not numpy.ma.masked)")
    if x.dtype.kind == "M":
        raise TypeError(f"expected a number, got {x!r}: dates cannot be added, Min() and Max() compare them")
    return x[()] if _is_span(x) else x.item()


def _exact_sum(start: Any, plain: Sequence[Any]) -> Any:
    found = types_of(plain)
    if isinstance(start, int) and found <= {int, bool}:
        return start + sum(plain)  # which is quick while it fits into a machine word: from 0 on it mostly does
    if _is_span(start) or any(kind.__name__ == "timedelta64" for kind in found):
        return reduce(add, [x for x in (start, *plain) if _is_span(x) or x != 0])  # numpy adds no number to a span
    with localcontext(_UNBOUNDED):
        return sum(plain, start)


def _plus(total: FloatSum | None, floats: Sequence[float], units: int = 0) -> FloatSum | None:
    return (total or FloatSum()).plus(floats, units) if len(floats) or units else total


def _join(a: FloatSum | None, b: FloatSum | None) -> FloatSum | None:
    return a if b is None else b if a is None else a.join(b)


def _checked(total: Total) -> Total:
    if total.real is not None and isinstance(total.plain, Decimal):
        raise TypeError("Python does not add Decimals and floats: convert with .of(float) or .of(Decimal)")
    if total.real is not None and _is_span(total.plain):
        raise TypeError("numpy does not add time spans and floats: convert with .of(f)")
    return total


def _divided(total: Total, count: int) -> float:
    floats = total.real or FloatSum()
    if floats.special or (count == 1 and not total.plain):
        return floats.value()
    if not hasattr(total.plain, "as_integer_ratio"):  # a type we do not know: by its own arithmetic
        return (total.plain + floats.value()) / count  # type: ignore[no-any-return]
    numerator, denominator = total.ratio()
    return quotient(numerator, denominator * count)
