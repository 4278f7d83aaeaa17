"""The template process of a pool: it has one thread, runs none of the user's code, and forks workers on request.

    F      with descriptors as ancillary data: fork a worker that holds them; answer its pid
    R pid  reap that worker, which has ended; answer its wait status
    L pid  look whether that worker has ended, and reap it if so; answer its wait status, or ALIVE

Requests and answers are numbered, so that none is ever taken for another's, wherever whoever asked was interrupted: a
wait status of -1, taken for a pid and killed, would be the end of every process that the user has.

It ends when the parent closes the socket, and when the parent dies.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import struct

from poolagg.pools.process import worker_main
from poolagg.pools.process.channel import QUIETLY, without_sigpipe
from poolagg.pools.process.launch.bootstrap import run_exits
from poolagg.pools.process.launch.frozen import STARTED_BY
from poolagg.pools.process.launch.parent_death import die_with_parent, ignore_interrupts

FDS = 8

REQUEST = struct.Struct("!cqq")
"""What is asked, its number, and of which process, if of any."""

REPLY = struct.Struct("!qq")
"""The number, and a process or its wait status."""


ALIVE = -2
"""What stands for a wait status; -1: there is none, for somebody else has reaped it."""


def main(socket_fd: int, death_fd: int, cloudpickle: bool) -> None:
    """Serve until the parent closes its end. `cloudpickle`: jobs need it, and here it is imported once for all."""
    os.environ.pop(STARTED_BY, None)
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
                    gc.freeze()  # what is the template's has no file to be flushed
                    worker_main.main(*fds)
                    run_exits()
                    os._exit(0)  # to take all modules apart would take 10 ms, for which the parent waits
                for fd in fds:
                    os.close(fd)
            parent.sendall(REPLY.pack(number, pid if what == b"F" else _status(pid, what)), QUIETLY)


def _status(pid: int, what: bytes) -> int:
    try:
        ended, status = os.waitpid(pid, os.WNOHANG if what == b"L" else 0)
    except ChildProcessError:
        return -1
    return status if ended else ALIVE
