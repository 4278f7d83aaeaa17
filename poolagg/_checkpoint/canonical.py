"""The canonical form of values: bytes that are the same in every process, for digests.

Rule: the form contains nothing that depends on a process, such as an address, the order of a set, or the identity of
equal strings (which a pickle shows). A value without such a form is represented by its type.
"""

from __future__ import annotations

import dataclasses
import enum
import marshal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import PurePath
from typing import Any

from poolagg._input.numbers import VALUES

__all__ = ["ATOMS", "canonical", "dump", "plain", "type_name"]

ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Types whose values are their own canonical form."""

LARGE = 1 << 16
"""Bytes above which an array is replaced by its digest."""

_BY_REPR = {
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(("decimal", "Decimal"), ("fractions", "Fraction"), ("uuid", "UUID"), ("builtins", "range")),
}
"""Types whose repr determines the value."""

_BUILTIN: tuple[Any, ...] = (int, float, complex, str, bytes)


def dump(value: Any) -> bytes:
    """Return nested tuples and lists of atoms as bytes."""
    return marshal.dumps(value, VALUES)


def canonical(item: Any) -> Any:
    """Return an input's item as nested tuples of atoms, or its type if that fails."""
    kind = type(item)
    if (kind is tuple or kind is list) and ATOMS.issuperset(map(type, item)):
        return (kind.__name__, *item)  # as below, in a third of the time
    try:
        value = plain(item, type_name)
        dump(value)
    except Exception:
        return type_name(item)
    return value


def type_name(value: Any) -> Any:
    """Return the name of the type, for a value without a canonical form."""
    return "?", *_name(type(value))


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def plain(value: Any, other: Callable[[Any], Any]) -> Any:
    """Return `value` as nested tuples of atoms; `other` converts values that are not plain data.

    >>> plain([1, {"b", "a"}], type_name) == plain([1, {"a", "b"}], type_name)
    True
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is tuple or kind is list:
        return (kind.__name__, *[plain(part, other) for part in value])
    if kind is set or kind is frozenset:
        return (kind.__name__, *sorted(dump(plain(part, other)) for part in value))
    if kind is dict:
        pairs = [(dump(plain(key, other)), plain(part, other)) for key, part in value.items()]
        return ("dict", *sorted(pairs, key=lambda pair: pair[0]))
    if (form := _of_library(kind, value)) is not None:
        return form
    return _of_class(kind, value, other)


def _of_library(kind: type, value: Any) -> Any:
    if isinstance(value, PurePath):
        return "path", str(value)
    if _name(kind) in _BY_REPR:
        if getattr(value, "tzinfo", None) is not None:  # the repr of a tzinfo may contain an address
            return (*_name(kind), repr(value.replace(tzinfo=None)), repr(value.utcoffset()), value.tzname())
        return (*_name(kind), repr(value))
    if kind is bytearray or kind is memoryview:
        return kind.__name__, bytes(value)
    numpy = sys.modules.get("numpy")
    array = numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic))
    if array and not value.dtype.hasobject:
        data = value.tobytes()  # a digest of large data, because many items may be kept for a while
        return "numpy", str(value.dtype), tuple(value.shape), data if len(data) <= LARGE else sha256(data).digest()
    return None


def _of_class(kind: type, value: Any, other: Callable[[Any], Any]) -> Any:
    """Convert values of classes with known parts: enums, dataclasses, subclasses of plain data."""
    if isinstance(value, enum.Enum):
        return (*_name(kind), plain(value.value, other))
    if dataclasses.is_dataclass(kind):
        fields = [(field.name, plain(getattr(value, field.name), other)) for field in dataclasses.fields(kind)]
        return (*_name(kind), *fields)
    if isinstance(value, tuple):
        return (*_name(kind), *[plain(part, other) for part in value])
    for base in _BUILTIN:
        if isinstance(value, base):
            return (*_name(kind), base(value))
    return other(value)
