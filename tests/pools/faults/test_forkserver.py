"""The process that forks the workers may die, too, and serves threads that start workers at once."""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tasks import short, square
from workers import template_of, workers_of

from poolagg import ProcessPool, Sum, aggregate, events
from poolagg.pools.process.launch.child import PosixChild
from poolagg.pools.process.launch.forkserver.launcher import ForkserverLauncher
from poolagg.pools.process.output.relay import Relay
from poolagg.pools.process.systems.choice import native
from poolagg.pools.process.worker_handle import Handle


@pytest.mark.orphans
def test_a_template_that_is_killed_is_replaced() -> None:
    with ProcessPool(2, start_method="forkserver") as pool:
        assert aggregate(square, range(10), Sum(), pool=pool) == 285
        for _ in range(2):
            template_of(pool).kill()
            assert aggregate(square, range(10), Sum(), pool=pool) == 285, "workers outlive it"
            for process in workers_of(pool):
                process.kill()
            assert aggregate(square, range(10), Sum(), pool=pool) == 285


@pytest.mark.orphans
def test_template_and_workers_killed_in_the_middle_of_a_run() -> None:
    with ProcessPool(2, start_method="forkserver") as pool:
        killed = False

        def watch(event: Any) -> None:
            nonlocal killed
            if isinstance(event, events.ChunkDone) and not killed:
                killed = True
                for process in (template_of(pool), *workers_of(pool)):
                    process.kill()

        assert aggregate(short, range(100), Sum(), pool=pool, watch=watch, chunksize=3) == sum(range(100))
        assert killed


@pytest.mark.orphans
def test_threads_that_start_workers_by_one_template_get_each_its_own() -> None:
    """And each the end of its own: a pid and a wait status look alike."""
    launcher = ForkserverLauncher(os.environ, alike=True)
    seen: list[int] = []

    def start_and_end_some() -> None:
        for slot in range(20):
            handle = Handle(slot, launcher, native(), Relay("forward"))
            seen.append(handle.child.pid)
            handle.child.kill()
            assert handle.child.ends_within(10)
            assert handle.child.reap() == -signal.SIGKILL
            handle.close()

    try:
        with ThreadPoolExecutor(8) as threads:
            for future in [threads.submit(start_and_end_some) for _ in range(8)]:
                future.result()
    finally:
        launcher.close()
    assert len(set(seen)) == 160


@pytest.mark.orphans
def test_an_interrupted_wait_for_a_template_leaves_no_answer_to_the_next() -> None:
    launcher = ForkserverLauncher(os.environ, alike=True)
    choose, interrupted = random.Random(1), 0
    usual = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        while interrupted < 20:
            handle = Handle(0, launcher, native(), Relay("forward"))
            handle.child.kill()
            assert handle.child.ends_within(10), "it was a worker"
            try:
                signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-6, 2e-4))
                assert handle.child.reap() == -signal.SIGKILL
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
                assert handle.child.reap() in (-signal.SIGKILL, None), "None: the first call has reaped it"
            handle.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
        launcher.close()


@pytest.mark.parametrize("pid", [0, -1, -7])
def test_what_is_no_process_is_not_killed(pid: int) -> None:
    """`kill(-1)` would end every process of the user's, and `kill(0)` all of the terminal's job."""
    with pytest.raises(ValueError, match="pid must be positive"):
        PosixChild(pid, os.abort)
