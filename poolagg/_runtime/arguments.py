"""Check arguments at the call, and show them in a `repr`."""

from __future__ import annotations

import operator
import reprlib
from typing import Any

__all__ = ["call", "checked_count", "need_callable", "need_count", "shown"]


def checked_count(name: str, value: int, least: int = 1) -> int:
    """Return `value` if it is an int of `least` or more; raise ValueError otherwise.

    >>> checked_count("workers", 4)
    4
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int of {least} or more, not {value!r}")
    return value


def need_callable(where: str, function: object) -> None:
    """Raise a TypeError that names `where` unless `function` is callable."""
    if callable(function):
        return
    hint = ""
    if isinstance(function, str):
        hint = f"; for a field, operator.itemgetter({function!r}) or operator.attrgetter({function!r})"
    raise TypeError(f"{where} takes a function, got {reprlib.repr(function)}{hint}")


def need_count(where: str, count: Any, least: int = 1) -> int:
    """Return `count` as an int of at least `least`, or raise an error that names `where`."""
    try:
        number = operator.index(count)
    except TypeError:
        raise TypeError(f"{where} takes an integer, got {reprlib.repr(count)}") from None
    if number < least:
        raise ValueError(f"{where} must be at least {least}, got {number}")
    return number


def shown(value: object) -> str:
    """Show a function by its name, any other value by its repr, cut to about a line.

    >>> shown(str.lower), shown(shown), shown([1, 2])
    ('str.lower', 'shown', '[1, 2]')
    """
    name = getattr(value, "__qualname__", None)
    if not callable(value) or not isinstance(name, str):
        return reprlib.repr(value)
    return name.rpartition("<locals>.")[2]


def call(name: str, *arguments: object, **keywords: object) -> str:
    """Format the call that made an object, without the keywords that are None.

    >>> call("Top", 10, key=str.lower)
    'Top(10, key=str.lower)'
    """
    keyed = [f"{word}={shown(value)}" for word, value in keywords.items() if value is not None]
    return f"{name}({', '.join([*map(shown, arguments), *keyed])})"
