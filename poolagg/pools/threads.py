"""A pool of threads: for `func` that waits (networks, disks) or lets go of the GIL (numpy, zlib)."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from array import array
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeAlias

from poolagg._arguments import checked_count
from poolagg._interrupts import even_if_interrupted, interrupts_allowed, interrupts_held_back
from poolagg._orders import Answer, Broken, Replace, Revoke, Revoked, Run, Ship, Yield, Yielded
from poolagg._parcels import Parcel
from poolagg.pools._cell import Batch, Over, Sharing
from poolagg.pools._cpus import usable_cpus
from poolagg.pools._packing import as_reducer_error, start_failed
from poolagg.pools._pool import Pool, PoolOrder
from poolagg.pools._work import Job, Work
from poolagg.pools.serial import carry_out

__all__ = ["ThreadPool"]


class ThreadPool(Pool):
    """Threads of this process, kept for many runs when entered with `with`, else for one.

    Items and partials go by reference, so nothing needs to pickle; a source that reuses one buffer for all its items is
    not for this pool. A thread can't be killed: there is no `item_timeout`, and a thread that is busy when its run ends
    is let go of, to end with its item.

    >>> with ThreadPool(workers=2) as pool:
    ...     sorted(pool.imap_unordered(abs, [-3, 1, -2]))
    [1, 2, 3]
    """

    def __init__(self, workers: int | None = None, *, initializer: Callable[..., Any] | None = None) -> None:
        self.workers = checked_count("workers", usable_cpus() if workers is None else workers)
        self._initializer = initializer
        self._lanes: dict[int, _Thread] = {}
        self._answers: Answers = queue.SimpleQueue()  # another one for each run: a late answer goes to none that counts
        self._now: list[Answer] = []
        self._started_in = os.getpid()
        self._finalizer = weakref.finalize(self, even_if_interrupted, _leave, self._lanes)
        self._finalizer.atexit = False  # daemons end with the interpreter

    def __repr__(self) -> str:
        return f"ThreadPool(workers={self.workers})"

    def perform(self, order: PoolOrder, parcel: Parcel | None) -> None:
        """Hand the order to its lane's thread."""
        if isinstance(order, Revoke):
            ok = self._lanes[order.lane].take_back(order.chunk)
            self._now.append(Revoked(order.lane, order.chunk, ok))
        elif isinstance(order, Yield):
            thread = self._lanes[order.lane]
            self._now.append(Yielded(order.lane, order.chunk, thread.sharing.ask(order.chunk, lambda: thread.now)))
        elif not isinstance(order, Replace):
            self._lanes[order.lane].put(order, parcel)

    def wait(self, timeout: float | None) -> list[Answer]:
        """Wait for answers of this run."""
        answers, self._now = self._now, []
        until = None if timeout is None else monotonic() + timeout
        while not answers:
            began = monotonic()
            try:
                got = self._answers.get(timeout=None if until is None else max(0.0, until - began))
            except queue.Empty:
                break
            finally:
                self.waited += monotonic() - began
            if got is None:  # closed by another thread
                break
            answers.append(got)
        return answers

    def batch(self, lane: int) -> Batch | None:
        """What the thread is mapping."""
        return self._lanes[lane].now

    def _begin(self, job: Job, lanes: int) -> None:
        self._forget_answers()
        if self._started_in != os.getpid():  # a forked child has none of its parent's threads
            self._lanes.clear()
            self._started_in = os.getpid()
        for lane in range(lanes):
            if lane not in self._lanes:
                with interrupts_held_back():
                    self._lanes[lane] = _Thread(lane, self._initializer)
            self._lanes[lane].begin(job, self._answers)

    def _forget_answers(self) -> None:
        self._answers, self._now = queue.SimpleQueue(), []

    def _end(self, clean: bool) -> None:
        self._forget_answers()
        for lane, thread in list(self._lanes.items()):
            if not clean and thread.busy:
                thread.leave()
                del self._lanes[lane]
            else:
                thread.drop()

    def _stop(self) -> None:
        self._answers.put(None)

    def _close(self, at_once: bool) -> None:
        self._finalizer.detach()
        idle = [thread for thread in self._lanes.values() if not thread.busy]
        _leave(self._lanes)
        if self._started_in == os.getpid():
            with interrupts_allowed():  # an initializer may take its time
                for thread in idle:
                    thread.join()


