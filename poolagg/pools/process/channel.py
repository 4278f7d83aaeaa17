"""Messages on a worker's pipe: a small header, plain values, and opaque bytes.

    header (magic, kind, epoch, length of values, length of payload) | values, a pickle of builtins | payload, bytes

Each side announces in the cell how many bytes it sends. If more arrive, an item has written to the pipe: the frame is
broken, and the reader rejects a length beyond what was announced.

The parent's end never blocks: a half-written message of a dead worker must not hold up a read, nor a full pipe a write.
The worker's end blocks, since a worker waits for one thing at a time.

A write to a process that has died raises an error and never SIGPIPE, whose default action kills the program.
"""

import os
import pickle
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from poolagg._runtime.signals import raised_by_handler
from poolagg.pools.forked_child import leave
from poolagg.pools.process.descriptors import MISUSED, Mark
from poolagg.pools.process.progress_cell import ProgressCell

__all__ = [
    "BROKEN",
    "DEFINE",
    "END",
    "ENDED",
    "EXIT",
    "FINISHED",
    "FLUSH",
    "FLUSHED",
    "HEAR",
    "IDENTITY",
    "JOB",
    "MAGIC",
    "MISSED",
    "QUIETLY",
    "RUN",
    "START",
    "BrokenFrame",
    "Bytes",
    "Channel",
    "Message",
    "Pipe",
    "without_sigpipe",
]

START, DEFINE, JOB, RUN, FLUSH, END, EXIT = range(7)  # to the worker
FINISHED, FLUSHED, ENDED, BROKEN, MISSED = range(7, 12)  # from it
IDENTITY, HEAR = 12, 13  # to the worker

Bytes: TypeAlias = bytes | memoryview

QUIETLY: int = getattr(socket, "MSG_NOSIGNAL", 0)
"""The flag of each write to a socket: no SIGPIPE. Where it is missing, the socket has an option (`without_sigpipe`)."""

_SO_NOSIGPIPE = 0x1022
"""The number of SO_NOSIGPIPE in the headers of macOS."""

MAGIC = b"p\xa6g\x99"
"""The first bytes of each message."""

_HEADER = struct.Struct("!4sBIQQ")

AT_ONCE = 4096
"""Bytes of one call that receives messages: those of most chunks are shorter."""


class BrokenFrame(Exception):
    """The bytes received differ from those that the other end has sent."""


def without_sigpipe(sock: socket.socket) -> socket.socket:
    """Have writes to the socket raise BrokenPipeError where `QUIETLY` cannot ask for it."""
    if sys.platform == "darwin":
        sock.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)
    return sock


class Message(NamedTuple):
    """One message; `payload` is a view of bytes that it owns."""

    kind: int
    epoch: int
    values: tuple[Any, ...]
    payload: memoryview


def _pack(kind: int, epoch: int, values: tuple[Any, ...], payloads: Sequence[Bytes]) -> list[Bytes]:
    packed = pickle.dumps(values, 5)
    head = _HEADER.pack(MAGIC, kind, epoch, len(packed), sum(map(len, payloads))) + packed
    return [head, *payloads]


class _Reader:
    """Assembles messages from bytes as they come. `most` returns how many bytes the other end has announced.

    With `ahead`, one call receives short messages whole, up to so many bytes. Without, it reads no byte of a message
    before it is needed.
    """

    def __init__(self, most: Callable[[], int] | None = None, ahead: int = 0) -> None:
        self._most, self._ahead = most, ahead
        self._header: tuple[bytes, int, int, int, int] | None = None
        self._unread = b""
        self._buffer = bytearray()
        self._missing = memoryview(self._buffer)
        self.received = 0
        self.drained = False
        """True if the last call received all that had come."""

    def receive(self, sock: socket.socket) -> None:
        """Receive once. BlockingIOError: no bytes have come yet; EOFError: at the end."""
        if self._missing:
            count, room = sock.recv_into(self._missing), len(self._missing)
            self._missing = self._missing[count:]
        else:
            room = self._ahead or _HEADER.size - len(self._unread)
            data = sock.recv(room)
            self._unread += data
            count = len(data)
        if not count:
            raise EOFError("the other end is closed")
        self.drained = count < room
        self.received += count

    def take(self) -> Message | None:
        """Return the next message if it is complete. Bytes that others have written after it break the next frame."""
        if (self._header is None and not self._begin()) or self._missing:
            if self._most is not None and self.received > self._most():
                raise BrokenFrame(f"{self.received:,} bytes have come, and the other end has sent {self._most():,}")
            return None
        assert self._header is not None
        _, kind, epoch, size, _ = self._header
        whole = memoryview(self._buffer)
        self._header, self._buffer = None, bytearray()
        try:
            values = pickle.loads(whole[:size])
        except Exception as error:
            if raised_by_handler(error):
                raise
            raise BrokenFrame("the values of a message do not unpickle") from error
        return Message(kind, epoch, values, whole[size:])

    def _begin(self) -> bool:
        """Read the header of the next message, and move what has come of its rest to a buffer of its own."""
        if len(self._unread) < _HEADER.size:
            return False
        self._header = _HEADER.unpack_from(self._unread)
        self._check(*self._header)
        size = self._header[3] + self._header[4]
        come = self._unread[_HEADER.size : _HEADER.size + size]
        self._unread = self._unread[_HEADER.size + len(come) :]
        self._buffer = bytearray(come)
        if len(come) < size:
            self._buffer = bytearray(size)
            self._buffer[: len(come)] = come
        self._missing = memoryview(self._buffer)[len(come) :]
        return True

    def _check(self, magic: bytes, kind: int, epoch: int, *lengths: int) -> None:
        if magic != MAGIC:
            raise BrokenFrame(f"a message of kind {kind} and run {epoch} begins with {magic!r}, not {MAGIC!r}")
        come = self.received - len(self._unread) + _HEADER.size
        if self._most is not None and come + sum(lengths) > self._most():
            raise BrokenFrame(f"a message of {sum(lengths):,} bytes is longer than what the other end has sent")


