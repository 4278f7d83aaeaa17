"""Check that a worker still has its descriptors, and that no item has used them.

An item may close them (`os.closerange`), replace them (`dup2`), shut the pipe down, write to all descriptors or read
from them. The worker checks after each batch, before its cell names another: if it finds damage it ends at once, and
the cell still names the batch at fault.

    closed, replaced            another mark, or none
    pipe shut down              no longer writable, or the kernel reports a hangup
    messages read by an item    fewer bytes are there than the parent has sent
    arena read or written       its file position has moved, which poolagg never uses: it lies far behind all segments,
                                so that what an item writes hits none of them

A check costs about 4 microseconds, and a batch lasts a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from functools import partial

from poolagg.pools.forked_child import leave
from poolagg.pools.process.channel import Pipe, mark
from poolagg.pools.process.progress_cell import ProgressCell

with contextlib.suppress(ImportError):  # not on every system where threads and the serial pool work
    import fcntl
    import termios

__all__ = ["Descriptors", "put_aside"]

ASIDE = 1 << 60
"""The file position of the descriptors of shared memory."""

_HANGUP = getattr(select, "POLLRDHUP", getattr(select, "POLLHUP", 0))
_NOW = getattr(socket, "MSG_NOSIGNAL", 0) | getattr(socket, "MSG_DONTWAIT", 0)
_INT = struct.Struct("i")


class Descriptors:
    """The descriptors of a worker as they were when it started. Programs that it runs do not inherit them."""

    def __init__(
        self, sock: socket.socket, pipe: Pipe, cell: ProgressCell, claims: int, death: int, arenas: Sequence[int]
    ) -> None:
        self._pid = os.getpid()
        self._sock, self._pipe, self._cell = sock, pipe, cell
        self._marked = [pipe.marked, mark(claims, signal.SIGUSR2), mark(death, signal.SIGIO)]
        for fd in (sock.fileno(), claims, death, *arenas):
            os.set_inheritable(fd, False)
        for fd in arenas:
            put_aside(fd)
            self._marked.append((partial(os.lseek, fd, 0, os.SEEK_CUR), ASIDE))
        self._poll = select.poll()
        self._poll.register(sock.fileno(), _HANGUP)

    def check(self) -> None:
        """End this process if it is a forked child, or if an item has touched the descriptors."""
        if os.getpid() != self._pid:
            leave()
        intact = True
        try:
            for look, before in self._marked:
                intact = intact and look() == before
            intact = intact and self._are_unused()
        except OSError:
            intact = False
        if not intact:
            os._exit(os.EX_IOERR)

    def _are_unused(self) -> bool:
        if self._poll.poll(0):
            return False
        self._sock.send(b"", _NOW)  # raises unless the pipe is open for writing
        sent = self._cell.sent()  # first, since more may arrive after this
        received = self._pipe.received
        return received >= sent or received + _unread(self._sock) >= sent


def put_aside(fd: int) -> None:
    """Move the file position of shared memory behind its contents, also for the duplicate in its mapping."""
    os.lseek(fd, ASIDE, os.SEEK_SET)


def _unread(sock: socket.socket) -> int:
    (count,) = _INT.unpack(fcntl.ioctl(sock, termios.FIONREAD, _INT.pack(0)))
    return int(count)
