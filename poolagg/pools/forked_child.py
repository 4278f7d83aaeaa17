"""End a process that an item forked: it must not go on as a second worker, or as the caller's program.

The child of a fork has a copy of the worker's pipe and of the caller's program. When `func` returns or raises in it, it
ends by `os._exit`, with the exit code that `sys.exit` gave. Standard output is flushed before the fork and when the
child ends, so that each line appears once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from typing import NoReturn

from poolagg._input.worker_state import here
from poolagg._runtime.exception_text import is_a

__all__ = ["leave"]

_child = 0
"""The process that the last `os.fork` made; a fork by the C library alone has flushed no stream."""


def leave(error: BaseException | None = None) -> NoReturn:
    """End this process, with the exit code that it would have if `error` had ended it."""
    try:
        code = _exit_code(error)
        if _child == os.getpid():
            _flush()
    except BaseException:  # from the user's excepthook or stream; the process ends all the same
        code = 1
    finally:
        os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not is_a(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # the stream is missing or closed
            stream.flush()


def _before_fork() -> None:
    if here.source is not None:
        _flush()


def _in_child() -> None:
    """Let no other item follow the one that forked."""
    global _child
    _child = os.getpid()
    if here.source is not None:
        here.stop = here.index + 1
        deque(here.source, maxlen=0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
