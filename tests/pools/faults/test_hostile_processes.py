"""Workers robbed of their descriptors, and a parent with locks held, few descriptors or odd signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import pytest
import tasks
from tasks import Attempts, Flaky, square

from poolagg import Collect, ProcessPool, Sum, aggregate, events
from poolagg.pools.process import descriptors

SAFE = [method for method in ("forkserver", "spawn") if method in {*tasks.METHODS, "spawn"}]


# -- robbed of its descriptors -----------------------------------------------------------------------------------------


def test_a_task_that_closes_all_descriptors_gets_no_bytes_of_ours_in_its_file(pool: ProcessPool, tmp_path: Any) -> None:
    path = tmp_path / "mine"
    attempts = Attempts(tmp_path)

    def rob(x: int) -> int:
        if x == 2 and attempts.another(x) == 1:
            os.closerange(3, 1000)
            files = [open(path, "ab") for _ in range(8)]
            for file in files:
                file.write(b"mine")
                file.flush()
        return x

    assert aggregate(rob, range(10), Collect(), pool=pool) == list(range(10))
    assert set(path.read_bytes().split(b"mine")) <= {b""}


def test_a_task_that_closes_standard_output_is_a_task_like_any_other(pool: ProcessPool) -> None:
    def quiet(x: int) -> int:
        import sys

        sys.stdout.close()
        sys.stderr = None  # type: ignore[assignment]
        return x

    seen: list[Any] = []
    assert aggregate(quiet, range(10), Sum(), pool=pool, chunksize=1, watch=seen.append) == 45
    assert not [event for event in seen if isinstance(event, events.WorkerDied)]


# -- locks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SAFE)
def test_a_lock_held_by_a_thread_when_workers_start_stops_nobody(method: str) -> None:
    held, release = threading.Event(), threading.Event()
    handler = logging.StreamHandler()
    logging.getLogger("poolagg.test").addHandler(handler)
    assert handler.lock is not None

    def hold() -> None:
        with tasks.LOCK, handler.lock:  # type: ignore[union-attr]
            held.set()
            release.wait()

    def needs_both(x: int) -> int:
        with tasks.LOCK:
            logging.getLogger("poolagg.test").debug("item %s", x)
        return x

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert aggregate(needs_both, range(10), Sum(), pool=ProcessPool(2, start_method=method)) == 45
    finally:
        release.set()
        thread.join()
        logging.getLogger("poolagg.test").removeHandler(handler)


# -- the limits of the machine -----------------------------------------------------------------------------------------


def test_more_descriptors_than_select_can_count(method: str) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("not so many descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert aggregate(square, range(10), Sum(), pool=ProcessPool(1, start_method=method)) == 285
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptors_left_is_an_error_and_no_leak(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where other threads have opened files since the pool counted what it needs."""
    import resource

    monkeypatch.setattr(descriptors, "OF_WORKER", 0)
    monkeypatch.setattr(descriptors, "OF_POOL", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    for spare in range(1, 17):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                aggregate(square, range(10), Sum(), pool=ProcessPool(3, start_method=method))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_signals_that_the_parent_ignores_or_blocks_change_nothing(method: str, tmp_path: Any) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGIO})
    try:
        func = Flaky(tmp_path, {5: "SIGKILL"}, times=1)
        assert aggregate(func, range(10), Sum(), pool=ProcessPool(2, start_method=method)) == 45
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, before)
