"""Whether a worker still has its descriptors, and whether nobody but the worker has used them.

An item may close them (`os.closerange`), put others in their place (`dup2`), shut the pipe down, write to all
descriptors or read from them. The worker looks after each batch, before its cell names another: a worker that finds
damage ends at once, and the cell still names the batch at fault.

    closed, replaced            another mark, or none
    pipe shut down              no longer writable, or the kernel tells of an end
    orders read by an item      fewer bytes are there than the parent has sent
    arena read or written       its position, which nobody else uses, has moved: it lies far behind all slots, so that
                                what an item writes hits none of them

A look costs about 4 microseconds, and a batch lasts a millisecond.
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

with contextlib.suppress(ImportError):  # not everywhere, while threads and the serial pool are
    import fcntl
    import termios

__all__ = ["Descriptors", "put_aside"]

ASIDE = 1 << 60
"""The position of the descriptors of shared memory."""

_HANGUP = getattr(select, "POLLRDHUP", select.POLLHUP)
_NOW = getattr(socket, "MSG_NOSIGNAL", 0) | getattr(socket, "MSG_DONTWAIT", 0)
_INT = struct.Struct("i")


class Descriptors:
    """The descriptors of a worker as they were when it started. They are not inherited by programs that it runs."""

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
        """End this process if it is another one, or if an item has touched the descriptors."""
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
        self._sock.send(b"", _NOW)  # which a pipe takes that is open for writing, and no other
        sent = self._cell.sent()  # first: what is sent after this may be there, too
        received = self._pipe.received
        return received >= sent or received + _unread(self._sock) >= sent


def put_aside(fd: int) -> None:
    """Move the position of shared memory behind all that is in it, for its copies in mappings as well."""
    os.lseek(fd, ASIDE, os.SEEK_SET)


def _unread(sock: socket.socket) -> int:
    (count,) = _INT.unpack(fcntl.ioctl(sock, termios.FIONREAD, _INT.pack(0)))
    return int(count)
