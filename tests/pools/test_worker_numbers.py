"""Workers are numbered, and a run inside a worker takes its share of the CPUs."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

import numpy as np
import pytest

from poolagg import Collect, ProcessPool, SerialPool, ThreadPool, Unique, aggregate, per_worker, worker_index
from poolagg.pools import cpus


@pytest.fixture(params=["forkserver", "spawn", "fork", "threads"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Every start method, and threads: makes a pool."""
    if request.param == "threads":
        return ThreadPool
    return lambda workers, **options: ProcessPool(workers, start_method=request.param, **options)


def meet(x: int) -> int:
    return worker_index()


def test_func_and_initializer_see_the_number_of_their_worker(kind: Any) -> None:
    early = per_worker(list)
    gate = threading.Barrier(3, timeout=30) if kind is ThreadPool else None

    def begin() -> None:
        early().append(worker_index())

    def numbers(x: int) -> tuple[int, ...]:
        if gate is not None:
            gate.wait()
        return (*early(), worker_index())

    with kind(3, initializer=begin) as pool:
        seen = aggregate(numbers, range(6), Unique(), pool=pool, chunksize=1)
    assert seen <= {(n, n) for n in range(3)}
    assert len(seen) >= (3 if gate else 1)


def test_a_worker_that_takes_the_place_of_another_has_its_number(method: str) -> None:
    def dies_once(x: int) -> int:
        if x == 3 and not os.path.exists(path):
            open(path, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return worker_index()

    path = f"/tmp/poolagg-{os.getpid()}-{method}"
    try:
        seen = aggregate(dies_once, range(10), Collect(), pool=ProcessPool(1, start_method=method))
    finally:
        os.unlink(path)
    assert seen == [0] * 10


def test_a_serial_pool_is_worker_0() -> None:
    assert aggregate(meet, range(2), Collect(), pool=SerialPool()) == [0, 0]
    assert aggregate(lambda x: meet(x), range(2), Collect(), pool=SerialPool()) == [0, 0]


def test_outside_of_a_run_there_is_no_number() -> None:
    aggregate(meet, [1], Collect(), pool=SerialPool())
    with pytest.raises(RuntimeError, match=r"worker_index\(\) needs a worker"):
        worker_index()


def test_env_may_depend_on_the_number(method: str) -> None:
    def look(x: int) -> tuple[int, str | None]:
        return worker_index(), os.environ.get("POOLAGG_GPU")

    env = lambda index: {"POOLAGG_GPU": f"gpu {index}"}
    with ProcessPool(2, start_method=method, env=env) as pool:
        seen = aggregate(look, range(20), Unique(), pool=pool, chunksize=1)
    assert seen <= {(0, "gpu 0"), (1, "gpu 1")}


def test_an_env_that_is_neither_is_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match=r"env must be a mapping, or a function of worker_index\(\)"):
        ProcessPool(1, env=["A=1"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"env\(0\) must return a mapping, not 3"):
        aggregate(abs, [1], Collect(), pool=ProcessPool(1, env=lambda index: 3))  # type: ignore[arg-type, return-value]


def test_threads_are_more_than_cpus_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of `concurrent.futures` are: they are for work that waits."""
    assert ThreadPool().workers == min(32, cpus.usable_cpus() + 4)


def test_each_thread_has_its_own_value_per_worker() -> None:
    barrier = threading.Barrier(2, timeout=30)
    made = per_worker(object)

    def value(x: int) -> tuple[int, int]:
        barrier.wait()
        return threading.get_ident(), id(made())

    with ThreadPool(2) as pool:
        seen = aggregate(value, range(8), Unique(), pool=pool, chunksize=1)
    assert len(seen) == len({one for _, one in seen}) == 2


def test_a_run_inside_a_worker_takes_its_share_of_the_cpus(kind: Any) -> None:
    """With as many workers as CPUs that is one: the nested run stays on the thread of its worker."""

    def nested(x: int) -> tuple[int, bool, int]:
        here = os.getpid(), threading.get_ident()
        seen = aggregate(lambda y: (os.getpid(), threading.get_ident()), range(3), Unique())
        return x, seen == {here}, worker_index()

    with kind(cpus.usable_cpus()) as pool:
        results = aggregate(nested, range(4), Collect(), pool=pool)
    assert [result[:2] for result in results] == [(x, True) for x in range(4)]


def test_the_share_is_what_the_workers_leave_each(method: str) -> None:
    """Of eight CPUs, three workers take two each."""

    def share(x: int) -> int:
        cpus.usable_cpus = lambda: 8
        return ProcessPool().workers

    assert aggregate(share, [1], Collect(), pool=ProcessPool(3, start_method=method)) == [2]


def test_a_nested_run_with_a_time_limit_has_a_worker_that_can_be_killed(method: str) -> None:
    def nested(x: int) -> bool:
        return os.getpid() not in aggregate(lambda y: os.getpid(), range(2), Unique(), item_timeout=30)

    assert aggregate(nested, [1], Collect(), pool=ProcessPool(cpus.usable_cpus(), start_method=method)) == [True]


def test_global_generators_differ_between_workers(method: str) -> None:
    """Also when the program has seeded them and forks."""
    random.seed(1)
    np.random.seed(1)

    def draw(x: int) -> tuple[int, float, float]:
        return os.getpid(), random.random(), float(np.random.random())

    seen: set[tuple[int, float, float]] = set()
    for _ in range(2):
        seen |= aggregate(draw, range(2), Unique(), pool=ProcessPool(1, start_method=method))
    assert len(seen) == len({one[1] for one in seen}) == len({one[2] for one in seen}) == 4
