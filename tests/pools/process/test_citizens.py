"""A worker is a process of `multiprocessing`, and has random numbers and an exit of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import random
import subprocess
import sys
import textwrap

import citizens
import numpy as np
import pytest
import tasks

from poolagg import Collect, ProcessPool, Sum, Unique, WorkerLost, aggregate

# -- names -------------------------------------------------------------------------------------------------------------


def test_names_and_identities_distinguish_workers(method):
    "The parent is the program that has the pool, not what starts its workers."
    with ProcessPool(3, start_method=method) as pool:
        seen = aggregate(citizens.who, range(30), Unique(), pool=pool, chunksize=1)
    assert len(seen) == len({one[0] for one in seen}) == len({one[1] for one in seen}) == len({one[2] for one in seen})
    for pid, name, identity, own, daemon, *parent in seen:
        assert name == f"PoolWorker-{identity[0]}"
        assert (own, daemon) == (pid, False)
        assert parent == [multiprocessing.current_process().name, os.getpid(), True]


def test_a_worker_that_takes_anothers_place_has_a_name_of_its_own(method):
    with ProcessPool(1, start_method=method, max_items_per_worker=4) as pool:
        seen = aggregate(citizens.who, range(24), Unique(), pool=pool, chunksize=4)
    assert len({one[0] for one in seen}) == len({one[1] for one in seen}) >= 2


def test_a_job_that_imports_multiprocessing_by_itself(method, tmp_path):
    "The parent has never heard of it, and workers do not import it unless the job does; then they have their names."
    program = f"""
        import sys
        from poolagg import *
        def loaded(x): return "multiprocessing" in sys.modules
        def name(x):
            import multiprocessing.managers
            assert multiprocessing.parent_process().pid == PARENT
            return multiprocessing.current_process().name
        import os, time
        PARENT = os.getpid()
        with ProcessPool(2, start_method={method!r}) as pool:
            print(aggregate(loaded, range(4), Unique(), pool=pool))
            print(sorted(aggregate(lambda x: time.sleep(0.02) or name(x), range(20), Unique(), pool=pool, chunksize=1)))
        assert "multiprocessing" not in sys.modules
    """
    ran = python(program)
    assert ran.stderr == ""
    assert ran.stdout == "{False}\n['PoolWorker-1', 'PoolWorker-2']\n"


def python(program):
    """Run a program by `python -c`."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


# -- what a Manager has ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manager():
    multiprocessing.Value("i", 0)  # the library keeps the memory for other values
    with multiprocessing.get_context("spawn").Manager() as manager:
        yield manager


@pytest.fixture(autouse=True)
def manager_is_there(manager):
    "Before what is held is counted."


@pytest.fixture
def nothing_left_behind(manager_is_there, nothing_left_behind):
    "As everywhere, but for the manager's process."


def proxies_of(manager):
    return manager.Queue(), manager.dict(), manager.Lock(), manager.Event(), manager.Value("i", 0)


def assert_put(proxies, items):
    queue, counts, _, event, value = proxies
    assert sorted(queue.get() for _ in items) == list(items)
    assert (counts["n"], value.value, event.is_set()) == (len(items), sum(items), True)


def test_proxies_in_a_closure(method, manager):
    proxies = proxies_of(manager)
    assert (
        aggregate(lambda x: citizens.put(proxies, x), range(20), Sum(), pool=ProcessPool(2, start_method=method)) == 190
    )
    assert_put(proxies, range(20))


def test_proxies_as_items(method, manager):
    proxies = proxies_of(manager)
    items = [(proxies, x) for x in range(20)]
    assert aggregate(lambda item: citizens.put(*item), items, Sum(), pool=ProcessPool(2, start_method=method)) == 190
    assert_put(proxies, range(20))


def test_proxies_as_initargs(method, manager):
    proxies = proxies_of(manager)
    pool = ProcessPool(2, start_method=method, initializer=citizens.keep, initargs=proxies)
    assert aggregate(citizens.put_in_kept, range(20), Sum(), pool=pool) == 190
    assert_put(proxies, range(20))


def test_proxies_as_partials(method, manager):
    "What an item makes of a proxy may be a proxy."
    shelf = manager.dict({"list": manager.list([1, 2])})
    lists = aggregate(lambda key: shelf[key], ["list"] * 3, Collect(), pool=ProcessPool(2, start_method=method))
    assert [list(one) for one in lists] == [[1, 2]] * 3


def test_a_manager_that_is_younger_than_the_pool(method):
    "Workers were started before the parent had imported multiprocessing, and hear of its secret with the next job."
    program = f"""
        from poolagg import *
        with ProcessPool(2, start_method={method!r}) as pool:
            print(aggregate(abs, range(4), Sum(), pool=pool))
            from multiprocessing import get_context
            with get_context("spawn" if __name__ != "__main__" else "fork").Manager() as manager:
                found = manager.list()
                print(aggregate(lambda x: found.append(x), range(4), Collect(), pool=pool), sorted(found))
    """
    ran = python(program)
    assert (ran.stdout, ran.stderr) == ("6\n[None, None, None, None] [0, 1, 2, 3]\n", "")


# -- what multiprocessing itself only lets inherit ---------------------------------------------------------------------


def own_primitives():
    return multiprocessing.Value("i", 0), multiprocessing.Lock(), multiprocessing.Event(), multiprocessing.SimpleQueue()


