"""Tell watchers the events of a run, and measure for them how the parent spends its time.

If a watcher raises, the run warns once, drops that watcher and continues. `ParentTimes` reads the clock once for each
chunk and each wait.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from poolagg import events
from poolagg._input.batches import RetryBuffer
from poolagg._input.kept_items import find_item
from poolagg._runtime.exception_text import said, short_repr, stack_of
from poolagg._runtime.interrupts import interrupts_allowed
from poolagg._runtime.signals import raised_by_handler
from poolagg._scheduler.messages import ChunkResult, Flushed, Lost, PartialState, nbytes_of
from poolagg.errors import WorkerLost
from poolagg.events import ParentMeasured, RunEvent

__all__ = ["Observers", "ParentTimes"]

REDRAW = 0.1
"""Seconds between two `Progressed` events."""

SLOW = 0.1
"""Seconds from which on `ChunkDone` has the slow item itself, not only its index."""

SMALL = 1 << 16
"""Bytes of the largest input batch that the parent unpickles to show its slow item."""


class ParentTimes:
    """How the parent spends a run, but for merging, which events have already."""

    def __init__(self) -> None:
        self.pulling = self._pickling = self._waiting = self._receiving = 0.0
        self.workers_memory = 0

    def sealed(self, packing: float, seconds: float) -> None:
        """Count `seconds` of sealing a batch, and move the `packing` seconds of its pickling out of `pulling`."""
        self.pulling -= packing
        self._pickling += packing + seconds

    def waited(self, seconds: float, waiting: float) -> None:
        """Split the `seconds` of one wait into idle ones, `waiting`, and those of receiving events."""
        self._waiting += waiting
        self._receiving += seconds - waiting

    def measured(self) -> ParentMeasured:
        """Return the times, and the peaks of memory."""
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        here, children = (
            resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        times = max(0.0, self.pulling), self._pickling, self._waiting, self._receiving
        return ParentMeasured(*times, here, self.workers_memory, children)


class Observers:
    """Make the events of one run and tell its watchers; without watchers, make none."""

    def __init__(
        self,
        watchers: Iterable[Callable[[RunEvent], Any]],
        parent_times: ParentTimes,
        retry_buffer: RetryBuffer,
        total: int | None,
    ) -> None:
        self._watchers = list(watchers)
        self._parent_times = parent_times
        self._retry_buffer = retry_buffer
        self._total = total
        self.next_redraw = 0.0

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def tell(self, event: RunEvent) -> None:
        """Pass the event to each watcher."""
        for watcher in list(self._watchers):
            try:
                watcher(event)
            except Exception as error:
                if raised_by_handler(error):
                    raise
                self._watchers.remove(watcher)
                what = f"the watcher {short_repr(watcher)} raised {said(error)}, on {short_repr(event)}"
                warnings.warn(f"{what}; it gets no more events, and the run goes on", RuntimeWarning, stacklevel=2)

    def tell_if(self, make: Callable[..., RunEvent], *arguments: Any) -> None:
        """Make an event and tell it if there are watchers."""
        if self._watchers:
            self.tell(make(*arguments))

    def progress_is_due(self) -> bool:
        """Tell whether the next `Progressed` is due."""
        return bool(self._watchers) and monotonic() >= self.next_redraw

    def progressed(self, done: int, failed: int) -> None:
        """Tell the progress of the run."""
        self.next_redraw = monotonic() + REDRAW
        self.tell(events.Progressed(done, failed, self._total))

    def ended(self, done: int, failed: int, elapsed: float, error: BaseException | None, stopped: bool) -> None:
        """Tell the last events; `stopped`: the result was known before all items had run.

        After an error the last `Progressed` stands: it counts unmerged items as well.
        """
        with interrupts_allowed():
            if error is None:
                self.tell_if(events.Progressed, done, failed, self._total)
            self.tell_if(self._parent_times.measured)
            self.tell_if(events.RunEnded, done, failed, elapsed, error, stopped and error is None)

    def chunk_done(self, event: ChunkResult, start: int) -> None:
        """Tell that a worker finished the chunk that begins with item `start`."""
        done = events.ChunkDone(
            event.slot, start, event.stop, event.seconds, monotonic(), event.reduce_seconds,
            event.pack_seconds, event.open_seconds, nbytes_of(event.states or ()), event.began,
            event.slowest, self._slow_item(*event.slowest),
        )  # fmt: skip
        self.tell(done)

    def _slow_item(self, start: int, stop: int, seconds: float) -> Any:
        """Return the item of the slowest batch if it is a single, slow one; None if reading it would be slow, too."""
        return find_item(self._retry_buffer, start, most=SMALL) if seconds >= SLOW and stop - start == 1 else None

    def state_flushed(self, event: Flushed) -> None:
        """Tell that a worker flushed its state without a chunk."""
        if self._watchers:
            nbytes, times = nbytes_of(event.states), (event.pack_seconds, event.open_seconds)
            self.tell(events.StateFlushed(event.slot, nbytes, *times, monotonic()))

    def state_merged(self, state: PartialState, began: float, seconds: float) -> None:
        """Tell that the parent merged a state."""
        self.tell_if(events.StateMerged, state.items, state.nbytes, seconds, began + seconds)

    def worker_retired(self, slot: int, reason: str) -> None:
        """Tell that a worker is retiring."""
        self.tell_if(events.WorkerRetired, slot, reason, monotonic())

    def worker_died(self, lost: Lost) -> None:
        """Tell that a worker died, and the index of its item if there is a single suspect."""
        error = lost.error
        exitcode, signal = (error.exitcode, error.signal) if isinstance(error, WorkerLost) else (None, None)
        suspect = lost.suspect[0] if lost.suspect is not None and lost.suspect[1] - lost.suspect[0] == 1 else None
        died_at = lost.slot, monotonic()
        self.tell_if(events.WorkerDied, exitcode, signal, suspect, *died_at, lost.reason, stack_of(error))
