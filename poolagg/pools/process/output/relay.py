"""Hand what workers say to the program: its streams, its loggers, its warning filters. On the caller's thread.

Text goes above the bars of tqdm, if the program draws any. An exception of a handler, a filter or a warning propagates
from the run; a stream that cannot be written costs one warning, and the run goes on.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from collections import deque
from typing import Any

from poolagg._runtime.exception_text import said
from poolagg._runtime.interrupts import interrupts_allowed
from poolagg._runtime.signals import raised_by_handler
from poolagg.pools.process.output.frames import LOG
from poolagg.pools.process.output.settings import Settings, current_settings

__all__ = ["OUTPUTS", "Relay", "checked_output"]

OUTPUTS = "forward", "inherit", "discard"


def checked_output(output: str) -> str:
    """Return the argument of the pool, or raise ValueError."""
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUTS))}, not {output!r}")
    return output


class Relay:
    """The output of a pool's workers, in the order in which the parent has read it."""

    def __init__(self, output: str) -> None:
        self.output = output
        self._pending: deque[tuple[str, Any]] = deque()
        self._unwritable: set[str] = set()
        self.settings = Settings(None, 0, [])
        """Log levels and warning filters, as they were at the start of the run."""

    def text(self, stream: str, text: str) -> None:
        """Keep text for one of the streams of `sys`."""
        if text and self.output == "forward":
            self._pending.append((stream, text))

    def report(self, kind: int, frame: bytes) -> None:
        """Keep a log record or a warning."""
        if self.output == "forward":
            self._pending.append(("record" if kind == LOG else "warning", frame))

    def begin(self) -> None:
        """Begin a run: its settings and its streams may be others."""
        self._unwritable.clear()
        if self.output == "forward":
            self.settings = current_settings()

    def emit(self) -> None:
        """Hand everything to the program. An entry that raises is not handed on twice."""
        if not self._pending:
            return
        bars = _bars()
        for bar in bars:
            bar.clear(nolock=True)
        try:
            while self._pending:
                kind, what = self._pending.popleft()
                if kind == "record":
                    _log(*pickle.loads(what))
                elif kind == "warning":
                    _warn(*pickle.loads(what))
                else:
                    self._write(kind, what)
        finally:
            for bar in bars:
                bar.refresh(nolock=True)

    def emit_last(self) -> None:
        """Do the same at a run's end, where interrupts are held back: a stream or a handler may take its time."""
        with interrupts_allowed():
            self.emit()

    def _write(self, name: str, text: str) -> None:
        stream, texts = getattr(sys, name), [text]
        while self._pending and self._pending[0][0] == name:
            texts.append(self._pending.popleft()[1])
        if stream is None or name in self._unwritable:
            return
        try:
            _write_text(stream, "".join(texts))
        except (OSError, ValueError) as error:
            if raised_by_handler(error):
                raise
            self._unwritable.add(name)
            what = f"sys.{name} can't be written ({said(error)}), so what workers write to it is lost"
            warnings.warn(f"{what}; the run goes on", RuntimeWarning, stacklevel=2)


def _write_text(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError as error:
        stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
    stream.flush()


def _bars() -> list[Any]:
    """Return the bars of tqdm that are drawn on the standard streams, as `tqdm.external_write_mode` finds them.

    That makes the lock that all bars share, and with it one of `multiprocessing`.
    """
    tqdm = sys.modules.get("tqdm.std")
    bars = [] if tqdm is None else list(tqdm.tqdm._instances)
    standard = [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
    return [bar for bar in bars if hasattr(bar, "start_t") and any(bar.fp == stream for stream in standard)]


def _log(values: dict[str, Any], others: dict[str, bytes]) -> None:
    """Handle a record as if it was made here; its logger decides by level, filters and handlers."""
    import logging

    record = logging.makeLogRecord(values | {name: _opened(value) for name, value in others.items()})
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _opened(value: bytes) -> Any:
    try:
        return pickle.loads(value)
    except Exception as error:
        if raised_by_handler(error):
            raise
        return f"<does not unpickle: {said(error)}>"


_registries: dict[str, dict[Any, Any]] = {}
"""The places that have warned, of modules that only workers have."""


def _warn(
    message: bytes, text: str, known: list[tuple[str, str]], filename: str, lineno: int, module: str | None
) -> None:
    """Warn as if the place was here; the program's filters decide, and each place of a module counts once."""
    warning = _opened(message)
    if not isinstance(warning, Warning):
        names = {(cls.__module__, cls.__qualname__): cls for cls in _builtin_warnings()}
        warning = next(names[name] for name in known if name in names)(text)
    found = sys.modules.get(module or "")
    if found is None:
        registry = _registries.setdefault(module or filename, {})
    else:
        registry = vars(found).setdefault("__warningregistry__", {})
    warnings.warn_explicit(warning, type(warning), filename, lineno, module, registry)


def _builtin_warnings() -> list[type[Warning]]:
    return [Warning, *Warning.__subclasses__()]
