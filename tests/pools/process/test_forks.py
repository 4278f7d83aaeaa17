"""A process that an item forks ends where the item ends: neither a second worker nor a second program goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mischief import Forking
from tasks import Attempts

from poolagg import Collect, Fold, ProcessPool, SerialPool, Sum, ThreadPool, aggregate
from poolagg.strategies import Combine, Ordered, Stream, Tree

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

ENDS = {"returns": 0, "exits": 0, "exits with 7": 7, "exits with a text": 1, "raises": 1, "is interrupted": 1}
"""How the child leaves the item, and its exit code."""


@pytest.fixture(params=["forkserver", "spawn", "fork", "threads", "serial"])
def pool(request: pytest.FixtureRequest) -> Any:
    """Every kind of pool."""
    made = {"threads": lambda: ThreadPool(2), "serial": SerialPool}
    with made.get(request.param, lambda: ProcessPool(2, start_method=request.param))() as pool:
        yield pool


@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Tree()], ids=repr)
def test_a_forked_child_ends_with_its_item_however_it_leaves_it(pool: Any, tmp_path: Path, strategy: Any) -> None:
    """The parent has the child's exit code, and no item that follows runs twice."""
    for number, (how, code) in enumerate(ENDS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        func = Forking(folder, how, 3, 40)
        result = aggregate(func, range(60), Collect(), pool=pool, strategy=strategy, retries=0)
        assert result == [code if x in func.at else 0 for x in range(60)], how
        assert [func.attempts.at(x) for x in range(60) if x not in func.at] == [1] * 58, how


@pytest.mark.orphans
def test_an_item_that_goes_on_in_its_child_has_lost_its_worker(tmp_path: Path) -> None:
    """As a daemon is made: the process that was started ends, and the child is none of ours."""
    lost: list[int] = []

    def func(x: int) -> int:
        if x == 5 and os.fork():
            os._exit(0)
        return x

    result = aggregate(func, range(20), Collect(), pool=ProcessPool(2), on_error=lambda e: lost.append(e.index))
    assert result == [x for x in range(20) if x != 5]
    assert lost == [5]


@pytest.mark.parametrize("where", ["step", "merge", "initializer"])
def test_a_child_that_a_reducer_or_an_initializer_forks_in_a_worker_ends_as_well(where: str) -> None:
    here = os.getpid()

    def fork(now: str) -> None:
        if now == where and os.getpid() != here:
            if (pid := os.fork()) == 0:
                raise SystemExit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    def step(acc: int, x: int) -> int:
        fork("step")
        return acc + x

    def merge(a: int, b: int) -> int:
        fork("merge")
        return a + b

    pool = ProcessPool(2, initializer=fork, initargs=["initializer"])
    result = aggregate(abs, range(40), Fold(step, int, merge), pool=pool, reproducible=True, chunksize=4)
    assert result == sum(range(40))


def test_a_child_in_an_executor_of_the_standard_library_ends_as_well(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys
            from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
            from multiprocessing import get_context
            import poolagg

            def func(x):
                if x in (3, 40) and (pid := os.fork()) == 0:
                    sys.exit(7)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if x in (3, 40) else 0

            for pool in (ThreadPoolExecutor(2), ProcessPoolExecutor(2, get_context("fork"))):
                with pool:
                    print(poolagg.aggregate(func, range(60), poolagg.Sum(), pool=pool))
            with get_context("fork").Pool(2) as pool:
                print(poolagg.aggregate(func, range(60), poolagg.Sum(), pool=pool))
            """)
    )
    ran = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("14\n14\n14\n", "")


def test_what_parent_and_child_print_appears_once(tmp_path: Path) -> None:
    """Nothing that waits in a buffer is written by both, and nothing that the child prints is lost."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys
            import poolagg

            def func(x):
                print("item", x)
                if x == 3:
                    if (pid := os.fork()) == 0:
                        print("child")
                        sys.exit(5)
                    print("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                return x

            pool = {"serial": poolagg.SerialPool, "threads": lambda: poolagg.ThreadPool(1)}.get(sys.argv[1])
            print("before")
            print(poolagg.aggregate(func, range(5), poolagg.Sum(), pool=pool() if pool else poolagg.ProcessPool(1)))
            """)
    )
    # From 3.12 on Python warns of a fork in a process with threads, which this item is to blame for.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", script]
    for kind in ("serial", "threads", "processes"):
        ran = subprocess.run([*command, kind], capture_output=True, text=True, timeout=30, env=BUFFERED)
        expected = ["before", *(f"item {x}" for x in range(5)), "child", "code 5", "10"]
        assert sorted(ran.stdout.splitlines()) == sorted(expected), kind
        assert (ran.stderr, ran.returncode) == ("", 0)


def test_an_exception_in_a_child_is_told_like_any_uncaught_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os
            import poolagg

            def func(x):
                if x == 3 and (pid := os.fork()) == 0:
                    raise LookupError("in the child")
                return x if x != 3 else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

            print(poolagg.aggregate(func, range(5), poolagg.Collect(), pool=poolagg.SerialPool()))
            """)
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert ran.stdout == "[0, 1, 2, 1, 4]\n"
    assert ran.stderr.count("LookupError: in the child") == 1


def test_no_other_item_of_the_batch_runs_in_the_child(tmp_path: Path) -> None:
    """And `rng` in the child is that of its item."""
    from poolagg import rng

    def func(x: int) -> float:
        attempts.another(x)
        drawn = 0.0
        if x == 500 and (pid := os.fork()) == 0:
            sys.exit(int(rng().integers(100)))
        if x == 500:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            drawn = float(code == rng().integers(100))
        return drawn

    attempts = Attempts(tmp_path)
    assert aggregate(func, range(1000), Sum(), pool=ProcessPool(1)) == 1.0
    assert {attempts.at(x) for x in range(1000)} == {1}
