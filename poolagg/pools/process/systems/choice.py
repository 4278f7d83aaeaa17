"""Which system this is, and which primitives a start method uses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker starts without it
    from poolagg.pools.process.systems.system import System

__all__ = ["native", "system_of"]


def native() -> System:
    """Return the primitives of this system."""
    if sys.platform == "linux":
        from poolagg.pools.process.systems.linux import LINUX

        return LINUX
    if sys.platform == "win32":
        from poolagg.pools.process.systems.windows import WINDOWS

        return WINDOWS
    from poolagg.pools.process.systems.macos import MACOS

    return MACOS


def system_of(start_method: str) -> System:
    """Return the primitives that a start method uses."""
    if start_method != "portable":
        return native()
    from poolagg.pools.process.systems.portable import PORTABLE

    return PORTABLE
