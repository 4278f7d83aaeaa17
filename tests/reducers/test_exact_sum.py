"""Float results are the exact ones, rounded once: compared with Fractions, on all of the range of a double."""

import itertools
import math
import pickle
import random
import statistics
import sys
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poolagg.reducers import Mean, Std, Sum, Variance, fold, join, reduced
from poolagg.reducers.exact_sum import FloatSum, quotient, square_root, squares

LARGEST, LEAST = sys.float_info.max, 5e-324

finite = st.floats(allow_nan=False, allow_infinity=False)
extremes = st.sampled_from([LARGEST, -LARGEST, LEAST, -LEAST, 1e308, -1e308, 2.0**970, 1e-308, 1e16, 1.0, 0.1, -0.0])
values = st.one_of(finite, extremes)
mixed = st.one_of(values, st.integers(), st.integers(-(10**400), 10**400), st.fractions(), st.booleans())


def rounded(fraction):
    """A Fraction as the nearest float, infinite beyond the largest."""
    try:
        return float(fraction)
    except OverflowError:
        return math.inf if fraction > 0 else -math.inf


def exact_sum(numbers):
    return sum(map(Fraction, numbers), Fraction())


def exact_variance(numbers, ddof):
    n = len(numbers)
    squares = sum((Fraction(x) ** 2 for x in numbers), Fraction())
    return (squares - exact_sum(numbers) ** 2 / n) / (n - ddof)


def is_root(root, fraction):
    """Tell whether `root` is the float nearest to the square root: between the midpoints to its neighbours."""
    if math.isinf(root):
        return fraction >= ((Fraction(LARGEST) + 2**1024) / 2) ** 2
    above = math.nextafter(root, math.inf)
    high = (Fraction(root) + (2**1024 if math.isinf(above) else Fraction(above))) / 2
    low = (Fraction(root) + Fraction(math.nextafter(root, -math.inf))) / 2
    return max(low, 0) ** 2 <= fraction <= high**2


def state(reducer, numbers, rng):
    """The accumulator of a random sharding of the numbers in random order, pickled on the way."""
    numbers = rng.sample(numbers, len(numbers))
    cut, again = rng.randint(0, len(numbers)), rng.randint(0, len(numbers))
    parts = [numbers[:cut], numbers[cut:][:again], numbers[cut:][again:]]
    accs = [pickle.loads(pickle.dumps(fold(reducer, reducer.init(), 0, part))) for part in parts]
    return join(reducer, accs[0], join(reducer, accs[1], accs[2]))


@given(st.lists(values, min_size=1), st.randoms())
@example([1e308, 1e308, -1e308], random.Random(0))
@example([LARGEST, LARGEST], random.Random(0))
@example([LARGEST, 2.0**969], random.Random(0))
@example([LARGEST, 2.0**970], random.Random(0))
@example([LARGEST, math.nextafter(2.0**970, 0)], random.Random(0))
@example([1.0, 2.0**-53, LEAST], random.Random(0))
def test_a_sum_of_floats_is_the_exact_sum_rounded_once(numbers, rng):
    """Overflow on the way does no harm; at the end it is infinite."""
    assert Sum().finish(state(Sum(), numbers, rng)) == rounded(exact_sum(numbers))


@given(st.lists(st.one_of(values, st.sampled_from([math.inf, -math.inf, math.nan]))), st.randoms(), st.randoms())
def test_the_accumulator_is_a_function_of_the_exact_value_alone(numbers, rng, other):
    """Equal sums have equal states, whatever way they came: no state depends on timing."""
    for reducer in (Sum(), Mean(), Variance()):
        assert state(reducer, numbers, rng) == state(reducer, numbers, other)


@given(st.lists(values))
def test_the_parts_of_a_sum_do_not_overlap(numbers):
    """Each part is half a unit in the last place of the one before, or less: the state stays short."""
    parts = FloatSum().plus(numbers).finite
    if isinstance(parts, tuple):
        assert sum(map(Fraction, parts)) == exact_sum(numbers)
        assert all(abs(b) <= math.ulp(a) / 2 for a, b in itertools.pairwise(parts))


