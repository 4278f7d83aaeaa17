"""Progress: a watcher that draws a tqdm bar.

Rule: no cost per item. A bar moves when the engine sends `Progressed`, at most ten times a second, and a `Progress`
imports tqdm when it is made.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from time import monotonic
from typing import Any

from poolagg.events import ItemFailed, Progressed, RunEnded, RunEvent, RunStarted, WorkerDied

__all__ = ["Progress", "Rate"]

# Seconds between lines where a line cannot be redrawn: the log of a day shows progress and stays readable.
_BETWEEN_LINES = 60.0


class Progress:
    """A tqdm bar for a run: items, rate, time left, and the counts of failed and retried items and lost workers.

    `aggregate(..., progress=True)` draws one; `watch=[Progress(desc="parsing")]` draws one with arguments of tqdm. In a
    terminal or a notebook it redraws at most ten times a second. In a pipe or a file it writes a line at the start, one
    a minute (or every `mininterval` seconds), and one at the end. It can watch several runs, one after another.

    >>> from poolagg.events import Progressed, RunEnded, RunStarted
    >>> progress = Progress(file=sys.stdout, bar_format="{n_fmt} of {total_fmt}{postfix}")
    >>> progress(RunStarted(total=3, workers=2, pool="ProcessPool", strategy="Combine", reducer="Sum()"))
    0 of 3
    >>> progress(Progressed(done=1, failed=1, total=3))
    >>> progress(RunEnded(done=2, failed=1, elapsed=0.5))
    3 of 3, failed=1
    """

    def __init__(self, **tqdm_arguments: Any) -> None:
        _check(tqdm_arguments)
        self._arguments = tqdm_arguments
        self._bar: Any = None
        self._trouble: Counter[str] = Counter()

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, RunStarted):
            self._open(event)
        elif self._bar is None:
            return
        elif isinstance(event, Progressed):
            self._move(event.done, event.failed, event.total)
        elif isinstance(event, ItemFailed):
            self._trouble["retried"] += event.will_retry
        elif isinstance(event, WorkerDied):
            self._trouble["lost"] += 1
        elif isinstance(event, RunEnded):
            self._close(event)

    def _open(self, event: RunStarted) -> None:
        if self._bar is not None:
            self._bar.close()
        self._trouble.clear()
        self._bar = _bar({"total": event.total, **self._arguments, "initial": event.done})
        self._bar.recent_rate = Rate(event.done, monotonic())

    def _move(self, done: int, failed: int, total: int | None, ended: Mapping[str, str] = {}) -> None:
        self._trouble["failed"] = failed
        if total not in (None, self._bar.total):
            self._bar.learn_total(total)
        if postfix := {**ended, **{what: count for what, count in sorted(self._trouble.items()) if count}}:
            self._bar.set_postfix(postfix, refresh=False)
        self._bar.recent_rate.reach(done + failed, monotonic())
        self._bar.update(done + failed - self._bar.n)  # items that failed for good are over, too

    def _close(self, event: RunEnded) -> None:
        """Leave the bar at its true count: `close` draws it one last time.

        A run that broke off may have merged fewer items than it ran. Its bar stays where it was, unless it was full.
        """
        ran = 0 if event.error is None or self._bar.n == self._bar.total else self._bar.n - event.failed
        try:
            ended = {"ended": "early"} if event.early else {}
            # Without the other items the bar is complete, and a notebook does not draw it as a failure.
            total = event.done + event.failed if event.early and self._bar.total is not None else None
            self._move(max(event.done, ran), event.failed, total, ended)
        finally:
            self._bar.close()
            self._bar = None


class Rate:
    """Items per second, of which the later half of the run counts most.

    tqdm's own rate takes the time since the last redraw for that of an item, so it is right only if each redraw shows
    new items. Here each count weighs as much as the time that led to it, and both fade as the run goes on: in half if
    the run takes as long again.

    >>> rate = Rate(done=0, now=0.0)
    >>> for seconds in (5, 10, 15):                     # two workers, each with an item of five seconds
    ...     rate.reach(2 * seconds // 5, seconds)
    >>> rate.per_second
    0.4
    """

    def __init__(self, done: int, now: float) -> None:
        self._done, self._began, self._at = done, now, now
        self._items = self._seconds = 0.0

    @property
    def per_second(self) -> float | None:
        """Items per second; None if there is no progress yet."""
        return self._items / self._seconds if self._items > 0 < self._seconds else None

    def reach(self, done: int, now: float) -> None:
        """Note how many items are done at a time."""
        if done != self._done and now > self._began:
            fading = (self._at - self._began) / (now - self._began)
            self._items = self._items * fading + done - self._done
            self._seconds = self._seconds * fading + now - self._at
            self._done, self._at = done, now


def _check(arguments: dict[str, Any]) -> None:
    """Check the arguments now. tqdm itself raises only when it makes the bar, during a run."""
    import inspect

    from tqdm import std

    known = set(inspect.signature(std.tqdm.__init__).parameters) - {"self", "iterable", "initial", "kwargs"}
    if unknown := sorted(set(arguments) - known):
        raise TypeError(
            f"Progress() takes tqdm's arguments, not {unknown[0]!r}: write any of {', '.join(sorted(known))}"
        )


def _bar(arguments: dict[str, Any]) -> Any:
    """Make the bar that fits its output: a widget, a line redrawn in place, or line after line."""
    file = arguments.get("file") or sys.stderr or io.StringIO()  # a daemon has no stderr
    kind, in_place = _bar_class(), _draws_in_place(file)
    # miniters=0: an event without progress still updates the clock.
    arguments = {"miniters": 0, "mininterval": 0.1 if in_place else _BETWEEN_LINES, **arguments}
    if in_place:
        return kind(**{**_size(file), **arguments})
    return kind(**{**arguments, "file": _Lines(file), "position": 0})


def _bar_class() -> Any:
    """Return tqdm's bar class for this output, without its thread and its lock."""
    from tqdm import std

    with warnings.catch_warnings():  # a notebook without ipywidgets gets the text bar, without a warning
        warnings.simplefilter("ignore")
        from tqdm.autonotebook import tqdm as chosen

    class Bar(chosen):  # type: ignore[misc]
        # No monitor thread for this bar; the user's other bars keep theirs.
        monitor_interval = 0
        # The thread lock of all bars. tqdm's default adds a multiprocessing lock, which would fix the start method
        # and may start a process. A lock that is already in use stays.
        _lock = getattr(std.tqdm, "_lock", std.TqdmDefaultWriteLock.th_lock)

        recent_rate: Rate | None = None

        @property
        def format_dict(self) -> dict[str, Any]:
            known: dict[str, Any] = super().format_dict
            if self.disable or not self.smoothing or self.recent_rate is None:
                return known  # the average, as tqdm shows it in the end
            return known | {"rate": self.recent_rate.per_second}

        def learn_total(self, total: int) -> None:
            self.total = total
            if hasattr(self, "container"):  # the widget, which has its own maximum
                bar = self.container.children[1]
                bar.max, bar.bar_style, bar.layout.width = total, "", None

    return Bar


def _draws_in_place(file: Any) -> bool:
    """Tell whether a line can be redrawn: in a terminal, and in a notebook, whose files deny being one."""
    return file.isatty() or type(file).__module__.startswith("ipykernel.")


def _size(file: Any) -> dict[str, Any]:
    """Return a fixed size if the terminal reports zero, which tqdm would take literally; else let tqdm ask."""
    try:
        known = all(os.get_terminal_size(file.fileno()))
    except (AttributeError, OSError, ValueError):  # a notebook
        known = True
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


class _Lines:
    """A file that writes each state of the bar as a separate line."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.encoding = getattr(file, "encoding", None)

    def write(self, text: str) -> None:
        if line := text.strip():
            self._file.write(line + "\n")

    def flush(self) -> None:
        self._file.flush()
