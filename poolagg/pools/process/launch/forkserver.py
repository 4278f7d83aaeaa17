"""Workers that a forkserver forks (`forkserver_main.py`): the parent's side."""

from __future__ import annotations

import functools
import itertools
import os
import socket
import sys
import threading
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from poolagg.pools.process.channel import QUIETLY, without_sigpipe
from poolagg.pools.process.descriptors import Closable, Descriptor, close_all, descriptors, held, pipe
from poolagg.pools.process.launch.child import PosixChild
from poolagg.pools.process.launch.forkserver_main import ALIVE, REPLY, REQUEST
from poolagg.pools.process.launch.frozen import advice
from poolagg.pools.process.launch.launchers import interpreter, seeded

__all__ = ["ForkserverLauncher", "ForkserverLost"]


class ForkserverLost(OSError):
    """The forkserver was killed. It may have forked a worker first, so the descriptors must not be used again."""


class ForkserverLauncher:
    """Has a forkserver fork the workers; that process has one thread and has run none of the user's code.

    `by_value`: jobs are pickled by cloudpickle, which the forkserver imports once for all workers.

    The forkserver reaps a child only on request, so that a pid known to the parent never means another process.
    """

    def __init__(self, environ: Mapping[str, str], by_value: bool, start: Any = None) -> None:
        del start
        self._environ = seeded(environ)
        self._by_value = by_value
        self._process: PosixChild | None = None
        self._socket: socket.socket | None = None
        self._death: Descriptor | None = None
        self._asking = threading.Lock()
        self._numbers = itertools.count()
        self._start()  # starts up in the background; the first launch waits for it

    def launch(self, fds: Sequence[int]) -> PosixChild:
        """Have a worker forked; raise ForkserverLost if the forkserver was killed: the next call starts another."""
        forkserver = self._socket or self._start()
        try:
            pid = self._ask(forkserver, b"F", 0, fds)
        except EOFError as error:
            self.close()
            raise ForkserverLost(f"the forkserver ended, and started no worker{advice()}") from error
        try:
            return PosixChild(pid, functools.partial(self._reap, forkserver))
        except ProcessLookupError as error:  # init has reaped it
            raise ForkserverLost("the forkserver was killed") from error

    def _start(self) -> socket.socket:
        ours: list[Closable] = []
        theirs: list[Closable] = []
        try:
            with descriptors:
                here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.append(held(without_sigpipe(here)))
                theirs.append(held(there))
                reader, death = pipe()
                ours.append(death)
                theirs.append(reader)
            by_value = self._by_value or "cloudpickle" in sys.modules
            fds = there.fileno(), reader.fd
            self._process = interpreter("poolagg.pools.process.launch.forkserver_main", fds, self._environ, by_value)
            self._socket, self._death = here, death
        except BaseException:
            close_all(ours)
            raise
        finally:
            close_all(theirs)
        return here

    def _ask(self, forkserver: socket.socket, what: bytes, pid: int, fds: Sequence[int] = ()) -> int:
        with self._asking:
            number = next(self._numbers)
            try:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                forkserver.sendmsg([REQUEST.pack(what, number, pid)], ancillary, QUIETLY)  # send_fds drops its flags
                while reply := forkserver.recv(REPLY.size):
                    told, value = REPLY.unpack(reply)
                    if told == number:  # else it replies to an interrupted request
                        return int(value)
            except ConnectionError:
                pass
        raise EOFError("the forkserver has ended")

    def _reap(self, forkserver: socket.socket, pid: int, options: int) -> int | None:
        try:
            status = self._ask(forkserver, b"L" if options == os.WNOHANG else b"R", pid)
        except (OSError, EOFError):  # the forkserver has ended, and init has adopted its children
            status = ALIVE if options == os.WNOHANG and _is_alive(pid) else -1
        if status == ALIVE:
            raise BlockingIOError(f"process {pid} is alive")
        return os.waitstatus_to_exitcode(status) if status >= 0 else None

    def close(self) -> None:
        """End the forkserver."""
        ends, process = (self._socket, self._death), self._process
        self._socket = self._death = self._process = None
        if process is not None:
            process.kill()
            process.reap()
            process.close()
        close_all(ends)


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
