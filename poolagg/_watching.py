"""Watchers: functions given each event of a run. One that raises is dropped, with one warning; the run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from poolagg.errors import short_repr
from poolagg.events import RunEvent

__all__ = ["Watchers"]


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
                self._watchers.remove(watcher)
                warnings.warn(
                    f"the watcher {short_repr(watcher)} raised {type(error).__name__}: {error}, on "
                    f"{short_repr(event)}, "
                    "and is told nothing more; the run goes on",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def tell_if(self, make: Callable[..., RunEvent], *arguments: Any) -> None:
        """Make an event and tell it, if there is anyone to tell."""
        if self._watchers:
            self.tell(make(*arguments))
