"""Recognize exceptions that signal handlers raise: programs limit a call's time by `signal.alarm` and such a handler.

Such an exception may strike anywhere on the main thread, also where poolagg catches the exceptions of an item, a
reducer or a watcher. It must propagate there.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import signal
from collections.abc import Callable, Iterable
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

from poolagg._runtime.exception_text import traceback_of

__all__ = ["handlers", "raised_by_handler"]

CO_OPTIMIZED, CO_VARARGS = 1, 4


def raised_by_handler(error: BaseException, among: Iterable[CodeType] | None = None) -> bool:
    """Tell whether a signal handler raised `error`; `among`: only those with this code, as `handlers` returns it."""
    trace = traceback_of(error)
    while trace is not None:
        frame = trace.tb_frame
        if (among is None or frame.f_code in among) and _is_handler(frame):
            return True
        trace = trace.tb_next
    return False


def handlers() -> frozenset[CodeType]:
    """Return the code of the installed handlers of signals that interrupt a program; takes about 1 us."""
    # From `_signal`: `signal.getsignal` makes an enum of each result, which takes 30 times as long.
    found = {handler for handler in map(_signal.getsignal, _NUMBERS) if callable(handler)}
    return frozenset(code for code in map(_code_of, found) if code is not None)


_NAMES = ("SIGALRM", "SIGVTALRM", "SIGPROF", "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_NUMBERS = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
"""Signals that programs handle to be interrupted; checking all 64 takes ten times as long."""


def _code_of(handler: Any) -> CodeType | None:
    if not callable(handler) or handler is signal.default_int_handler:
        return None
    inner: Callable[..., Any] = getattr(handler, "func", handler)  # unwraps a functools.partial
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _is_handler(frame: FrameType) -> bool:
    """Tell whether the frame's arguments are a signal's number and the interrupted frame, as Python passes handlers."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + bool(code.co_flags & CO_VARARGS)]
    if frame.f_back is None or not names or not code.co_flags & CO_OPTIMIZED:  # not a function's frame
        return False
    values = frame.f_locals
    given = [values.get(name) for name in names]
    if type(values) is dict:  # before Python 3.13 a copy that the frame would keep, with all values
        values.clear()
    if code.co_flags & CO_VARARGS and isinstance(given[-1], tuple):
        given[-1:] = given[-1]
    return any(isinstance(number, int) and caller is frame.f_back for number, caller in pairwise(given))
