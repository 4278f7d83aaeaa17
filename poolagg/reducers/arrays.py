"""Histogram, ArraySum, ArrayReduce, ArrayMean, ArrayStd: numpy arrays, reduced element by element.

Rule: an accumulator owns its array, never a view of a partial. Arrays that do not match are errors: these reducers
never broadcast, and cast only on request. They import numpy when the first is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from poolagg._runtime.arguments import call, need_count, shown
from poolagg._runtime.plain_values import plain
from poolagg.reducers.reducer import Reducer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any] | Any
    Counts: TypeAlias = NDArray[np.int64]

__all__ = ["ArrayMean", "ArrayMoments", "ArrayReduce", "ArrayStd", "ArraySum", "Histogram"]


class ArrayReduce(Reducer["Array"]):
    """`ufunc.reduce` over equally shaped arrays, element by element, in place; None for no partials.

    The ufunc takes two arrays and is associative and commutative: `np.maximum`, `np.logical_or`, `np.bitwise_xor`.
    The result has the dtype of `ufunc.reduce`. Raises TypeError for anything but such a ufunc, for a partial that is
    not an array of numbers or is more than one (with labels as in pandas, a mask, a unit), and for dtypes that differ;
    ValueError for shapes that differ.

    >>> import numpy as np
    >>> from poolagg.reducers import reduced
    >>> reduced(ArrayReduce(np.maximum), [np.array([1, 5]), np.array([4, 2])])
    array([4, 5])
    """

    retains_input = False

    def __init__(self, ufunc: Any) -> None:
        import numpy as np

        if not isinstance(ufunc, np.ufunc):
            raise TypeError(
                f"ArrayReduce requires a numpy ufunc such as np.maximum, got {shown(ufunc)}: Reduce(f) takes functions"
            )
        if (ufunc.nin, ufunc.nout) != (2, 1):
            raise TypeError(f"ArrayReduce requires a ufunc of two arrays, got np.{ufunc.__name__} of {ufunc.nin}")
        self.ufunc = ufunc
        self.dtype: Any = None

    def prepare(self, partial: Any) -> Any:
        array = _array_of_numbers(self, partial)
        return array if self.dtype is None else array.astype(self.dtype, casting="same_kind", copy=False)

    def init(self) -> Any:
        return None

    def step(self, acc: Any, prepared: Any) -> Any:
        import numpy as np

        if acc is None:
            return np.asarray(self.ufunc.reduce(prepared[np.newaxis], axis=0, dtype=self.dtype))
        return self._into(acc, prepared, self._dtype_of(prepared.dtype))

    def merge(self, acc: Any, other: Any) -> Any:
        if other is None:
            return acc
        return other.copy() if acc is None else self._into(acc, other, other.dtype)

    def finish(self, acc: Any) -> Any:
        return None if acc is None else acc.copy()

    def _dtype_of(self, dtype: Any) -> Any:
        """Return the dtype in which numpy reduces arrays of `dtype`; it widens small ints to add them, for example."""
        import numpy as np

        return self.ufunc.reduce(np.empty((1, 0), dtype), axis=0, dtype=self.dtype).dtype

    def _into(self, acc: Any, array: Any, dtype: Any) -> Any:
        _need_same_shape(self, acc, array)
        if dtype != acc.dtype:
            raise TypeError(
                f"{self!r} got arrays reduced in {acc.dtype} and in {dtype}: convert them to one dtype with .of(f)"
            )
        return self.ufunc(acc, array, out=acc)

    def __repr__(self) -> str:
        return f"ArrayReduce(np.{self.ufunc.__name__})"


class ArraySum(ArrayReduce):
    """The sum of equally shaped arrays, element by element, in place; None for no partials.

    Without `dtype`, small ints widen as in `np.sum`, and all partials must widen to the same dtype; with it, each
    partial is first cast to it, if of the same kind. Floats are added in order of arrival: `reproducible=True` fixes
    the bits. Raises ValueError for shapes that differ; TypeError for dtypes that differ, and for a partial that is not
    an array of numbers or is more than one: `Reduce(lambda a, b: a.add(b, fill_value=0))` adds Series and DataFrames
    by label.

    >>> import numpy as np
    >>> from poolagg.reducers import reduced
    >>> reduced(ArraySum(), [np.array([100], np.int8), np.array([100], np.int8)])
    array([200])
    """

    def __init__(self, dtype: Any = None) -> None:
        import numpy as np

        super().__init__(np.add)
        self.dtype = None if dtype is None else np.dtype(dtype)

    def __repr__(self) -> str:
        return call("ArraySum", dtype=self.dtype)


@plain
class ArrayMoments(NamedTuple):
    """The count of arrays, their mean, and the sum of their squared deviations from it (None in `ArrayMean`)."""

    n: int = 0
    mean: Any = None
    squares: Any = None


ArrayMoments.__module__ = "poolagg.reducers"


class ArrayMean(Reducer["Array"]):
    """The mean of equally shaped arrays, element by element, as `numpy.mean(partials, axis=0)`; None for no partials.

    Means merge by the formula of Chan, Golub and LeVeque (1979), in float64 or a wider dtype, so a large mean costs no
    digits, and sums do not overflow. Linear; a step makes a few temporary arrays. Floats depend on the order of
    arrival: `reproducible=True` fixes the bits. Raises ValueError for shapes that differ, and TypeError as ArraySum.

    >>> import numpy as np
    >>> from poolagg.reducers import reduced
    >>> reduced(ArrayMean(), [np.array([1, 5]), np.array([2, 2])])
    array([1.5, 3.5])
    """

    retains_input = False
    deviates = False

    def prepare(self, partial: Any) -> Any:
        return _array_of_numbers(self, partial)

    def init(self) -> ArrayMoments:
        return ArrayMoments()

    def step(self, acc: ArrayMoments, prepared: Any) -> ArrayMoments:
        import numpy as np

        mean = prepared.astype(np.result_type(prepared, np.float64))
        return self.merge(acc, ArrayMoments(1, mean, np.zeros_like(mean) if self.deviates else None))

    def merge(self, acc: ArrayMoments, other: ArrayMoments) -> ArrayMoments:
        import numpy as np

        if not other.n:
            return acc
        if not acc.n:
            return ArrayMoments(*map(_copy_of, other))
        _need_same_shape(self, acc.mean, other.mean)
        n = acc.n + other.n
        with np.errstate(all="ignore"):  # infinities and nan give nan, as in numpy's own mean
            delta = other.mean - acc.mean
            mean = acc.mean + delta * (other.n / n)
            sound = np.isfinite(delta)
            if not sound.all():
                mean = np.where(sound, mean, acc.mean * (acc.n / n) + other.mean * (other.n / n))
            if not self.deviates:
                return ArrayMoments(n, np.asarray(mean))
            squares = acc.squares + other.squares + delta * delta * (acc.n * (other.n / n))
            if not sound.all():
                squares = np.where(np.isfinite(mean), squares, np.nan)
        return ArrayMoments(n, np.asarray(mean), np.asarray(squares))

    def finish(self, acc: ArrayMoments) -> Any:
        return _copy_of(acc.mean)


class ArrayStd(ArrayMean):
    """The standard deviation of equally shaped arrays, element by element: `numpy.std(partials, axis=0, ddof=ddof)`.

    None for no partials; nan for too few, and where an element is infinite or nan. Squared deviations merge by the
    formula of Chan, Golub and LeVeque (1979), so a large mean does not cancel a small spread. Costs and errors as
    ArrayMean, and a TypeError for complex numbers.

    >>> import numpy as np
    >>> from poolagg.reducers import reduced
    >>> reduced(ArrayStd(ddof=0), [np.array([1e9, 5]), np.array([1e9 + 2, 5])])
    array([1., 0.])
    """

    deviates = True

    def __init__(self, ddof: int = 1) -> None:
        self.ddof = need_count("ArrayStd(ddof)", ddof, least=0)

    def prepare(self, partial: Any) -> Any:
        array = super().prepare(partial)
        if array.dtype.kind == "c":
            raise TypeError(f"{self!r} requires real numbers, got dtype {array.dtype}: .of(numpy.abs), or its parts")
        return array

    def finish(self, acc: ArrayMoments) -> Any:
        import numpy as np

        if not acc.n:
            return None
        return np.sqrt(acc.squares / (acc.n - self.ddof)) if acc.n > self.ddof else np.full_like(acc.mean, np.nan)

    def __repr__(self) -> str:
        return call("ArrayStd", ddof=None if self.ddof == 1 else self.ddof)


class Histogram(Reducer["Counts"]):
    """How many values fall between each two edges, as an array of int64: the counts of `np.histogram`.

    A partial is a number or an array of any shape. The last bin includes its right edge; values outside the edges, and
    nan, are not counted. Values are compared as float64, and those beyond its range as infinities. Raises ValueError
    for fewer than two edges or edges that do not increase, TypeError for partials that are not real numbers (None).

    >>> from poolagg.reducers import reduced
    >>> reduced(Histogram([0, 1, 2]), [0.5, [1, 2], 7])
    array([1, 2])
    """

    retains_input = False

    def __init__(self, edges: Iterable[float]) -> None:
        import numpy as np

        self.edges = np.array(edges if isinstance(edges, np.ndarray) else list(edges), dtype=np.float64)
        if self.edges.ndim != 1 or self.edges.size < 2 or not (self.edges[:-1] < self.edges[1:]).all():
            raise ValueError(f"Histogram(edges) requires two or more increasing numbers, got {shown(edges)}")

    def prepare(self, partial: Any) -> Any:
        import numpy as np

        if type(partial) is float:
            return partial
        if type(partial) is int:
            return _as_float(partial)
        if isinstance(partial, np.ma.MaskedArray):
            raise TypeError(f"{self!r} would ignore the mask of a masked array: .of(lambda a: a.compressed())")
        values = np.asarray(partial)
        if values.dtype.kind == "O":
            values = np.array([self._real(x, partial) for x in values.flat], np.float64)
        if values.dtype.kind not in "biuf":
            raise TypeError(f"{self!r} requires real numbers or arrays of them, got {shown(partial)}")
        return values.astype(np.float64, copy=False).ravel()

    def _real(self, x: Any, partial: Any) -> float:
        if not isinstance(x, (Real, Decimal)):
            raise TypeError(
                f"{self!r} requires real numbers or arrays of them, got {shown(x)}{_within(x, partial)}: .where(f) "
                f"leaves partials out, float('nan') is not counted"
            )
        return _as_float(x)

    def init(self) -> Any:
        import numpy as np

        return np.zeros(len(self.edges) - 1, np.int64)

    def step(self, acc: Any, prepared: Any) -> Any:
        return self.steps(acc, (prepared,))

    def steps(self, acc: Any, prepareds: Sequence[Any]) -> Any:
        import numpy as np

        numbers = [x for x in prepareds if type(x) is float]
        arrays = [x for x in prepareds if type(x) is not float]
        acc += np.histogram(np.concatenate([np.array(numbers, np.float64), *arrays]), self.edges)[0]
        return acc

    def merge(self, acc: Any, other: Any) -> Any:
        acc += other
        return acc

    def finish(self, acc: Any) -> Any:
        return acc.copy()

    def __repr__(self) -> str:
        return call("Histogram", self.edges.tolist())


def _array_of_numbers(reducer: Reducer, partial: Any) -> Any:
    import numpy as np

    kind: Any = type(partial)
    if kind is not np.ndarray and (reason := _more_than_numbers(kind)):
        raise TypeError(f"{reducer!r} {reason}")
    array = np.asarray(partial)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{reducer!r} requires arrays of numbers, got dtype {array.dtype} from {shown(partial)}")
    return array


def _need_same_shape(reducer: Reducer, acc: Any, array: Any) -> None:
    if array.shape != acc.shape:
        raise ValueError(
            f"{reducer!r} got arrays of shapes {acc.shape} and {array.shape}: all must have the same shape"
        )


def _copy_of(value: Any) -> Any:
    return value.copy() if hasattr(value, "copy") else value


def _within(x: Any, partial: Any) -> str:
    return "" if x is partial else f" in {shown(partial)}"


def _as_float(x: Any) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


LABELLED = {"pandas", "polars", "xarray", "modin", "cudf", "geopandas"}
"""Packages whose data has labels to be added by. They are known by name, since none need be installed."""


@lru_cache(256)
def _more_than_numbers(kind: Any) -> str | None:
    """Say why an object of this type is more than an array of numbers and what to write instead; None if it is not."""
    import numpy as np

    if issubclass(kind, np.ma.MaskedArray):
        return "would ignore the mask of a masked array: fill it first, .of(lambda a: a.filled(0))"
    packages = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if packages & LABELLED:
        return (
            f"would combine {kind.__name__} objects by position, whatever their labels are: "
            f"Reduce(lambda a, b: a.add(b, fill_value=0)) adds those of pandas by label, .of(lambda a: a.to_numpy()) "
            f"takes the numbers alone"
        )
    if issubclass(kind, np.ndarray) and kind.__module__.partition(".")[0] != "numpy":
        return f"would take the numbers of a {kind.__name__} alone, without its units, say: .of(numpy.asarray) does so"
    return None
