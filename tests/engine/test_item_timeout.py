"""`item_timeout` ends the item that ran for too long, and no other: by the time that the parent was there to see.

Workers are killed, stopped and continued for real. What decides is tested alone, on schedules drawn at random.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import leaks
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tasks import Attempts, identity, wait_for

from poolagg import Collect, ProcessPool, aggregate, events
from poolagg._input.source import Source
from poolagg._scheduler.messages import Lost, RunChunk
from poolagg.pools import Job
from poolagg.pools.external.item_timeout import run_with_timeout
from poolagg.pools.item_timeouts import Overdue, Task
from poolagg.pools.process.progress_cell import CELL_SIZE, ProgressCell
from poolagg.pools.serialization.pickling import encode_by_value
from poolagg.strategies import Stream

LIMIT = 0.3


# -- what decides ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.001, 50), st.booleans()), min_size=1, max_size=60), st.floats(0.5, 100))
def test_an_item_never_ran_for_less_than_it_may(gaps: list[tuple[float, bool]], limit: float) -> None:
    """In gaps in which all is stopped it did not run: it is over its time only after as long a time without those.

    Each stop counts two intervals of a look at most.
    """
    overdue, now, ran, stops = Overdue(limit), 0.0, 0.0, 0
    task = Task("item 7", 0.0, limit)
    overdue.look(now, {0: task})
    for gap, stopped in gaps:
        now += gap
        ran += 0 if stopped else gap
        stops += stopped
        if overdue.look(now, {0: task}):
            assert ran + 2 * overdue.interval * stops > limit * (1 - 1e-9)
            return


@given(st.floats(0.01, 1000), st.floats(0.0, 1.0), st.integers(0, 30))
def test_a_hung_item_is_over_its_time_soon_after_it_is(limit: float, late: float, before: int) -> None:
    """Whatever its worker did before, if the parent is there."""
    overdue, now = Overdue(limit), 0.0
    for number in range(before):
        assert overdue.look(now, {0: Task(number, now, limit)}) == []
        now += overdue.interval
    began = now
    while not overdue.look(now, {0: Task("hung", began, limit)}):
        now += overdue.interval * (1 + late)
        assert now - began < limit + 3 * (1 + late) * overdue.interval


def test_slots_are_watched_one_by_one_and_a_new_item_starts_anew() -> None:
    overdue = Overdue(1.0)
    for number in range(30):
        tasks = {0: Task(number // 5, 0.0, 1.0), 1: Task("hung", 0.0, 1.0), 2: Task("packs", 0.0, 100.0)}
        assert overdue.look(number / 10, tasks) == ([1] if number > 10 else [])


# -- the batch that was looked at is the one that dies -----------------------------------------------------------------


def test_a_worker_dies_in_the_batch_that_was_condemned_or_lives_on() -> None:
    """A process that changes batches as fast as it can, condemned at random moments, is never killed in another."""
    killed = 0
    for number in range(150):
        memory = mmap.mmap(-1, CELL_SIZE)
        cell = ProgressCell(memory)
        if not (pid := os.fork()):
            with contextlib.suppress(BaseException):
                mine = ProgressCell(memory)
                mine.begin(1)
                for index in range(1, 10**9):
                    mine.batch(0, index, index + 1)
                    if number % 3 == 0:
                        mine.rest()
            os._exit(7)
        while (batch := cell.read()) is None or batch.start < 20:
            pass
        for _ in range(number % 5):
            batch = cell.read() or batch
        if cell.condemn(batch):
            os.kill(pid, signal.SIGKILL)
            condemned = True
        else:  # it has gone on; or has killed itself, for it saw it in time
            time.sleep(0.002)
            condemned = os.waitpid(pid, os.WNOHANG)[0] == pid
            if not condemned:
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        if condemned:
            killed += 1
            assert cell.read() in (batch, None), "None: it was about to leave the batch"
        cell.close()
    assert killed


def test_what_is_over_its_time_as_it_ends_is_the_one_that_fails(tmp_path: Path) -> None:
    """Items end when they may just not run any longer: short ones between them are never run twice, and never fail."""
    attempts = Attempts(tmp_path)

    def func(x: int) -> int:
        attempts.another(x)
        time.sleep(0.1 + x % 7 * 0.005 if x % 2 else 0.001)
        return x

    for _ in range(2):
        failed: list[events.ItemFailed] = []
        with ProcessPool(2) as pool:
            got = aggregate(
                func, range(60), Collect(),
                pool=pool, chunksize=1, item_timeout=0.1, on_error=failed.append, strategy=Stream(),
            )  # fmt: skip
        assert all(one.index % 2 for one in failed)
        assert sorted([*got, *(one.index for one in failed)]) == list(range(60))
        assert {attempts.at(x) for x in range(60)} == {1}
        for path in tmp_path.iterdir():
            path.unlink()


# -- stopped -----------------------------------------------------------------------------------------------------------


@pytest.mark.orphans
def test_a_program_that_was_stopped_for_long_goes_on_and_no_item_fails(tmp_path: Path) -> None:
    """By Ctrl-Z, say: the terminal stops the program and its workers, and `fg` continues them."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import pathlib, time
            from poolagg import Count, ProcessPool, aggregate

            def func(x):
                pathlib.Path({str(tmp_path)!r}, f"began {{x}}").touch()
                time.sleep(0.1)
                return x

            print(aggregate(func, range(30), Count(), pool=ProcessPool(2), chunksize=1, item_timeout=0.5))
            """
        )
    )
    program = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    for number in (5, 15):
        wait_for((tmp_path / f"began {number}").exists)
        os.killpg(program.pid, signal.SIGSTOP)
        time.sleep(1.2)
        os.killpg(program.pid, signal.SIGCONT)
    out, _ = program.communicate(timeout=30)
    assert out == "30\n"


def test_a_worker_that_was_stopped_between_two_items_is_replaced_and_nothing_fails() -> None:
    seen: list[Any] = []
    with ProcessPool(2) as pool:

        def items() -> Iterator[int]:
            yield from range(10)
            wait_for(lambda: not any(pool.batch(slot) for slot in range(2)))
            for handle in pool._handles.values():
                os.kill(handle.child.pid, signal.SIGSTOP)
                wait_for(lambda pid=handle.child.pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
            yield from range(10, 20)

        got = aggregate(identity, items(), Collect(), pool=pool, item_timeout=LIMIT, retries=0, watch=seen.append)
    assert got == list(range(20))
    deaths = [event for event in seen if isinstance(event, events.WorkerDied)]
    assert deaths
    assert all(event.suspect is None and "was stopped (SIGSTOP)" in event.reason for event in deaths)
    assert not [event for event in seen if isinstance(event, events.ItemFailed)]


def test_a_worker_that_was_stopped_within_an_item_is_over_its_time() -> None:
    failed: list[events.ItemFailed] = []

    def func(x: int) -> int:
        if x == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        return x

    with ProcessPool(2) as pool:
        got = aggregate(func, range(9), Collect(), pool=pool, item_timeout=LIMIT, on_error=failed.append)
    assert got == [0, 1, 2, 4, 5, 6, 7, 8]
    assert [(one.index, type(one.error)) for one in failed] == [(3, TimeoutError)]


# -- again and again ---------------------------------------------------------------------------------------------------


def test_every_hung_item_of_a_slot_is_killed_also_after_its_workers_are_replaced(method: str) -> None:
    """The pool replaces retiring workers between them."""
    failed: list[events.ItemFailed] = []
    pool = ProcessPool(1, start_method=method, max_items_per_worker=1)
    got = aggregate(
        lambda x: time.sleep(100) if x % 2 else x, range(8), Collect(),
        pool=pool, chunksize=1, item_timeout=LIMIT, on_error=failed.append,
    )  # fmt: skip
    assert got == [0, 2, 4, 6]
    assert [one.index for one in failed] == [1, 3, 5, 7]


def test_a_worker_on_a_cluster_ends_the_item_as_a_parent_does() -> None:
    """It ends each process that it started for that, too; processes of other tests may go on for longer."""
    before = set(psutil.Process().children(recursive=True))
    job = Job(lambda x: time.sleep(100) if x == 2 else x, Collect(), Stream(), item_timeout=LIMIT)
    source = Source(range(5), encode_by_value)
    source.pull(5, 1 << 20, time.monotonic, time.monotonic() + 1)
    event = run_with_timeout("run", job, RunChunk(4, 0, 0, 5, flush=True, alone=True), source.seal(5))
    assert isinstance(event, Lost)
    assert (event.slot, event.suspect, event.cause) == (4, (2, 3), "timeout")
    forkserver, _ = leaks.kept_forkserver()
    wait_for(lambda: before.issuperset(child for child in psutil.Process().children() if child.pid != forkserver))
