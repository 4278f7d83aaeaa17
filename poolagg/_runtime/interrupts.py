"""Defer signal handlers, which may raise as that of Ctrl-C does, while a block acquires or releases resources.

    with interrupts_held_back():          the block notes each handler that is due
        acquire, or release
        with interrupts_allowed():        noted handlers run here, later ones at once
            wait, perhaps for long
                                          noted handlers run here, each once

Python runs signal handlers on the main thread, between any two bytecodes, even if the kernel delivered the signal to
another thread. So a signal mask does not defer them in a program with threads. Within the block `_note` replaces each
handler that is a Python function, and notes the signal. In other threads the block does nothing.

An interrupt before the block prevents the block. So callers acquire nothing before it, and give a release a second
chance (`even_if_interrupted`), or more (`when_collected`). Python code cannot close one gap: the first instruction of
an `__exit__`, or of a finalizer. So handlers that raise within a millisecond of one another may prevent a release and
its second chance, too.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any

__all__ = ["even_if_interrupted", "interrupts_allowed", "interrupts_held_back", "when_collected"]

_NAMES = (
    *("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGVTALRM", "SIGPROF"),
    *("SIGWINCH", "SIGXCPU", "SIGBREAK"),
)
# From `_signal`: `signal.getsignal` makes an enum of each result, which takes 30 times as long.
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""The signals that programs handle. Checking all 64 would take longer than most blocks."""

_Handler = Callable[[int, FrameType | None], Any]

_replaced: dict[int, _Handler] = {}
"""The handlers that `_note` replaces. An entry stays after the block: `_note` then calls it."""

_noted: dict[int, None] = {}
"""Signals whose handlers are due, in order of arrival."""

_installed = False
"""Whether the main thread is in a block."""

_holding = False
"""Whether handlers wait; false within `interrupts_allowed`."""

_main_thread = threading.main_thread().ident
"""Cached: looking it up takes as long as the rest of a nested block."""


def _note(signum: int, frame: FrameType | None) -> None:
    del frame
    if _holding:
        _noted[signum] = None
    else:
        _replaced[signum](signum, sys._getframe())  # Python passes a handler the frame that it interrupts


class interrupts_held_back:  # noqa: N801 - reads as the function it is used as
    """Defer signal handlers until the block ends. Blocks nest; the end of the outermost one runs the handlers.

    >>> done = []
    >>> try:
    ...     with interrupts_held_back():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append("the block")
    ... except KeyboardInterrupt:
    ...     done.append("KeyboardInterrupt")
    >>> done
    ['the block', 'KeyboardInterrupt']
    """

    __slots__ = ("_before", "_installs", "_main")

    def __enter__(self) -> None:
        global _holding
        self._main = get_ident() == _main_thread
        if self._main:
            self._before, self._installs = _holding, not _installed
            if self._installs:
                _install()
            _holding = True

    def __exit__(self, *_: object) -> None:
        global _holding
        if self._main and self._installs:
            _uninstall()
        elif self._main:
            _holding = self._before
            if not _holding:
                _run_noted()


class interrupts_allowed:  # noqa: N801
    """Let handlers run at once in a block within `interrupts_held_back`; noted ones run first."""

    __slots__ = ("_before", "_main")

    def __enter__(self) -> None:
        global _holding
        self._main = get_ident() == _main_thread
        if self._main:
            self._before = _holding
            try:
                _holding = False
                _run_noted()
            except BaseException:
                _holding = self._before
                raise

    def __exit__(self, *_: object) -> None:
        global _holding
        if self._main:
            _holding = self._before


def even_if_interrupted(work: Callable[..., Any], *arguments: Any) -> None:
    """Call `work` twice, since an interrupt may prevent the first call; `work` must do nothing if it is done."""
    try:
        work(*arguments)
    finally:
        work(*arguments)


def when_collected(owner: object, work: Callable[..., Any], *arguments: Any) -> None:
    """Call `work` when `owner` is collected, not at exit; `work` must do nothing if it is done.

    By several finalizers, since an interrupt at the first instruction of one prevents all of it.
    """
    for _ in range(4):
        weakref.finalize(owner, work, *arguments).atexit = False


def _install() -> None:
    global _holding, _installed
    try:
        _installed = True  # a handler that runs during the installation may enter blocks, which nest in this one
        for signum, handler in zip(_SIGNALS, map(_signal.getsignal, _SIGNALS), strict=True):
            if callable(handler) and handler is not _note:
                _replaced[signum] = handler  # first, since `_note` may look it up as soon as it is installed
                _signal.signal(signum, _note)
        _holding = True
    except BaseException as error:
        _installed = False
        _put_back()
        if not _in_subinterpreter(error):
            raise


def _in_subinterpreter(error: BaseException) -> bool:
    """Tell whether installing failed because only the main interpreter has signal handlers."""
    return isinstance(error, ValueError) and str(error).startswith("signal only works in main thread")


def _uninstall() -> None:
    """Leave the outermost block. Put all handlers back, even if one that is back raises at once."""
    global _holding, _installed
    _installed = False
    try:
        _put_back()
    finally:
        _holding = False
        try:
            _put_back()
        finally:
            _run_noted()


def _put_back(signums: list[int] | None = None) -> None:
    """Install the handlers again, except those that the program has replaced meanwhile, even if some raise at once."""
    left = list(_replaced) if signums is None else signums
    try:
        while left:
            if _signal.getsignal(left[-1]) is _note:
                _signal.signal(left[-1], _replaced[left[-1]])
            left.pop()
    finally:
        if left:
            _put_back(left)


def _run_noted() -> None:
    """Run each handler that is due, even if one before it raises."""
    try:
        if _noted:
            signum = next(iter(_noted))
            del _noted[signum]
            handler = _signal.getsignal(signum)
            handler = _replaced[signum] if handler is _note else handler
            if callable(handler):  # else the program has removed it, and Python ignores such a signal, too
                handler(signum, sys._getframe())
    finally:
        if _noted:
            _run_noted()


def _in_child() -> None:
    """Run handlers at once in a forked child: here no thread may ever leave the parent's block."""
    global _holding, _installed, _main_thread
    _holding = _installed = False
    _main_thread = get_ident()
    _noted.clear()
    _put_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
