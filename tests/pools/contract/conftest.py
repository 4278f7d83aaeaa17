"""Each test of this folder runs on every kind of pool, unless it says on which."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing.pool
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import dask_cluster
import faults_elsewhere
import pytest
from contract import ADDRESSES, KEPT, KINDS, ON_RAY, ONLY, THEIRS, Kind, entered
from tasks import square

from poolagg import Sum, aggregate


@pytest.fixture(scope="session", autouse=True)
def clusters() -> Iterator[None]:
    """Start the cluster for all tests of this folder, before the first test counts what it leaves behind."""
    with contextlib.ExitStack() as stack:
        if ONLY == "dask":
            cluster = stack.enter_context(dask_cluster.running(workers=2))
            stack.enter_context(dask_cluster.client(cluster.address))
            ADDRESSES["dask"] = cluster.address
        if ONLY in ON_RAY:
            from poolagg.pools import RayPool

            stack.enter_context(RayPool(workers=2))
        if ONLY in faults_elsewhere.POOLS:
            KEPT[ONLY] = stack.enter_context(faults_elsewhere.POOLS[ONLY]())
            aggregate(square, range(100), Sum(), pool=KEPT[ONLY])  # its threads are there
        yield


if ONLY in ON_RAY:

    @pytest.fixture(autouse=True)
    def nothing_left_behind() -> None:
        """Count nothing: Ray's workers and connections come and go, and other tests count what it leaves."""


@pytest.fixture(autouse=True)
def shut_down_theirs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shut down the pools of other libraries, which poolagg leaves as they are."""
    yield
    request.node.funcargs.pop("pool", None)
    while THEIRS:
        pool = THEIRS.pop()
        if isinstance(pool, Executor):
            pool.shutdown(wait=True, cancel_futures=True)
        elif isinstance(pool, multiprocessing.pool.Pool):
            pool.close()
            pool.join()
        else:
            pool.close()
        del pool
        gc.collect()  # a multiprocessing.Pool holds its pipes until it is collected


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on all kinds, unless it says on which."""
    if "kind" in metafunc.fixturenames and not any(
        "kind" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")
    ):
        metafunc.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS], scope="module")


@pytest.fixture(scope="module")
def shared(kind: Kind) -> Iterator[list[Any]]:
    """A pool whose workers start slowly, for the tests of a file; none from the test on that has lost a worker."""
    pools = [kind.make()] if kind.ours and kind.processes and kind.name != "fork" else []
    for pool in pools:
        pool.open()
        aggregate(square, range(100), Sum(), pool=pool)
    yield pools
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(kind: Kind, shared: list[Any]) -> Iterator[Any]:
    """A pool that is kept for the test's runs."""
    if not shared:
        with entered(kind, kind.make) as pool:
            yield pool
        return
    before = workers(shared[0])
    yield shared[0]
    if workers(shared[0]) != before:
        shared.pop().close()


def workers(pool: Any) -> set[int]:
    """The processes of a pool of ours."""
    return {handle.child.pid for handle in pool._handles.values()}
