"""Keys of groups and of counts: every nan is the same key, wherever it comes from and however it travels.

Two nan are not equal. A dict finds one again only if it is the same object, which it is not after it has travelled
between processes. So an accumulator has a mark in the place of each nan (of float, numpy, Decimal or complex), also
inside tuples, and the result has `math.nan`. A NaT of numpy stays what it is, and is one key of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

from poolagg._kinds import kinds
from poolagg.reducers._marks import NAN, NAT_OF_DATES, NAT_OF_SPANS

__all__ = ["as_key", "has_no_nan", "new_keys", "shown_keys"]

EQUAL = {int, str, bytes, bool, type(None)}
"""Types of keys that equal themselves."""


def as_key(key: Any) -> Any:
    """What stands for `key` in an accumulator.

    >>> as_key(float("nan")), as_key(("a", math.nan)), as_key(1.5)
    (NAN, ('a', NAN), 1.5)
    """
    kind = type(key)
    if kind in EQUAL:
        return key
    if isinstance(key, tuple):
        return _rebuilt(key, kind, as_key) if not EQUAL.issuperset(map(type, key)) else key
    if not (isinstance(key, (float, complex, Decimal)) or hasattr(kind, "dtype")):
        return key
    return key if key == key else _MARKS.get(getattr(getattr(key, "dtype", None), "kind", "f"), NAN)


