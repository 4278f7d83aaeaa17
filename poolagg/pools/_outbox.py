"""What a chunk has for the parent, in lanes that are in another process: packed batch by batch, as part of the batch.

To pickle a partial, or an exception, runs the user's code, which may hang, crash or take all memory. So it is done
while the progress cell names the batch: the item at fault is found as if `func` had done it. Only what is gathered to a
state is packed when it is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from poolagg._worker_messages import Failure
from poolagg.pools._arena import Apart
from poolagg.pools._packing import PackedFailure, PackedPayload, pack_failure
from poolagg.pools._proof import dumps_proved

__all__ = ["Outbox"]


class Outbox:
    """Failures and partials of one chunk. `least`: bytes of a buffer that is taken out of its pickle; None: none is."""

    def __init__(self, least: int | None = None) -> None:
        self._least = least
        self._failures: list[tuple[PackedFailure, bytes]] = []
        self._runs: list[PackedPayload] = []
        self._stop = 0
        self.seconds = 0.0
        """What it took to pack the partials."""

    @property
    def failures(self) -> int:
        """How many failures it holds."""
        return len(self._failures)

    def fail(self, failure: Failure) -> None:
        """Pack the failure of one item."""
        self._failures.append(pack_failure(failure))

    def add(self, start: int, partials: list[Any]) -> list[Failure]:
        """Pack the partials of consecutive items; those that do not pickle are failures, each of its item."""
        began = perf_counter()
        failures: list[Failure] = []
        error = self._add(start, partials)
        if error is not None and len(partials) > 1:
            for index, partial in enumerate(partials, start):
                if (of_one := self._add(index, [partial])) is not None:
                    failures.append(Failure(index, "raised", of_one))
        elif error is not None:
            failures.append(Failure(start, "raised", error))
        self.seconds += perf_counter() - began
        return failures

    def _add(self, start: int, partials: list[Any]) -> BaseException | None:
        apart = None if self._least is None else Apart(self._least)
        try:
            blob = dumps_proved(partials, apart)
        except BaseException as error:  # SystemExit and its like are the item's as well
            return error
        self._append(start, len(partials), blob, apart or ())
        return None

    def _append(self, start: int, count: int, blob: bytes, buffers: Sequence[Any]) -> None:
        if self._runs and self._stop == start:
            covers, counts, blobs, apart, _ = self._runs.pop()
            begin = covers[0][0]
            counts.append(count)
            blobs.append(blob)
            apart.append(buffers)
        else:
            begin, counts, blobs, apart = start, [count], [blob], [buffers]
        self._stop = start + count
        self._runs.append(PackedPayload(((begin, self._stop),), counts, blobs, apart))

    def take(self) -> tuple[list[PackedFailure], list[bytes], list[PackedPayload]]:
        """Give up what is packed: failures, their bytes, and the partials."""
        failures, runs = self._failures, self._runs
        self._failures, self._runs, self.seconds = [], [], 0.0
        return [failure for failure, _ in failures], [blob for _, blob in failures], runs
