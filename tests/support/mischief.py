"""The damage that an item may do to its own process. Imports little, since workers import it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tasks import Attempts, fail

strangers: frozenset[str] = frozenset()
"""The descriptors that a forked worker inherits from the test runner, which must stay open."""

TEMPORARY = f"{tempfile.gettempdir()}/poolagg"
"""How the names of the portable primitives' files begin."""


def open_ones(*kinds: str) -> dict[int, str]:
    """The descriptors of such kinds from 3 on, and what each refers to."""
    found = {}
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        with contextlib.suppress(OSError):
            what = os.readlink(f"/proc/self/fd/{name}")
            if int(name) > 2 and what.startswith(kinds) and what not in strangers:
                found[int(name)] = what
    return found


def ours() -> list[int]:
    """Those that a worker needs: its pipe, its claims, its parent's death, and the shared memory of two arenas."""
    return list(open_ones("socket:", "pipe:", "/memfd:poolagg-arena", f"{TEMPORARY}-arena"))


def ours_and_copies() -> list[int]:
    """Those, and what mappings keep open."""
    return list(open_ones("socket:", "pipe:", "/memfd:poolagg", TEMPORARY))


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
    for fd in ours_and_copies():
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, text)


def read(*kinds: str) -> None:
    """Read what there is to read, from descriptors of these kinds or from all."""
    for fd in open_ones(*kinds) if kinds else ours_and_copies():
        with contextlib.suppress(OSError):
            if select.select([fd], [], [], 0)[0]:
                os.read(fd, 100)


def exhaust() -> None:
    """Open files until there is no descriptor left, and keep them open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            os.open(os.devnull, os.O_RDONLY)


def block_signals() -> None:
    """Block what a worker has no need of."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1})


def frame(magic: bytes, length: int) -> bytes:
    """The header of a message whose payload is not there."""
    return magic + struct.pack("!BIQQ", 7, 1, 10, length)


class Mischief:
    """Does to its process what is asked for at some items, and gives back all of them. Make it before the pool."""

    def __init__(self, at: dict[int, tuple[Callable[..., None], tuple[object, ...]]]) -> None:
        self.at = at
        self.strangers = frozenset(open_ones("socket:", "pipe:").values())

    def __call__(self, item: int) -> int:
        global strangers
        if item in self.at:
            strangers = self.strangers
            func, arguments = self.at[item]
            func(*arguments)
        return item


class Forking:
    """Forks at some items; the child leaves in some way, and the parent returns the child's exit code."""

    def __init__(self, folder: Path, how: str, *at: int) -> None:
        self.attempts, self.how, self.at = Attempts(folder), how, at

    def __call__(self, item: int) -> int:
        if item not in self.at:
            self.attempts.another(item)
            return 0
        if (pid := os.fork()) == 0:
            return leave(self.how)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave(how: str) -> int:
    """As the child does."""
    sys.stderr = open(os.devnull, "w")
    if how == "exits":
        sys.exit()
    if how == "exits with 7":
        sys.exit(7)
    if how == "exits with a text":
        sys.exit("a text")
    if how == "raises":
        raise ValueError("in the child")
    if how == "is interrupted":
        raise KeyboardInterrupt
    return 99


FILES = (_file, _null, _pipe, _socket)
SHUTDOWNS = (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)
DEATHS = [(fail, ("SIGKILL",)), (fail, ("SIGSEGV",)), (fail, ("exit",))]
