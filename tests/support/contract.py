"""One contract, many pools: whatever runs the chunks, the result and the errors are the same.

A pool is one line in `KINDS`. Its traits say what it cannot do, and nothing else may differ.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing.pool
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dask_cluster
import pytest
from tasks import METHODS

from poolagg import ProcessPool, SerialPool, ThreadPool


@dataclass(frozen=True)
class Kind:
    """A way to make a pool, and its traits."""

    name: str
    make: Callable[..., Any]
    pickles: bool = True
    """Items and partials are copied on the way, so they must pickle."""
    processes: bool = True
    """Workers are processes of our own, which can be killed, and have an initializer, an environment, ..."""
    slots: int = 2
    """Workers."""
    far: bool = False
    """A chunk costs some milliseconds: a test of many runs sends few."""
    cluster: bool = False
    """Workers may be on other machines, and can end items all the same."""
    ours: bool = True
    """A pool of ours: it runs one job at a time and has `imap_unordered`."""

    def __str__(self) -> str:
        return self.name


ADDRESSES: dict[str, str] = {}

KEPT: dict[str, Any] = {}
"""An executor that is kept for all tests of a process of its own."""

ONLY = os.environ.get("POOLAGG_ONLY")
"""The kind that a process of its own is for, since it has threads, beside which nobody should fork."""

ON_RAY = ("ray", "ray.util.multiprocessing.Pool")


def on_ray() -> Any:
    from poolagg.pools import RayPool

    return RayPool()


def interpreters() -> Any:
    return importlib.import_module("concurrent.futures").InterpreterPoolExecutor(2)


THEIRS: list[Any] = []


def theirs(make: Callable[[], Any]) -> Any:
    """Somebody else's pool, to be shut down after the test: poolagg leaves it as it is."""
    THEIRS.append(make())
    return THEIRS[-1]


KINDS = [
    *(Kind(method, functools.partial(ProcessPool, 2, start_method=method)) for method in sorted({*METHODS, "spawn"})),
    Kind("threads", functools.partial(ThreadPool, 2), pickles=False, processes=False),
    Kind("serial", SerialPool, pickles=False, processes=False, slots=1),
    Kind("executor of processes", lambda: theirs(lambda: ProcessPoolExecutor(2)), processes=False, ours=False),
    Kind("executor of threads", lambda: theirs(lambda: ThreadPoolExecutor(2)), False, processes=False, ours=False),
    Kind("multiprocessing.Pool", lambda: theirs(lambda: multiprocessing.Pool(2)), processes=False, ours=False),
]
if sys.platform == "win32":  # under Wine, the standard library's pools of processes wait for ever
    KINDS = [kind for kind in KINDS if kind.ours or not kind.pickles]


ELSEWHERE = {
    "dask": functools.partial(Kind, make=lambda: theirs(lambda: dask_cluster.client(ADDRESSES["dask"])), cluster=True),
    "ray": functools.partial(Kind, make=on_ray, cluster=True),
    "interpreters": functools.partial(Kind, make=lambda: theirs(interpreters)),
}

for name in ("loky", "executorlib", "mpi4py.futures", "ray.util.multiprocessing.Pool"):
    ELSEWHERE[name] = functools.partial(Kind, make=functools.partial(KEPT.get, name))
if ONLY is not None:
    KINDS = [ELSEWHERE[ONLY](ONLY, processes=False, ours=False, far=True)]


def kinds(**traits: bool) -> Callable[[Any], Any]:
    """Run the test for the kinds with these traits only; where there is none of them it is no test."""
    fit = [kind for kind in KINDS if all(getattr(kind, name) == value for name, value in traits.items())]
    if not fit:
        return lambda test: None
    return pytest.mark.parametrize("kind", fit, ids=[kind.name for kind in fit], scope="module")


def entered(kind: Kind, make: Callable[[], Any]) -> contextlib.AbstractContextManager[Any]:
    """A pool of that kind, closed in the end, unless it is kept for other tests."""
    if kind.name in KEPT:
        return contextlib.nullcontext(KEPT[kind.name])
    pool = make()
    # Leaving its context would kill its workers, and it waits for ever if one was writing a result just then.
    return contextlib.closing(pool) if isinstance(pool, multiprocessing.pool.Pool) else pool


def ours(warned: Any) -> list[Any]:
    """Of some warnings: from 3.12 on Python warns of its executors' forks where there are threads."""
    return [warning for warning in warned if warning.category is not DeprecationWarning]
