"""Workers with the portable primitives, each a fresh interpreter that inherits its descriptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poolagg.pools.process import worker_main
from poolagg.pools.process.launch.child import PosixChild
from poolagg.pools.process.launch.launchers import interpreter, seeded
from poolagg.pools.process.systems.portable import PORTABLE

__all__ = ["PortableLauncher", "main"]


class PortableLauncher:
    """Starts each worker as a fresh interpreter."""

    def __init__(self, environ: Mapping[str, str], alike: bool, start: Any = None) -> None:
        del alike, start
        self._environ = seeded(environ)

    def launch(self, handed: Sequence[int]) -> PosixChild:
        """Start an interpreter."""
        return interpreter(__name__, handed, self._environ, watch=PORTABLE.watch_death)

    def close(self) -> None:
        """Do nothing, as there is nothing to free."""


def main(*handed: int) -> None:
    """Be a worker."""
    worker_main.main(*handed, system=PORTABLE)
