"""After a run a kept pool refers to nothing that is the user's: not to func, items, partials, reducer or result."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import operator
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from multiprocessing.pool import ThreadPool as StandardThreadPool
from pathlib import Path
from typing import Any

import pytest
from five_pools import POOLS
from tasks import wait_for

import poolagg
from poolagg import Collect, Fold, Into, ProcessPool, Report, Sum, TaskError, ThreadPool, aggregate


class Thing:
    """Something of the user's that can be watched."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __add__(self, other: Any) -> Thing:
        return Thing(self.value + other.value)


class Failure(Exception):
    """An exception that can be watched, as those of Python itself cannot."""


class Function:
    """A func that is an object; items of 3 fail if told to."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def __call__(self, thing: Thing) -> Thing:
        if self.fails and thing.value == 3:
            raise Failure(thing)
        return Thing(thing.value + 1)


def value_of(thing: Thing) -> int:
    return thing.value


def added(acc: Thing | None, thing: Thing) -> Thing:
    return thing if acc is None else acc + thing


class Watched:
    """Weak references to everything that is given to a run and comes out of it."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []

    def __call__(self, thing: Any) -> Any:
        self.references.append(weakref.ref(thing))
        return thing

    @property
    def gone(self) -> bool:
        return all(reference() is None for reference in self.references)

    def wait(self, pool: Any) -> None:
        """Wait until all are gone; tell what refers to the first that stays.

        Futures and callbacks of an executor may be in a cycle that the garbage collector takes.
        """
        began = time.monotonic()
        while not self.gone:
            waited = time.monotonic() - began
            if waited > 30:
                pytest.fail(" <- ".join(self.chain()))
            if waited > 10 and isinstance(pool, Executor):
                gc.collect()
            time.sleep(0.01)

    def chain(self) -> Iterator[str]:
        """Name what refers to the first that is left, and what to that, ten links far."""
        thing = next(left for reference in self.references if (left := reference()) is not None)
        seen = [thing]
        for _ in range(10):
            yield repr(thing)[:200]
            referrers = [one for one in gc.get_referrers(thing) if not _is_ours(one)]
            new = [one for one in referrers if not any(one is known for known in (seen, *seen))]
            if not new:
                return
            thing = new[0]
            seen.append(thing)


def _is_ours(referrer: object) -> bool:
    """Whether it is a frame of this file, or what a frame iterates over."""
    code = getattr(referrer, "f_code", None)
    return type(referrer).__name__ == "list_iterator" or (code is not None and code.co_filename == __file__)


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    with POOLS[request.param]() as made:
        yield made


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    """References go by themselves, at once, and are not left to the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


REDUCERS: dict[str, Callable[[], Any]] = {
    "Sum of a key": lambda: Sum().of(value_of),
    "Collect": Collect,
    "a two-argument function": lambda: Fold(operator.add, merge=operator.add, init=lambda: Thing(0)),
    "Into": lambda: Into([].append),
}


def test_nothing_is_kept_after_a_run(pool: Any) -> None:
    for reducer, reproducible in itertools.product(REDUCERS, [False, True]):
        watched = Watched()

        def run(reducer: str = reducer, reproducible: bool = reproducible, watched: Watched = watched) -> None:
            made = REDUCERS[reducer]()
            func, things = Function(), (watched(Thing(i)) for i in range(100))
            watched(func), watched(made)
            result = aggregate(func, things, made, pool=pool, reproducible=reproducible)
            with contextlib.suppress(TypeError):  # a number
                watched(result)

        run()
        watched.wait(pool)


def dies_once(folder: Path, thing: Thing) -> Thing:
    if thing.value == 50 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return thing


def test_nothing_is_kept_when_a_pool_of_one_run_ends(method: str, tmp_path: Path) -> None:
    """Also where a worker died."""
    watched = Watched()

    def run() -> None:
        func, things = functools.partial(dies_once, tmp_path), (watched(Thing(i)) for i in range(100))
        aggregate(watched(func), things, Sum().of(value_of), pool=ProcessPool(2, start_method=method))

    run()
    assert watched.gone


def test_nothing_is_kept_after_an_error(pool: Any) -> None:
    """Neither if it was raised, and its traceback is gone, nor if the item was left out."""

    def run(on_error: Any, watched: Watched, report: Report) -> None:
        func = watched(Function(fails=True))
        things = (watched(Thing(i)) for i in range(100))
        aggregate(func, things, Sum().of(value_of), pool=pool, on_error=on_error, watch=[report])

    watched, report = Watched(), Report()
    with pytest.raises(TaskError) as raised:
        run("raise", watched, report)
    watched(raised.value)
    del raised
    watched.wait(pool)
    assert "it ended with TaskError" in str(report)

    watched, report = Watched(), Report()
    with pytest.warns(poolagg.SkippedItems):
        run("skip", watched, report)
    watched.wait(pool)
    assert "item 3" in str(report)

    watched = Watched()
    run(lambda failed: watched(failed.error) and None, watched, Report())
    watched.wait(pool)


def test_nothing_is_kept_by_what_adapts_a_pool_of_the_standard_library() -> None:
    watched = Watched()

    def run(pool: Any) -> None:
        aggregate(watched(Function()), (watched(Thing(i)) for i in range(100)), Collect(), pool=pool)

    with StandardThreadPool(2) as pool:
        run(pool)
        watched.wait(pool)
    pool.join()
    del pool
    gc.collect()  # it is in a cycle


@pytest.mark.parametrize("pool", ["serial", "threads", "processes"], indirect=True)
def test_nothing_is_kept_after_a_loop_was_left(pool: Any) -> None:
    watched = Watched()

    def run() -> None:
        results = pool.imap_unordered(watched(Function()), (watched(Thing(i)) for i in range(1000)))
        watched(next(results))
        results.close()

    run()
    watched.wait(pool)


def test_a_thread_that_was_busy_when_its_run_ended_keeps_nothing_when_its_item_ends() -> None:
    watched, go_on, begun = Watched(), threading.Event(), threading.Event()

    def slow(thing: Thing) -> Thing:
        if thing.value == 0:
            begun.set()
            go_on.wait()
            return watched(Thing(-1))
        begun.wait()
        raise Failure(thing)

    with ThreadPool(2) as pool:

        def run() -> None:
            with pytest.raises(TaskError):
                aggregate(slow, (watched(Thing(i)) for i in range(4)), Collect(), pool=pool, chunksize=1)

        run()
        go_on.set()
        wait_for(lambda: len(watched.references) == 5 or watched.gone)
        watched.wait(pool)
