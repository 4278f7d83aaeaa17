"""Sums of floats without rounding: the same bits in any order, for any split among workers.

The state is the exact sum of doubles as a short tuple of floats that do not overlap: the sum rounded to a float, then
the remainder rounded to a float, and so on until none remains. `math.fsum` rounds an exact sum correctly, so each part
takes one pass of it. The tuple depends on the exact value alone: equal sums are equal tuples.
(Parts: Priest 1991 and Shewchuk 1997, "Adaptive Precision Floating-Point Arithmetic"; `fsum`: Hettinger.)

If the sum is beyond the largest float, below the least, or spans too many decades, the state is an int in units of
2**-2148, the square of the least positive float. It becomes a tuple again as soon as the value allows. `fsum` fails
when an intermediate sum overflows; the ints do not.

A square enters exactly too, as the pair (rounded product, its error). (Dekker 1971, "A floating-point technique for
extending the available precision".)

>>> total = FloatSum().plus([1e308, 1e308, 0.1]).plus([-1e308])
>>> total, total.value()
(FloatSum(finite=(1e+308, 0.1), special=0), 1e+308)

`Total` adds numbers of any type:

    ints, Fractions   as `sum` adds them, which is exact
    Decimals          exactly, rounded to the context's precision once, at the end
    floats            exactly (`FloatSum`), rounded once, at the end; ints and Fractions among them enter exactly
    complex           the real and the imaginary parts, each as floats
    numpy scalars     as the Python numbers they equal, so integers do not overflow; timedelta64 by its own `+`

A total depends on the numbers alone, not on their order, so `==` compares totals. A number of an unknown type is added
by its own `+`, and is as exact as that; a subclass of float with a `+` of its own is an error.

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

__all__ = ["FloatSum", "Numbers", "Total", "numbers", "parts_of", "quotient", "square_root", "squares"]

UNIT_BITS = 2148
UNIT = 1 << UNIT_BITS
LEAST_FLOAT = 1 << (UNIT_BITS - 1074)

MOST_PARTS = 6
"""Up to this many parts, about 95 decades, passes of `fsum` are faster than ints."""

MANY = 30
"""From this many floats on, a pass of `sum` first is faster."""

PLUS_INFINITY, MINUS_INFINITY, NOT_A_NUMBER = 1, 2, 4


@plain
class FloatSum(NamedTuple):
    """The exact sum of floats: immutable, small, and equal to any other with the same value.

    `special` records which of inf, -inf and nan were added; after the first, `finite` is () and unused.
    """

    finite: tuple[float, ...] | int = ()
    special: int = 0

    def plus(self, floats: Sequence[float], units: int = 0) -> FloatSum:
        """Add floats, and a multiple of 2**-2148. Linear: usually a pass of `sum` and two of `math.fsum`."""
        if self.special:
            return FloatSum((), self.special | _special(floats))
        if not units and isinstance(self.finite, tuple):
            try:
                return FloatSum(parts_of(self.finite, floats))
            except (OverflowError, ValueError):
                pass  # an overflow, or not all are finite: the slow path tells which
        if special := _special(floats):
            return FloatSum((), special)
        return FloatSum(_parts_of_int(self.units() + units + _sum_units(floats)))

    def join(self, other: FloatSum) -> FloatSum:
        """Return the sum of both."""
        if other.special:
            return FloatSum((), self.special | other.special)
        return self.plus((), other.finite) if isinstance(other.finite, int) else self.plus(other.finite)

    def units(self) -> int:
        """Return the finite sum in units of 2**-2148."""
        return self.finite if isinstance(self.finite, int) else sum(map(_units, self.finite))

    def ratio(self) -> tuple[int, int]:
        """Return the finite sum as a numerator and a denominator, a power of two; not in lowest terms."""
        if isinstance(self.finite, int):
            return self.finite, UNIT
        ratios = [part.as_integer_ratio() for part in self.finite]
        denominator = max((d for _, d in ratios), default=1)
        return sum(n * (denominator // d) for n, d in ratios), denominator

    def value(self) -> float:
        """Return the sum rounded to the nearest float, ties to even; infinities and nan as in IEEE 754."""
        if self.special:
            return _SPECIAL_VALUES.get(self.special, math.nan)
        if isinstance(self.finite, int):
            return quotient(self.finite, UNIT)
        return self.finite[0] if self.finite else 0.0


FloatSum.__module__ = "poolagg.reducers"


_SPECIAL_VALUES = {PLUS_INFINITY: math.inf, MINUS_INFINITY: -math.inf}


def quotient(numerator: int, denominator: int) -> float:
    """Return the quotient rounded to the nearest float; infinite where no float is that large.

    >>> quotient(1, 10), quotient(-(10**309), 1)
    (0.1, -inf)
    """
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if (numerator < 0) == (denominator < 0) else -math.inf


def square_root(numerator: int, denominator: int) -> float:
    """Return the square root of a ratio that is not negative, rounded to the nearest float.

    At least 55 bits of the integer root, with a sticky last bit for the rest, round as the exact root does.
    (Round to odd: Boldo and Melquiond 2008; as in CPython's `statistics`, by Dickinson.)

    >>> square_root(2, 1) == 2**0.5, square_root(10**40, 9)
    (True, 3.333333333333333e+19)
    """
    shift = (numerator.bit_length() - denominator.bit_length() - 109) // 2
    if shift >= 0:
        return quotient(_odd_root(numerator, denominator << 2 * shift) << shift, 1)
    return quotient(_odd_root(numerator << -2 * shift, denominator), 1 << -shift)


def squares(floats: Iterable[float]) -> tuple[list[float], int]:
    """Return floats and a count of units of 2**-2148; together they are the exact sum of the squares.

    A square becomes its rounded product and the error of that, unless either can overflow or fall below the least
    float; then it is counted in units.

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
    """Return a few floats with the same exact sum: the result of `sum`, and the parts of its error.

    The pass of `sum` costs a third of a pass of `fsum`, and saves one. The total so far stays out, because it makes the
    passes longer.
    """
    approximate = sum(floats)
    return [approximate, *_parts([*floats, -approximate])]


def parts_of(held: tuple[float, ...], floats: Sequence[float]) -> tuple[float, ...]:
    """Return the parts of the sum of both; raise OverflowError or ValueError if it has none."""
    return _parts([*held, *(floats if len(floats) < MANY else _few(floats))])


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
    """Return the same parts from units of 2**-2148; the int itself where floats cannot hold it."""
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
        floats = _parts([*floats])  # many times faster, unless a sum overflows
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
    """A batch of numbers, split by how they are added."""

    plain: Sequence[Any]
    reals: Sequence[float] = ()
    imags: Sequence[float] = ()


@plain
class Total(NamedTuple):
    """A sum of numbers: `plain` ones, and the exact sum of floats, once there are any; `imag` once any is complex."""

    plain: Any = 0
    real: FloatSum | None = None
    imag: FloatSum | None = None

    @property
    def only_ints(self) -> bool:
        """Whether only ints were added so far."""
        return type(self.plain) is int and self.real is None and self.imag is None

    def plus(self, batch: Numbers) -> Total:
        """Add numbers: a batch of ints, or of floats, at the speed of `sum` and `math.fsum`."""
        plain = _exact_sum(self.plain, batch.plain) if batch.plain else self.plain
        return _checked(Total(plain, _plus(self.real, batch.reals), _plus(self.imag, batch.imags)))

    def plus_squares(self, batch: Numbers) -> Total:
        """Add the squares of numbers, none of them complex."""
        with localcontext(_UNBOUNDED):
            plain = sum(map(mul, batch.plain, batch.plain), self.plain)
        return _checked(Total(plain, _plus(self.real, *squares(batch.reals))))

    def join(self, other: Total) -> Total:
        """Return the sum of both."""
        plain = _exact_sum(self.plain, (other.plain,))
        return _checked(Total(plain, _join(self.real, other.real), _join(self.imag, other.imag)))

    def value(self) -> Any:
        """Return the sum, of the type that Python's `+` gives, rounded once. A zero is never negative."""
        if self.real is None:
            return +self.plain if isinstance(self.plain, Decimal) else self.plain
        return self._rounded(1)

    def mean(self, count: int) -> Any:
        """Return the sum divided by `count`, rounded once."""
        if self.real is not None:
            return self._rounded(count)
        return quotient(self.plain, count) if isinstance(self.plain, int) else self.plain / count

    def ratio(self) -> tuple[int, int]:
        """Return the sum of finite numbers, none of them complex, as a numerator and a denominator."""
        numerator, denominator = self.plain.as_integer_ratio()
        n, d = self.real.ratio() if self.real else (0, 1)
        return numerator * d + n * denominator, denominator * d

    def _rounded(self, count: int) -> float | complex:
        real = _divided(self._replace(imag=None), count)
        return real if self.imag is None else complex(real, _divided(Total(0, self.imag), count))


Total.__module__ = "poolagg.reducers"


def numbers(batch: Iterable[Any]) -> Numbers:
    """Split a batch by how its numbers are added; raise TypeError for anything that is not a number."""
    if not isinstance(batch, (list, tuple)):
        batch = batch.tolist() if hasattr(batch, "tolist") else list(batch)  # `flat` passes arrays whole
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
                    f"{type(x).__name__}, which has its own +: Reduce(operator.add), or .of({base.__name__})"
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
    """Tell whether a subclass of a number type adds as its base does; numpy's do."""
    return (kind.__add__ is number.__add__ and kind.__radd__ is number.__radd__) or hasattr(kind, "dtype")


def _is_span(x: Any) -> bool:
    return hasattr(x, "dtype") and x.dtype.kind == "m"


def _of_numpy(x: Any) -> Any:
    """Return the number that a numpy scalar, or an array without dimensions, equals."""
    if type(x).__name__ == "MaskedConstant":
        raise TypeError("expected a number, got the masked value: .where(lambda x: x is not numpy.ma.masked)")
    if x.dtype.kind == "M":
        raise TypeError(f"expected a number, got {x!r}: dates cannot be added, Min() and Max() compare them")
    return x[()] if _is_span(x) else x.item()


def _exact_sum(start: Any, plain: Sequence[Any]) -> Any:
    found = types_of(plain)
    if isinstance(start, int) and found <= {int, bool}:
        return start + sum(plain)  # fast while it fits into a machine word, which a sum from 0 mostly does
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
    if not hasattr(total.plain, "as_integer_ratio"):  # an unknown type: by its own arithmetic
        return (total.plain + floats.value()) / count  # type: ignore[no-any-return]
    numerator, denominator = total.ratio()
    return quotient(numerator, denominator * count)