class Channel:
    """The parent's end of a worker's pipe. `gathers`: a socket sends several buffers by one call."""

    def __init__(self, sock: socket.socket, cell: ProgressCell, gathers: bool = True) -> None:
        sock.setblocking(False)
        self._gathers = gathers
        self.sock = without_sigpipe(sock)
        self._cell = cell
        self._reader = _Reader(cell.announced, AT_ONCE)
        self._unsent: deque[memoryview] = deque()
        self._sent = 0

    @property
    def full(self) -> bool:
        """True if some bytes did not fit into the pipe."""
        return bool(self._unsent)

    def send(self, kind: int, epoch: int, values: tuple[Any, ...] = (), payloads: Sequence[Bytes] = ()) -> None:
        """Send as much as the pipe takes now, and keep the rest for `flush`."""
        parts = _pack(kind, epoch, values, payloads)
        if len(parts) == 2 and len(parts[1]) <= AT_ONCE:  # copying them costs less than handling two
            parts = [b"".join(parts)]
        self._unsent.extend(memoryview(part) for part in parts if len(part))
        self.flush()

    def flush(self) -> None:
        """Send what is left, as far as the pipe takes it. If the worker is dead, drop it all."""
        try:
            while self._unsent:
                if self._gathers:
                    sent = self.sock.sendmsg(list(self._unsent)[:16], (), QUIETLY)
                else:
                    sent = self.sock.send(self._unsent[0], QUIETLY)
                self._sent += sent
                self._cell.tell_sent(self._sent)
                while sent:
                    part = self._unsent.popleft()
                    if sent < len(part):
                        self._unsent.appendleft(part[sent:])
                    sent -= min(sent, len(part))
        except BlockingIOError:
            pass
        except ConnectionError:
            self.forget()

    def forget(self) -> None:
        """Drop what is left, since the worker is dead."""
        self._unsent.clear()

    def receive(self) -> tuple[list[Message], EOFError | ConnectionError | BrokenFrame | None]:
        """Return the messages that have come, and the error that ended the pipe, if it has ended."""
        messages: list[Message] = []
        try:
            while True:
                self._reader.receive(self.sock)
                while (message := self._reader.take()) is not None:
                    messages.append(message)
                if self._reader.drained:  # what comes from now on, or the end, makes the socket ready again
                    return messages, None
        except BlockingIOError:
            return messages, None
        except (EOFError, ConnectionError, BrokenFrame) as error:
            return messages, error.with_traceback(None)  # a traceback keeps frames, which keep the error

    def close(self) -> None:
        """Close the pipe."""
        self.sock.close()


class Pipe:
    """The worker's end. `marked`: how to tell that the descriptor still refers to it."""

    def __init__(self, sock: socket.socket, cell: ProgressCell, marked: Mark) -> None:
        self._sock = without_sigpipe(sock)
        self._cell = cell
        self.marked = marked
        self._pid = os.getpid()
        self._reader = _Reader()  # it leaves messages in the pipe: an item that reads from its descriptors is found out
        self._sent = 0

    @property
    def received(self) -> int:
        """Bytes received from the parent."""
        return self._reader.received

    def send(self, kind: int, epoch: int, values: tuple[Any, ...] = (), payloads: Sequence[Bytes] = ()) -> None:
        """Send a whole message."""
        self._check()
        parts = _pack(kind, epoch, values, payloads)
        self._sent += sum(map(len, parts))
        self._cell.announce(self._sent)
        for part in parts:
            self._sock.sendall(part, QUIETLY)

    def receive(self) -> Message:
        """Wait for a message; raise EOFError when the parent has closed its end."""
        self._check()
        while (message := self._reader.take()) is None:
            self._reader.receive(self._sock)
        return message

    def is_quiet(self, seconds: float) -> bool:
        """Wait for a message at most so long; return True if none came, False at once where a system cannot wait so."""
        self._check()
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(seconds * 1000)

    def _check(self) -> None:
        """End this process if it is a forked child, or if its descriptor now refers to another file."""
        if os.getpid() != self._pid:
            leave()
        try:
            look, before = self.marked
            intact = look() == before
        except OSError:  # it is closed
            intact = False
        if not intact:
            os._exit(MISUSED)
