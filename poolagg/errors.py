"""The exceptions of poolagg: each says what happened, shows the values, and says what to do next.

Rule: an error survives pickling with its attributes, because workers send errors to the parent, and because programs
log, store and re-raise them.
"""

from __future__ import annotations

from typing import Any

from poolagg._input.kept_items import opened_when_asked, repr_of
from poolagg._runtime.exception_text import short_repr

__all__ = [
    "AcceptedChanges",
    "CheckpointError",
    "CheckpointMismatch",
    "PoolAggError",
    "PoolBusy",
    "ReducerError",
    "RemoteError",
    "ResourceError",
    "SkippedItems",
    "TaskError",
    "WorkerLost",
    "clipped",
    "short_repr",
]


def clipped(text: str, most: int) -> str:
    """Cut `text` to about `most` characters: three quarters from its beginning, a quarter from its end.

    >>> clipped("0123456789" * 10, 16)
    '012345678901 [... 84 characters ...] 6789'
    """
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} [... {len(text) - most} characters ...] {text[len(text) - end :]}"


class PoolAggError(Exception):
    """The base class of all errors that poolagg defines."""


class _WithValues(PoolAggError):
    """An error with a message and named values; pickling keeps both."""

    def __init__(self, message: str, **values: Any) -> None:
        super().__init__(message)
        self.__dict__.update(values)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[_WithValues], message: str, values: dict[str, Any]) -> _WithValues:
    return kind(message, **values)


@opened_when_asked("item")
class TaskError(_WithValues):
    """One item failed: `func`, or a function of the reducer that runs in the map phase, raised or timed out.

    `index` is the item's position in the input, `item` the item itself, `attempts` the number of times it ran. The
    original exception is `__cause__`; a `RemoteError` stands for one that does not survive pickling. After an
    `item_timeout`, `stack` is the Python stack of the worker at that moment, as text.

    The error keeps an item of a class of yours as a pickle and unpickles it when you first read `item`. An
    `UnreadableItem` stands for an item that does not unpickle. `item_repr` unpickles nothing.
    """

    index: int
    item: Any
    attempts: int
    stack: str | None = None

    @property
    def item_repr(self) -> str:
        """The item's repr, cut to about a line, as the worker that ran the item sent it."""
        return repr_of(self)


@opened_when_asked("item")
class WorkerLost(_WithValues):
    """A worker died, and its item has no retry left.

    `exitcode` is the process's exit code or None, `signal` the signal's name or None. `index` and `item` are those of
    the item that the worker was running; both are None if it was running none, or if the item is unknown. The error
    unpickles the item when you first read it, as `TaskError` does. After a crash (a segmentation fault, an abort),
    `stack` is the Python stack of the worker at that moment, as text.
    """

    exitcode: int | None
    signal: str | None
    index: int | None
    item: Any
    stack: str | None = None

    @property
    def item_repr(self) -> str:
        """The item's repr, cut to about a line; for an item of a class of yours, the name of that class."""
        return repr_of(self)


class ReducerError(PoolAggError):
    """The reducer raised in a worker, or its accumulator does not pickle: the run cannot continue."""


class CheckpointError(PoolAggError):
    """The checkpoint's file, which stays as it is, cannot be used: damaged, locked, another user's, or not writable."""


class CheckpointMismatch(PoolAggError):
    """The checkpoint belongs to another run; the message says what differs and what to do."""


class ResourceError(PoolAggError):
    """A resource cannot be used: locked by another run, unreachable, full or damaged. It holds its last commit."""


class PoolBusy(PoolAggError):
    """The pool is running another job for the same thread: a pool runs one job at a time."""


class RemoteError(PoolAggError):
    """A stand-in for an exception that does not pickle: its type's name, `kind`, and its traceback as text, `trace`."""

    def __init__(self, kind: str, trace: str) -> None:
        super().__init__(kind, trace)
        self.kind = kind
        self.trace = trace

    def __str__(self) -> str:
        return f"{self.kind} (it does not pickle; its traceback was)\n{self.trace}"


class SkippedItems(UserWarning):
    """The warning of `on_error="skip"`: how many items are missing from the result, and the first few of them."""


class AcceptedChanges(UserWarning):
    """The warning of `Checkpoint(accept_changes=True)`: what differs between this func and the one before."""
