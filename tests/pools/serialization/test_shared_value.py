"""A shared value is the same in every worker of every pool, exists once, and goes with its last reference."""

from __future__ import annotations

import gc
import multiprocessing.pool
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import psutil
import pytest
from tasks import METHODS, Attempts

from poolagg import Collect, Count, ProcessPool, SerialPool, Sum, TaskError, ThreadPool, Unique, aggregate, share
from poolagg.pools import Job
from poolagg.pools.chunk_runner import pickle_job
from poolagg.pools.serialization import shared_value
from poolagg.strategies import Combine

PROCESSES: dict[str, Callable[[], Any]] = {
    **{method: lambda method=method: ProcessPool(2, start_method=method) for method in METHODS},  # type: ignore[misc]
    "executor of processes": lambda: ProcessPoolExecutor(2),
    "multiprocessing.Pool": lambda: multiprocessing.Pool(2),
}

IN_PROCESS: dict[str, Callable[[], Any]] = {
    "threads": lambda: ThreadPool(2),
    "serial": SerialPool,
    "executor of threads": lambda: ThreadPoolExecutor(2),
}


@pytest.fixture
def enter(request: Any) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Make a pool that is closed, and waited for, after the test."""
    with ExitStack() as stack:

        def entered(make: Callable[[], Any]) -> Any:
            pool = make()
            if isinstance(pool, multiprocessing.pool.Pool):  # killed as it writes a result it would hang for ever
                stack.callback(pool.join)
                return stack.enter_context(closing(pool))
            return stack.enter_context(pool)

        yield entered
    request.node.funcargs.pop("pool", None)
    request.node.funcargs.pop("local_pool", None)
    gc.collect()  # a multiprocessing.Pool holds its pipes until it is collected


@pytest.fixture(params=PROCESSES)
def pool(request: Any, enter: Any) -> Any:
    """A pool of processes, of any kind."""
    return enter(PROCESSES[request.param])


@pytest.fixture(params=IN_PROCESS)
def local_pool(request: Any, enter: Any) -> Any:
    """A pool in this process, of any kind."""
    return enter(IN_PROCESS[request.param])


def mapped() -> int:
    """How many shared values this process has mapped."""
    with open("/proc/self/maps") as maps:
        return sum("memfd:poolagg-share" in line for line in maps)


def held() -> int:
    """How many shared values this process holds a descriptor of; what an example left as garbage does not count."""
    gc.collect()
    links = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    return sum("memfd:poolagg-share" in link for link in links)


def all_workers(folder: Any, workers: int = 2) -> bool:
    """Wait until as many workers have come here."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 20
    while len(list(folder.iterdir())) < workers:
        assert time.monotonic() < until
        time.sleep(0.001)
    return True


class Counted:
    """A value that notes in a folder when it is opened, and by whom."""

    def __init__(self, folder: Any, array: Any) -> None:
        self.folder, self.array = folder, array

    def __reduce__(self) -> Any:
        return _counted, (self.folder, self.array)


def _counted(folder: Any, array: Any) -> Counted:
    Attempts(folder).another(os.getpid())
    return Counted(folder, array)


def openings(folder: Any) -> list[int]:
    """How often each process has opened it."""
    return [path.stat().st_size for path in folder.iterdir()]


def printed(program: str, *arguments: str) -> str:
    """Return the output of a program on both streams."""
    command = [sys.executable, "-W", "error", *arguments, "-c", textwrap.dedent(program)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=50)
    return ran.stdout


# -- what workers see --------------------------------------------------------------------------------------------------


def test_workers_of_every_pool_see_the_value(pool: Any) -> None:
    array = np.arange(10_000.0)
    X = share({"array": array, "text": "abc"})
    assert X.value["array"] is array
    sums = aggregate(lambda i: (X.value["array"][i:].sum(), X.value["text"]), range(50), Collect(), pool=pool)
    assert sums == [(array[i:].sum(), "abc") for i in range(50)]


