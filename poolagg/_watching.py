"""Watchers: functions given each event of a run. One that raises is dropped, with one warning; the run goes on.

And the account of the parent's time, which is kept for them: a look at the clock for each chunk and each wait.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from poolagg._signals import raised_by_handler
from poolagg._texts import said, short_repr
from poolagg.events import Accounted, RunEvent

__all__ = ["Account", "Watchers"]


class Watchers:
    """Those who are told."""

    def __init__(self, watchers: Iterable[Callable[[RunEvent], Any]]) -> None:
        self._watchers = list(watchers)

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def tell(self, event: RunEvent) -> None:
        """Give the event to each watcher."""
        for watcher in list(self._watchers):
            try:
                watcher(event)
            except Exception as error:
                if raised_by_handler(error):
                    raise
                self._watchers.remove(watcher)
                warnings.warn(
                    f"the watcher {short_repr(watcher)} raised {said(error)}, on "
                    f"{short_repr(event)}, "
                    "and is told nothing more; the run goes on",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def tell_if(self, make: Callable[..., RunEvent], *arguments: Any) -> None:
        """Make an event and tell it, if there is anyone to tell."""
        if self._watchers:
            self.tell(make(*arguments))


class Account:
    """How the parent spends a run. What it takes to merge, the events tell already."""

    def __init__(self) -> None:
        self.pulling = self._pickling = self._waiting = self._receiving = 0.0
        self.workers_memory = 0

    def sealed(self, packing: float, seconds: float) -> None:
        """A chunk was made up in `seconds`; of the time it was pulled in, its items took `packing` to be pickled."""
        self.pulling -= packing
        self._pickling += packing + seconds

    def waited(self, seconds: float, waiting: float) -> None:
        """Of the `seconds` in which answers were awaited and taken in, there was nothing to do for `waiting`."""
        self._waiting += waiting
        self._receiving += seconds - waiting

    def told(self) -> Accounted:
        """The account, and how much memory it took."""
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        here, children = (
            resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        times = max(0.0, self.pulling), self._pickling, self._waiting, self._receiving
        return Accounted(*times, here, self.workers_memory, children)
