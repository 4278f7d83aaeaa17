"""What can go wrong, as values: each error says what happened, shows the values, and says what to do next.

Rule: an error survives pickling with its attributes, because errors travel between processes and
because people log, store and re-raise them.
"""

from __future__ import annotations

from typing import Any

from poolagg._input.kept_items import opened_when_asked, repr_of
from poolagg._runtime.exception_text import short_repr

__all__ = [
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
    """Return `text`, or about `most` characters of it: three quarters from its beginning, a quarter from its end.

    >>> clipped("0123456789" * 10, 16)
    '012345678901 [... 84 characters ...] 6789'
    """
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} [... {len(text) - most} characters ...] {text[len(text) - end :]}"


class PoolAggError(Exception):
    """The root of every error that poolagg raises on its own account."""


class _WithValues(PoolAggError):
    """An error that carries values by name; the message is made from them, so pickling rebuilds both."""

    def __init__(self, message: str, **values: Any) -> None:
        super().__init__(message)
        self.__dict__.update(values)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[_WithValues], message: str, values: dict[str, Any]) -> _WithValues:
    return kind(message, **values)


@opened_when_asked("item")
class TaskError(_WithValues):
    """`func`, or a function of the reducer's that runs with it, failed on one item.

    `index` is the item's position in the input, `item` the item itself, `attempts` how often it was run. The original
    exception is `__cause__`; one that does not survive pickling is there as a `RemoteError`.

    An item of a class of yours is kept as its pickle, and opened when you first ask for `item`: if it does not
    unpickle, an `UnreadableItem` stands for it. `item_repr` is its repr in a line, and opens nothing.
    """

    index: int
    item: Any
    attempts: int

    @property
    def item_repr(self) -> str:
        """The item's repr, cut to about a line, as the worker that ran it said it."""
        return repr_of(self)


@opened_when_asked("item")
class WorkerLost(_WithValues):
    """A worker died, and the item it was running was not to be run again.

    `exitcode` is the process's exit code or None, `signal` the signal's name or None; `index` and `item` name the item
    it was running, both None when it was running none. The item is opened when it is asked for, as in `TaskError`.
    """

    exitcode: int | None
    signal: str | None
    index: int | None
    item: Any

    @property
    def item_repr(self) -> str:
        """The item's repr, cut to about a line; of an item of a class of yours, the name of its class."""
        return repr_of(self)


class ReducerError(PoolAggError):
    """The reducer failed in a worker, or its accumulator could not travel: the run cannot go on."""


class CheckpointError(PoolAggError):
    """The checkpoint's file cannot be used: damaged, locked, somebody else's, or not writable. It is left as it is."""


class CheckpointMismatch(PoolAggError):
    """The checkpoint belongs to another run; the message says what differs and what to do."""


class ResourceError(PoolAggError):
    """A resource cannot be used: in use by another run, out of reach, full, damaged. It holds its last commit."""


class PoolBusy(PoolAggError):
    """The pool is running another job; a pool runs one job at a time."""


class RemoteError(PoolAggError):
    """Stands for an exception that could not travel: its type's name and its traceback as text."""

    def __init__(self, kind: str, trace: str) -> None:
        super().__init__(kind, trace)
        self.kind = kind
        self.trace = trace

    def __str__(self) -> str:
        return f"{self.kind} (it does not pickle; its traceback was)\n{self.trace}"


class SkippedItems(UserWarning):
    """With `on_error="skip"`: how many items are missing from the result, and the first few of them."""
