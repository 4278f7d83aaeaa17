"""Counts that people give: checked at the call."""

from __future__ import annotations

__all__ = ["checked_count"]


def checked_count(name: str, value: int, least: int = 1) -> int:
    """Return `value` if it is an int of `least` or more; raise ValueError otherwise.

    >>> checked_count("workers", 4)
    4
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int of {least} or more, not {value!r}")
    return value
