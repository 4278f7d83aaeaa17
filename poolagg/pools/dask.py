"""A cluster of dask's: the same run with a `dask.distributed.Client` in the pool's place.

    caller's thread                client's loop             scheduler                 a worker
    perform(Run) ── submit ──────▶                 ────────▶  queue  ───── task ─────▶ run_lease, alone in its thread
    wait() ◀── results ◀── _arrive, one a task     ◀──────── "finished" ◀───────────── its combined state

A task is a *lease*: a chunk that is worth `LEASE` seconds of work or more, mapped in batches and combined where it
runs, for a task costs client and scheduler some 3 ms. The job travels once, as the result of a task of its own: workers
have it from each other, and what is lost with a worker dask makes again, as it would not with what is scattered.

The result of a task stays with its worker until somebody fetches it. So a state that is to stay there is not fetched,
but the result of a second task is, which tells of it, on the same worker, in next to no time.

Dask runs a task again whose worker died, and gives up after `allowed-failures` deaths (3, unless its configuration
says otherwise). A task may just have waited behind the killer each time, so none is blamed for that: it becomes a
suspect and runs with nothing else in flight, and says before each item, on the scheduler, which one it is about to
begin. So when it finds itself run a second time, it knows who killed its worker.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError
from time import monotonic
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, Variable
from distributed.protocol import dask_deserialize, dask_serialize

from poolagg._arguments import checked_count
from poolagg._orders import Answer, Broken, Lost, Run
from poolagg.errors import WorkerLost
from poolagg.pools._cluster import ClusterPool, Task
from poolagg.pools._foreign import CONTINUE
from poolagg.pools._remote import Call, Changed, Ended, Failed, Kept, Returned, Sent, State, halves, run_lease
from poolagg.pools._work import Job

__all__ = ["DaskPool"]

TASKS = 600
"""Tasks a second that a scheduler bears, measured at a few workers."""

LEASE = 0.25
"""Seconds of work in a task at least: long against the 3 ms it costs, short for whoever looks at a bar."""

LOOK = 0.5
"""Seconds between two looks at whether the client is still there; it does not tell those who wait."""

DESERTED = 60.0
"""Seconds that a cluster may be without any worker, in the middle of a run."""

NONE = -1
"""No item has begun."""

ANSWERS = (Returned, Kept, Ended, Failed, Changed)
"""What a lease returns, however it went."""


class DaskPool(ClusterPool):
    """The workers of a dask cluster: what `pool=client` stands for.

    `workers` says how many threads of workers there will be, if the cluster is still growing; by default those there
    are now. The client stays the user's: nothing of it is closed, and what a run leaves unfinished is cancelled.
    Workers need poolagg, and what `func` imports. One thread a worker is best: of two items that run in a process
    when it dies nobody can say which it was. With `item_timeout` items run in processes that the workers start.

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

    shared_fate = True
    lanes_per_worker = 4  # client and scheduler talk every 2 ms, and then of all leases at once: the more, the cheaper

    def __init__(self, client: Client, workers: int | None = None) -> None:
        if client.asynchronous:
            raise TypeError(f"pool={client!r} is asynchronous: make a Client() without asynchronous=True")
        threads = sum(client.nthreads().values()) if workers is None else checked_count("workers", workers)
        super().__init__(client, max(1, threads), threads=False)
        self.chunk_seconds = max(LEASE, 2 * self.workers / self.lanes_per_worker / TASKS)
        self._futures: dict[int, tuple[Future[Any], ...]] = {}
        """By lane: the task that is under way, and the one that tells of it, if its state is to stay."""
        self._tasks = itertools.count()
        self._sent: Future[Any] | None = None
        self._marks: dict[int, Variable] = {}
        self._looked = 0.0
        self._populated = 0.0

    # -- what is sent ------------------------------------------------------------------------------------------

    def _begin(self, job: Job, lanes: int) -> None:
        super()._begin(job, lanes)
        self._sent, self._job = self._task("job", _itself, self._job), b""
        self._populated = monotonic()

    def _send(self, task: Task) -> None:
        mark = self._mark(task.order) if isinstance(task.order, Run) and task.order.alone else None
        number = next(self._tasks)
        # In one piece: dask would look for its futures in every item of a list.
        call = pickle.dumps(task.call, 5)
        futures = [self._task(number, _run_lease, self._sent, call, mark, *task.leaves)]
        if task.keep:
            futures.append(self._task(f"{number}-facts", _facts, *futures))
        self._futures[task.order.lane] = tuple(futures)
        self._theirs.loop.add_callback(self._arrive, futures[-1], task, self._epoch)

    def _task(self, name: str | int, func: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Submit a task under a key that nobody else uses: dask gives yesterday's value for yesterday's key."""
        # A chunk has its size for a reason, and a job has to travel.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}):
            return self._theirs.submit(func, *arguments, key=f"poolagg-{self._name}-{name}", pure=False)

    def _mark(self, run: Run) -> str:
        name = f"poolagg-{self._name}-{run.chunk}"
        self._marks[run.chunk] = Variable(name, client=self._theirs)
        self._marks[run.chunk].set(NONE)
        return name

    def _marked(self, run: Run) -> int:
        """The item that a suspect had begun when it ended, or none; all is as if there had been no mark."""
        if (mark := self._marks.pop(run.chunk, None)) is None:
            return NONE
        began = NONE
        with contextlib.suppress(OSError):  # then the scheduler is lost, as the run is about to learn
            began = mark.get()
            mark.delete()
        return began

    # -- what comes back ---------------------------------------------------------------------------------------

    async def _arrive(self, future: Future[Any], task: Task, epoch: int) -> None:
        """On the client's loop: wait for a task, and fetch its result."""
        seconds = 0.0
        try:
            result = await future.exception()
            if result is None:
                began = monotonic()
                result = (await future).value
                seconds = monotonic() - began
        except Exception as error:
            result = error
        self._put(task, (result, seconds), epoch)

    def _answer(self, task: Task, result: Any) -> Answer:
        result, seconds = result
        where, *told = self._futures.pop(task.order.lane)
        for future in told or [where]:
            future.release()  # at once, though an exception's traceback may hold on to it
        return self._told(task, result, where, seconds)

    def _answer_of(self, task: Task, result: Any, where: Any, seconds: float) -> Answer:
        began = self._marked(task.order) if isinstance(task.order, Run) else NONE
        if isinstance(result, ANSWERS):
            return super()._answer_of(task, result, where, seconds)
        if not isinstance(result, (_Again, KilledWorker)):
            return Broken(task.order.lane, self._end_of(result))
        lost = self._lost("lost a worker", None if isinstance(result, _Again) else result)
        if not isinstance(task.order, Run):
            return self._unknown_loss(task.order.lane, lost)
        items = task.order.start, task.order.stop
        return Lost(task.order.lane, items if began == NONE else (began, began + 1), "died", lost)

    def _end_of(self, error: BaseException) -> WorkerLost:
        if isinstance(error, (CancelledError, OSError)):
            text = f"lost its scheduler, or somebody cancelled what ran there ({error}). {CONTINUE}"
        else:
            text = f"can't run a chunk: {type(error).__name__}: {error}. Do all workers have poolagg, as it is here?"
        return self._lost(text, error)

    def _shorter(self, left: float | None) -> float | None:
        return LOOK if left is None else min(LOOK, left)

    def _look(self) -> list[Answer]:
        """Whether anybody is left who could answer."""
        if self._theirs.status in ("closing", "closed"):
            return [Broken(0, self._lost(f"was closed in the middle of a run. {CONTINUE}"))]
        now = monotonic()
        if now - self._looked > DESERTED / 10 and self._theirs.status == "running":
            self._looked = now
            if self._theirs.nthreads():
                self._populated = monotonic()
        if now - self._populated > DESERTED:
            return [Broken(0, self._lost(f"has had no workers for {DESERTED:.0f} s. {CONTINUE}"))]
        return []

    # -- the end -----------------------------------------------------------------------------------------------

    def _end(self, clean: bool) -> None:
        super()._end(clean)
        futures, self._futures = list(itertools.chain(*self._futures.values())), {}
        marks, self._marks = list(self._marks.values()), {}
        if self._sent is not None:
            self._sent.release()
            self._sent = None
        if self._theirs.status != "running":
            return
        with contextlib.suppress(OSError):  # the scheduler may be lost, and the client not know it yet
            for mark in marks:
                mark.delete()
            if futures:
                self._theirs.cancel(futures, force=True)


# -- on a worker -------------------------------------------------------------------------------------------------------


class _Again:
    """What a suspect returns that is run a second time: its mark says which item killed the worker."""


class _Marked:
    """Says on the scheduler which item is about to begin: that outlives the worker."""

    def __init__(self, mark: Variable) -> None:
        self._mark = mark

    @property
    def began(self) -> int:
        """The item that had begun when a worker died here, or none."""
        item: int = self._mark.get()
        return item

    sharing = None

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Does not return before the scheduler knows."""
        self._mark.set(start)

    def rest(self) -> None:
        """What dies now, dies between items."""
        self._mark.set(NONE)

    def full(self) -> bool:
        """Its memory is its nanny's business."""
        return False


class _Result:
    """What a task comes to. Dask speaks an old protocol of pickle with its scheduler; here its buffers stay apart."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __sizeof__(self) -> int:
        """By which dask knows where most of what a task needs is, and when a worker has too much."""
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


def _itself(job: Sent) -> _Result:
    return _Result(job)


def _facts(result: _Result) -> _Result:
    """What the driver is to know of a lease whose state stays."""
    return _Result(halves(result.value)[0])


def _run_lease(job: _Result, pickled: bytes, mark: str | None, *leaves: _Result) -> _Result:
    """One chunk; `mark` is where to say what it does, if it is a suspect."""
    call: Call = pickle.loads(pickled)._replace(job=job.value)
    marked = None if mark is None else _Marked(Variable(mark))
    if marked is not None and marked.began != NONE:
        return _Result(_Again())
    states = [leaf.value.state if isinstance(leaf.value, Returned) else None for leaf in leaves]
    return _Result(run_lease(call, marked, states))
