"""RunOptions: the arguments of a run, checked at the call, before any worker starts."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from poolagg._input.functions import no_function_of_one_item
from poolagg._input.worker_state import here
from poolagg._runtime.arguments import checked_count
from poolagg._runtime.durations import checked_seconds
from poolagg._scheduler.options import SchedulerOptions
from poolagg._scheduler.ranges import LeafGrid
from poolagg.events import ItemFailed, RunEvent
from poolagg.pools import Job, Pool, ProcessPool, SerialPool, as_pool, default_workers
from poolagg.reducers import Into, Reducer, as_reducer
from poolagg.strategies import Combine, Ordered, Strategy, Stream, Tree

if TYPE_CHECKING:
    from poolagg._checkpoint.checkpoint import Checkpoint
    from poolagg._checkpoint.input_digest import InputDigest

__all__ = ["Options", "RunOptions"]


class Options(TypedDict, total=False):
    """The keyword arguments of `aggregate`."""

    pool: Any
    workers: int | None
    strategy: Strategy | None
    reproducible: bool
    chunksize: int | None
    retries: int | None
    item_timeout: float | None
    on_error: Literal["raise", "skip"] | Callable[[ItemFailed], Any]
    progress: bool
    total: int | None
    watch: Iterable[Callable[[RunEvent], Any]] | Callable[[RunEvent], Any]
    checkpoint: "Checkpoint | str | os.PathLike[str] | None"


NAMES = frozenset(Options.__annotations__)

MEANT = {
    **dict.fromkeys(("n_jobs", "n_workers", "num_workers", "max_workers", "processes"), "workers"),
    **dict.fromkeys(("chunk_size", "chunks", "batch_size"), "chunksize"),
    **dict.fromkeys(("timeout", "task_timeout"), "item_timeout"),
    **dict.fromkeys(("backend", "executor", "client"), "pool"),
    **dict.fromkeys(("verbose", "tqdm", "progress_bar"), "progress"),
    **dict.fromkeys(("initial", "init", "start"), "Fold(step, init=factory) as the reducer"),
    **dict.fromkeys(("initializer", "initargs", "start_method"), "pool=ProcessPool(...) with that argument"),
    **dict.fromkeys(("max_items_per_worker", "memory_limit", "env"), "pool=ProcessPool(...) with that argument"),
}
"""Arguments that other libraries have, and what stands for them here."""


class RunOptions:
    """The checked arguments of one run; the docstring of `aggregate` explains each."""

    def __init__(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], reducer: Any, **options: Unpack[Options]
    ) -> None:
        if unknown := options.keys() - NAMES:
            raise TypeError(_unknown(sorted(unknown)))
        self.func = _function(func)
        self.iterable = _iterable(iterable)
        self.reducer = as_reducer(reducer)
        self._pool, self._workers = options.get("pool"), options.get("workers")
        self.chunksize = _count("chunksize", options.get("chunksize"), 1)
        self.retries = _count("retries", options.get("retries"), 0)
        self.total = _count("total", options.get("total"), 0)
        timeout = options.get("item_timeout")
        self.item_timeout = None if timeout is None else checked_seconds("item_timeout", timeout)
        self.on_error = _on_error(options.get("on_error", "raise"))
        strategy, reproducible = options.get("strategy"), options.get("reproducible", False)
        self.strategy = _strategy(strategy, self.reducer, reproducible)
        if reproducible and (part := _varying(self.reducer)) is not None:
            raise ValueError(f"reproducible=True is not possible with {part!r}: {part.varies}")
        self._fixed = strategy is not None or reproducible
        """Whether the caller asked for the strategy, and so for the shape in which states meet."""
        self.why = "as it was asked for" if strategy is not None else _why(self.strategy, self.reducer, reproducible)
        self._progress = options.get("progress", False)
        self._watchers = _watchers(options.get("watch", ()))
        self.resource = _resource(self.reducer)
        self.checkpoint = _checkpoint(options.get("checkpoint"), self.reducer, self.resource)
        if self._workers is not None and self._pool is not None:
            raise ValueError(
                f"workers={self._workers!r} requires pool=None: {self._pool!r} has its own number of workers. Leave "
                "one of the two out"
            )

    def make_pool(self) -> Pool:
        """Return the pool to run on."""
        pool = self._default_pool() if self._pool is None else as_pool(self._pool)
        if self.item_timeout is not None and not pool.can_kill:
            raise ValueError(
                f"item_timeout={self.item_timeout!r} requires a pool that can kill a running item, such as "
                f"ProcessPool; {pool!r} cannot"
            )
        return pool

    def _default_pool(self) -> Pool:
        """Return a pool of processes; within a worker whose share of the CPUs is one, that worker itself."""
        nested = self._workers is None and here.worker is not None and default_workers() == 1
        pool = SerialPool() if nested and self.item_timeout is None else ProcessPool(self._workers)
        pool.single_run = True
        return pool

    def scheduler_options(self, pool: Pool, slots: int, total: int | None) -> SchedulerOptions:
        """Return the scheduler's part of the options."""
        return SchedulerOptions(
            slots=slots,
            # A state that stays in its worker would keep the run from its early end.
            stateful=self.strategy.stateful and pool.keeps_state and not self.reducer.ends_early,
            in_order=self.strategy.in_order,
            grid=self._grid(pool.most_items),
            chunksize=self.chunksize,
            total=total,
            retries=self.retries,
            skip=self.on_error != "raise",
            one_failure_domain=pool.one_failure_domain,
            most_items=pool.most_items,
            in_flight=pool.in_flight,
            chunk_seconds=pool.chunk_seconds,
            leaves=pool.leaves,
        )

    def job(self, grid: LeafGrid | None) -> Job:
        """Return the job that each worker receives at the start of the run."""
        return Job(self.func, self.reducer.worker_side(), self.strategy, grid, item_timeout=self.item_timeout)

    def _grid(self, most_items: int | None) -> LeafGrid | None:
        """Return the grid of leaves, each small enough for one worker's `max_items_per_worker`.

        Raise ValueError if the caller fixed a grid of larger leaves, for the result depends on it.
        """
        grid = self.strategy.grid(self.chunksize)
        if grid is None or (within := grid.within(most_items)) == grid:
            return grid
        if self._fixed:
            raise ValueError(
                f"one worker folds a leaf of {self.strategy!r}, up to {grid.most:,} items, but it may run only "
                f"max_items_per_worker={most_items:,} of them: pass chunksize={most_items} or less, the number of "
                f"items of a leaf, or max_items_per_worker={grid.most} or more"
            )
        return within

    def input_digest(self) -> "InputDigest | None":
        """Return the digest that recognizes the input, None for a run without a checkpoint."""
        if self.checkpoint is None:
            return None
        from poolagg._checkpoint.input_digest import InputDigest

        return InputDigest(self.iterable)

    def watchers(self) -> list[Callable[[RunEvent], Any]]:
        """Return the watchers, the progress bar included."""
        if not self._progress:
            return self._watchers
        from poolagg._report.progress import Progress

        return [*self._watchers, Progress()]


