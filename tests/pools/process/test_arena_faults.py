"""Arrays outlive the worker that made them; nothing is lost when workers die."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from arrays import full
from tasks import Attempts
from workers import workers_of

from poolagg import ArraySum, Collect, Count, Into, ProcessPool, aggregate, events
from poolagg.pools.process.arena import Region
from poolagg.strategies import Stream

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory here")

MB = 1 << 20


# -- workers that die --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reducer", "size"), [("ArraySum", MB), ("Into", 2 * MB)])
def test_workers_killed_again_and_again_lose_nothing(method: str, reducer: str, size: int) -> None:
    """At random, while arrays of 2 or 8 MB are written, sent and read."""
    progress, stop = threading.Event(), threading.Event()
    kills, count = 0, 60
    sums: list[int] = []

    def killing(pool: ProcessPool) -> None:
        nonlocal kills
        choose = random.Random(1)
        while not stop.is_set():
            if not progress.wait(0.1):
                continue
            progress.clear()
            stop.wait(choose.random() * 0.02)
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                choose.choice(workers_of(pool)).kill()
                kills += 1

    def watch(event: events.RunEvent) -> None:
        if isinstance(event, events.StateMerged) and kills < 10:
            progress.set()

    with ProcessPool(2, start_method=method) as pool:
        thread = threading.Thread(target=killing, args=[pool])
        thread.start()
        try:
            if reducer == "ArraySum":
                result = aggregate(
                    full(size, "i8"), range(count), (ArraySum(), Count()),
                    pool=pool, retries=100, watch=watch, chunksize=1, strategy=Stream(),
                )  # fmt: skip
                assert (result[0] == sum(range(count))).all()
                assert result[1] == count
            else:
                apply = lambda array: sums.append(int(array.sum()))
                aggregate(full(size), range(count), Into(apply), pool=pool, retries=100, watch=watch, chunksize=1)
                assert sorted(sums) == [size * x for x in range(count)]
        finally:
            stop.set()
            thread.join()
    assert kills >= 2


def test_a_slot_outlives_its_worker(method: str, opened: list[Region]) -> None:
    """`apply` kills the workers, waits until they are gone, and reads what one of them sent."""
    seen: list[int] = []

    def apply(array: Any) -> None:
        if len(seen) in (0, 5):
            children = [handle.child for handle in pool._handles.values()]
            for child in children:
                child.kill()
            assert all(child.ends_within(10) for child in children)
        assert (array == array[0]).all()
        seen.append(int(array[0]))

    with ProcessPool(2, start_method=method) as pool:
        aggregate(full(MB), range(20), Into(apply), pool=pool, retries=10, chunksize=1)
    assert sorted(seen) == list(range(20))
    assert opened


def test_a_task_that_closes_all_descriptors_gets_no_array_of_ours_in_its_file(method: str, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    attempts = Attempts(tmp_path)

    def rob(x: int) -> Any:
        if x == 2 and attempts.another(x) == 1:
            os.closerange(3, 1000)
            files = [open(path, "ab+") for _ in range(30)]
            for file in files:
                file.write(b"mine")
                file.flush()
            np.files = files  # type: ignore[attr-defined] # which stay open
            return np.full(10 * MB, x, "u1")
        return np.full(MB, x, "u1")

    with ProcessPool(2, start_method=method) as pool:
        result = aggregate(rob, range(10), Collect(), pool=pool, chunksize=1)
    assert [int(array[0]) for array in result] == list(range(10))
    assert path.read_bytes() == b"mine" * 30


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_arrays_that_live_until_the_interpreter_ends_are_let_go_of_in_silence(closed: bool, tmp_path: Path) -> None:
    """In globals of the script and of other modules, and in a cycle; after the pool, or with it. A child, too."""
    script = f"""
        import builtins, os, sys
        import numpy as np
        from poolagg import Into, ProcessPool, aggregate
        import poolagg.pools.process.arena, poolagg.pools.process.progress_cell

        class Cycle:
            def __init__(self, array): self.array, self.me = array, self

        keep = []
        pool = ProcessPool(2)
        pool.__enter__()
        aggregate(lambda x: np.full(1_000_000, x, "u1"), range(20), Into(keep.append), pool=pool)
        if {closed}:
            pool.__exit__(None, None, None)
        cycle = Cycle(keep[0])
        modules = builtins, os, sys, np, poolagg.pools.process.arena, poolagg.pools.process.progress_cell
        for array, module in zip(keep[1:], modules):
            module.kept_by_a_test = array
        pid = os.fork()
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        assert all((array == array[0]).all() for array in keep)
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
