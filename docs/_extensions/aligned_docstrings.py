"""Docstrings align a name and its meaning in two columns; reStructuredText calls that a definition list.

name      the meaning, which may go on in the
          next line
"""

from __future__ import annotations

import re
from typing import Any

_ROW = re.compile(r"^ *(?P<name>[^\s>.](?:.*?\S)?) {2,}(?P<meaning>\S.*)$")


def setup(app: Any) -> dict[str, bool]:
    """Register the conversion with autodoc."""
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True}


def convert(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Replace each aligned table among the lines by a definition list."""
    del app, what, name, thing, options
    lines[:] = converted(lines)


def converted(lines: list[str]) -> list[str]:
    """Return the lines with each aligned table as a definition list.

    >>> converted(["pool   where chunks run, or", "       None", "total  how many"])
    ['``pool``', '    where chunks run, or', '    None', '``total``', '    how many']
    """
    result: list[str] = []
    column = None  # of the meanings in the current table
    session = False
    for line in lines:
        session = line.lstrip().startswith(">>>") or (session and bool(line.strip()))
        row = None if session else _ROW.match(line)
        if row is not None:
            column = row.start("meaning")
            result += [", ".join(f"``{name.strip()}``" for name in row["name"].split(",")), f"    {row['meaning']}"]
        elif column is not None and line[:column].isspace() and line.strip():
            result.append(f"    {line.strip()}")
        else:
            column = None
            result.append(line)
    return result
