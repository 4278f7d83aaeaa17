"""Keep the file names of code that is pickled by value, and source lines that no file has.

cloudpickle replaces the file name by "<dynamic-code>". With the name, tracebacks and warnings of a worker show where
the code is, with its source line, and a debugger finds the file. The lines of a notebook's cells and of an interactive
session are in `linecache` only, so they travel with the code.
"""

from __future__ import annotations

import linecache
import os
from types import CodeType
from typing import Any

__all__ = ["reduce_code"]

_PLACEHOLDER = "<dynamic-code>"


def reduce_code(code: CodeType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put the file name into cloudpickle's reduction of `code`, and add its source lines if no file has them."""
    make, arguments = reduced
    name = code.co_filename
    arguments = tuple(name if value == _PLACEHOLDER else value for value in arguments)
    entry = linecache.cache.get(name, ())
    if len(entry) != 4 or os.path.exists(name):
        return make, arguments
    return _with_source, (name, entry[2], make, *arguments)


def _with_source(name: str, lines: list[str], make: Any, *arguments: Any) -> CodeType:
    linecache.cache[name] = sum(map(len, lines)), None, lines, name
    code: CodeType = make(*arguments)
    return code
