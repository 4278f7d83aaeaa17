"""Exceptions that signal handlers raise: `signal.alarm` with a handler that raises is how people limit a call's time.

Such an exception may strike anywhere on the main thread, also where the exceptions of an item, a reducer or a watcher
are caught. It is none of theirs.
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
    """Return whether a signal handler raised `error`; `among`: one of these, as `handlers` returns them."""
    trace = traceback_of(error)
    while trace is not None:
        frame = trace.tb_frame
        if (among is None or frame.f_code in among) and _is_handler(frame):
            return True
        trace = trace.tb_next
    return False


def handlers() -> frozenset[CodeType]:
    """Return the code of the handlers that are installed now, for signals that interrupt a program: about 1 us."""
    # Of `_signal`, for `signal.getsignal` makes an enum of each answer, which takes 30 times as long.
    found = {handler for handler in map(_signal.getsignal, _NUMBERS) if callable(handler)}
    return frozenset(code for code in map(_code_of, found) if code is not None)


_NAMES = ("SIGALRM", "SIGVTALRM", "SIGPROF", "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_NUMBERS = [int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)]
"""Signals that programs handle to be interrupted; to ask for all 64 takes ten times as long."""


def _code_of(handler: Any) -> CodeType | None:
    if not callable(handler) or handler is signal.default_int_handler:
        return None
    inner: Callable[..., Any] = getattr(handler, "func", handler)  # of a functools.partial
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _is_handler(frame: FrameType) -> bool:
    """Whether it was called with a signal's number and the frame that it interrupted, as Python calls handlers."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + bool(code.co_flags & CO_VARARGS)]
    if frame.f_back is None or not names or not code.co_flags & CO_OPTIMIZED:  # of a module, say
        return False
    values = frame.f_locals
    given = [values.get(name) for name in names]
    if type(values) is dict:  # before Python 3.13 a copy, which the frame would keep, and what is in it
        values.clear()
    if code.co_flags & CO_VARARGS and isinstance(given[-1], tuple):
        given[-1:] = given[-1]
    return any(isinstance(number, int) and caller is frame.f_back for number, caller in pairwise(given))
