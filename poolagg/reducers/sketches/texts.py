"""Hashable items as texts: the same for equal items, in every process."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

__all__ = ["text_of"]


def text_of(item: Any) -> str:
    """Return a text that is the same for equal items, in every process, and that UTF-8 can encode.

    >>> text_of(1) == text_of(1.0) == text_of(True) != text_of("1")
    True
    """
    if isinstance(item, str):
        return "s" + (item if item.isascii() else item.encode("utf-8", "surrogatepass").decode("latin-1"))
    if isinstance(item, bytes):
        return "b" + item.decode("latin-1")
    if isinstance(item, (tuple, list)):
        return _joined("t", map(text_of, item))
    if isinstance(item, (frozenset, set)):
        return _joined("f", sorted(map(text_of, item)))
    if isinstance(item, dict):
        return _joined("d", sorted(_joined("t", (text_of(key), text_of(value))) for key, value in item.items()))
    if hasattr(type(item), "dtype"):
        item = item.item()
    if isinstance(item, (int, float, complex, Fraction, Decimal)):
        return _text_of_number(item)
    if item is None or isinstance(item, type) or not hasattr(item, "__reduce_ex__"):
        return _joined("n", (getattr(item, "__module__", ""), getattr(item, "__qualname__", "None")))
    parts = item.__reduce_ex__(4)
    if isinstance(parts, str):
        return _joined("n", (type(item).__module__, type(item).__qualname__, parts))
    return _joined(
        "o", (text_of(type(item)), *map(text_of, parts[1:3]), *(text_of(list(part or ())) for part in parts[3:5]))
    )


def _text_of_number(number: Any) -> str:
    if number != number:
        return "nan"
    if isinstance(number, complex):
        if number.imag:
            return _joined("c", (_text_of_number(number.real), _text_of_number(number.imag)))
        number = number.real
    if number in (math.inf, -math.inf):
        return str(float(number))
    numerator, denominator = number.as_integer_ratio()
    return f"i{numerator:x}" if denominator == 1 else f"r{numerator:x}/{denominator:x}"


def _joined(kind: str, texts: Iterable[str]) -> str:
    return kind + "".join(f"{len(text)}:{text}" for text in texts)
