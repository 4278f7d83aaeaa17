"""Sizes in bytes: parse them from texts such as "16MiB", and format them."""

from __future__ import annotations

import re

__all__ = ["parse_size", "size"]

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def parse_size(size: object) -> int | None:
    """Return the bytes of a size, an int of 1 or more or a text; None if it is not a size.

    >>> parse_size(4096), parse_size("64kB"), parse_size("16 MiB"), parse_size("many"), parse_size(0)
    (4096, 64000, 16777216, None, None)
    """
    number = _parsed(size) if isinstance(size, str) else size
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        return None
    return number


def _parsed(size: str) -> int | None:
    found = re.fullmatch(r"(\d+)\s*([a-z]+)?", size.strip().lower(), re.ASCII)
    unit = _UNITS.get(found[2] or "b") if found else None
    return int(found[1]) * unit if found and unit else None


def size(nbytes: float) -> str:
    """Format a number of bytes, such as '1.5 kB'.

    >>> size(0), size(1536), size(12_345_678)
    ('0 B', '1.5 kB', '12.3 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} TB"
