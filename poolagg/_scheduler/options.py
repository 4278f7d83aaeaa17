"""What a scheduler has to keep to, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from poolagg._scheduler.ranges import LeafGrid

__all__ = ["SchedulerOptions"]


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What a scheduler has to keep to; all of it is known before the run."""

    slots: int
    stateful: bool = False
    in_order: bool = False
    grid: LeafGrid | None = None
    chunksize: int | None = None
    total: int | None = None
    retries: int | None = None
    skip: bool = False
    most_items: int | None = None
    """Items that a worker may run before another takes its place."""
    in_flight: int = 2
    """Chunks a worker has at most: one running, and one waiting so that it never idles while the parent is busy."""
    one_failure_domain: bool = False
    """A death in one worker takes all workers with it, so that a suspect must run with nothing else in flight."""
    chunk_seconds: float = 0.0
    """Seconds of work in a chunk at least, where a pool says that each one costs it so much."""
    leaves: int = 0
    """Chunks whose states a worker flushes together at most, where each is kept apart until then; 0: they meet at
    once."""
    window_chunks: int = 8
    window_bytes: int = 32 << 20
    kept_bytes: int = 16 << 20
