"""Warn the code that called poolagg: the warning names the caller's line, however deep in the package its cause is."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["warn_caller"]

PACKAGE = __name__.partition(".")[0]


def warn_caller(warning: Warning) -> None:
    """Warn with the place of the first caller outside of this package."""
    level, frame = 2, sys._getframe(1)
    while _is_ours(frame) and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(warning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == PACKAGE
