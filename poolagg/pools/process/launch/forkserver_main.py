"""The forkserver of a pool: it has one thread, runs none of the user's code, and forks workers on request.

    F      with descriptors as ancillary data: fork a worker that holds them; reply with its pid
    R pid  reap that worker, which has ended; reply with its wait status
    L pid  reap that worker if it has ended; reply with its wait status, or ALIVE

Requests and replies are numbered, so that the parent never takes one reply for another, even if it was interrupted: it
would kill a wait status of -1, taken for a pid, and so every process of the user.

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
from poolagg.pools.process.launch.parent_death import ignore_interrupts
from poolagg.pools.process.systems.choice import native

FDS = 12
"""Most descriptors of a worker."""

REQUEST = struct.Struct("!cqq")
"""The request (F, R or L), its number, and a pid, if it has one."""

REPLY = struct.Struct("!qq")
"""The request's number, and a pid or a wait status."""


ALIVE = -2
"""In the place of a wait status; -1 there means that another process has reaped it."""


def main(socket_fd: int, death_fd: int, cloudpickle: bool) -> None:
    """Serve until the parent closes its end. `cloudpickle`: jobs need it, so import it once for all workers."""
    os.environ.pop(STARTED_BY, None)
    if cloudpickle:
        importlib.import_module("cloudpickle")
    ignore_interrupts()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, the kernel would reap workers at once
    native().die_with_parent(death_fd)
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
                    gc.freeze()  # the forkserver's objects include no file to flush
                    worker_main.main(*fds)
                    run_exits()
                    os._exit(0)  # the parent waits, and tearing down all modules would take 10 ms
                for fd in fds:
                    os.close(fd)
            parent.sendall(REPLY.pack(number, pid if what == b"F" else _status(pid, what)), QUIETLY)


def _status(pid: int, what: bytes) -> int:
    try:
        ended, status = os.waitpid(pid, os.WNOHANG if what == b"L" else 0)
    except ChildProcessError:
        return -1
    return status if ended else ALIVE
