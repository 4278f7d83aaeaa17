"""Frames on the pipe of a worker's reports: log records, warnings, and the plain text of a crash between them.

    packet    magic, kind, last of its frame?, size, pid, number | at most so many bytes that a write is atomic

The kernel never mixes two writes of up to PIPE_BUF bytes. So threads, signal handlers and forked children of a worker
write without a lock, and the reader joins the packets of a frame by their pid and number. A process that dies in the
middle of a frame costs that frame only. `faulthandler` writes plain ASCII text, in which the magic does not occur.
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

MOST_TEXT = 1 << 16
"""Bytes of text to keep; the end counts."""

_MAGIC = b"\xa6pg\x99"
_HEADER = struct.Struct("=4sBBHIQ")
_ROOM = ATOMIC - _HEADER.size

_numbers = itertools.count()


def send_frame(fd: int, kind: int, data: bytes) -> None:
    """Write a frame; wait while the pipe is full."""
    pid, number = os.getpid(), next(_numbers)
    for at in range(0, len(data), _ROOM):
        part = data[at : at + _ROOM]
        os.write(fd, _HEADER.pack(_MAGIC, kind, at + _ROOM >= len(data), len(part), pid, number) + part)


class FrameReader:
    """Joins packets to frames, and collects the text between them in `text`."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._parts: dict[tuple[int, int], bytearray] = {}
        self.text = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes as they come; yield the kind and the data of each frame that is complete."""
        self._unread += data
        while self._unread:
            at = self._unread.find(_MAGIC[:1])
            self._keep_text(len(self._unread) if at < 0 else at)
            if len(self._unread) < _HEADER.size:
                return
            magic, kind, last, size, pid, number = _HEADER.unpack_from(self._unread)
            if magic != _MAGIC:
                self._keep_text(1)
                continue
            end = _HEADER.size + size
            if len(self._unread) < end:
                return
            whole = self._parts.setdefault((pid, number), bytearray())
            whole += self._unread[_HEADER.size : end]
            del self._unread[:end]
            if last:
                del self._parts[pid, number]
                yield kind, bytes(whole)

    def _keep_text(self, size: int) -> None:
        self.text += self._unread[:size]
        del self._unread[:size], self.text[:-MOST_TEXT]
