"""A directive that shows what a command prints for `--help`, so that the reference has every option."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from poolagg._cli.main import _parser

WIDTH = 92
"""Characters of a line."""


def setup(app: Any) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}


class CommandHelp(Directive):
    """`.. command-help:: run` shows the help of `poolagg run`; without an argument, that of `poolagg`."""

    optional_arguments = 1

    def run(self) -> list[Any]:
        """Return the text as a literal block."""
        parser = _parser()
        if self.arguments:
            choices = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
            parser = choices[self.arguments[0]]
        parser.formatter_class = _Narrow
        text = "\n".join(map(wrapped, parser.format_help().split("\n")))
        return [nodes.literal_block(text, text, language="none")]


class _Narrow(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=WIDTH)


def wrapped(line: str) -> str:
    """Break a line of a description, which the formatter leaves as it is."""
    return textwrap.fill(line, WIDTH) if len(line) > WIDTH else line
