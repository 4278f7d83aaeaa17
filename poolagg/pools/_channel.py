"""Messages on a worker's pipe: a small header, plain values, and payloads that nobody opens on the way.

    header (kind, epoch, length of values, length of payload) | values, a pickle of builtins | payload, bytes

The parent's end never blocks: a half-written message of a dead worker must not hold up a read, nor a full pipe a write.
The worker's end blocks, for a worker has nothing else to do.

A write to a process that has died is an error and never SIGPIPE, which kills a program that has set its default action.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "BROKEN",
    "DEFINE",
    "END",
    "ENDED",
    "EXIT",
    "FINISHED",
    "JOB",
    "QUIETLY",
    "RUN",
    "SHIP",
    "SHIPPED",
    "START",
    "Bytes",
    "Channel",
    "Message",
    "Pipe",
    "identity",
    "without_sigpipe",
]

START, DEFINE, JOB, RUN, SHIP, END, EXIT = range(7)  # to the worker
FINISHED, SHIPPED, ENDED, BROKEN = range(7, 11)  # from it

Bytes: TypeAlias = bytes | memoryview

QUIETLY: int = getattr(socket, "MSG_NOSIGNAL", 0)
"""The flag of each write to a socket: no SIGPIPE. Where it is missing, the socket has an option (`without_sigpipe`)."""

_SO_NOSIGPIPE = 0x1022
"""The number of SO_NOSIGPIPE in the headers of macOS."""

_HEADER = struct.Struct("!BIQQ")


def without_sigpipe(sock: socket.socket) -> socket.socket:
    """Have writes to the socket raise BrokenPipeError where `QUIETLY` cannot ask for it."""
    if sys.platform == "darwin":
        sock.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)
    return sock


class Message(NamedTuple):
    """One message: `payload` is a view of bytes that belong to it alone."""

    kind: int
    epoch: int
    values: tuple[Any, ...]
    payload: memoryview


def _pack(kind: int, epoch: int, values: tuple[Any, ...], payloads: Sequence[Bytes]) -> list[Bytes]:
    packed = pickle.dumps(values, 5)
    head = _HEADER.pack(kind, epoch, len(packed), sum(map(len, payloads))) + packed
    return [head, *payloads]


class _Reader:
    """Takes bytes as they come; a message is made when it is whole."""

    def __init__(self) -> None:
        self._header: tuple[int, int, int, int] | None = None
        self._expect(_HEADER.size)

    def _expect(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._missing = memoryview(self._buffer)

    def fill(self, sock: socket.socket) -> Message | None:
        """Receive once; BlockingIOError if there is nothing, EOFError if there will be nothing more."""
        if self._missing:
            count = sock.recv_into(self._missing)
            if not count:
                raise EOFError("the other end is closed")
            self._missing = self._missing[count:]
            if self._missing:
                return None
        if self._header is None:
            self._header = _HEADER.unpack(self._buffer)
            self._expect(self._header[2] + self._header[3])
            return None
        kind, epoch, size, _ = self._header
        whole = memoryview(self._buffer)
        self._header = None
        self._expect(_HEADER.size)
        return Message(kind, epoch, pickle.loads(whole[:size]), whole[size:])


class Channel:
    """The parent's end of a worker's pipe."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = without_sigpipe(sock)
        self._reader = _Reader()
        self._unsent: deque[memoryview] = deque()

    @property
    def full(self) -> bool:
        """Whether there are bytes that the pipe did not take."""
        return bool(self._unsent)

    def send(self, kind: int, epoch: int, values: tuple[Any, ...] = (), payloads: Sequence[Bytes] = ()) -> None:
        """Send as much as the pipe takes now, and keep the rest for `flush`."""
        self._unsent.extend(memoryview(part) for part in _pack(kind, epoch, values, payloads) if len(part))
        self.flush()

    def flush(self) -> None:
        """Send what is left, as far as the pipe takes it. A dead worker's pipe takes everything, for nobody."""
        try:
            while self._unsent:
                sent = self.sock.sendmsg(list(self._unsent)[:16], (), QUIETLY)
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
        """Nobody will read what is left."""
        self._unsent.clear()

    def receive(self) -> tuple[list[Message], bool]:
        """The messages that are there, and whether the other end is closed."""
        messages: list[Message] = []
        try:
            while True:
                if (message := self._reader.fill(self.sock)) is not None:
                    messages.append(message)
        except BlockingIOError:
            return messages, False
        except (EOFError, ConnectionError):
            return messages, True

    def close(self) -> None:
        """Close the pipe."""
        self.sock.close()


class Pipe:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = without_sigpipe(sock)
        self._identity = identity(sock.fileno())
        self._reader = _Reader()

    def send(self, kind: int, epoch: int, values: tuple[Any, ...] = (), payloads: Sequence[Bytes] = ()) -> None:
        """Send a whole message."""
        self._check()
        for part in _pack(kind, epoch, values, payloads):
            self._sock.sendall(part, QUIETLY)

    def receive(self) -> Message:
        """Wait for a message; EOFError when the parent closed its end."""
        self._check()
        while (message := self._reader.fill(self._sock)) is None:
            pass
        return message

    def _check(self) -> None:
        """A task may have closed the pipe and opened something of its own in its place: never write into that."""
        if identity(self._sock.fileno()) != self._identity:
            os._exit(os.EX_IOERR)


def identity(fd: int) -> tuple[int, int] | None:
    """Which file a descriptor refers to; None if to none."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino
