"""Arrays are reduced in place, on an accumulator of their own, and never broadcast or cast unasked."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolagg.reducers import ArrayReduce, ArraySum, Histogram, fold, reduced

DTYPES = ["?", "i1", "i4", "i8", "u1", "u8", "f2", "f4", "f8", "c8", "c16"]


def test_importing_the_reducers_does_not_import_numpy():
    """Its import time is paid by those who use it."""
    code = "import sys, importlib; importlib.import_module('poolagg.reducers'); assert 'numpy' not in sys.modules"
    package = (
        "import types, sys; m = types.ModuleType('poolagg'); m.__path__ = sys.argv[1:]; sys.modules['poolagg'] = m; "
    )
    import poolagg

    subprocess.run([sys.executable, "-c", package + code, *poolagg.__path__], check=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_sum_has_the_dtype_of_numpy_sum(dtype):
    """Small ints widen; floats stay."""
    partials = [np.array([1, 0, 1], dtype), np.array([1, 1, 0], dtype)]
    total, expected = reduced(ArraySum(), partials), np.sum(partials, axis=0)
    assert total.dtype == expected.dtype
    assert np.array_equal(total, expected)


@pytest.mark.parametrize(
    "ufunc", [np.maximum, np.minimum, np.logical_or, np.multiply, np.hypot], ids=lambda u: u.__name__
)
def test_array_reduce_is_reduce_of_the_ufunc(ufunc):
    """In value and in dtype."""
    partials = [np.array([[1, 0], [5, 7]], np.int16), np.array([[1, 2], [3, 9]], np.int16)]
    result, expected = reduced(ArrayReduce(ufunc), partials), ufunc.reduce(partials)
    assert result.dtype == expected.dtype
    assert np.array_equal(result, expected)


def test_a_dtype_casts_each_partial_first():
    """So that a state of one partial is that partial, cast; a float is never cut to an int."""
    assert reduced(ArraySum("f4"), [np.array([0.1]), np.array([0.2])]).dtype == np.float32
    assert reduced(ArraySum("i1"), [np.array([1], np.int8)]).dtype == np.int8
    with pytest.raises(TypeError, match="Cannot cast"):
        reduced(ArraySum("i8"), [np.array([0.1])])


def test_shapes_are_never_broadcast():
    """(2,) and (1,) do not add, in step nor in merge."""
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(1,\)"):
        reduced(ArraySum(), [np.zeros(2), np.zeros(1)])
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(2, 1\)"):
        ArraySum().merge(np.zeros(2), np.zeros((2, 1)))


def test_dtypes_that_differ_are_errors_in_any_order():
    """float32 and float64, or int8 and uint8, whichever comes first; int8 and int16 widen to the same."""
    for a, b in (("f4", "f8"), ("f8", "f4"), ("i1", "u1"), ("u1", "i1"), ("i8", "f8")):
        with pytest.raises(TypeError, match="convert them to one dtype"):
            reduced(ArraySum(), [np.zeros(2, a), np.zeros(2, b)])
    small = [np.ones(2, "i1"), np.ones(2, "i2")]
    assert reduced(ArraySum(), small).dtype == sum(small).sum().dtype  # numpy 1 widens to 32 bits on Windows


def test_a_partial_that_is_not_an_array_of_numbers_is_refused():
    """Text, objects, and masked arrays, whose mask would be lost."""
    for partial in (np.array(["a"]), np.array([None]), "a"):
        with pytest.raises(TypeError, match="arrays of numbers"):
            ArraySum().prepare(partial)
    with pytest.raises(TypeError, match="mask"):
        ArraySum().prepare(np.ma.masked_array([1, 2], [True, False]))


@pytest.mark.parametrize("reducer", [ArraySum(), ArrayReduce(np.maximum)], ids=repr)
def test_an_incoming_array_is_neither_kept_nor_changed(reducer):
    """Partials and states may lie in a buffer that is used again; they may be read-only."""
    buffer = np.array([1.0, 2.0])
    buffer.flags.writeable = False
    acc = fold(reducer, reducer.init(), 0, [reducer.prepare(buffer)])
    merged = reducer.merge(reducer.init(), buffer)
    assert not np.shares_memory(acc, buffer)
    assert not np.shares_memory(merged, buffer)
    again = fold(reducer, acc, 1, [reducer.prepare(buffer)])
    assert again is acc
    assert not np.shares_memory(reducer.finish(acc), acc)
    assert buffer.tolist() == [1.0, 2.0]


def test_scalars_are_arrays_without_dimensions():
    """They reduce like any other shape."""
    assert reduced(ArraySum(), [np.float64(1), np.float64(2)]) == 3
    assert reduced(ArraySum(), []) is None


@given(st.lists(st.one_of(st.integers(-5, 30), st.floats(), st.lists(st.floats(-5, 30), max_size=3).map(np.array))))
def test_histogram_counts_as_numpy_does(partials):
    """Numbers and arrays of any shape; nan and what lies outside left out; the last bin closed."""
    edges = [-1, 0, 0.5, 10, 20]
    values = np.concatenate([np.ravel(np.asarray(p, float)) for p in partials]) if partials else np.array([])
    counts = reduced(Histogram(edges), partials)
    assert counts.dtype == np.int64
    assert counts.tolist() == np.histogram(values, edges)[0].tolist()


def test_histogram_takes_infinite_edges_and_matrices():
    """For the tails."""
    matrix = np.array([[-np.inf, -5], [np.inf, 3]])
    assert reduced(Histogram([-np.inf, 0, np.inf]), [matrix]).tolist() == [2, 2]


def test_histogram_refuses_a_partial_that_is_not_a_real_number():
    """Text and complex numbers."""
    for partial in ("a", 1j, np.array(["a"])):
        with pytest.raises((TypeError, ValueError), match="real numbers"):
            Histogram([0, 1]).prepare(partial)
