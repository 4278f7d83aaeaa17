"""The parent's side of what one worker says: its standard output, its standard error, its reports.

    stdout, stderr    pipes in the place of the worker's descriptors 1 and 2, so that they carry what C code writes, too
    reports           a pipe of frames: log records and warnings, and the stack of a crash (`frames.py`)

The parent reads whenever it waits. A worker that has filled a pipe waits until then, so memory is bounded. A pipe
outlives its worker, so nothing is lost when the worker dies.
"""

from __future__ import annotations

import codecs
import os
import select
from collections.abc import Callable

from poolagg.pools.process.descriptors import Closable, Descriptor, pipe
from poolagg.pools.process.output.frames import ATOMIC, FrameReader
from poolagg.pools.process.output.relay import Relay

__all__ = ["WorkerOutput"]

AT_ONCE = 1 << 16
"""Bytes of one read: as many as a pipe holds, so that one read takes all that came before it."""

LONGEST = 1 << 20
"""Characters of a line from which on its parts come out as they come."""


class WorkerOutput:
    """The reading ends of a worker's pipes. The caller holds the lock of `descriptors`, and closes `ours` and `theirs`.

    `theirs`: the descriptors for the worker; the last two take the places of its standard streams.
    """

    def __init__(self, relay: Relay, ours: list[Closable], theirs: list[Closable]) -> None:
        self.mode = relay.output
        self.theirs: list[int] = []
        self._ours, self._ends = ours, theirs
        self._relay = relay
        self._frames = FrameReader()
        self._lines: list[_Lines] = []
        self._takes: dict[int, Callable[[bytes], object]] = {}
        self._poll = select.poll()
        self._open(self._take_reports)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            if relay.output == "forward":
                self._lines.append(lines := _Lines(relay, stream))
                self._open(lines.add)
            elif relay.output == "inherit":
                self._give(Descriptor(os.dup(number)))
            else:
                self._give(Descriptor(os.open(os.devnull, os.O_WRONLY)))

    def _open(self, take: Callable[[bytes], object]) -> None:
        reader, writer = pipe()
        self._ours.append(reader)
        self._give(writer)
        os.set_blocking(reader.fd, False)
        self._takes[reader.fd] = take
        self._poll.register(reader.fd, select.POLLIN)

    def _give(self, end: Descriptor) -> None:
        self._ends.append(end)
        self.theirs.append(end.fd)

    @property
    def fds(self) -> list[int]:
        """The descriptors to wait for."""
        return list(self._takes)

    def __contains__(self, fd: object) -> bool:
        return fd in self._takes

    def read(self, fd: int) -> bool:
        """Read once what has come; return False at the end of the pipe."""
        try:
            data = os.read(fd, AT_ONCE)
        except BlockingIOError:
            return True
        except OSError:  # closed by a forked child of this process, or by the program
            data = b""
        if data:
            self._takes[fd](data)
        return bool(data)

    def forget(self, fd: int) -> None:
        """Read this pipe no longer, since it has ended."""
        del self._takes[fd]
        self._poll.unregister(fd)

    def settle(self) -> None:
        """Read all that the worker wrote until now, and pass on the line that it has not ended."""
        for fd, _ in self._poll.poll(0):
            self.read(fd)
        for lines in self._lines:
            lines.settle(ATOMIC)

    def finish(self) -> None:
        """Read what is left by a worker that has ended; its children may go on writing."""
        for fd in list(self._takes):
            for _ in range(LONGEST // AT_ONCE):
                if not self._poll.poll(0) or not self.read(fd):
                    break
        for lines in self._lines:
            lines.settle(LONGEST)

    @property
    def crash(self) -> str:
        """The text that `faulthandler` has written."""
        return self._frames.text.decode("ascii", "replace")

    def _take_reports(self, data: bytes) -> None:
        for kind, frame in self._frames.feed(data):
            self._relay.report(kind, frame)


class _Lines:
    """Joins what is read to whole lines, so that lines of two workers do not mix."""

    def __init__(self, relay: Relay, stream: str) -> None:
        self._relay, self._stream = relay, stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""

    def add(self, data: bytes) -> None:
        """Pass on the lines that are complete."""
        text = self._rest + self._decoder.decode(data)
        end = text.rfind("\n") + 1
        if len(text) - end > LONGEST:
            end = len(text)
        self._rest = text[end:]
        self._relay.text(self._stream, text[:end])

    def settle(self, most: int) -> None:
        """Pass on the rest, if it is no longer than `most`: a longer one may be a write that is under way."""
        if self._rest and len(self._rest) <= most:
            self._relay.text(self._stream, self._rest)
            self._rest = ""
