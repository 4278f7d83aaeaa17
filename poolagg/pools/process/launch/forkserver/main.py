"""The forkserver of a process: it has one thread, runs none of the user's code, and forks workers on request.

    C        with a descriptor as ancillary data: serve this socket, too; no reply
    P names  import these modules (`preload.py`); no reply
    F        with descriptors as ancillary data: fork a worker that holds them; reply with its pid
    L pid    reap that worker if it has ended; reply with its wait status, or ALIVE

Requests and replies are numbered, so that the parent never takes one reply for another, even if it was interrupted: it
would kill a wait status of -1, taken for a pid, and so every process of the user.

It ends when the parent closes all sockets, when the parent dies, and when it has had neither a request nor a worker for
a while. It starts itself again, by `exec`, to be rid of modules: so it stays the parent of its workers.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

from poolagg.pools.process import worker_main
from poolagg.pools.process.channel import QUIETLY, without_sigpipe
from poolagg.pools.process.launch.bootstrap import run_exits
from poolagg.pools.process.launch.forkserver.preload import Preload, fork
from poolagg.pools.process.launch.frozen import STARTED_BY
from poolagg.pools.process.launch.parent_death import ignore_interrupts
from poolagg.pools.process.systems.choice import native

FDS = 12
"""Most descriptors of a worker."""

REQUEST = struct.Struct("!cqq")
"""The request (C, P, F or L), its number, and a pid, if it has one. The names of a P follow, with spaces between."""

LONGEST = 1 << 16
"""Bytes of the longest request."""

REPLY = struct.Struct("!qq")
"""The request's number, and a pid or a wait status."""

_MORE = sys.argv[1:] if len(sys.argv) == 4 else []
"""Only after an `exec` of its own; a frozen program has other arguments."""

ALIVE = -2
"""In the place of a wait status; -1 there means that another process has reaped it."""


def main(socket_fd: int, death_fd: int, idle: float) -> None:
    """Serve until the parent closes its ends, or for `idle` seconds without a request and without a worker."""
    os.environ.pop(STARTED_BY, None)
    environ = dict(os.environ)
    ignore_interrupts()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, the kernel would reap workers at once
    native().die_with_parent(death_fd)
    # After an `exec` of its own: the modules to import, those not to, and the sockets.
    names, refused, fds = (text.split() for text in _MORE or ("", "", str(socket_fd)))
    forkserver = _Forkserver(list(map(int, fds)), death_fd, Preload(refused), environ)
    forkserver.preload(names)
    forkserver.serve(idle)


class _Forkserver:
    def __init__(self, fds: list[int], death_fd: int, preload: Preload, environ: dict[str, str]) -> None:
        self._sockets = [socket.socket(fileno=fd) for fd in fds]
        self._death_fd = death_fd
        self._preload = preload
        self._environ = environ
        """The variables that this process was started with; imported packages may have set others."""

    def serve(self, idle: float) -> None:
        while self._sockets:
            ready = self._ready(idle)
            if not ready and not _has_workers():
                return
            for sock in ready:
                try:
                    self._serve(sock)
                except ConnectionError:  # the pool was closed meanwhile
                    self._forget(sock)

    def _ready(self, idle: float) -> list[socket.socket]:
        poll = select.poll()
        for sock in self._sockets:
            poll.register(sock, select.POLLIN)
        found = {fd for fd, _ in poll.poll(idle * 1000)}
        return [sock for sock in self._sockets if sock.fileno() in found]

    def _serve(self, sock: socket.socket) -> None:
        request, fds, _, _ = socket.recv_fds(sock, LONGEST, FDS)
        if not request:
            self._forget(sock)
            return
        what, number, pid = REQUEST.unpack_from(request)
        if what == b"C":
            self._sockets += [without_sigpipe(socket.socket(fileno=fd)) for fd in fds]
        elif what == b"P":
            self.preload(request[REQUEST.size :].decode().split())
        else:
            reply = self._fork(fds) if what == b"F" else _status(pid)
            sock.sendall(REPLY.pack(number, reply), QUIETLY)

    def _forget(self, sock: socket.socket) -> None:
        self._sockets.remove(sock)
        sock.close()

    def _fork(self, fds: list[int]) -> int:
        pid = fork()
        if pid == 0:
            for sock in self._sockets:
                sock.close()
            os.close(self._death_fd)
            _be_worker(fds)
        for fd in fds:
            os.close(fd)
        return pid

    def preload(self, names: list[str]) -> None:
        """Import the modules, in a new interpreter if this one has some that workers must not have."""
        if self._preload.is_current() and self._preload.load(names):
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the new one ignores it
        for sock in self._sockets:
            sock.set_inheritable(True)
        own = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
        sockets = [str(sock.fileno()) for sock in self._sockets]
        more = [" ".join(texts) for texts in (names, sorted(self._preload.refused), sockets)]
        os.execve(sys.executable, [*own, *more], self._environ)


def _be_worker(fds: list[int]) -> NoReturn:
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    gc.freeze()  # the forkserver's objects include no file to flush
    worker_main.main(*fds)
    run_exits()
    os._exit(0)  # the parent waits, and tearing down all modules would take 10 ms


def _has_workers() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _status(pid: int) -> int:
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return -1
    return status if ended else ALIVE
