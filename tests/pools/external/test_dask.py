"""dask's own faults: deaths of workers, nannies and the scheduler, and the remains of a run there; the rest of the
contract is in test_elsewhere.py.

Each cluster is a process of its own, and so are its workers. A death is a SIGKILL.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_cluster
import pytest
import tasks
from dask_cluster import Cluster
from example_output import PRIMES
from paths import EXAMPLES

from poolagg import Collect, Count, Into, SkippedItems, Sum, TaskError, WorkerLost, aggregate, events, pools

dask_cluster.imported()

pytestmark = [
    pytest.mark.orphans,  # what a killed cluster leaves ends by itself, a moment later
    pytest.mark.timeout(180),  # dask starts a worker anew for each that dies: on a busy machine that takes seconds
]


@pytest.fixture
def mortal() -> Iterator[Cluster]:
    """A cluster for one test, which kills its workers."""
    with dask_cluster.running(workers=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def kept() -> Iterator[Cluster]:
    """A cluster for all tests that leave its workers alone."""
    with dask_cluster.running(workers=2) as cluster:
        yield cluster


@pytest.fixture
def client(kept: Cluster) -> Iterator[Any]:
    """A client of that."""
    with dask_cluster.client(kept.address) as client:
        yield client


def kills_its_worker(x: int) -> int:
    if x == 17:
        os._exit(3)
    return x


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_hundreds_of_chunks_are_counted_once_whatever_dies_or_freezes(tmp_path: Path) -> None:
    """Workers are killed at random, one with its nanny, and one is stopped: each result is in the whole once.

    Also where large states are lost.
    """
    chance = random.Random(6)
    doomed = {chance.randrange(1000): chance.uniform(0.1, 0.2) for _ in range(4)}
    doomed |= {chance.randrange(1000, 1400): chance.uniform(0.1, 0.2) for _ in range(2)}
    attempts = tasks.Attempts(tmp_path)

    with (
        dask_cluster.running(workers=3) as cluster,
        dask_cluster.another_machine(cluster) as nanny,
        dask_cluster.client(cluster.address) as client,
    ):
        elsewhere = nanny.pid

        def item(x: int) -> int:
            if os.getppid() == elsewhere and attempts.another("nanny") == 1:
                os.kill(elsewhere, signal.SIGKILL)
            elif x in doomed and attempts.another(x) == 1:  # its worker is up; a nanny gives up on one that never was
                threading.Timer(doomed[x], os.kill, (os.getpid(), signal.SIGKILL)).start()
            elif x > 100 and attempts.another("frozen") == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            return tasks.short(x)

        client.wait_for_workers(4)
        before = {worker.pid for worker in cluster.workers()}
        result = aggregate(item, range(1000), Collect(), pool=client, chunksize=4)
        assert result == list(range(1000))
        assert attempts.at("nanny") >= 1
        assert nanny.wait() == -signal.SIGKILL
        tasks.wait_for(lambda: not before <= {worker.pid for worker in cluster.workers()})
        reducer = tasks.SlowHere(os.getpid())
        rows = aggregate(lambda x: tasks.row(item(x)), range(1000, 1400), reducer, pool=client, chunksize=4)
        assert (rows.sum(), rows[1000:1400].sum(), rows.max()) == (400, 400, 1)


def test_an_item_that_kills_every_worker_is_named(mortal: Cluster) -> None:
    """No other item is told to have failed, though dask gives up on all that waited behind it."""
    failed: list[int] = []

    def watch(event: Any) -> None:
        if isinstance(event, events.ItemFailed):
            failed.append(event.index)

    with dask_cluster.client(mortal.address) as client:
        with pytest.raises(WorkerLost, match="item 17, 17, which ran once") as caught:
            aggregate(kills_its_worker, range(40), Sum(), pool=client, retries=0, watch=watch)
        assert (caught.value.index, caught.value.item) == (17, 17)
        assert failed == [17]
        tasks.wait_for(lambda: not client.run_on_scheduler(keys_on))


def fills_its_memory(x: int) -> int:
    held = []
    while x == 29:
        held.append(b"x" * (4 << 20))
        threading.Event().wait(0.01)  # a nanny looks ten times a second
    return kills_its_worker(x)


def test_items_that_kill_every_worker_or_fill_its_memory_can_be_skipped() -> None:
    """Their neighbours are in the result, each once, also where leaves must be folded whole; whatever dask allows."""
    options: dict[str, Any] = {"on_error": "skip", "retries": 0}
    settings: dict[str, Any] = {"allowed_failures": 0, "memory_limit": "500MB"}
    with dask_cluster.running(workers=2, **settings) as cluster, dask_cluster.client(cluster.address) as client:
        for func, reproducible in ((fills_its_memory, False), (kills_its_worker, True)):
            failed = {17, 29} if func is fills_its_memory else {17}
            with pytest.warns(SkippedItems, match="item 17"):
                result = aggregate(func, range(40), Collect(), pool=client, reproducible=reproducible, **options)
            assert result == [x for x in range(40) if x not in failed]


def test_a_lost_scheduler_is_an_error_and_a_checkpoint_goes_on_from_it(
    mortal: Cluster, client: Any, tmp_path: Path
) -> None:
    """The run does not wait for a cluster that is gone; the next one runs the rest."""
    attempts = tasks.Attempts(tmp_path)
    options: dict[str, Any] = {"chunksize": 5, "checkpoint": tmp_path / "kept.ckpt"}

    def item(x: int) -> int:
        attempts.another(x)
        return x

    with dask_cluster.client(mortal.address, timeout=1) as lost:

        def kill(event: Any) -> None:
            if isinstance(event, events.StateMerged) and attempts.at(300):
                mortal.process.kill()

        with pytest.raises(WorkerLost, match="scheduler"):
            aggregate(item, range(600), Collect(), pool=lost, watch=kill, **options)
    assert aggregate(item, range(600), Collect(), pool=client, **options) == list(range(600))
    assert attempts.at(0) == 1, "what was covered did not run again"


# -- what is left there ------------------------------------------------------------------------------------------------


def keys_on(dask_scheduler: Any) -> list[str]:
    """Return poolagg's tasks that the scheduler still knows."""
    variables = dask_scheduler.extensions["variables"].variables
    return [str(key) for key in (*dask_scheduler.tasks, *variables) if "poolagg" in str(key)]


