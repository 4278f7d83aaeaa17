"""Sums of numbers of any kind: what Python adds exactly stays what it is, floats are added exactly, complex by part.

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

import reprlib
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation, localcontext
from fractions import Fraction
from functools import reduce
from operator import add, mul
from typing import Any, NamedTuple

from poolagg._kinds import kinds
from poolagg._plain import plain
from poolagg.reducers._exact import FloatSum, quotient, squares

__all__ = ["Numbers", "Total", "numbers"]

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
    types = kinds(batch)
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
    found = kinds(plain)
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
