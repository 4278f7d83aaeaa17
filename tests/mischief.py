"""What an item may do to its own process. Imports little, for workers import it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable

from tasks import fail


def ours() -> list[int]:
    """The descriptors that a worker is likely to need: sockets, pipes and shared memory, from 3 on."""
    found = []
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        with contextlib.suppress(OSError):
            kind = os.readlink(f"/proc/self/fd/{name}")
            if int(name) > 2 and kind.startswith(("socket:", "pipe:", "/memfd:poolagg")):
                found.append(int(name))
    return found


def close_range() -> None:
    os.closerange(3, 256)


def close(number: int) -> None:
    """Close one of them, if there are as many."""
    for fd in ours()[number : number + 1]:
        os.close(fd)


def _file() -> int:
    return os.memfd_create("a file of the item's own")


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR)


def _pipe() -> int:
    return os.pipe()[0]


def _socket() -> int:
    return socket.socketpair()[0].detach()


def replace(make: Callable[[], int], number: int) -> None:
    """Put something else in the place of one of them."""
    fds = ours()
    mine = make()
    for fd in fds[number : number + 1]:
        os.dup2(mine, fd)


def shutdown(how: int) -> None:
    """Shut all sockets down through a copy, which leaves the descriptors as they are."""
    for fd in ours():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as copy:
            copy.shutdown(how)


def write(text: bytes) -> None:
    """Write to whatever can be written to."""
    for fd in ours():
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, text)


def read() -> None:
    """Read what there is to read."""
    for fd in ours():
        with contextlib.suppress(OSError):
            if select.select([fd], [], [], 0)[0]:
                os.read(fd, 100)


def exhaust() -> None:
    """Open files until there is no descriptor left, and keep them open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            os.open(os.devnull, os.O_RDONLY)


def forget_all_signals() -> None:
    """Reset all signal handlers, and block what can be blocked: the worker has no need of them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1})


def frame(magic: bytes, length: int) -> bytes:
    """The header of a message whose payload is not there."""
    return magic + struct.pack("!BIQQ", 7, 1, 10, length)


class Mischief:
    """Does to its process what is asked for at some items, and gives back all of them."""

    def __init__(self, at: dict[int, tuple[Callable[..., None], tuple[object, ...]]]) -> None:
        self.at = at

    def __call__(self, item: int) -> int:
        if item in self.at:
            func, arguments = self.at[item]
            func(*arguments)
        return item


FILES = (_file, _null, _pipe, _socket)
SHUTDOWNS = (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)
DEATHS = [(fail, ("SIGKILL",)), (fail, ("SIGSEGV",)), (fail, ("exit",))]
