"""A pool of the workers of a dask cluster, by a `dask.distributed.Client`.

    caller's thread                 client's loop             scheduler                 a worker
    submit(task) ── client.submit ▶                 ────────▶  queue  ───── task ─────▶ run_task, alone in its thread
    wait() ◀────── inbox ◀───────── _arrive, one a task ◀──── "finished" ◀───────────── its combined state

"Scheduler" in this module is dask's. A task is a chunk of at least `task_seconds` of work, since a task costs client
and scheduler some 3 ms. The client sends the job once, as the result of a task of its own: workers fetch it from each
other, and dask computes it again when it is lost with a worker, which dask does not do for scattered data.

The result of a task stays with its worker until it is fetched. To leave a state there, the client fetches the result of
a second, very short task instead, which reports the state's facts from the same worker.

Dask reruns a task whose worker died, and gives up after `allowed-failures` deaths (3 by default). The task may just
have waited behind the killer each time, so poolagg does not blame it for that: the task becomes a suspect, runs with no
other in flight, and sets a mark on the scheduler before each item. If dask runs it a second time, the mark says which
item killed its worker.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from time import monotonic
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, Variable
from distributed.protocol import dask_deserialize, dask_serialize

from poolagg._runtime.arguments import checked_count
from poolagg._scheduler.messages import PoolEvent
from poolagg._scheduler.ranges import Interval
from poolagg.pools.chunk_runner import Job
from poolagg.pools.external.backend import CONTINUE, Backend, Inbox, Result, Task, cannot_run, lost
from poolagg.pools.external.external_pool import ExternalPool
from poolagg.pools.external.task import RETURNED, Call, Returned, Sent, State, halves, run_task

__all__ = ["DaskPool"]

DESERTED = 60.0
"""Seconds that a cluster may be without workers during a run."""

NONE = -1
"""No item has begun."""


class DaskPool(ExternalPool):
    """The workers of a dask cluster; `pool=client` means `pool=DaskPool(client)`.

    `workers` says how many worker threads to expect, if the cluster is still growing; by default those there are now.
    The client stays yours: the pool closes no part of it, and cancels what a run leaves unfinished. Workers need
    poolagg, and what `func` imports. Give each worker one thread: with several, a death does not tell which of its
    items was the killer. With `item_timeout`, items run in processes that the workers start.

    >>> from tempfile import TemporaryDirectory
    >>> from distributed import Client
    >>> from poolagg import Sum, aggregate
    >>> with (
    ...     TemporaryDirectory() as folder,
    ...     dask.config.set(temporary_directory=folder),
    ...     Client(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as client,
    ... ):
    ...     aggregate(abs, range(-4, 1), Sum(), pool=DaskPool(client))
    10
    """

    def __init__(self, client: Client, workers: int | None = None) -> None:
        super().__init__(_DaskBackend(client, workers))


class _DaskBackend(Backend):
    slots = 4  # client and scheduler exchange one message every 2 ms for all tasks: the more tasks, the cheaper
    one_failure_domain = True
    keeps_states = True
    task_seconds = 0.25  # short enough for a progress bar
    task_rate = 600  # measured at a few workers

    def __init__(self, client: Client, workers: int | None) -> None:
        if client.asynchronous:
            raise TypeError(f"pool={client!r} is asynchronous: make a Client() without asynchronous=True")
        self._client = client
        self.workers = max(1, sum(client.nthreads().values()) if workers is None else checked_count("workers", workers))
        self._numbers = itertools.count()
        self._running: dict[Future[Any], Future[Any]] = {}
        """By the future whose result is fetched, the future of the state."""
        self._job: Future[Any] | None = None
        self._mark: Variable | None = None
        """The mark of the one suspect in flight."""

    def __repr__(self) -> str:
        return f"DaskPool({self._client!r})"

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def place(self, name: str, job: Job) -> None:
        """Submit the job as a task that returns it."""
        self._name = name
        self._inbox = Inbox()
        self._looked = self._populated = monotonic()
        self._job = self._future("job", _Result, Sent.packed(job))

    def submit(self, task: Task) -> None:
        """Submit a task, and let the client's loop wait for it."""
        number, mark = next(self._numbers), None
        if task.alone:
            mark = f"poolagg-{self._name}-{number}"
            self._mark = Variable(mark, client=self._client)
            self._mark.set(NONE)
        # As one pickle: dask would search every item of a list for futures.
        call = pickle.dumps(task.call(), 5)
        state = last = self._future(number, _run_task, self._job, call, mark, *task.states)
        if task.keep:
            last = self._future(f"{number}-facts", _facts, state)
        self._running[last] = state
        self._client.loop.add_callback(_arrive, last, task, self._inbox)

    def _future(self, name: str | int, func: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Submit under a unique key, since dask returns the known value for a known key."""
        # Dask warns of large arguments, but chunks and jobs have their size for a reason.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}):
            return self._client.submit(func, *arguments, key=f"poolagg-{self._name}-{name}", pure=False)

    def _take_mark(self) -> int:
        """Return the item that a suspect had begun when it ended, or NONE, and delete the mark."""
        mark, self._mark, began = self._mark, None, NONE
        if mark is not None:
            with contextlib.suppress(OSError):  # the scheduler is lost, and the run will fail for that
                began = mark.get()
                mark.delete()
        return began

    # -- results -------------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> Iterator[Result]:
        """Wait for the next result."""
        return itertools.starmap(self._result, self._inbox.wait(timeout, self._look))

    def _result(self, last: Future[Any], task: Task, value: Any, seconds: float) -> Result:
        state = self._running.pop(last)
        last.release()  # at once, though an exception's traceback may hold on to it
        began = self._take_mark() if task.alone else NONE
        if not isinstance(value, RETURNED):
            value = self._explain(task, value, None if began == NONE else (began, began + 1))
        return Result(task, value, state, seconds)

    def _explain(self, task: Task, error: Any, suspect: Interval | None) -> PoolEvent:
        if isinstance(error, (_Again, KilledWorker)):
            return task.died(lost(self, "lost a worker", None if isinstance(error, _Again) else error), suspect)
        if isinstance(error, (CancelledError, OSError)):
            text = f"lost its scheduler, or its tasks were cancelled ({error}). {CONTINUE}"
            return task.broken(lost(self, text, error))
        return task.broken(cannot_run(self, error))

    def _look(self) -> None:
        """Raise `WorkerLost` if the client is closed or the cluster deserted, which dask does not report to waiters."""
        if self._client.status in ("closing", "closed"):
            raise lost(self, f"was closed in the middle of a run. {CONTINUE}")
        now = monotonic()
        if now - self._looked > DESERTED / 10 and self._client.status == "running":
            self._looked = now
            if self._client.nthreads():
                self._populated = monotonic()
        if now - self._populated > DESERTED:
            raise lost(self, f"has had no workers for {DESERTED:.0f} s. {CONTINUE}")

    def cancel(self) -> None:
        """Cancel what runs, and delete the mark."""
        futures = {*self._running, *self._running.values()}
        self._running = {}
        if self._job is not None:
            self._job.release()
            self._job = None
        if self._client.status == "running":
            with contextlib.suppress(OSError):  # the scheduler may be lost without the client knowing yet
                self._take_mark()
                if futures:
                    self._client.cancel(list(futures), force=True)


async def _arrive(future: Future[Any], task: Task, inbox: Inbox) -> None:
    """Wait for a task on the client's loop, and fetch its result."""
    seconds = 0.0
    try:
        value = await future.exception()
        if value is None:
            began = monotonic()
            value = (await future).value
            seconds = monotonic() - began
    except Exception as error:
        value = error
    inbox.put((future, task, value, seconds))


# -- on a worker -------------------------------------------------------------------------------------------------------


class _Again:
    """The result of a suspect that dask runs a second time: its mark says which item killed the worker."""


class _Marked:
    """Marks on the scheduler which item is about to begin, since that outlives the worker."""

    sharing = None

    def __init__(self, mark: Variable) -> None:
        self._mark = mark

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Set the mark, and return once the scheduler has it."""
        self._mark.set(start)

    def rest(self) -> None:
        """Clear the mark: a death from now on is between items."""
        self._mark.set(NONE)

    def advanced(self, chunk: int, units: int) -> None:
        """Ignore it."""

    def full(self) -> bool:
        """Return False, since dask's nanny watches the worker's memory."""
        return False


class _Result:
    """The result of a task, with out-of-band buffers; dask itself uses an old pickle protocol with its scheduler."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __sizeof__(self) -> int:
        """Tell dask the size, by which it places tasks and limits a worker's memory."""
        value = self.value.state if isinstance(self.value, Returned) else self.value
        return object.__sizeof__(self) + (value.nbytes if isinstance(value, (Sent, State)) else 0)


@dask_serialize.register(_Result)  # type: ignore[untyped-decorator]
def _serialized(result: _Result) -> tuple[dict[str, Any], list[Any]]:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(result.value, 5, buffer_callback=buffers.append)
    return {}, [pickled, *(buffer.raw() for buffer in buffers)]


@dask_deserialize.register(_Result)  # type: ignore[untyped-decorator]
def _deserialized(_: dict[str, Any], frames: list[Any]) -> _Result:
    pickled, *buffers = frames
    return _Result(pickle.loads(pickled, buffers=buffers))


def _facts(result: _Result) -> _Result:
    """Return the facts of a task whose state stays on its worker."""
    return _Result(halves(result.value)[0])


def _run_task(job: _Result, pickled: bytes, mark: str | None, *leaves: _Result) -> _Result:
    """Run one chunk; `mark` names the mark to set, if the chunk is a suspect."""
    call: Call = pickle.loads(pickled)._replace(job=job.value)
    variable = None if mark is None else Variable(mark)
    if variable is not None and variable.get() != NONE:
        return _Result(_Again())
    states = [leaf.value.state if isinstance(leaf.value, Returned) else None for leaf in leaves]
    return _Result(run_task(call, None if variable is None else _Marked(variable), states))
