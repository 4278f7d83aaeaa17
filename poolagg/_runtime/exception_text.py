"""Text of the user's exceptions and values: the one module that calls their `str` and `repr`.

Rule: never trust the truth value, length, `str`, `repr`, `setattr` or notes of a user's object. Each of these runs the
user's code, which may raise anything.
"""

from __future__ import annotations

import reprlib
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeGuard, TypeVar

__all__ = [
    "add_note",
    "forget_frames",
    "is_a",
    "message_of",
    "notes_of",
    "said",
    "set_traceback",
    "short_repr",
    "stack_of",
    "trace_of",
    "traceback_of",
    "works",
]

T = TypeVar("T")

_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = 80


def works(function: Callable[[Any], Any], argument: Any) -> bool:
    """Tell whether a call that has just raised works now: then a signal handler raised, in the middle of it.

    Programs limit a call's time by `signal.alarm` with a handler that raises. Its exception may strike where the code
    expects one of the called function, and must propagate instead.
    """
    try:
        function(argument)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False
    return True


def _asked(question: Callable[[Any], str], value: Any, instead: Callable[[str], str]) -> str:
    """Return `question(value)` as an exact str; `instead(name of the type)` if it raises."""
    try:
        return str.__str__(question(value))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or works(question, value):
            raise
        return instead(type(value).__name__)


def short_repr(value: object) -> str:
    """Return `repr(value)`, cut to about a line; the type's name if that raises.

    >>> short_repr(list(range(1000)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    return _asked(_reprs.repr, value, lambda name: f"<{name} whose repr raises>")


def message_of(error: BaseException) -> str:
    """Return `str(error)`, or a text that says that `str` raises.

    >>> message_of(ValueError("three"))
    'three'
    """
    return _asked(str, error, lambda name: f"<{name} whose str raises>")


def is_a(error: object, kind: type[T]) -> TypeGuard[T]:
    """Tell whether an exception is of a type; `isinstance` would also read its `__class__`, which may raise."""
    return issubclass(type(error), kind)


def said(error: BaseException) -> str:
    """Return the type and message of an exception, in a line.

    >>> said(ValueError("three"))
    'ValueError: three'
    """
    return f"{type(error).__name__}: {message_of(error)}"


def trace_of(error: BaseException) -> str:
    """Format the traceback of an exception and of its causes; one line, if `traceback` cannot format it."""

    def formatted(error: BaseException) -> str:
        return "".join(traceback.format_exception(type(error), error, traceback_of(error)))

    return _asked(formatted, error, lambda name: f"{name}: {message_of(error)}\n")


# -- attributes of exceptions, whatever their class defines ------------------------------------------------------------

# The descriptors of BaseException: a user's class may have a property or a `__setattr__` in their place.
_attributes = BaseException.__dict__["__dict__"].__get__
_traceback = BaseException.__dict__["__traceback__"].__get__
_cause = BaseException.__dict__["__cause__"].__get__
_context = BaseException.__dict__["__context__"].__get__
_exceptions = BaseExceptionGroup.__dict__["exceptions"].__get__


def notes_of(error: BaseException) -> list[Any] | None:
    """Return the list of notes, if there is one."""
    notes = _attributes(error).get("__notes__")
    return notes if type(notes) is list else None


def add_note(error: BaseException, note: str) -> None:
    """Add a note, even if the class forbids setting attributes; an exception with odd `__notes__` keeps these instead.

    >>> error = ValueError(3)
    >>> add_note(error, "of three"); error.__notes__
    ['of three']
    """
    notes = notes_of(error)
    if notes is not None:
        notes.append(note)
    else:
        _attributes(error).setdefault("__notes__", [note])


def stack_of(error: BaseException) -> str | None:
    """Return the attribute `stack`, the stack of a lost worker, if there is one."""
    stack = _attributes(error).get("stack")
    return stack if type(stack) is str else None


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return `error.__traceback__`."""
    trace: TracebackType | None = _traceback(error)
    return trace


def set_traceback(error: BaseException, trace: TracebackType | None) -> None:
    """Set `__traceback__`, even if the class forbids setting attributes."""
    BaseException.with_traceback(error, trace)


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an exception, its causes and its group: their frames hold items, and the exception."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            set_traceback(one, None)
            group = _exceptions(one) if issubclass(type(one), BaseExceptionGroup) else ()
            left += [other for other in (*group, _cause(one), _context(one)) if other is not None]
