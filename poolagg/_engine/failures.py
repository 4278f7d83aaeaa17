"""Report failed items: the errors that a run raises, its one warning, and notes on the user's own exceptions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

from poolagg._engine.observers import Observers
from poolagg._engine.options import RunOptions
from poolagg._input.batches import RetryBuffer
from poolagg._input.functions import name_of
from poolagg._input.kept_items import find_item
from poolagg._runtime.exception_text import add_note, is_a, message_of, said, short_repr, stack_of
from poolagg._scheduler.messages import Fail, Failure, PartialState, Retry, Skip
from poolagg.errors import PoolAggError, ReducerError, RemoteError, TaskError, WorkerLost, clipped
from poolagg.events import ItemFailed

__all__ = ["Failures", "Skipped", "error_of_item", "error_of_run", "note_of_fold", "note_of_input", "note_of_item"]

ADVICE = 'Pass on_error="skip" to leave failing items out, or retries=N to run them again.'

FEW = 3
"""Skipped items that the warning names."""

MESSAGE_LENGTH = 1000
"""Characters of an exception's message to keep for the warning: a message may contain its whole item."""


def error_of_item(instruction: Fail, func: str, index: int, item: Any) -> PoolAggError:
    """Make the error for an item that failed for good, with the original exception as its cause.

    `item` may be a `KeptItem`.
    """
    error = instruction.error
    times = "once" if instruction.attempt == 1 else f"{instruction.attempt} times"
    what = f"item {index}, {short_repr(item)}, which ran {times}"
    stack = None if instruction.cause == "raised" else stack_of(error)
    where = "" if stack is None else f"\nIts worker was at\n{stack}"
    if type(error) is WorkerLost and instruction.cause == "died":
        return WorkerLost(
            f"{message_of(error)} while it ran {what}. {ADVICE}{where}",
            exitcode=error.exitcode, signal=error.signal, index=index, item=item, stack=stack,
        )  # fmt: skip
    raised = TaskError(
        f"{func} failed on {what}: {_line_of(error)}. {ADVICE}{where}",
        index=index, item=item, attempts=instruction.attempt, stack=stack,
    )  # fmt: skip
    raised.__cause__ = error
    return raised


def error_of_run(instruction: Fail, reducer: str) -> PoolAggError:
    """Make the error for a run that cannot continue, for no single item's fault."""
    error = instruction.error
    raised: PoolAggError
    if is_a(error, PoolAggError):
        return error
    if instruction.cause == "timeout":
        text = f"the pool killed a worker, for {error}, and cannot name the one item that took so long"
        raised = WorkerLost(text, exitcode=None, signal=None, index=None, item=None)
        raised.__cause__ = error
        return raised
    raised = ReducerError(f"a state of {reducer} could not be sent from its worker: {_line_of(error)}")
    raised.__cause__ = error
    return raised


class Failures:
    """Handle the failed items of one run: tell watchers, leave the item out, or raise."""

    def __init__(self, settings: RunOptions, retry_buffer: RetryBuffer, observers: Observers) -> None:
        self.skipped = Skipped()
        self.note_in_checkpoint: Callable[[ItemFailed], None] | None = None
        self._settings = settings
        self._retry_buffer = retry_buffer
        self._observers = observers

    def retry(self, instruction: Retry) -> None:
        """Tell watchers that an item failed and will run again."""
        self._observers.tell_if(self._event, instruction.failure, instruction.attempt, True)

    def skip(self, instruction: Skip) -> None:
        """Leave an item out of the result, and tell watchers, the checkpoint and `on_error`."""
        failed = self._event(instruction.failure, instruction.attempt, False)
        self._observers.tell(failed)
        if self._settings.on_error == "skip":
            self.skipped.add(failed)
        self._retry_buffer.release(failed.index, failed.index + 1)
        if self.note_in_checkpoint is not None:
            self.note_in_checkpoint(failed)
        if callable(self._settings.on_error):
            self._settings.on_error(failed)

    def fail(self, instruction: Fail) -> NoReturn:
        """Raise the error that ends the run."""
        if instruction.index is None:
            raise error_of_run(instruction, repr(self._settings.reducer))
        failure = Failure(instruction.index, instruction.cause, instruction.error, instruction.item)
        self._observers.tell_if(self._event, failure, instruction.attempt, False)
        item = find_item(self._retry_buffer, instruction.index, instruction.item)
        raise error_of_item(instruction, name_of(self._settings.func), instruction.index, item)

    def note_fold(self, error: BaseException, state: PartialState, at: int | None) -> None:
        """Add a note to `error` that says which partials the parent was folding."""
        item = None if at is None else find_item(self._retry_buffer, at)
        add_note(error, note_of_fold(repr(self._settings.reducer), state, at, item))

    def _event(self, failure: Failure, attempt: int, will_retry: bool) -> ItemFailed:
        item = find_item(self._retry_buffer, failure.index, failure.item)
        return ItemFailed(failure.index, item, failure.error, attempt, will_retry)


class Skipped:
    """Count the items that are left out, and describe the first few; keeps text only, no item and no exception."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, failed: ItemFailed) -> None:
        """Count one item."""
        self.count += 1
        if len(self._first) < FEW:
            self._first.append(
                f"item {failed.index}, {failed.item_repr}: {clipped(_line_of(failed.error), MESSAGE_LENGTH)}"
            )

    def add_count(self, count: int) -> None:
        """Count items of which only the number is known."""
        self.count += count

    def text(self, pulled: int) -> str:
        """Say how many items are missing from the result, and name the first few."""
        more = self.count - len(self._first)
        few = "; ".join([*self._first, *([f"and {more} more"] if more else [])])
        return f"{self.count} of {pulled} items failed and are not in the result: {few}"


def note_of_input(position: int) -> str:
    """Say where in the input the exception was raised."""
    return f"poolagg: the input raised this when item {position} was pulled from it"


def note_of_item(func: str, index: int, item: str) -> str:
    """Say which item failed."""
    return f"poolagg: {func} failed on item {index}, {item}"


def note_of_fold(reducer: str, state: PartialState, at: int | None, item: Any) -> str:
    """Say which partials the parent was folding."""
    if at is not None:
        where = f"the partial of item {at}, {short_repr(item)}"
    else:
        where = f"the partials of items {', '.join(f'{start} to {stop - 1}' for start, stop in state.covers[:3])}"
    return f"poolagg: raised in the parent, by {reducer}, while folding {where}"


def _line_of(error: BaseException) -> str:
    """Return an exception's type and message in a line; for a `RemoteError`, that line of its traceback."""
    if type(error) is RemoteError:
        lines = re.findall(rf"^(?:  \| )?((?:\w+\.)*{re.escape(error.kind)}(?::.*)?)$", error.trace, re.MULTILINE)
        return str(lines[-1]) if lines else error.kind
    return said(error)
