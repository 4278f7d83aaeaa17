"""Other people's exceptions and values, as text: the one place that asks them what they are.

Rule: never trust the truth, the length, `str`, `repr`, `setattr` or the notes of an object that is not
ours. Each of them is the user's code, which may raise anything.
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
    "trace_of",
    "traceback_of",
    "works",
]

T = TypeVar("T")

_reprs = reprlib.Repr()
_reprs.maxstring = _reprs.maxother = 80


def works(function: Callable[[Any], Any], argument: Any) -> bool:
    """Whether a call that has just raised works now: then a signal handler raised, in the middle of it.

    `signal.alarm` with a handler that raises is how people put a limit on a call. Its exception may strike where ours
    are expected, and must not be taken for one of them.
    """
    try:
        function(argument)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False
    return True


def _asked(question: Callable[[Any], str], value: Any, instead: Callable[[str], str]) -> str:
    """The answer to `question(value)`, as a str of no subclass; `instead` of the type's name if that raises."""
    try:
        return str.__str__(question(value))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or works(question, value):
            raise
        return instead(type(value).__name__)


def short_repr(value: object) -> str:
    """`repr(value)`, cut to about a line; a repr that raises becomes the type's name.

    >>> short_repr(list(range(1000)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    return _asked(_reprs.repr, value, lambda name: f"<{name} whose repr raises>")


def message_of(error: BaseException) -> str:
    """`str(error)`; an exception whose `str` raises says so.

    >>> message_of(ValueError("three"))
    'three'
    """
    return _asked(str, error, lambda name: f"<{name} whose str raises>")


def is_a(error: object, kind: type[T]) -> TypeGuard[T]:
    """Whether an exception is of a type; `isinstance` would also ask for its `__class__`, which may raise."""
    return issubclass(type(error), kind)


def said(error: BaseException) -> str:
    """An exception in a line: its type and message.

    >>> said(ValueError("three"))
    'ValueError: three'
    """
    return f"{type(error).__name__}: {message_of(error)}"


def trace_of(error: BaseException) -> str:
    """The exception's traceback as text, with those of its causes; what `traceback` cannot format is one line."""

    def formatted(error: BaseException) -> str:
        return "".join(traceback.format_exception(type(error), error, traceback_of(error)))

    return _asked(formatted, error, lambda name: f"{name}: {message_of(error)}\n")


# -- on exceptions whose class may forbid it, or pretend ---------------------------------------------------------------

# As the class of all exceptions has them: a class of the user's may have a property or a `__setattr__` instead.
_attributes = BaseException.__dict__["__dict__"].__get__
_traceback = BaseException.__dict__["__traceback__"].__get__
_cause = BaseException.__dict__["__cause__"].__get__
_context = BaseException.__dict__["__context__"].__get__
_exceptions = BaseExceptionGroup.__dict__["exceptions"].__get__


def notes_of(error: BaseException) -> list[Any] | None:
    """The list of notes, if there is one."""
    notes = _attributes(error).get("__notes__")
    return notes if type(notes) is list else None


def add_note(error: BaseException, note: str) -> None:
    """Add a note, also to an exception that lets nobody set attributes; one with odd `__notes__` of its own keeps them.

    >>> error = ValueError(3)
    >>> add_note(error, "of three"); error.__notes__
    ['of three']
    """
    notes = notes_of(error)
    if notes is not None:
        notes.append(note)
    else:
        _attributes(error).setdefault("__notes__", [note])


def traceback_of(error: BaseException) -> TracebackType | None:
    """`error.__traceback__`."""
    trace: TracebackType | None = _traceback(error)
    return trace


def set_traceback(error: BaseException, trace: TracebackType | None) -> None:
    """Set `__traceback__`, also of an exception that lets nobody set attributes."""
    BaseException.with_traceback(error, trace)


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an exception and of all it comes from: their frames hold items, and the exception."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            set_traceback(one, None)
            group = _exceptions(one) if issubclass(type(one), BaseExceptionGroup) else ()
            left += [other for other in (*group, _cause(one), _context(one)) if other is not None]