def test_in_threads_it_is_the_very_object(local_pool: Any) -> None:
    value = object()
    X = share([value])
    assert aggregate(lambda i: X.value[0] is value, range(9), Unique(), pool=local_pool) == {True}


def test_workers_cannot_write_to_it(pool: Any) -> None:
    """Neither to a large array nor to a small one: the memory is sealed."""
    X = share([np.zeros(3), np.zeros(100_000)])

    def write(which: int) -> str:
        with pytest.raises(ValueError, match="WRITEABLE"):
            X.value[which].flags.writeable = True
        X.value[which][0] = 1
        return "written"

    failed: list[Any] = []
    assert aggregate(write, [0, 1], Count(), pool=pool, on_error=failed.append) == 0
    assert ["read-only" in str(failure.error) for failure in failed] == [True, True]
    with pytest.raises(PermissionError):
        os.pwrite(X._source.fd, b"x", 0)
    assert not X.value[0].any()


def test_workers_see_the_value_as_it_was_when_it_was_shared(pool: Any) -> None:
    """Also those that are forked when it has changed already."""
    array = np.zeros(10_000)
    X = share(array)
    array[:] = 1
    assert aggregate(lambda i: float(X.value.sum()), range(20), Unique(), pool=pool) == {0.0}
    assert X.value.sum() == 10_000


