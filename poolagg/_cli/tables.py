"""Print a result: `ranked` sorts it for reading, `render` formats it as a table, JSON or CSV.

Every value has a text: hours of work must not end in a value that does not print.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from numbers import Real
from typing import Any

import numpy as np

__all__ = ["FORMATS", "ranked", "render"]


def ranked(value: Any) -> Any:
    """Sort counts, largest first and ties by key, other dicts by key, and sets into lists; return others unchanged.

    >>> ranked({"b": 1, "a": 1, "c": 2})
    {'c': 2, 'a': 1, 'b': 1}
    """
    if isinstance(value, Mapping) and (isinstance(value, Counter) or all(map(_is_number, value.values()))):
        return dict(sorted(_by_key(value), key=lambda pair: _descending(pair[1])))
    if isinstance(value, Mapping):
        return {key: ranked(inner) if isinstance(inner, Counter) else inner for key, inner in _by_key(value)}
    if isinstance(value, set | frozenset):
        return [key for key, _ in _by_key(dict.fromkeys(value))]
    return value


def _by_key(mapping: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    try:
        return sorted(mapping.items(), key=lambda pair: pair[0])
    except (TypeError, ValueError):  # keys of several types do not compare
        return sorted(mapping.items(), key=lambda pair: (type(pair[0]).__name__, str(pair[0])))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _descending(number: Any) -> tuple[bool, Any]:
    """Make a sort key for descending order, with nan last."""
    return (True, 0) if number != number else (False, -number)


def render(value: Any, form: str) -> str:
    """Format `value` as lines of text; None, the result of `Into`, gives an empty text.

    >>> print(render({"the": 120, "of": 7}, "table"), end="")
    the  120
    of     7
    """
    return FORMATS[form](_plain(value))


def _plain(value: Any) -> Any:
    """Convert arrays, mappings and sets to lists, dicts and scalars."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return _plain(ranked(value))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return list(map(_plain, value)) if isinstance(value, list) else value


def _rows(value: Any) -> list[tuple[Any, ...]]:
    """Make rows: one for each key of a mapping, one for each element of a list; a tuple is one row."""
    if isinstance(value, Mapping):
        names = _shared_names(value)
        rows = [(*_cells(key), *(inner.values() if names else _cells(inner))) for key, inner in value.items()]
        return [(*[""] * (len(rows[0]) - len(names)), *names), *rows] if names else rows
    if isinstance(value, list):
        return [tuple(inner) if isinstance(inner, list | tuple) else (inner,) for inner in value]
    return [_cells(value)]


def _cells(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shared_names(mapping: Mapping[Any, Any]) -> list[Any]:
    """Return the names of columns if all values are mappings with the same keys, as of a dict of reducers by group."""
    inners = list(mapping.values())
    alike = all(isinstance(inner, Mapping) and list(inner) == list(inners[0]) for inner in inners)
    return list(inners[0]) if inners and alike else []


def _table(value: Any) -> str:
    """Format columns, two spaces apart and numbers to the right; a list or dict in a cell is a table of its own."""
    if value is None or isinstance(value, str):
        return f"{value}\n" if value else ""
    columns = [_padded(column) for column in zip_longest(*_rows(value), fillvalue="")]
    lines = [line for row in zip(*columns, strict=True) for line in _side_by_side(row)]
    return "".join(f"{line}\n" for line in lines)


def _padded(column: Sequence[Any]) -> list[list[str]]:
    """Return the lines of each cell of a column, all of one width."""
    cells = [_cell(value).split("\n") for value in column]
    width = max(len(line) for cell in cells for line in cell)
    numbers = any(map(_is_number, column)) and not any(isinstance(value, Mapping | list) for value in column)
    pad = str.rjust if numbers else str.ljust
    return [[pad(line, width) for line in cell] for cell in cells]


def _side_by_side(cells: Sequence[list[str]]) -> list[str]:
    height = max(map(len, cells))
    filled = [cell + [" " * len(cell[0])] * (height - len(cell)) for cell in cells]
    return ["  ".join(line).rstrip() for line in zip(*filled, strict=True)]


def _cell(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return _table(value).removesuffix("\n")
    text = str(value)
    return text if text.isprintable() else repr(value)


def _json(value: Any) -> str:
    return json.dumps(_jsonable(value), indent=2, ensure_ascii=False) + "\n"


def _jsonable(value: Any) -> Any:
    """Convert a value to what JSON knows: keys become texts, nan and infinities None, unknown values their text."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_jsonable, value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _csv(value: Any) -> str:
    text = io.StringIO()
    if value is not None:
        csv.writer(text, lineterminator="\n").writerows([map(_csv_cell, row) for row in _rows(value)])
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(_jsonable(value), ensure_ascii=False)
    return value


FORMATS = {"table": _table, "json": _json, "csv": _csv}
