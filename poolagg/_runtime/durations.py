"""Durations that users pass, in seconds: checked at the call, and bounded at each wait.

A limit may have any length, `math.inf` included. The operating system's waits are limited: poll() to 24.8 days, a
lock's to 292 years. So the code that waits takes `bounded` of the rest, and looks again when that is over.
"""

from __future__ import annotations

import math

__all__ = ["LONGEST", "bounded", "checked_seconds"]

LONGEST = 86_400.0
"""Seconds of one wait at most: far below the limit of any system, and a look once a day costs nothing."""


def checked_seconds(name: str, value: float, *, zero: bool = False) -> float:
    """Check a time in seconds: above 0, or 0 with `zero`; an int that no float can hold is `math.inf`.

    >>> checked_seconds("every", 0.5), checked_seconds("every", 10**400), checked_seconds("patience", 0, zero=True)
    (0.5, inf, 0)
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (value >= 0 if zero else value > 0):
        raise ValueError(f"{name} is in seconds and must be {'0 or more' if zero else 'above 0'}, not {value!r}")
    try:
        float(value)
    except OverflowError:
        return math.inf
    return value


def bounded(seconds: float) -> float:
    """Return the part of `seconds` that one wait of the operating system may take.

    >>> bounded(0.25), bounded(math.inf), bounded(-1.0)
    (0.25, 86400.0, 0.0)
    """
    return max(0.0, min(seconds, LONGEST))
