"""The parent's side of what one worker says.

    stdout    a pipe in the place of the worker's descriptor 1, so that it carries what C code writes, too
    stderr    the same for descriptor 2; and beside the text, in frames, log records and warnings (`frames.py`)

The parent reads whenever it waits. A worker that has filled a pipe waits until then, so memory is bounded. A pipe
outlives its worker, so nothing is lost when the worker dies. Then the end of the text is the stack of the crash, which
`faulthandler` has written (`stack.py`). Where streams are not forwarded, a pipe carries such stacks only.
"""

from __future__ import annotations

import codecs
import os
import select
from collections.abc import Callable
from typing import Any

from poolagg.pools.process.descriptors import Closable, Descriptor, pipe
from poolagg.pools.process.output.crash import stack_in
from poolagg.pools.process.output.frames import ATOMIC, FrameReader
from poolagg.pools.process.output.relay import Relay
from poolagg.pools.process.output.settings import Settings
from poolagg.pools.process.output.stack import CRASH

__all__ = ["WorkerOutput"]

AT_ONCE = 1 << 16
"""Bytes of one read: as many as a pipe holds, so that one read takes all that came before it."""

LONGEST = 1 << 20
"""Characters of a line from which on its parts come out as they come."""


class WorkerOutput:
    """The reading ends of a worker's pipes. The caller holds the lock of `descriptors`, and closes `ours` and `theirs`.

    `theirs`: the descriptors for the worker: for its reports, its standard output and its standard error. `has_pipes`:
    the system can hand them over; else the worker inherits its streams.
    """

    def __init__(self, relay: Relay, ours: list[Closable], theirs: list[Closable], has_pipes: bool) -> None:
        self.mode = relay.output if has_pipes else "inherit"
        self.theirs: list[int] = []
        self._ours, self._ends = ours, theirs
        self._takes: dict[int, Callable[[bytes], object]] = {}
        self._relay = relay
        self._told: Settings | None = None
        self._frames = FrameReader()
        self._stdout, self._stderr = _Lines(relay, "stdout"), _Lines(relay, "stderr")
        if not has_pipes:
            return
        self._poll = select.poll()
        reports = self._pipe(self._take_stderr)
        if relay.output == "forward":
            ends = [self._pipe(self._stdout.add), Descriptor(os.dup(reports.fd))]
        elif relay.output == "inherit":
            ends = [Descriptor(os.dup(1)), Descriptor(os.dup(2))]
        else:
            ends = [Descriptor(os.open(os.devnull, os.O_WRONLY)) for _ in range(2)]
        self._ends += [reports, *ends]
        self.theirs = [end.fd for end in (reports, *ends)]

    def _pipe(self, take: Callable[[bytes], object]) -> Descriptor:
        reader, writer = pipe()
        self._ours.append(reader)
        os.set_blocking(reader.fd, False)
        self._takes[reader.fd] = take
        self._poll.register(reader.fd, select.POLLIN)
        return writer

    @property
    def fds(self) -> list[int]:
        """The descriptors to wait for."""
        return list(self._takes)

    def changed_settings(self) -> tuple[Any, ...] | None:
        """Return what the worker is to be told of levels and filters; None if it knows."""
        before, self._told = self._told, self._relay.settings
        return None if before == self._told else tuple(self._told)

    def __contains__(self, fd: object) -> bool:
        return fd in self._takes

    def read(self, fd: int) -> bool:
        """Read once what has come; return False at the end of the pipe."""
        try:
            data = os.read(fd, AT_ONCE)
        except BlockingIOError:
            return True
        except OSError:  # the program has closed it
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
        for fd, _ in self._poll.poll(0) if self._takes else ():
            self.read(fd)
        self._stdout.settle(ATOMIC)
        self._stderr.settle(ATOMIC)

    def expect_stack(self) -> None:
        """Take what the worker writes to its standard error from now on for its stack, until it has ended."""
        self.settle()
        self._stderr.holds = True

    def finish(self, crashed: bool = False) -> str | None:
        """Read what is left by a worker that has ended, whose children may go on writing; return its stack, if any."""
        for fd in list(self._takes):
            for _ in range(LONGEST // AT_ONCE):
                if not self._poll.poll(0) or not self.read(fd):
                    break
        crash = self._stderr.take_held() if crashed else ""
        self._stderr.holds = False
        self._stdout.settle(LONGEST)
        self._stderr.settle(LONGEST)
        return stack_in(crash)

    def _take_stderr(self, data: bytes) -> None:
        text = bytearray()
        for kind, frame in self._frames.feed(data, text):
            self._relay.report(kind, frame)
        self._stderr.add(text)


class _Lines:
    """Joins what is read to whole lines, so that lines of two workers do not mix. It holds back what may be a crash."""

    def __init__(self, relay: Relay, stream: str) -> None:
        self._relay, self._stream = relay, stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""
        self.holds = self._held = False

    def add(self, data: bytes | bytearray) -> None:
        """Pass on the lines that are complete."""
        text = self._rest + self._decoder.decode(data)
        end = text.rfind("\n") + 1
        if self.holds or (at := text.find(CRASH)) >= 0:
            end, self.holds = 0 if self.holds else at, True
        if len(text) - end > LONGEST:
            end = len(text)
        self._rest = text[end:]
        self._relay.text(self._stream, text[:end])

    def settle(self, most: int) -> None:
        """Pass on the rest, if it is no longer than `most`: a longer one may be a write that is under way.

        A worker that goes on answering has not crashed: a child of its has. The first answer may be an earlier one.
        """
        if self.holds and not self._held:
            self._held = True
        elif self._held or len(self._rest) <= most:
            self._relay.text(self._stream, self._rest)
            self._rest = ""
            self.holds = self._held = False

    def take_held(self) -> str:
        """Return what was held back, and do not pass it on."""
        held = self._rest if self.holds else ""
        self._rest, self.holds = self._rest[len(held) :], False
        return held
