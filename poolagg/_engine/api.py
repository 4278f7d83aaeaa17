"""The entry points: `aggregate` and `snapshots`. Each drives one `Run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Never, Self, TypeVar, Unpack, overload

from poolagg import events
from poolagg._engine.options import Options, RunOptions
from poolagg._engine.run import Run
from poolagg._runtime.durations import checked_seconds
from poolagg.strategies import Strategy

if TYPE_CHECKING:
    from poolagg._checkpoint.checkpoint import Checkpoint
    from poolagg._engine.snapshot import Snapshot
    from poolagg.reducers import Reducer, ReducerLike

__all__ = ["aggregate", "snapshots"]

Item = TypeVar("Item")
Partial = TypeVar("Partial")
Key = TypeVar("Key")
R = TypeVar("R")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
S = TypeVar("S")
"""A `Snapshot[R]`: with `Snapshots[R]` pyright loses the keys of a dict of reducers in `next(snapshots(...))`."""


@overload
def aggregate(
    func: Callable[[Item], Any], iterable: Iterable[Item], reducer: Reducer[R], **options: Unpack[Options]
) -> R: ...
@overload
def aggregate(
    func: Callable[[Item], Any], iterable: Iterable[Item], reducer: Mapping[Key, Reducer[R]], **options: Unpack[Options]
) -> dict[Key, R]: ...
@overload
def aggregate(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: Mapping[Key, ReducerLike],
    **options: Unpack[Options],
) -> dict[Key, Any]: ...
@overload
def aggregate(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: tuple[Reducer[R1], Reducer[R2]],
    **options: Unpack[Options],
) -> tuple[R1, R2]: ...
@overload
def aggregate(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: tuple[Reducer[R1], Reducer[R2], Reducer[R3]],
    **options: Unpack[Options],
) -> tuple[R1, R2, R3]: ...
@overload
def aggregate(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: tuple[Reducer[R1], Reducer[R2], Reducer[R3], Reducer[R4]],
    **options: Unpack[Options],
) -> tuple[R1, R2, R3, R4]: ...
@overload
def aggregate(
    func: Callable[[Item], Any], iterable: Iterable[Item], reducer: tuple[ReducerLike, ...], **options: Unpack[Options]
) -> tuple[Any, ...]: ...
@overload
def aggregate(
    func: Callable[[Item], Partial],
    iterable: Iterable[Item],
    reducer: Callable[[Partial, Partial], Partial],
    **options: Unpack[Options],
) -> Partial: ...
@overload
def aggregate(
    func: Callable[[Item], Partial],
    iterable: Iterable[Item],
    reducer: Callable[[R, Partial], R],
    **options: Unpack[Options],
) -> R: ...
def aggregate(
    func: Callable[[Any], Any],
    iterable: Iterable[Any],
    reducer: Any,
    *,
    pool: Any = None,
    workers: int | None = None,
    strategy: Strategy | None = None,
    reproducible: bool = False,
    chunksize: int | None = None,
    retries: int | None = None,
    item_timeout: float | None = None,
    on_error: Literal["raise", "skip"] | Callable[[events.ItemFailed], Any] = "raise",
    progress: bool = False,
    total: int | None = None,
    watch: Iterable[Callable[[events.RunEvent], Any]] | Callable[[events.RunEvent], Any] = (),
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    **unknown: Never,
) -> Any:
    """Run `func` over `iterable` in a pool of workers, and fold the partial results into one result, each exactly once.

    `reducer` is a Reducer, a dict or tuple of them (one pass, a dict or tuple of results), or a function `f` of two
    arguments. The function means exactly `functools.reduce(f, map(func, iterable))`, input order included.

    pool           where chunks run: a pool that you keep, an Executor, or a Client of dask.distributed; None, the
                   default, makes a `ProcessPool` for this call
    workers        how many workers the default pool has; None means the CPUs this process may use. Passing it with a
                   pool object is an error
    strategy       where partials meet (`poolagg.strategies`); None chooses by the reducer
    reproducible   True gives the same bits for any number of workers, any pool and any timing
    chunksize      items per chunk; None adapts it to the measured cost. With reproducible=True the result depends on it
    retries        how often an item runs again after it raised, timed out, or lost its worker; None means 0, 0 and 2
    item_timeout   seconds that one item may take; then the pool kills its worker
    on_error       "raise" ends the run, "skip" leaves the item out; a function is called with each `ItemFailed`, whose
                   item is then left out
    progress       True shows a progress bar on stderr
    total          how many items there are, if `len(iterable)` cannot tell
    watch          a function, or several, called with each run event (`poolagg.events`)
    checkpoint     a path, or a `Checkpoint`: the run keeps its state there, and the same call continues it. A resource
                   that commits (`poolagg.resources`) keeps the state itself

    The run pulls the input lazily, on the caller's thread, and only as fast as it merges results.

    Raises `TaskError`, `WorkerLost`, `ReducerError`, `PoolBusy`, `CheckpointMismatch`, `CheckpointError` or
    `ResourceError`. Exceptions of the input, and of a fold in the parent, propagate unchanged.

    >>> from poolagg import aggregate, Sum
    >>> aggregate(abs, range(-4, 1), Sum())
    10
    """
    settings = RunOptions(
        func, iterable, reducer, pool=pool, workers=workers, strategy=strategy, reproducible=reproducible,
        chunksize=chunksize, retries=retries, item_timeout=item_timeout, on_error=on_error, progress=progress,
        total=total, watch=watch, checkpoint=checkpoint, **unknown,
    )  # fmt: skip
    with Run(settings) as run:
        while run.step():
            pass
    run.warn_of_skipped(stacklevel=2)
    return run.value(last=True)


@overload
def snapshots(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: Reducer[R],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[R]]: ...
@overload
def snapshots(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: Mapping[Key, Reducer[R]],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[dict[Key, R]]]: ...
@overload
def snapshots(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: Mapping[Key, ReducerLike],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[dict[Key, Any]]]: ...
@overload
def snapshots(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: tuple[Reducer[R1], Reducer[R2]],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[tuple[R1, R2]]]: ...
@overload
def snapshots(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: tuple[Reducer[R1], Reducer[R2], Reducer[R3]],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[tuple[R1, R2, R3]]]: ...
@overload
def snapshots(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: tuple[Reducer[R1], Reducer[R2], Reducer[R3], Reducer[R4]],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[tuple[R1, R2, R3, R4]]]: ...
@overload
def snapshots(
    func: Callable[[Item], Any],
    iterable: Iterable[Item],
    reducer: tuple[ReducerLike, ...],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[tuple[Any, ...]]]: ...
@overload
def snapshots(
    func: Callable[[Item], Partial],
    iterable: Iterable[Item],
    reducer: Callable[[Partial, Partial], Partial],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[Partial]]: ...
@overload
def snapshots(
    func: Callable[[Item], Partial],
    iterable: Iterable[Item],
    reducer: Callable[[R, Partial], R],
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[R]]: ...
def snapshots(
    func: Callable[[Any], Any],
    iterable: Iterable[Any],
    reducer: Any,
    every: float = 0.5,
    **options: Unpack[Options],
) -> Snapshots[Snapshot[Any]]:
    """Iterate over the growing result of `aggregate(func, iterable, reducer, **options)`.

    The iterator yields a `Snapshot` every `every` seconds; the last one is final. Leaving the loop, or the `with`
    block, stops the run cleanly.

    >>> from poolagg import Sum, snapshots
    >>> [snapshot.value for snapshot in snapshots(abs, [-1, -2], Sum()) if snapshot.final]
    [3]
    """
    every = checked_seconds("every", every)
    return Snapshots(Run(RunOptions(func, iterable, reducer, **options), every))


class Snapshots(Generic[S]):
    """The iterator and context manager that `snapshots` returns."""

    def __init__(self, run: Run) -> None:
        self._snapshots: Generator[S, None, None] = _yield_snapshots(run)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> S:
        return next(self._snapshots)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the run if it has not ended."""
        self._snapshots.close()


def _yield_snapshots(run: Run) -> Generator[Any, None, None]:
    with run:
        while run.step():
            if run.snapshot_is_due():
                yield run.snapshot(final=False)
    run.warn_of_skipped(stacklevel=3)
    yield run.snapshot(final=True)
