"""Pack a chunk's results for the parent in another process, batch by batch, as part of the batch.

Pickling a partial or an exception runs the user's code, which may hang, crash or take all memory. So the worker does it
while the progress cell names the batch: the parent finds the item at fault as if `func` had failed. Only a folded state
is packed when it is flushed; then the cell says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from poolagg._scheduler.worker_messages import Failure, PartialState, Pickled
from poolagg.pools.process.arena import ArenaBuffers
from poolagg.pools.serialization.proof import dumps_proved
from poolagg.pools.serialization.wire import pack_failure, pack_state
from poolagg.reducers import Reducer
from poolagg.strategies import Strategy

__all__ = ["Outbox"]


class Outbox:
    """Failures and partials of one chunk, and the state that is flushed with it.

    `least`: least bytes of a buffer that is taken out of its pickle; None: none is. `packing(chunk, stop)` is called
    before a state is packed, with how far the chunk has run; `often`: also repeatedly during packing.
    """

    def __init__(
        self,
        reducer: Reducer,
        strategy: Strategy,
        least: int | None,
        packing: Callable[[int, int], None] | None = None,
        often: bool = False,
    ) -> None:
        self._reducer, self._strategy = reducer, strategy
        self._least = least
        self._packing, self._often = packing, often
        self._failures: list[Failure] = []
        self._partial_states: list[PartialState] = []
        self._stop = 0
        self.seconds = 0.0
        """Seconds that packing the partials has taken."""

    @property
    def failures(self) -> int:
        """Number of failures packed."""
        return len(self._failures)

    def fail(self, failure: Failure) -> None:
        """Pack the failure of one item."""
        self._failures.append(pack_failure(failure))

    def add(self, start: int, partials: list[Any]) -> list[Failure]:
        """Pack the partials of consecutive items; return a failure for each item whose partial does not pickle."""
        began = perf_counter()
        failures: list[Failure] = []
        error = self._add(start, partials)
        if error is not None and len(partials) > 1:
            for index, one in enumerate(partials, start):
                if (of_one := self._add(index, [one])) is not None:
                    failures.append(Failure(index, "raised", of_one))
        elif error is not None:
            failures.append(Failure(start, "raised", error))
        self.seconds += perf_counter() - began
        return failures

    def _add(self, start: int, partials: list[Any]) -> BaseException | None:
        out_of_band = None if self._least is None else ArenaBuffers(self._least)
        try:
            blob = dumps_proved(partials, out_of_band)
        except BaseException as error:  # SystemExit and KeyboardInterrupt are the item's failure as well
            return error
        self._append(start, len(partials), blob, out_of_band or ())
        return None

    def _append(self, start: int, count: int, blob: bytes, buffers: Sequence[Any]) -> None:
        begin, pickles = start, []
        if self._partial_states and self._stop == start:
            before = self._partial_states.pop()
            begin, pickles = before.covers[0][0], before.pickles or []
        pickles.append(Pickled(count, blob, buffers))
        self._stop = start + count
        self._partial_states.append(PartialState(((begin, self._stop),), pickles=pickles))

    def take_failures(self) -> tuple[Failure, ...]:
        """Return the failures, and forget them."""
        failures, self._failures = tuple(self._failures), []
        return failures

    def pack(self, states: Sequence[PartialState], chunk: int, stop: int) -> tuple[tuple[PartialState, ...], float]:
        """Pack states; return all packed partial states, partials first, and the seconds that packing them took."""
        began, seconds = perf_counter(), self.seconds
        partial_states, self._partial_states, self.seconds = self._partial_states, [], 0.0
        for state in states:
            alive = None
            if self._packing is not None:
                self._packing(chunk, stop)
                alive = partial(self._packing, chunk, stop) if self._often else None
            partial_states.append(pack_state(state, self._reducer, self._strategy, self._least, alive))
        return tuple(partial_states), perf_counter() - began + seconds
