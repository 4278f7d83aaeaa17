"""The worker's side of what it says: standard streams in pipes, log records and warnings in frames.

streams     descriptors 1 and 2 are the parent's pipes; `sys.stdout` and `sys.stderr` write each line at once, so
            that the last line before a death is in the pipe
records     what the parent's levels let through (`log_records.py`)
warnings    the parent's filters are the worker's, behind those that the initializer adds. "error" raises here,
            within the item; other warnings become frames, and the parent shows each place once
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from poolagg._runtime.exception_text import message_of
from poolagg._runtime.signals import raised_by_handler
from poolagg.pools.process.descriptors import MISUSED, Mark
from poolagg.pools.process.launch.imports import when_imported
from poolagg.pools.process.output.frames import LOG, WARNING, send_frame
from poolagg.pools.process.output.log_records import hear
from poolagg.pools.process.output.settings import Pattern, Settings
from poolagg.pools.process.output.stack import write_stacks

__all__ = ["REPORTS_MARK", "Reporter", "refuse_breakpoint", "take_streams"]

REPORTS_MARK: int = getattr(signal, "SIGWINCH", 0)
"""The number that marks the pipe of reports."""


def take_streams(*fds: int) -> None:
    """Make these descriptors the standard output and the standard error of this process, of its C code too."""
    for number, fd in enumerate(fds, 1):
        os.dup2(fd, number)
        os.close(fd)


def refuse_breakpoint() -> None:
    """Have `breakpoint()` raise, unless the user has chosen a debugger."""
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _no_debugger


def _no_debugger(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(
        "breakpoint() was called in a worker process, which has no terminal to debug in: run with pool=SerialPool(), "
        "which calls func in the program itself"
    )


class Reporter:
    """Reports to the parent what this worker logs and warns; with `output="inherit"` it changes nothing."""

    def __init__(self, fd: int, mark: Callable[[int, int], Mark]) -> None:
        self._fd, self._pid = fd, os.getpid()
        if fd >= 0:
            os.set_inheritable(fd, False)
            self._marked = mark(fd, REPORTS_MARK)
            write_stacks(fd)
        self._output = "inherit"
        self._settings = Settings(None, 0, [])
        self._own: list[Any] = []

    def begin(self, output: str, settings: Settings) -> None:
        """Replace the streams, and report from now on."""
        self._output = output
        if output == "inherit":
            return
        self._replaced = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__  # dropped, a forked one would be closed
        sys.stdout = sys.__stdout__ = _line_by_line(1, sys.__stdout__)  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = _line_by_line(2, sys.__stderr__)  # type: ignore[misc]
        warnings.showwarning = self._warn
        self.hear(settings)

    def hear(self, settings: Settings) -> None:
        """Take over the levels and filters of the parent."""
        self._settings = settings
        if self._output == "inherit":
            return
        warnings.resetwarnings()
        warnings.filters[:] = [*self._own, *(_filter(*one) for one in settings.filters)]  # type: ignore[index]
        if settings.loggers is not None:
            when_imported("logging", lambda: hear(self._settings, self._send_record))

    @contextlib.contextmanager
    def initializing(self) -> Iterator[None]:
        """Keep the filters that the initializer adds, whatever the parent's are later."""
        before = list(warnings.filters)
        yield
        self._own = [one for one in warnings.filters if one not in before]

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Ignore warnings while the job's modules are imported: the parent imported them, too.

        Afterwards each place warns anew: the parent knows which it has shown.
        """
        with warnings.catch_warnings():
            if self._output != "inherit":
                warnings.simplefilter("ignore")
            yield

    # -- reports -------------------------------------------------------------------------------------------------------

    def _send(self, kind: int, data: bytes) -> None:
        """Send a frame; end this process if its descriptor now refers to another file."""
        if self._output == "discard":
            return
        look, before = self._marked
        try:
            intact = look() == before
        except OSError:  # it is closed
            intact = False
        if intact:
            with contextlib.suppress(BrokenPipeError):  # the parent has dismissed this worker
                send_frame(self._fd, kind, data)
        elif os.getpid() == self._pid:
            os._exit(MISUSED)

    def _send_record(self, data: bytes) -> None:
        self._send(LOG, data)

    def _warn(
        self, message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        """Stand in for `warnings.showwarning`, which Python calls for what the filters let through."""
        del file, line
        known = [(cls.__module__, cls.__qualname__) for cls in category.__mro__]
        try:
            pickled = pickle.dumps(message, 5)
        except Exception as error:
            if raised_by_handler(error):
                raise
            pickled = b""
        fields = pickled, message_of(message), known, filename, lineno, _module_of(filename)
        self._send(WARNING, pickle.dumps(fields, 5))


def _module_of(filename: str) -> str:
    """Return the name of the module in this file; functions of the script and of notebooks are in `__main__`."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename:
            return name
    return "__main__"


def _line_by_line(fd: int, stream: Any) -> io.TextIOWrapper:
    """Return a stream for the descriptor: this process's own if it has one, which handlers and functions may hold."""
    with contextlib.suppress(OSError, ValueError):  # it is closed
        if type(stream) is io.TextIOWrapper and stream.fileno() == fd:
            if isinstance(stream.buffer, io.BufferedWriter):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
            else:  # of `python -u`: it would write a line in parts
                stream.__init__(_buffered(fd), "utf-8", "backslashreplace", None, True)  # type: ignore[misc]
            return stream
    return io.TextIOWrapper(_buffered(fd), "utf-8", "backslashreplace", None, line_buffering=True)


def _buffered(fd: int) -> io.BufferedWriter:
    return io.BufferedWriter(io.FileIO(fd, "wb", closefd=False))


# -- the parent's filters ----------------------------------------------------------------------------------------------


class _ByName(type):
    """The type of a warning class that stands for a class by its name, since this process has not imported that."""

    named: tuple[str, str]

    def __subclasscheck__(cls, subclass: type) -> bool:
        return any((one.__module__, one.__qualname__) == cls.named for one in subclass.__mro__)


def _filter(action: str, message: Pattern, module: str, name: str, of_module: Pattern, line: int) -> tuple[Any, ...]:
    category = getattr(sys.modules.get(module), name, None)
    if not isinstance(category, type) or module == "__main__":
        category = _ByName(name, (Warning,), {"named": (module, name)})
    return action, _compiled(message), category, _compiled(of_module), line


def _compiled(pattern: Pattern) -> Any:
    return re.compile(*pattern) if isinstance(pattern, tuple) else pattern