def _unknown(names: list[str]) -> str:
    """Say that there are no such arguments, and which ones may be meant."""
    import difflib  # slow to import

    meant = []
    for name in names:
        close = difflib.get_close_matches(name, NAMES, 1)
        meant += [MEANT[name]] if name in MEANT else close
    hint = f"did you mean {' and '.join(dict.fromkeys(meant))}? " if meant else ""
    options = f"The options are {', '.join(sorted(NAMES))}"
    return f"aggregate() and snapshots() have no argument {', '.join(map(repr, names))}: {hint}{options}"


def _function(func: Any) -> Callable[[Any], Any]:
    if not callable(func):
        raise TypeError(f"func must be a function of one item, not {func!r}")
    if reason := no_function_of_one_item(func):
        raise TypeError(reason)
    return func  # type: ignore[no-any-return]


def _iterable(iterable: Any) -> Iterable[Any]:
    # Only the run calls iter(), once: it may open files, or start processes.
    if not (hasattr(type(iterable), "__iter__") or hasattr(type(iterable), "__getitem__")):
        raise TypeError(f"the second argument must be an iterable of items, not {iterable!r}")
    return iterable  # type: ignore[no-any-return]


def _count(name: str, value: int | None, least: int) -> int | None:
    return None if value is None else checked_count(name, value, least)


def _on_error(value: Any) -> Any:
    if value in ("raise", "skip") or callable(value):
        return value
    raise ValueError(f'on_error must be "raise", "skip" or a function given each ItemFailed, not {value!r}')


