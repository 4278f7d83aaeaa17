"""A result as text: `ranked` puts it in the order it is read in, `render` makes a table, JSON or CSV of it.

Values in, text out, for every value there is. A run of hours must not end in a value that
does not print.
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
    """Counts largest first and ties by key, other dicts by key, sets as sorted lists; the rest as it is.

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
    except (TypeError, ValueError):  # keys of several types have no order of their own
        return sorted(mapping.items(), key=lambda pair: (type(pair[0]).__name__, str(pair[0])))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _descending(number: Any) -> tuple[bool, Any]:
    """A sort key in which nan, which compares with nothing, comes last."""
    return (True, 0) if number != number else (False, -number)


def render(value: Any, form: str) -> str:
    """Return `value` as text, each line with its end; None, which `Into` gives, is no text.

    >>> print(render({"the": 120, "of": 7}, "table"), end="")
    the  120
    of     7
    """
    return FORMATS[form](_plain(value))


def _plain(value: Any) -> Any:
    """The value in dicts, lists, tuples and scalars: what it holds, without what it was made of."""
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
    """A mapping has a row for each key, a list for each element; a tuple is a row, and so is a list in a list."""
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
    """The names of columns, if all values are mappings with the same keys: a dict of reducers for each group."""
    inners = list(mapping.values())
    alike = all(isinstance(inner, Mapping) and list(inner) == list(inners[0]) for inner in inners)
    return list(inners[0]) if inners and alike else []


def _table(value: Any) -> str:
    """Columns two spaces apart, numbers to the right; a list or dict in a cell is a table in its place."""
    if value is None or isinstance(value, str):
        return f"{value}\n" if value else ""
    columns = [_padded(column) for column in zip_longest(*_rows(value), fillvalue="")]
    lines = [line for row in zip(*columns, strict=True) for line in _side_by_side(row)]
    return "".join(f"{line}\n" for line in lines)


def _padded(column: Sequence[Any]) -> list[list[str]]:
    """The lines of each cell of a column, all of one width."""
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
    """Keys are texts in JSON, it has no nan, and what it does not know is its text."""
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