def test_ctrl_c_cancels_what_is_on_the_cluster_and_leaves_the_client_usable(client: Any) -> None:
    """The user's own tasks there go on."""
    own = client.submit(abs, -7)

    def interrupt(partial: int) -> None:
        if partial == 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        aggregate(tasks.short, itertools.count(), Into(interrupt), pool=client)
    assert own.result() == 7
    assert aggregate(abs, range(-10, 0), Sum(), pool=client) == 55
    tasks.wait_for(lambda: not client.run_on_scheduler(keys_on))


def test_a_run_leaves_nothing_on_the_cluster(client: Any) -> None:
    """No task, no result, no data, however it ended."""
    assert aggregate(abs, range(-300, 0), Count(), pool=client) == 300
    with pytest.raises(TaskError):
        aggregate(tasks.inverse, range(-30, 30), Sum(), pool=client)
    tasks.wait_for(lambda: not client.run_on_scheduler(keys_on))


def test_neither_driver_nor_scheduler_holds_more_the_more_chunks_there_were(client: Any) -> None:
    """No future, no key and no lineage of a chunk outlives its root, though each chunk's state stays there at first."""
    chunks = int(os.environ.get("POOLAGG_CHUNKS", "480"))
    keys, objects, done = [], [], 0

    def watch(event: Any) -> None:
        nonlocal done
        done += isinstance(event, events.ChunkDone)
        if isinstance(event, events.ChunkDone) and done % (chunks // 8) == 0:
            keys.append(max(len(client.run_on_scheduler(keys_on)), len(client.futures)))
            gc.collect()
            objects.append(len(gc.get_objects()))

    rows = tasks.SlowHere(0)
    result = aggregate(lambda x: tasks.row(x % 10_000), range(chunks), rows, pool=client, chunksize=1, watch=watch)
    assert result.sum() == chunks
    assert max(keys) <= 200, "of eight workers, 16 leaves each"
    assert objects[-1] - objects[1] < 4 * 6 * chunks // 8, "a future alone would be eight for each chunk"


def test_func_and_what_it_refers_to_are_opened_once_by_a_worker(client: Any, tmp_path: Path) -> None:
    """However many chunks it runs."""
    large = tasks.TellsWhereItIsOpened(tmp_path)
    aggregate(lambda x: large and x, range(200), Sum(), pool=client, chunksize=5)
    opened = list(tmp_path.iterdir())
    assert 1 <= len(opened) <= 2
    assert all(path.stat().st_size == 1 for path in opened)


# -- how it is asked for -----------------------------------------------------------------------------------------------


def test_what_a_cluster_cannot_do_is_refused_at_the_call(client: Any) -> None:
    """Before the input is touched."""
    with pytest.raises(TypeError, match=r"dask\.distributed"):
        aggregate(abs, [1], Sum(), pool=type(client))


def test_a_pool_of_more_workers_than_there_are_waits_for_them(client: Any) -> None:
    """The number says how much is sent ahead."""
    assert aggregate(abs, range(-10, 0), Sum(), pool=pools.DaskPool(client, workers=40)) == 55
    assert pools.DaskPool(client, workers=1200).chunk_seconds > pools.DaskPool(client).chunk_seconds


def test_the_command_line_sends_a_file_that_the_cluster_does_not_have(kept: Cluster, tmp_path: Path) -> None:
    """FUNC's file is pickled by value."""
    (tmp_path / "mine.py").write_text("def twice(line):\n    return 2 * len(line)\n")
    (tmp_path / "lines.txt").write_text("ab\nabc\n")
    words = ["mine.py:twice", "lines.txt", "--lines", "--reduce", "Sum()", "--pool", f"dask:{kept.address}"]
    command = [sys.executable, "-m", "poolagg", "run", *words]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
    assert (ran.returncode, ran.stdout) == (0, "10\n"), ran.stderr


def test_the_example_goes_to_the_address_that_it_is_given(kept: Cluster) -> None:
    """And says there what it says on a cluster of its own."""
    command = [sys.executable, EXAMPLES / "on_dask.py", kept.address]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert (ran.returncode, ran.stdout) == (0, f"{PRIMES}\n"), ran.stderr
