"""The template process of a pool: it has one thread, runs none of the user's code, and forks workers on request.

    F      with descriptors as ancillary data: fork a worker that holds them; answer its pid
    R pid  reap that worker, which has ended; answer its wait status

Requests and answers are numbered, so that none is ever taken for another's, wherever whoever asked was interrupted: a
wait status of -1, taken for a pid and killed, would be the end of every process that the user has.

It ends when the parent closes the socket, and when the parent dies.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import struct

from poolagg.pools import _worker
from poolagg.pools._channel import QUIETLY, without_sigpipe
from poolagg.pools._death import die_with_parent, ignore_interrupts

FDS = 8

REQUEST = struct.Struct("!cqq")
"""What is asked, its number, and of which process, if of any."""

ANSWER = struct.Struct("!qq")
"""The number, and a process or its wait status."""


def main(socket_fd: int, death_fd: int, cloudpickle: bool) -> None:
    """Serve until the parent closes its end. `cloudpickle`: jobs need it, and here it is imported once for all."""
    if cloudpickle:
        importlib.import_module("cloudpickle")
    ignore_interrupts()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would have the kernel reap workers unasked
    die_with_parent(death_fd)
    with without_sigpipe(socket.socket(fileno=socket_fd)) as parent:
        while True:
            request, fds, _, _ = socket.recv_fds(parent, REQUEST.size, FDS)
            if not request:
                return
            what, number, pid = REQUEST.unpack(request)
            if what == b"F":
                pid = os.fork()
                if pid == 0:
                    parent.close()
                    os.close(death_fd)
                    signal.signal(signal.SIGIO, signal.SIG_DFL)
                    _worker.main(*fds)
                    return
                for fd in fds:
                    os.close(fd)
            parent.sendall(ANSWER.pack(number, pid if what == b"F" else _status(pid)), QUIETLY)


def _status(pid: int) -> int:
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return -1