def _leave(lanes: dict[int, _Thread]) -> None:
    """Have all threads end after what they are doing."""
    with interrupts_held_back():
        for thread in lanes.values():
            thread.leave()
        lanes.clear()


Answers: TypeAlias = "queue.SimpleQueue[Answer | None]"


class _Thread:
    """One lane's thread and its orders; also its own beat."""

    def __init__(self, lane: int, initializer: Callable[..., Any] | None) -> None:
        self.lane = lane
        self.now: Batch | None = None
        self.sharing = Sharing(memoryview(array("q", [0, 0])))
        self._given = self._done = 0
        self._initializer = initializer
        self._failed: BaseException | None = None
        self._work: Work | None = None
        self._answers: Answers = queue.SimpleQueue()
        self._left = False
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._revoked: set[int] = set()
        self._claimed = -1
        self._thread = threading.Thread(target=self._serve, name=f"poolagg-{lane}", daemon=True)
        self._thread.start()

    def begin(self, job: Job, answers: Answers) -> None:
        with self._lock:  # here and not on the thread, which may come to it after chunks were taken back
            self._claimed = -1
            self._revoked.clear()
        self.sharing.reset()
        self._orders.put((job, answers))

    @property
    def busy(self) -> bool:
        """Whether it has begun, or is about to begin, what it was ordered to do."""
        return self._given > self._done

    def put(self, order: Any, parcel: Parcel | None) -> None:
        self._given += 1
        self._orders.put((order, parcel))

    def drop(self) -> None:
        """Forget the run and what was ordered for it."""
        try:
            while True:
                order, _ = self._orders.get_nowait()
                self._given -= isinstance(order, (Run, Ship))
        except queue.Empty:
            self._orders.put((None, None))

    def take_back(self, chunk: int) -> bool:
        """Take a chunk back, unless the thread has begun it."""
        with self._lock:
            if self._claimed >= chunk:
                return False
            self._revoked.add(chunk)
            return True

    def leave(self) -> None:
        """End after the batch that is running."""
        self._left = True
        self._orders.put((None, None))

    def join(self) -> None:
        self._thread.join()

    # -- on the thread -----------------------------------------------------------------------------------------

    def batch(self, chunk: int, start: int, stop: int) -> None:
        """Say what is being mapped; the run may be over."""
        if self._left:
            raise Over
        self.sharing.come_to(stop - 1)
        self.now = Batch(chunk, start, stop, monotonic())

    def rest(self) -> None:
        """Say that nothing is being mapped."""
        self.now = None

    def full(self) -> bool:
        """Threads have no memory of their own, and no limit."""
        return False

    def _serve(self) -> None:
        """Take orders. While it waits for one, no variable holds anything of a run."""
        self._failed = self._initialized()
        while not self._left:
            self._take(*self._orders.get())
        self._forget()

    def _take(self, order: Any, detail: Any) -> None:
        if isinstance(order, Job):
            self._work, self._answers = Work(order, self), detail
            if self._failed is not None:
                self._answers.put(Broken(self.lane, start_failed(self._failed)))
        elif order is None:
            self._forget()
        elif self._work is not None and self._failed is None and self._claim(order):
            self._carry_out(self._work, order, detail)
        else:
            self._done += 1

    def _carry_out(self, work: Work, order: Run | Ship, parcel: Parcel | None) -> None:
        try:
            self._answers.put(carry_out(work, order, parcel))  # in no variable, for tracebacks keep this frame
        except Over:
            return
        except BaseException as error:
            self._answers.put(Broken(self.lane, as_reducer_error(error)))
        self._done += 1

    def _forget(self) -> None:
        self._work, self._answers = None, queue.SimpleQueue()

    def _initialized(self) -> BaseException | None:
        try:
            if self._initializer is not None:
                self._initializer()
        except BaseException as error:
            return error
        return None

    def _claim(self, order: Any) -> bool:
        if not isinstance(order, Run):
            return True
        with self._lock:
            self._claimed = order.chunk
            return order.chunk not in self._revoked