def test_fork_inherits_locks_and_values():
    "As in the standard library; the initializer and its arguments need not pickle at all."
    primitives = own_primitives()
    pool = ProcessPool(2, start_method="fork", initializer=lambda *given: citizens.keep(*given), initargs=primitives)
    assert aggregate(citizens.count_up, range(20), Sum(), pool=pool) == 190
    value, _, event, queue = primitives
    assert (value.value, event.is_set(), sorted(queue.get() for _ in range(20))) == (190, True, list(range(20)))
    queue.close()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("n", range(4))
def test_other_start_methods_name_what_is_pickled(method, n):
    "At the call, whatever the primitive is hidden in."
    primitive = own_primitives()[n]
    for initargs in [(primitive,), ({"deep": [primitive]},), (lambda: None, primitive)]:
        with (
            pytest.raises(TypeError, match=r"multiprocessing\.Manager"),
            ProcessPool(1, start_method=method, initializer=citizens.keep, initargs=initargs),
        ):
            pass
    if n == 3:
        primitive.close()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_lock_in_a_closure_names_what_is_pickled(method):
    lock = multiprocessing.Lock()

    def locked(x):
        with lock:
            return x

    with pytest.raises(TypeError, match=r"multiprocessing\.Manager"):
        aggregate(locked, range(3), Sum(), pool=ProcessPool(1, start_method=method))


# -- leaving -----------------------------------------------------------------------------------------------------------


def left(folder):
    """Return the actions of workers at their exit, with counts, and the content of their open files."""
    notes = [folder / what for what in ("atexit", "Finalize", "weakref")]
    done = {path.name: len(path.read_text()) for path in notes if path.exists()}
    return done, sorted(path.read_text() for path in folder.iterdir() if path.is_file() and " " in path.name)


def in_order(n):
    return dict.fromkeys(("atexit", "Finalize", "weakref"), n), ["written, not flushed"] * (2 * n)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("entered", [False, True], ids=["dropped", "entered"])
def test_a_worker_leaves_in_good_order(method, entered, tmp_path):
    "Exit functions and finalizers run, files are flushed, temporary folders go: after `with`, or with the pool."
    pool = ProcessPool(2, start_method=method, initializer=citizens.prepare_to_leave, initargs=(str(tmp_path),))
    with pool if entered else contextlib.nullcontext():
        aggregate(tasks.square, range(20), Sum(), pool=pool)
    del pool
    assert left(tmp_path) == in_order(2)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_worker_that_is_replaced_leaves_in_good_order(method, tmp_path):
    initializing = {"initializer": citizens.prepare_to_leave, "initargs": (str(tmp_path),)}
    with ProcessPool(1, start_method=method, max_items_per_worker=5, **initializing) as pool:
        aggregate(tasks.square, range(40), Sum(), pool=pool, chunksize=5)
    done, files = left(tmp_path)
    assert done["atexit"] == done["Finalize"] == len(files) / 2 >= 3


def test_a_worker_that_is_killed_does_nothing_any_more(method, tmp_path):
    pool = ProcessPool(1, start_method=method, initializer=citizens.prepare_to_leave, initargs=(str(tmp_path),))
    with pool, pytest.raises(WorkerLost):
        aggregate(tasks.fail, ["SIGKILL"], Collect(), pool=pool, retries=0)
    done, files = left(tmp_path)
    assert files.count("") == 2  # another may have taken its place, and have left in good order
    assert set(done.values()) <= {len(files) // 2 - 1}


def test_exits_of_the_parent_are_the_parents(method, tmp_path):
    "Workers do none of them, and write nothing that the parent has yet to write."
    program = f"""
        import atexit, os, sys, tempfile, weakref
        from poolagg import *
        class Thing: pass
        thing = Thing()
        weakref.finalize(thing, print, "finalized")
        atexit.register(print, "the parent's end")
        directory = tempfile.TemporaryDirectory()
        file = open({str(tmp_path / "file")!r}, "w")
        file.write("once ")
        print(aggregate(abs, range(10), Sum(), pool=ProcessPool(3, start_method={method!r})))
        assert os.path.isdir(directory.name)
        file.write("twice")
    """
    ran = python(program)
    assert sorted(ran.stdout.splitlines()) == ["45", "finalized", "the parent's end"]
    assert (tmp_path / "file").read_text() == "once twice"


def test_workers_have_children_of_their_own(method):
    def with_a_child(x):
        context = multiprocessing.get_context("fork")
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=lambda: writer.send((x, multiprocessing.parent_process().pid == os.getppid())))
        child.start()
        answer = reader.recv()
        child.join()
        return answer

    pool = ProcessPool(2, start_method=method)
    assert aggregate(with_a_child, range(4), Collect(), pool=pool) == [(x, True) for x in range(4)]


# -- random numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["MT19937", "PCG64"])
def test_global_generators_do_not_repeat_themselves(method, generator):
    "The parent has used them before, and its own go on as they would have."
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(getattr(np.random, generator)(7))
        random.seed(7)
        expected = random.Random(7).random(), np.random.RandomState(getattr(np.random, generator)(7)).random()
        with ProcessPool(4, start_method=method) as pool:
            drawn = aggregate(citizens.numbers, range(64), Collect(), pool=pool, chunksize=1)
        assert len({python for python, _ in drawn}) == len({numpy for _, numpy in drawn}) == 64
        assert (random.random(), np.random.random()) == expected
    finally:
        np.random.set_bit_generator(before)


def test_a_seed_of_the_initializer_holds(method):
    seeded = random.Random(1).random(), np.random.RandomState(1).random()
    pool = ProcessPool(1, start_method=method, initializer=citizens.seed)
    assert aggregate(citizens.numbers, [0], Collect(), pool=pool) == [seeded]
