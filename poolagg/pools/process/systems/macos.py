"""macOS: deaths by kqueue, the parent's death by a thread, memory in a file without a name.

Tried by the portable primitives on Linux, not on macOS: the thread and the files are the same there. Only the kqueue
of a child, and the way to free a part of a file, are macOS's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import select
import struct
from typing import Any

from poolagg.pools.process.descriptors import Closable, close_all, held
from poolagg.pools.process.systems.file_memory import FileMemory
from poolagg.pools.process.systems.posix import Posix

__all__ = ["MACOS", "MacOS"]

_F_PUNCHHOLE = 99
"""The number in the headers of macOS; Python has no name for it."""

_HOLE = struct.Struct("=IIqq")  # flags, reserved, offset, length


class _File(FileMemory):
    """A file whose parts can be freed."""

    def free(self, mapping: mmap.mmap, offset: int) -> None:
        """Punch a hole into the file."""
        with contextlib.suppress(OSError):  # its file system has no holes
            fcntl.fcntl(self.fd, _F_PUNCHHOLE, _HOLE.pack(0, 0, offset, len(mapping)))


class MacOS(Posix):
    """The primitives of macOS."""

    memory = _File

    def watch_death(self, pid: int) -> Closable | None:
        """Open a kqueue that is readable once the child has ended; other selectors can wait for a kqueue."""
        system: Any = select  # type checkers know only what their own system has
        queue: Closable = held(system.kqueue())
        event = system.kevent(pid, system.KQ_FILTER_PROC, system.KQ_EV_ADD, system.KQ_NOTE_EXIT)
        try:
            queue.control([event], 0)  # type: ignore[attr-defined]
        except ProcessLookupError:  # it has ended already
            close_all([queue])
            return None
        return queue


MACOS = MacOS()
