"""The parent's settings of logging and warnings, as plain values; it sends them at a run's start if they differ.

A worker sends what the parent's levels and filters let through, so that what they drop costs nothing.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any, NamedTuple

__all__ = ["Loggers", "Settings", "current_settings"]

Loggers = dict[str, tuple[int, bool, tuple[str, ...]]]
"""By name ("root" for the root): a logger's level, if it is disabled, and the types of its handlers."""

Pattern = str | tuple[str, int] | None
Filter = tuple[str, Pattern, str, str, Pattern, int]


class Settings(NamedTuple):
    """The parent's loggers that are set up, the level that is disabled for all, and the warning filters.

    `loggers` is None if the parent has not imported `logging`. A filter names the module and the name of its category:
    to unpickle the class would import its library in each worker.
    """

    loggers: Loggers | None
    disabled: int
    filters: list[Filter]


_filters: list[Any] = []
_plain: list[Filter] = []


def current_settings() -> Settings:
    """Return the settings of this process."""
    global _filters, _plain
    current = warnings._get_filters() if hasattr(warnings, "_get_filters") else warnings.filters
    if current != _filters:
        _filters = list(current)
        _plain = [
            (action, _pattern(message), category.__module__, category.__qualname__, _pattern(module), line)
            for action, message, category, module, line in _filters
        ]
    logging = sys.modules.get("logging")
    if logging is None:
        return Settings(None, 0, _plain)
    loggers: Loggers = {"root": _described(logging.root)}
    placeholder = logging.PlaceHolder
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if type(logger) is not placeholder and (logger.level or logger.handlers or logger.filters or logger.disabled):
            loggers[name] = _described(logger)
    return Settings(loggers, logging.root.manager.disable, _plain)


def _described(logger: Any) -> tuple[int, bool, tuple[str, ...]]:
    return logger.level, bool(logger.disabled), tuple(map(type_name, logger.handlers))


def type_name(handler: Any) -> str:
    """Return the full name of a handler's type."""
    return f"{type(handler).__module__}.{type(handler).__qualname__}"


def _pattern(pattern: Any) -> Pattern:
    return (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else pattern
