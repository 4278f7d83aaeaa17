"""The reference shows one signature of each function and class; overloads serve type checkers, and are long to read."""

from __future__ import annotations

from typing import Any

from sphinx.pycode import ModuleAnalyzer


def setup(app: Any) -> dict[str, bool]:
    """Drop overloads before autodoc reads them."""
    app.connect("autodoc-process-signature", forget_overloads)
    return {"parallel_read_safe": True}


def forget_overloads(app: Any, what: str, name: str, thing: Any, options: Any, arguments: Any, returns: Any) -> None:
    """Drop the overloads of the module that defines the thing."""
    del app, name, options, arguments, returns
    if what in {"class", "function"}:
        analyzer = ModuleAnalyzer.for_module(thing.__module__)
        analyzer.analyze()
        analyzer.overloads.clear()