@given(st.lists(mixed, min_size=1), st.randoms())
def test_ints_and_fractions_enter_exactly(numbers, rng):
    """With floats the result is a float; alone it equals `sum`."""
    result = Sum().finish(state(Sum(), numbers, rng))
    if any(isinstance(x, float) for x in numbers):
        assert type(result) is float
        assert result == rounded(exact_sum(numbers))
    else:
        assert result == sum(numbers)
        assert type(result) is type(sum(numbers))


@given(st.lists(mixed, min_size=1), st.randoms())
def test_a_mean_is_correctly_rounded(numbers, rng):
    """The exact sum by the count; Fractions stay Fractions."""
    result, expected = Mean().finish(state(Mean(), numbers, rng)), exact_sum(numbers) / len(numbers)
    types = set(map(type, numbers))
    assert result == (expected if Fraction in types and float not in types else rounded(expected))


@settings(max_examples=200)
@given(st.lists(st.one_of(values, st.integers(), st.floats(-1e3, 1e3)), min_size=2), st.integers(0, 1), st.randoms())
@example([LEAST, -LEAST], 1, random.Random(0))
@example([LARGEST, -LARGEST], 1, random.Random(0))
@example([1e200, 1e-200, 0.0], 0, random.Random(0))
def test_a_variance_is_correctly_rounded(numbers, ddof, rng):
    """Squares neither round, nor overflow, nor vanish below the least float."""
    variance = exact_variance(numbers, ddof)
    assert Variance(ddof).finish(state(Variance(ddof), numbers, rng)) == rounded(variance)
    assert is_root(Std(ddof).finish(state(Std(ddof), numbers, rng)), variance)


@given(st.fractions(min_value=0))
@example(Fraction(0))
@example(Fraction(1, 2**2148))
@example(Fraction(2**2050))
def test_a_square_root_is_correctly_rounded(fraction):
    """By its definition, for any ratio."""
    assert is_root(square_root(fraction.numerator, fraction.denominator), fraction)


@given(values)
def test_a_square_is_exact(x):
    """Product and error, or units where they would not do."""
    terms, units = squares([x])
    assert exact_sum(terms) + Fraction(units, 2**2148) == Fraction(x) ** 2


def test_infinities_and_nan_are_as_ieee_says():
    """inf - inf is nan; nan swallows all; neither is an exception."""
    inf, nan = math.inf, math.nan
    for numbers, expected in (
        ([inf, 1.0], inf),
        ([-inf, -inf, 1e308], -inf),
        ([inf, -inf], nan),
        ([nan, inf, 1], nan),
        ([1e308, 1e308, inf, 10**400], inf),
    ):
        result = Sum().finish(state(Sum(), numbers, random.Random(1)))
        assert result == expected or (result != result and expected != expected)
        assert reduced(Mean(), numbers) == result or result != result
        assert math.isnan(reduced(Variance(), numbers))
        assert math.isnan(reduced(Std(), numbers))


def test_too_few_values_are_nan_and_the_sum_of_nothing_is_zero():
    """No exception, as there is in `statistics`."""
    assert reduced(Sum(), []) == 0
    assert all(math.isnan(reduced(r, [])) for r in (Mean(), Variance(), Std(), Variance(ddof=0)))
    assert all(math.isnan(reduced(r, [1.0])) for r in (Variance(), Std()))
    assert reduced(Variance(ddof=0), [1.0]) == 0.0


def test_a_zero_sum_is_never_negative():
    """As with `sum`, which starts at 0."""
    assert math.copysign(1, reduced(Sum(), [-0.0, -0.0])) == math.copysign(1, sum([-0.0, -0.0])) == 1


def test_kinds_stay_what_they_are():
    """Booleans count, Decimals stay Decimals, numpy scalars are the numbers they equal."""
    assert repr(reduced(Sum(), [True, True])) == "2"
    assert repr(reduced(Sum(), [Decimal("0.1"), 1])) == "Decimal('1.1')"
    assert repr(reduced(Sum(), [1, 2j])) == "(1+2j)"
    assert repr(reduced(Mean(), [Decimal("0.1"), Decimal("0.2")])) == "Decimal('0.15')"
    assert repr(reduced(Mean(), [1, 2])) == "1.5"
    assert repr(reduced(Mean(), [1j, 2])) == "(1+0.5j)"
    assert repr(reduced(Variance(), [Fraction(1), Fraction(2)])) == "Fraction(1, 2)"
    assert repr(reduced(Variance(), [Decimal(1), Decimal(2)])) == "Decimal('0.5')"
    assert repr(reduced(Std(), [Decimal(1), Decimal(3)])) == repr(math.sqrt(2))


