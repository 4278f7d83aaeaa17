"""Workers have an initializer, an environment and a state of their own."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest
import tasks
from contract import Kind, kinds
from tasks import Attempts, Flaky, square

from poolagg import Collect, Frequencies, SerialPool, Sum, ThreadPool, WorkerLost, aggregate, per_worker, rng
from poolagg.strategies import Combine, Stream, Tree


@kinds(processes=True)
def test_what_an_initializer_sets_func_sees(kind: Kind) -> None:
    def start(n: int) -> None:
        tasks.setting = n  # type: ignore[attr-defined]

    def read(x: int) -> int:
        return tasks.setting + x  # type: ignore[attr-defined]

    with kind.make(initializer=start, initargs=(10,)) as pool:
        assert aggregate(read, range(3), Collect(), pool=pool) == [10, 11, 12]
        assert aggregate(read, range(3), Collect(), pool=pool) == [10, 11, 12]
    assert not hasattr(tasks, "setting")


@kinds(processes=True)
@pytest.mark.parametrize("error", [ConnectionError, SystemExit, tasks.TwoArguments, EOFError])
def test_an_initializer_that_raises_is_named_at_once_and_every_time(kind: Kind, error: Any) -> None:
    def start() -> None:
        raise error(*("no", "database")[: 2 if error is tasks.TwoArguments else 1])

    with kind.make(initializer=start) as pool:
        for _ in range(2):
            with pytest.raises(WorkerLost, match=f"initializer failed.*{error.__name__}"):
                aggregate(square, range(100), Sum(), pool=pool)


def test_an_initializer_of_threads_that_raises_is_named() -> None:
    def start() -> None:
        raise ValueError("no database")

    with ThreadPool(2, initializer=start) as pool, pytest.raises(WorkerLost, match=r"initializer failed.*no database"):
        aggregate(square, range(100), Sum(), pool=pool)


@kinds(ours=True)
def test_per_worker_is_made_once_in_each_worker(pool: Any, tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)

    def make(name: str) -> str:
        attempts.another(threading.get_native_id())
        return name

    model = per_worker(make, "model")
    assert aggregate(lambda x: model(), range(200), Frequencies(), pool=pool) == {"model": 200}
    assert aggregate(lambda x: model(), range(200), Frequencies(), pool=pool) == {"model": 200}
    made = list(tmp_path.iterdir())
    assert 1 <= len(made) <= pool.workers
    assert all(path.stat().st_size == 1 for path in made)


def test_rng_depends_on_the_item_alone(pool: Any) -> None:
    def draw(x: int) -> float:
        time.sleep(0.001 * (x % 2))
        return float(rng(7).random()) + float(rng(7).random())

    results = aggregate(draw, range(60), Collect(), pool=pool)
    assert results == aggregate(draw, range(60), Collect(), pool=SerialPool())
    assert len(set(results)) == 60
    nested = aggregate(lambda x: (draw(x), aggregate(draw, [1], Collect(), pool=SerialPool()), draw(x)), [5], Collect())
    assert nested[0][0] != nested[0][2], "the item's stream goes on after a run within it"
    with pytest.raises(RuntimeError, match="inside func"):
        rng()


@kinds(processes=True)
def test_workers_are_replaced_after_max_items(kind: Kind, tmp_path: Any) -> None:
    with kind.make(max_items_per_worker=10) as pool:
        pids = aggregate(tasks.pid_of, range(60), Frequencies(), pool=pool, chunksize=5)
        assert pids.total() == 60
        assert len(pids) >= 3
        assert max(pids.values()) <= 10 + 2 * 5
        func = Flaky(tmp_path, {})
        for strategy in (Combine(), Stream(), Tree()):
            assert aggregate(func, range(30), Collect(), pool=pool, chunksize=5, strategy=strategy) == list(range(30))
        assert all(func.attempts.at(x) == 3 for x in range(30)), "nothing is run twice for it"


@kinds(processes=True)
def test_workers_have_the_environment_and_folder_of_the_parent_at_their_start(
    kind: Kind, tmp_path: Any, monkeypatch: Any
) -> None:
    def look(x: int) -> dict[str, Any]:
        names = ("POOLAGG_LATE", "POOLAGG_GIVEN", "POOLAGG_GONE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return {"cwd": os.getcwd(), **{name: os.environ.get(name) for name in names}}

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.setenv("POOLAGG_GONE", "early")
    with kind.make(env={"POOLAGG_GIVEN": "given"}, max_items_per_worker=1) as pool:
        aggregate(look, [0], Collect(), pool=pool)
        monkeypatch.setenv("POOLAGG_LATE", "late")
        monkeypatch.delenv("POOLAGG_GONE")
        monkeypatch.chdir(tmp_path)
        for _ in range(3):
            seen = aggregate(look, range(4), Collect(), pool=pool, chunksize=1)
    cpus = len(os.sched_getaffinity(0))
    assert seen[-1] == {
        "cwd": str(tmp_path),
        "POOLAGG_LATE": "late",
        "POOLAGG_GIVEN": "given",
        "POOLAGG_GONE": None,
        "OMP_NUM_THREADS": str(max(1, cpus // 2)),
        "OPENBLAS_NUM_THREADS": "3",
    }


@kinds(processes=True)
def test_a_folder_that_was_removed_stops_nobody(kind: Kind, tmp_path: Any, monkeypatch: Any) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert aggregate(abs, range(10), Sum(), pool=kind.make()) == 45
