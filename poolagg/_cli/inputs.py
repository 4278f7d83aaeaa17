"""Turn the inputs on the command line into items: paths, lines, or blocks of files."""

from __future__ import annotations

import argparse
import difflib
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from poolagg._cli.output import CommandError
from poolagg._input.blocks import Blocks, blocks

__all__ = ["items", "neighbour"]

_LINE_END = os.linesep.encode()
"""Bytes at the end of a line where programs of this system write text."""


def items(options: argparse.Namespace) -> Iterable[Any]:
    """Return the items that the inputs on the command line mean."""
    paths = [path for typed in options.inputs for path in _paths(typed)]
    if options.lines:
        return _lines(paths)
    if options.blocks:
        return _blocks(paths, options.blocks)
    return _with_stdin(paths) if "-" in paths else paths


def _paths(typed: str) -> list[str]:
    """Return the path that was typed, or the paths that match it as a pattern, sorted."""
    if typed == "-" or os.path.exists(typed):
        return [typed]
    found = sorted(glob.glob(typed, recursive=True))
    if not found and glob.has_magic(typed):
        raise CommandError(f"no file matches {typed!r} in {os.getcwd()}")
    if not found:
        raise CommandError(f"there is no file {typed!r}{neighbour(typed)}")
    return found


def neighbour(path: str) -> str:
    """Suggest an existing file in place of `path`, or name the working directory."""
    folder = Path(path).parent
    names = os.listdir(folder) if folder.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, names, 1)
    return f": did you mean {os.path.join(os.path.dirname(path), close[0])!r}?" if close else f" in {os.getcwd()}"


def _with_stdin(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            lines = (line.removesuffix(_LINE_END).removesuffix(b"\n") for line in sys.stdin.buffer)
            yield from filter(None, map(os.fsdecode, lines))
        else:
            yield path


def _lines(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        try:
            with open(sys.stdin.fileno() if path == "-" else path, encoding="utf-8", closefd=path != "-") as file:
                yield from (line.removesuffix("\n") for line in file)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"cannot read {path!r} as lines of UTF-8: {error}") from error


def _blocks(paths: Sequence[str], size: str) -> Blocks:
    try:
        return blocks(*paths, size=size)
    except (OSError, ValueError) as error:
        raise CommandError(error) from error