@pytest.mark.parametrize(
    "array",
    [
        np.arange(30.0).reshape(5, 6)[:, 1:],
        np.arange(60).reshape(3, 4, 5).transpose(1, 0, 2),
        np.arange(30.0)[::-1],
        np.asfortranarray(np.arange(30.0).reshape(5, 6)),
        np.arange(30).astype("M8[s]"),
        np.arange(30).astype("m8[ms]").reshape(5, 6)[:, ::2],
        np.zeros(4, [("a", "f8"), ("b", "U3")]),
        np.array(7.5),
        np.zeros((0, 3)),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_any_array_of_numbers_lies_where_it_was_written(array: Any) -> None:
    """Slices, views, dates, records: in workers they are equal, aligned, and not to be written to."""
    X = share(array)

    def look(i: int) -> Any:
        flags = X.value.flags
        return X.value, (flags.owndata, flags.writeable, flags.aligned)

    ((seen, flags),) = aggregate(look, [0], Collect(), workers=1)
    assert (seen.dtype, seen.shape) == (array.dtype, array.shape)
    assert (seen == array).all()
    assert flags == (False, False, True)


def test_an_array_in_a_file_is_an_array_in_memory(tmp_path: Any) -> None:
    np.save(tmp_path / "a.npy", np.arange(100_000))
    X = share(np.load(tmp_path / "a.npy", mmap_mode="r"))
    os.unlink(tmp_path / "a.npy")
    shown = aggregate(lambda i: (type(X.value), X.value.flags.writeable, X.value[i]), [7], Collect(), workers=1)
    assert shown == [(np.ndarray, False, 7)]


def test_a_shared_value_within_another() -> None:
    inner = share(np.ones(1_000))
    outer = share({"inner": inner})
    assert aggregate(lambda i: float(outer.value["inner"].value.sum()), range(3), Sum(), workers=1) == 3_000


@pytest.mark.parametrize("value", [None, 5, (), "text"])
def test_small_values_are_values_too(value: Any) -> None:
    X = share(value)
    assert aggregate(lambda i: X.value == value, range(3), Unique(), workers=1) == {True}


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_an_array_of_80_mb_takes_no_memory_in_workers_and_is_not_sent(tmp_path: Any) -> None:
    """Pages that several processes map belong to none: all workers read the value before one measures."""
    X = share(np.ones(10_000_000))
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()

    def grown(i: int) -> float:
        process = psutil.Process()
        np.ones(1_000_000).sum()  # what numpy takes for itself
        own = process.memory_full_info().uss
        assert all_workers(before)
        assert X.value.sum() == 10_000_000
        assert all_workers(after)
        return (process.memory_full_info().uss - own) / 1e6

    assert len(pickle_job(Job(grown, Sum(), Combine()))) < 20_000
    with ProcessPool(2) as pool:
        assert max(aggregate(grown, range(2), Collect(), pool=pool, chunksize=1)) < 8


def test_a_value_is_opened_once_in_each_worker_however_many_runs(pool: Any, tmp_path: Any) -> None:
    """And not at all by who does not use it."""
    X = share(Counted(tmp_path, np.ones(1_000)))
    for _ in range(3):
        offset = 1  # another function each time
        assert aggregate(lambda i: X.value.array[i] + offset, range(100), Sum(), pool=pool) == 200
    assert 1 <= len(openings(tmp_path)) <= 2
    assert set(openings(tmp_path)) == {1}


def test_a_value_that_the_next_run_does_not_refer_to_is_let_go_of(pool: Any) -> None:
    for _ in range(2):
        X = share(np.ones(100_000))
        assert aggregate(lambda i: (X.value[0], mapped()), range(20), Unique(), pool=pool) == {(1.0, 1)}
    Y = share(np.ones(100_000))
    assert aggregate(lambda i: (Y.value[0], mapped()), range(20), Unique(), pool=pool) == {(1.0, 1)}
    assert aggregate(lambda i: mapped(), range(20), Unique(), pool=pool) == {0}
    assert aggregate(lambda i: X.value[0], range(20), Sum(), pool=pool) == 20


stored: Any = None


def store(value: Any) -> None:
    global stored
    stored = value


def test_what_an_initializer_was_given_stays_open(method: str, tmp_path: Any) -> None:
    X = share(Counted(tmp_path, np.ones(10)))
    with ProcessPool(1, initializer=store, initargs=(X,), start_method=method) as pool:
        for _ in range(3):
            assert aggregate(use_stored, range(10), Sum(), pool=pool) == 100
    assert openings(tmp_path) == [1]


def use_stored(i: int) -> float:
    return float(stored.value.array.sum())


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_the_memory_is_given_back_with_the_last_reference() -> None:
    before = held()
    X = share(np.ones(1_000))
    assert held() == before + 1
    alias = X
    del X
    assert held() == before + 1
    del alias
    assert held() == before


def test_a_worker_goes_on_with_what_it_has_mapped() -> None:
    before = held()
    X = share(np.ones(100_000))
    with ProcessPool(1) as pool:
        aggregate(lambda i: store(X.value), [0], Count(), pool=pool)
        X = None
        assert held() == before
        assert aggregate(sum_stored, [0], Sum(), pool=pool) == 100_000


def sum_stored(i: int) -> float:
    return float(stored.sum())


def test_a_worker_killed_in_the_middle_is_replaced_by_one_that_sees_the_value(tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)
    X = share(np.ones(1_000))

    def use(i: int) -> float:
        if i == 17 and attempts.another("17") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(X.value.sum())

    assert aggregate(use, range(40), Sum(), workers=2) == 40_000
    assert attempts.at("17") == 2


def test_nothing_is_printed_at_exit() -> None:
    """With an open pool, with the value in a cycle, or in a thread that continues."""
    program = """
        import threading, numpy as np
        from poolagg import *
        X, cycle = share(np.ones(1000)), []
        cycle += [cycle, share(np.ones(1000))]
        pool = ProcessPool(1).__enter__()
        print(aggregate(lambda i: X.value[i], [1, 2], Sum(), pool=pool))
        threading.Thread(target=lambda Y=share(5): threading.Event().wait(), daemon=True).start()
    """
    assert printed(program) == "2.0\n"


# -- where references go -----------------------------------------------------------------------------------------------


def test_a_reference_that_comes_back_is_the_object_itself(pool: Any) -> None:
    X = share(np.ones(1_000))
    assert all(back is X for back in aggregate(lambda i: X, range(5), Collect(), pool=pool))
    assert pickle.loads(pickle.dumps(X)) is X


def test_pools_within_workers_see_it_too(method: str) -> None:
    X = share(np.ones(1_000))

    def inner(i: int) -> float:
        return float(X.value.sum())

    def outer(i: int) -> float:
        return aggregate(inner, range(3), Sum(), pool=ProcessPool(1, start_method=method))

    assert aggregate(outer, range(2), Sum(), pool=ProcessPool(1, start_method=method)) == 6_000


@pytest.mark.orphans
def test_a_process_that_becomes_a_daemon_has_it_still() -> None:
    """It is the child of one that shared the value, and is gone."""
    program = """
        import os, time, numpy as np
        from poolagg import *
        X = share(np.ones(1_000))
        first = os.getpid()
        if os.fork() == 0:
            while os.getppid() == first:
                time.sleep(0.001)
            print(X.value.sum(), aggregate(lambda i: X.value[i], range(3), Sum(), workers=1))
    """
    assert printed(program) == "1000.0 3.0\n"


def test_a_reference_whose_value_is_gone_says_so(tmp_path: Any) -> None:
    """When its number is closed; and when it is another file's by now, or a pipe's, which must not be waited for."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"\0" * 10_000)
    for other in (None, "file", "pipe"):
        X = share(np.ones(1_000))
        fd, reference = X._source.fd, pickle.dumps(X)
        del X
        if other is not None:
            opened = os.open(tmp_path / other, os.O_RDONLY | os.O_NONBLOCK)
            os.dup2(opened, fd)
        gone = pickle.loads(reference)
        assert repr(gone) == "share(ndarray, 8.1 kB)"
        with pytest.raises(
            RuntimeError, match=r"share\(ndarray, 8.1 kB\) can't be opened.*Keep what share\(\) returned"
        ):
            gone.value
        if other is not None:
            os.close(fd)
            if opened != fd:
                os.close(opened)


def test_a_descriptor_that_somebody_else_has_closed_is_not_closed_again(tmp_path: Any) -> None:
    X = share(5)
    fd = X._source.fd
    os.close(fd)
    opened = os.open(tmp_path, os.O_RDONLY)
    os.dup2(opened, fd)
    del X
    assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path)
    for number in {fd, opened}:
        os.close(number)


def test_what_a_worker_shared_and_let_go_of_is_an_error_and_not_garbage() -> None:
    (gone,) = aggregate(lambda i: share(np.ones(1_000)), [0], Collect(), workers=1)
    with pytest.raises(RuntimeError, match="can't be opened"):
        gone.value


def test_the_error_is_the_items() -> None:
    """An input that shares its items lets go of them before they are used."""
    with pytest.raises(TaskError) as caught:
        aggregate(lambda x: x.value, (share(i) for i in range(3)), Count(), workers=1)
    assert "Keep what share() returned" in str(caught.value.__cause__)


@pytest.mark.parametrize("lacking", ["memfd_create", "/proc"])
def test_without_such_memory_the_pickle_is_sent(lacking: str, method: str, monkeypatch: Any, tmp_path: Any) -> None:
    """With each job, and is opened once all the same, to read only."""
    before = held()
    with monkeypatch.context() as patch:
        if lacking == "/proc":
            patch.setattr(shared_value._Memory, "is_there", lambda memory, ident: False)
        else:
            patch.delattr(os, "memfd_create")
        X = share(Counted(tmp_path, np.ones(1_000)))
    assert held() == before

    def use(i: int) -> Any:
        return float(X.value.array.sum()), X.value.array.flags.writeable

    with ProcessPool(1, start_method=method) as pool:
        for _ in range(2):
            assert aggregate(use, range(5), Unique(), pool=pool) == {(1_000.0, False)}
    assert openings(tmp_path) == [1]


def test_a_process_that_has_given_up_being_root_shares_too() -> None:
    """The system hides the memory from other processes, so the parent sends the pickle."""
    if os.geteuid():
        pytest.skip("only root can")
    program = """
        import os, numpy as np
        from poolagg import *
        def pool(): return ProcessPool(1, start_method="fork")
        def use(i): return float(X.value.sum())
        X = share(np.ones(1_000))
        print(aggregate(use, range(3), Sum(), pool=pool()))
        os.setuid(65534)
        with pool() as kept:
            print(aggregate(abs, range(3), Sum(), pool=kept))
            X = share(np.ones(1_000))
            print(aggregate(use, range(3), Sum(), pool=kept))
    """
    assert printed(program) == "3000.0\n3\n3000.0\n"


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_does_not_pickle_is_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match=r"share\(\) can't pickle this dict: TypeError: .*lock.*per_worker"):
        share({"lock": threading.Lock()})


def test_a_lack_of_memory_is_a_memory_error_that_says_how_much() -> None:
    def limited() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, hard))
        with pytest.raises(
            MemoryError, match=r"no room for the 80.0 MB of this ndarray \(80,000,\d\d\d bytes\): .*large"
        ):
            share(np.ones(10_000_000))
        assert held() == 0

    aggregate(lambda i: limited(), [0], Count(), workers=1)


def test_an_alarm_that_strikes_while_it_pickles_is_not_a_fault_of_the_value() -> None:
    class Late(Exception):
        pass

    def late(*signal: Any) -> None:
        raise Late

    class Slow:
        def __reduce__(self) -> Any:
            if not self.struck:
                self.struck = True
                signal.raise_signal(signal.SIGALRM)
            return str, ()

        struck = False

    before = signal.signal(signal.SIGALRM, late)
    try:
        with pytest.raises(Late):
            share(Slow())
    finally:
        signal.signal(signal.SIGALRM, before)


# -- `__main__` --------------------------------------------------------------------------------------------------------

SCRIPT = """
import dataclasses
from pathlib import Path
import numpy as np
from poolagg import *

@dataclasses.dataclass
class Point:
    x: int
    array: object = None
    def moved(self): return Point(self.x + STEP)

def helper(x): return x + STEP
def countdown(n): return n if n == 0 else countdown(n - 1)

STEP = 10
X = share({{
    "point": Point(1, np.ones(100_000)),
    "class": Point,
    "function": helper,
    "lambda": lambda x: helper(x) + countdown(x),
}})
STEP = 100

def use(i):
    v = X.value
    assert type(v["point"]) is v["class"] is Point
    assert not v["point"].array.flags.writeable
    return STEP, v["point"].moved().x, v["function"](i), v["lambda"](i)

def kept(i):
    X.value["opened"] = X.value.get("opened", 0) + 1
    return X.value["opened"]

with ProcessPool(1, start_method={method!r}) as pool:
    print(aggregate(use, [1], Collect(), pool=pool))
    print(aggregate(kept, [1], Collect(), pool=pool), aggregate(kept, [1], Collect(), pool=pool))
    print(aggregate(lambda i: Path("/proc/self/maps").read_text().count("poolagg-share"), [1], Collect(), pool=pool))
"""


def test_functions_and_classes_of_a_script(method: str) -> None:
    """They are the script's own, with its globals as they are in this run.

    And the value is opened just once, and let go of by the run that does not use it, though the worker's `__main__` has
    its name still. (A forked worker has inherited it for good.)
    """
    left = 1 if method == "fork" else 0
    assert printed(SCRIPT.format(method=method)) == f"[(100, 101, 101, 101)]\n[1] [2]\n[{left}]\n"


@pytest.mark.orphans
@pytest.mark.parametrize("executor", ["loky.ProcessPoolExecutor(2)", "ProcessPoolExecutor(2, get_context('spawn'))"])
def test_executors_that_fork_nothing_see_it_too(executor: str) -> None:
    """Their trackers outlive the program by a moment."""
    pytest.importorskip("loky", reason="pip install loky")
    program = f"""
        import numpy as np, loky
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        from poolagg import *
        X = share(np.ones(100_000))
        with {executor} as executor:
            print(aggregate(lambda i: float(X.value.sum()), range(4), Sum(), pool=executor))
    """
    assert printed(program) == "400000.0\n"