def _watchers(watch: Any) -> list[Callable[[RunEvent], Any]]:
    if not (callable(watch) or hasattr(type(watch), "__iter__")):
        raise TypeError(f"watch takes functions given each run event, not {watch!r}")
    watchers = [watch] if callable(watch) else list(watch)
    for watcher in watchers:
        if not callable(watcher):
            raise TypeError(f"watch takes functions given each run event, not {watcher!r}")
    return watchers


def _resource(reducer: Reducer) -> Any:
    """Return the one resource that can commit among those that the reducer changes; None if there is none."""
    intos = _intos(reducer)
    resources = {id(into.resource): into.resource for into in intos if into.resource is not None}
    if not resources:
        return None
    if len(resources) > 1:
        raise ValueError(
            f"{reducer!r} has {len(resources)} resources, which cannot commit together: after `kill -9` between two "
            "commits one of them would be ahead. Put both into one database, or make a run for each"
        )
    if any(into.resource is None for into in intos):
        raise ValueError(
            f"{reducer!r} applies partials both to a resource that commits and by an Into that cannot commit: a "
            "continued run would apply some of the latter twice. Make a run for each"
        )
    return next(iter(resources.values()))


def _checkpoint(checkpoint: Any, reducer: Reducer, resource: Any) -> Any:
    if checkpoint is None and resource is None:
        return None
    from poolagg._checkpoint.checkpoint import Checkpoint

    kept = Checkpoint() if checkpoint is None else checkpoint
    if not isinstance(kept, Checkpoint):
        kept = Checkpoint(kept)
    if resource is not None:
        if kept.path is not None:
            raise ValueError(
                f"checkpoint={checkpoint!r} has a path, but the resource of {reducer!r} keeps the checkpoint itself: "
                "leave the path out. Other options need none: Checkpoint(retry_failed=True)"
            )
        return kept
    if _intos(reducer):
        raise ValueError(
            f"checkpoint={checkpoint!r} cannot keep the effects of {reducer!r}: Into applies partials outside of the "
            "checkpoint, so a continued run would apply some twice. Use a reducer with a result, such as Collect(); "
            "or a resource that can commit: poolagg.resources"
        )
    if kept.path is None:
        raise ValueError(f"checkpoint={checkpoint!r} needs a path: only a resource that can commit works without one")
    return kept


def _intos(reducer: Reducer) -> list[Into]:
    """Return the parts of the reducer that change something outside of the run."""
    found = [into for part in getattr(reducer, "parts", ()) for into in _intos(part)]
    return [reducer, *found] if isinstance(reducer, Into) else found


def _varying(reducer: Reducer) -> Reducer | None:
    """Return the first part of the reducer that gives different results in two runs, if any."""
    if reducer.varies is not None:
        return reducer
    return next(filter(None, map(_varying, getattr(reducer, "parts", ()))), None)


def _strategy(strategy: Strategy | None, reducer: Reducer, reproducible: bool) -> Strategy:
    if strategy is None:
        return _chosen(reducer, reproducible)
    if not isinstance(strategy, Strategy):
        raise TypeError(f"strategy must be one of poolagg.strategies, as in strategy=Combine(), not {strategy!r}")
    if (refusal := strategy.refusal(reducer)) is not None:
        raise ValueError(refusal)
    if reproducible and not (strategy.in_order or strategy.grid(None) is not None):
        raise ValueError(
            f"reproducible=True contradicts {strategy!r}, which depends on timing: use Tree() or Ordered()"
        )
    return strategy


def _chosen(reducer: Reducer, reproducible: bool) -> Strategy:
    if not reducer.mergeable:
        return Ordered() if reducer.ordered or reproducible else Stream()
    return Tree() if reducer.ordered or reproducible else Combine()


def _why(chosen: Strategy, reducer: Reducer, reproducible: bool) -> str:
    """Say why this strategy was chosen."""
    order = "of reproducible=True" if reproducible else "it depends on the order"
    if not reducer.mergeable:
        where = f"in input order, because {order}" if chosen.in_order else "as they come"
        return f"{reducer!r} has no merge, so the parent folds partials {where}"
    if chosen.stateful:
        when = "with each chunk, because it may end the run early" if reducer.ends_early else "when that is cheap"
        return f"{reducer!r} merges in any order, so partials meet in the workers, which flush {when}"
    return f"states of {reducer!r} meet in a fixed shape, in input order, because {order}"
