"""The parent's side of a forkserver: its process, and a pool's socket for requests to it (`main.py`).

Each pool has a socket of its own, and so no lock that another pool may hold while the garbage collector ends this one.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import sleep

from poolagg.pools.process.channel import QUIETLY, without_sigpipe
from poolagg.pools.process.descriptors import Closable, close_all, descriptors, held, pipe
from poolagg.pools.process.launch.child import LOOK, PosixChild
from poolagg.pools.process.launch.forkserver.main import ALIVE, LONGEST, REPLY, REQUEST
from poolagg.pools.process.launch.launchers import interpreter, seeded

__all__ = ["Connection", "Forkserver"]

IDLE = 60.0
"""Seconds after which a forkserver without a worker ends."""


class Forkserver:
    """A process that has one thread, has run none of the user's code, and forks workers."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.users: set[int] = set()
        """The pools that use it. Adding and removing need no lock."""
        ours: list[Closable] = []
        theirs: list[Closable] = []
        try:
            self._control, there = _socket_pair(ours, theirs)
            with descriptors:
                reader, self._death = pipe()
                ours.append(self._death)
                theirs.append(reader)
            module, fds = "poolagg.pools.process.launch.forkserver.main", (there.fileno(), reader.fd)
            # It starts up in the background; the first request waits for it.
            self.process: PosixChild | None = interpreter(module, fds, seeded(environ), IDLE)
        except BaseException:
            close_all(ours)
            raise
        finally:
            close_all(theirs)

    def connect(self) -> Connection:
        """Return a connection for one pool; raise EOFError if the forkserver has ended."""
        ours: list[Closable] = []
        theirs: list[Closable] = []
        try:
            here, there = _socket_pair(ours, theirs)
            _send(self._control, b"C", 0, 0, fds=[there.fileno()])
        except OSError as error:
            close_all(ours)
            raise EOFError("the forkserver has ended") from error
        finally:
            close_all(theirs)
        return Connection(here)

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            close_all([self._control, self._death])  # this ends it, too, if this process may no longer kill it
            with suppress(PermissionError):
                process.kill()
            process.reap()
            process.close()


class Connection:
    """One pool's requests.

    The forkserver reaps a child only on request, so that a pid known to the parent never means another process.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._asking = threading.Lock()
        self._numbers = itertools.count()

    def preload(self, names: Sequence[str]) -> None:
        """Have these modules imported before the next fork, and those forgotten whose files have changed."""
        while len(text := " ".join(names).encode()) > LONGEST - REQUEST.size:
            names = names[: len(names) // 2]
        with self._asking, suppress(ConnectionError):  # the next request tells that the forkserver has ended
            _send(self._socket, b"P", next(self._numbers), 0, text)

    def fork(self, fds: Sequence[int]) -> int:
        """Have a worker forked that holds these descriptors; return its pid. Raise EOFError if the forkserver ended."""
        return self._ask(b"F", 0, fds)

    def reap(self, pid: int, options: int) -> int | None:
        """Reap a worker, for a `PosixChild`, which has waited for its end if the system tells it."""
        while (status := self._status(pid, options)) == ALIVE:
            if options == os.WNOHANG:
                raise BlockingIOError(f"process {pid} is alive")
            sleep(LOOK)
        return os.waitstatus_to_exitcode(status) if status >= 0 else None

    def _status(self, pid: int, options: int) -> int:
        try:
            return self._ask(b"L", pid)
        except (OSError, EOFError):  # the forkserver has ended, and init has adopted its children
            return ALIVE if options == os.WNOHANG and _is_alive(pid) else -1

    def _ask(self, what: bytes, pid: int, fds: Sequence[int] = ()) -> int:
        with self._asking:
            number = next(self._numbers)
            try:
                _send(self._socket, what, number, pid, fds=fds)
                while reply := self._socket.recv(REPLY.size):
                    told, value = REPLY.unpack(reply)
                    if told == number:  # else it replies to an interrupted request
                        return int(value)
            except ConnectionError:
                pass
        raise EOFError("the forkserver has ended")

    def close(self) -> None:
        """Close the pool's socket."""
        close_all([self._socket])


def _socket_pair(ours: list[Closable], theirs: list[Closable]) -> tuple[socket.socket, socket.socket]:
    with descriptors:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.append(held(without_sigpipe(here)))
        theirs.append(held(there))
    return here, there


def _send(sock: socket.socket, what: bytes, number: int, pid: int, text: bytes = b"", fds: Sequence[int] = ()) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sock.sendmsg([REQUEST.pack(what, number, pid), text], ancillary, QUIETLY)  # send_fds drops its flags


def _is_alive(pid: int) -> bool:
    """Tell if the process exists and is not a zombie that its adoptive parent fails to reap."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] not in b"ZX"
    except FileNotFoundError:
        if os.path.exists("/proc/self"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
