"""Compare results: by `==`, but nan equals nan, and arrays are compared element by element."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

__all__ = ["alike"]


def alike(left: Any, right: Any) -> bool:
    """Return whether two results are equal, also with nan or arrays in them.

    >>> alike([1.0, {"a": float("nan")}], [1, {"a": float("nan")}]), alike([1], (1,))
    (True, False)
    """
    if left is right:
        return True
    if _is_array(left) or _is_array(right):
        return _is_array(left) and _is_array(right) and _arrays_alike(left, right)
    if hasattr(left, "equals") and type(left) is type(right):  # Series and DataFrames, whose == is by element
        return bool(left.equals(right))
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        same_kind = isinstance(left, list) == isinstance(right, list)
        return same_kind and len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return len(left) == len(right) and all(key in right and alike(left[key], right[key]) for key in left)
    return (_is_nan(left) and _is_nan(right)) or bool(left == right)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array_interface__") and getattr(value, "shape", ()) != ()


def _arrays_alike(left: Any, right: Any) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.dtype.kind == "O":
        return alike(left.tolist(), right.tolist())
    return bool(((left == right) | ((left != left) & (right != right))).all())


def _is_nan(value: Any) -> bool:
    scalar = isinstance(value, (float, complex, Decimal)) or getattr(value, "shape", None) == ()
    return scalar and bool(value != value)