def test_numpy_scalars_enter_as_the_numbers_they_equal():
    """No overflow, no rounding to the scalar's own precision."""
    assert reduced(Sum(), [np.int64(2**63 - 1)] * 2) == 2**64 - 2
    assert repr(reduced(Sum(), [np.float32(0.1), np.float64(0.2)])) == repr(float(np.float32(0.1)) + 0.2)
    assert repr(reduced(Sum(), [np.bool_(True), np.uint8(255)])) == "256"
    assert reduced(Sum(), [np.complex64(1j)]) == 1j
    assert reduced(Sum().flat(), [np.arange(3), np.array([0.5])]) == 3.5
    assert reduced(Variance(), [np.int32(2**31 - 1), np.int32(-(2**31))]) == float(Fraction(2**32 - 1) ** 2 / 2)


def test_decimals_are_added_exactly_and_rounded_once():
    """28 digits are the context's at the end, not on the way."""
    numbers = [Decimal("1e40"), Decimal(1), Decimal("-1e40")]
    assert sum(numbers) == 0
    assert reduced(Sum(), numbers) == 1
    with localcontext() as context:
        context.prec = 3
        assert reduced(Sum(), [Decimal("1.234"), Decimal("1")]) == Decimal("2.23")


@pytest.mark.parametrize("reducer", [Sum(), Mean(), Variance(), Std()], ids=repr)
def test_an_object_that_is_not_a_number_is_refused_with_the_right_reducer(reducer):
    """Arrays, text, containers, None; Decimals together with floats."""
    for partial, match in (
        (np.zeros(2), r"ArraySum\(\)"),
        ("a", r"\.of\(f\) converts"),
        ([1, 2], r"\.flat\(\)"),
        (None, "return statement"),
        (np.array(["a"])[0], "number"),
        (np.longdouble(1), "number"),
        (np.datetime64(0, "s"), "datetime"),
    ):
        with pytest.raises(TypeError, match=match):
            reduced(reducer, [1, partial])
    for numbers in ([Decimal(1), 1.0], [1.0, Decimal(1)]):
        with pytest.raises(TypeError, match="Decimals and floats"):
            reduced(reducer, numbers)
    with pytest.raises(TypeError, match="Decimals and floats"):
        join(reducer, *(fold(reducer, reducer.init(), 0, [x]) for x in (1.0, Decimal(1))))


def test_variance_refuses_complex_numbers():
    """There is no order in which they vary."""
    with pytest.raises(TypeError, match="complex"):
        reduced(Variance(), [1j])


def test_a_number_of_an_unknown_type_is_added_by_its_own_plus():
    """Sum adds everything that Python's `sum` adds."""

    class Money:
        def __init__(self, cents):
            self.cents = cents

        def __add__(self, other):
            return Money(self.cents + getattr(other, "cents", other))

        __radd__ = __add__

    assert reduced(Sum(), [Money(1), Money(2)]).cents == 3


def test_quotients_round_at_the_edge_of_the_largest_float_as_ieee_does():
    """Half a unit beyond the largest float is infinite, anything less is not."""
    assert quotient(2**1024 - 2**970, 1) == math.inf
    assert quotient(2**1024 - 2**970 - 1, 1) == LARGEST
    assert quotient(-(2**1024), 1) == -math.inf


def test_the_state_of_a_sum_stays_a_few_floats():
    """However many went in: it flushes for next to nothing."""
    numbers = [random.Random(1).gauss(0, 1) for _ in range(1000)]
    acc = fold(Sum(), Sum().init(), 0, numbers)
    assert len(acc) <= 3
    assert Sum().finish(acc) == math.fsum(numbers)
    assert reduced(Variance(), numbers) == pytest.approx(statistics.variance(numbers), rel=1e-12)
