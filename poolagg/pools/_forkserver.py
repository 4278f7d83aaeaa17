"""Workers that a template process forks (`_template.py`): the parent's side of it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from poolagg.pools._frozen import advice
from poolagg.pools._launch import Child, interpreter, seeded
from poolagg.pools._template import ALIVE, ANSWER, REQUEST

__all__ = ["TemplateLauncher", "TemplateLost"]


class TemplateLost(OSError):
    """The template was killed. It may have forked a worker first, so the descriptors must not be given to another."""


class TemplateLauncher:
    """A template process forks the workers; it has one thread and has run none of the user's code.

    `by_value`: jobs are sent by cloudpickle, which the template imports for all.

    The template reaps a child only when it is asked to, so that a pid the parent knows never means another process.
    """

    def __init__(self, environ: Mapping[str, str], by_value: bool, start: Any = None) -> None:
        del start
        self._environ = seeded(environ)
        self._by_value = by_value
        self._process: Child | None = None
        self._socket: socket.socket | None = None
        self._death: int = -1
        self._asking = threading.Lock()
        self._numbers = itertools.count()
        self._start()  # it takes its time to be ready, and the first launch waits for it

    def launch(self, fds: Sequence[int], private: Sequence[int]) -> Child:
        """Have a worker forked; TemplateLost if the template was killed: the next call starts another."""
        del private
        template = self._socket or self._start()
        try:
            pid = self._ask(template, b"F", 0, fds)
        except EOFError as error:
            self.close()
            raise TemplateLost(f"the template process ended, and started no worker{advice()}") from error
        try:
            return Child(pid, functools.partial(self._reap, template))
        except ProcessLookupError as error:  # somebody else has reaped it
            raise TemplateLost("the template process was killed") from error

    def _start(self) -> socket.socket:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(here)
            theirs.enter_context(there)
            reader, death = os.pipe()
            theirs.callback(os.close, reader)
            ours.callback(os.close, death)
            by_value = self._by_value or "cloudpickle" in sys.modules
            fds = there.fileno(), reader
            self._process = interpreter("poolagg.pools._template", fds, self._environ, by_value)
            self._socket, self._death = here, death
            ours.pop_all()
        return here

    def _ask(self, template: socket.socket, what: bytes, pid: int, fds: Sequence[int] = ()) -> int:
        with self._asking:
            number = next(self._numbers)
            try:
                socket.send_fds(template, [REQUEST.pack(what, number, pid)], fds)
                while answer := template.recv(ANSWER.size):
                    told, value = ANSWER.unpack(answer)
                    if told == number:  # else of a question that was interrupted
                        return int(value)
            except ConnectionError:
                pass
        raise EOFError("the template process is gone")

    def _reap(self, template: socket.socket, pid: int, options: int) -> int | None:
        try:
            status = self._ask(template, b"L" if options == os.WNOHANG else b"R", pid)
        except (OSError, EOFError):  # the template was killed, or closed, and its children are init's
            status = ALIVE if options == os.WNOHANG and _is_alive(pid) else -1
        if status == ALIVE:
            raise BlockingIOError(f"process {pid} is alive")
        return os.waitstatus_to_exitcode(status) if status >= 0 else None

    def close(self) -> None:
        """End the template."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._death >= 0:
            os.close(self._death)
            self._death = -1
        if self._process is not None:
            self._process.kill()
            self._process.reap()
            self._process.close()
            self._process = None

    def forget_in_child(self) -> None:
        """Neither the template's socket nor the end that keeps it alive."""
        if self._socket is not None:
            os.close(self._socket.detach())
            os.close(self._death)
            self._socket, self._death, self._process = None, -1, None


def _is_alive(pid: int) -> bool:
    """Whether the process is there, and no zombie that some program, adopting it, does not reap."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] not in b"ZX"
    except FileNotFoundError:
        return False
