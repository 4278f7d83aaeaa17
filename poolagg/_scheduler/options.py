"""The options of a scheduler, as a value."""

from typing import NamedTuple

from poolagg._scheduler.ranges import LeafGrid

__all__ = ["SchedulerOptions"]


class SchedulerOptions(NamedTuple):
    """The options of a scheduler, all known before the run."""

    slots: int
    stateful: bool = False
    in_order: bool = False
    grid: LeafGrid | None = None
    chunksize: int | None = None
    total: int | None = None
    retries: int | None = None
    skip: bool = False
    most_items: int | None = None
    """Items that a worker may run before it is restarted."""
    in_flight: int = 2
    """Most chunks of a worker: one runs, and one waits so that the worker does not idle while the parent is busy."""
    one_failure_domain: bool = False
    """The death of one worker takes all workers down, so that a suspect must run with nothing else in flight."""
    chunk_seconds: float = 0.0
    """Fewest seconds of work in a chunk, where each chunk is expensive for the pool."""
    leaves: int = 0
    """Most chunks whose states a worker keeps separately until it flushes them together; 0: it merges them at once."""
    window_chunks: int = 8
    window_bytes: int = 32 << 20
    kept_bytes: int = 16 << 20

    @property
    def share(self) -> int:
        """The items of each worker in a run of so few that all would be in flight at once; 0 in another run.

        One chunk then does for a worker, which flushes with it: it costs one message each way instead of three. Its
        worker divides it if its items turn out to be heavy.
        """
        if self.total is None or not self.stateful or self.chunksize is not None or self.grid is not None:
            return 0
        return -(-self.total // self.slots) if self.total <= self.in_flight * self.slots else 0
