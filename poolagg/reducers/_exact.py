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
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from poolagg._plain import plain

__all__ = ["FloatSum", "quotient", "square_root", "squares"]

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
    """Terms whose exact sum is the sum of the squares, less some squares in units of 2**-2148 (the second value).

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
