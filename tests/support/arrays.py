"""Arrays for tests to send, and how to know that they have arrived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def full(size: int, dtype: str = "u1") -> Callable[[int], Any]:
    """A function that makes an array full of its item. (It pickles by value: workers need not import the tests.)"""
    return lambda x: np.full(size, x % 251, dtype)


def are_full(arrays: list[Any], size: int, count: int) -> bool:
    """Tell whether these are the arrays of `full(size)` for `range(count)`, in any order."""
    whole = all(array.shape == (size,) and (array == array[0]).all() for array in arrays)
    return whole and sorted(int(array[0]) for array in arrays) == sorted(x % 251 for x in range(count))


def kinds_of_arrays(folder: Path) -> dict[str, Any]:
    """One array of each kind."""
    readonly = np.arange(5000)
    readonly.flags.writeable = False
    mapped = np.memmap(folder / "mapped", "i4", "w+", shape=(30, 100))
    mapped[:] = 7
    return {
        "in C order": np.arange(6000.0).reshape(2, 30, 100),
        "in Fortran order": np.asfortranarray(np.arange(6000.0).reshape(60, 100)),
        "of length zero": np.zeros((3, 0, 2), "f4"),
        "without dimensions": np.array(3.5),
        "of objects": np.array([1, "a", None, 2**100], object),
        "structured": np.array([(1, 2.5, b"abc")] * 1000, [("a", "i2"), ("b", "f8"), ("c", "S3")]),
        "of times": np.arange("2024-01", "2025-01", dtype="M8[D]"),
        "big-endian": np.arange(3000, dtype=">i4"),
        "of booleans": np.arange(3000) % 3 == 0,
        "memory-mapped": mapped,
        "read-only": readonly,
        "a slice with gaps": np.arange(9000)[::3],
        "backwards": np.arange(3000)[::-1],
        "broadcast": np.broadcast_to(np.arange(300), (10, 300)),
        "masked": np.ma.masked_array(np.arange(3000), np.arange(3000) % 7 == 0),
        "a matrix's row": np.arange(90_000).reshape(300, 300)[7],
    }


def properties(array: Any) -> tuple[Any, ...]:
    """All that an array is, but its place in memory."""
    flags = array.flags
    mask = array.mask.tolist() if isinstance(array, np.ma.MaskedArray) else None
    layout = (array.strides, flags.c_contiguous, flags.f_contiguous, flags.writeable)
    return type(array), array.dtype, array.shape, *layout, array.tolist(), mask
