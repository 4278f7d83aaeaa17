"""The ends of what lies between the parent and one worker."""

from __future__ import annotations

import mmap
import socket
from typing import Any, NamedTuple, Protocol

__all__ = ["Ends", "Memory", "WorkerEnds"]


class Memory(Protocol):
    """Memory that the parent and a worker share. Both map parts of it; it grows, and has no name that others know."""

    def map(self, offset: int, size: int) -> mmap.mmap:
        """Map a part that the other side has allocated; raise OSError if there is no room."""

    def allocate(self, offset: int, size: int) -> mmap.mmap:
        """Allocate the pages of a new part, and map it; raise OSError or ValueError if there is no room."""

    def read(self, into: memoryview, offset: int) -> None:
        """Copy a part that cannot be mapped; raise OSError if that is impossible, too."""

    def free(self, mapping: mmap.mmap, offset: int) -> None:
        """Free the pages of a part that neither side needs."""

    def is_intact(self) -> bool:
        """Return False if an item has closed it, or put another file in its place."""


class Ends(NamedTuple):
    """The parent's ends of what lies between it and one worker."""

    sock: socket.socket
    cell: mmap.mmap
    claims: tuple[int, int] | None
    """Both ends of the pipe of claims; None: a worker has one chunk at a time, and nothing to claim."""
    to_parent: Memory | None
    """The worker's arena; None: large buffers go through the pipe."""
    to_worker: Memory | None
    """The parent's arena."""
    handed: Any
    """The values that the launcher hands to the worker."""


class WorkerEnds(NamedTuple):
    """The worker's ends."""

    sock: socket.socket
    cell: mmap.mmap
    claims: int
    """The pipe of claims; -1: there is none."""
    parent: int
    """Ready once the parent has ended: a descriptor, on Windows a handle."""
    arena: Memory | None
    items: Memory | None
    """The parent's arena."""
    reports: int = -1
    """The pipe for log records and warnings; -1: there is none, and streams are inherited."""
    streams: tuple[int, ...] = ()
    """The pipes for standard output and standard error."""
