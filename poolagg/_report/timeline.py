"""Timeline: what each worker did when, as spans of time.

Rule: bounded memory. When there are too many spans, the timeline merges neighbours; a merged span keeps the time spent
on each kind of work and the number of its chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["KINDS", "PARENT", "TimeSpan", "Timeline", "most_joined"]

PARENT = -1
"""The number of the parent's row; workers count from 0."""

KINDS = {False: ("func", "step", "pickling"), True: ("receiving", "merging", "checkpoint")}
"""The three parts of a span: of a worker's (False) and of the parent's (True)."""

MOST = 20_000
"""Spans that a timeline keeps: a few megabytes, and more than a screen can show."""


class TimeSpan(NamedTuple):
    """From `began` to `ended`, a worker spent `parts` seconds on each kind of work, for `chunks` chunks or states.

    The items of a worker's span are among `start` to `stop`.
    """

    began: float
    ended: float
    parts: tuple[float, float, float]
    start: int = 0
    stop: int = 0
    chunks: int = 1

    def joined(self, other: TimeSpan) -> TimeSpan:
        """Return one span for this and a later one."""
        a, b = self.parts, other.parts
        return TimeSpan(
            min(self.began, other.began), max(self.ended, other.ended), (a[0] + b[0], a[1] + b[1], a[2] + b[2]),
            min(self.start, other.start), max(self.stop, other.stop), self.chunks + other.chunks,
        )  # fmt: skip


class Timeline:
    """The spans of all workers, in order of time.

    >>> timeline = Timeline(most=4)
    >>> for start in range(100): timeline.add(0, TimeSpan(start, start + 0.5, (0.5, 0.0, 0.0), start, start + 1))
    >>> [(span.began, span.ended, span.parts[0], span.chunks) for span in timeline.thinned(2)[0]]
    [(0, 49.5, 25.0, 50), (50, 99.5, 25.0, 50)]
    """

    def __init__(self, most: int = MOST) -> None:
        self.workers: dict[int, list[TimeSpan]] = {}
        self._most = most
        self._count = 0

    def add(self, worker: int, span: TimeSpan) -> None:
        """Add the latest span of a worker."""
        spans = self.workers.setdefault(worker, [])
        if spans and span.began < spans[-1].ended:  # its start is an estimate
            span = span._replace(began=min(spans[-1].ended, span.ended))
        spans.append(span)
        self._count += 1
        if self._count > self._most:
            self.workers = self.thinned(max(1, self._most // (2 * len(self.workers))))
            self._count = sum(map(len, self.workers.values()))

    def thinned(self, cells: int) -> dict[int, list[TimeSpan]]:
        """Divide the whole time into `cells`, and merge the spans of a worker that begin in the same one."""
        if all(len(spans) <= cells for spans in self.workers.values()):
            return dict(self.workers)
        began, ended = self.extent
        grain = (ended - began) / cells or 1.0
        return {worker: _merged(spans, began, grain) for worker, spans in self.workers.items()}

    @property
    def extent(self) -> tuple[float, float]:
        """When the first span begins and the last ends."""
        spans = [(spans[0].began, spans[-1].ended) for spans in self.workers.values()]
        return (min(began for began, _ in spans), max(ended for _, ended in spans)) if spans else (0.0, 0.0)


def most_joined(workers: Mapping[int, Sequence[TimeSpan]]) -> int:
    """Return the largest number of chunks in one span."""
    return max((span.chunks for spans in workers.values() for span in spans), default=1)


def _merged(spans: Iterable[TimeSpan], began: float, grain: float) -> list[TimeSpan]:
    merged: list[TimeSpan] = []
    last = -1
    for span in spans:
        cell = int((span.began - began) / grain)
        if cell == last:
            merged[-1] = merged[-1].joined(span)
        else:
            merged.append(span)
        last = cell
    return merged
