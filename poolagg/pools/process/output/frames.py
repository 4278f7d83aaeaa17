"""Frames on the pipe of a worker's standard error: log records and warnings, with plain text between them.

    packet    magic, kind, last of its frame?, size, pid, number | at most so many bytes that a write is atomic

The kernel never mixes two writes of up to PIPE_BUF bytes. So threads, signal handlers and forked children of a worker
write without a lock, and the reader joins the packets of a frame by their pid and number. A process that dies in the
middle of a frame costs that frame only. No UTF-8 text begins with the magic's first byte.
"""

from __future__ import annotations

import itertools
import os
import select
import struct
from collections.abc import Iterator

__all__ = ["LOG", "WARNING", "FrameReader", "send_frame"]

LOG, WARNING = range(2)

ATOMIC: int = getattr(select, "PIPE_BUF", 512)
"""Most bytes of an atomic write to a pipe."""

_MAGIC = b"\xa6poolag\x99"
_HEADER = struct.Struct("=8sBBHIQ")
_ROOM = ATOMIC - _HEADER.size

_numbers = itertools.count()


def send_frame(fd: int, kind: int, data: bytes) -> None:
    """Write a frame; wait while the pipe is full."""
    pid, number = os.getpid(), next(_numbers)
    for at in range(0, len(data), _ROOM):
        part = data[at : at + _ROOM]
        os.write(fd, _HEADER.pack(_MAGIC, kind, at + _ROOM >= len(data), len(part), pid, number) + part)


class FrameReader:
    """Joins packets to frames."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._parts: dict[tuple[int, int], bytearray] = {}

    def feed(self, data: bytes, text: bytearray) -> Iterator[tuple[int, bytes]]:
        """Take bytes as they come; yield the kind and the data of each complete frame, and append others to `text`."""
        self._unread += data
        while self._unread:
            at = self._unread.find(_MAGIC)
            if at < 0:
                at = len(self._unread) - _begun(self._unread)
            text += self._unread[:at]
            del self._unread[:at]
            if len(self._unread) < _HEADER.size:
                return
            _, kind, last, size, pid, number = _HEADER.unpack_from(self._unread)
            end = _HEADER.size + size
            if len(self._unread) < end:
                return
            whole = self._parts.setdefault((pid, number), bytearray())
            whole += self._unread[_HEADER.size : end]
            del self._unread[:end]
            if last:
                del self._parts[pid, number]
                yield kind, bytes(whole)


def _begun(data: bytearray) -> int:
    """Return how many of the last bytes may be the beginning of the magic."""
    return next((size for size in range(len(_MAGIC) - 1, 0, -1) if data.endswith(_MAGIC[:size])), 0)
