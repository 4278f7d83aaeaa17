"""Faults of the parent: whatever becomes of it, its workers end with it, and nothing is left behind.

Each program runs in a process of its own, in a session of its own as in a terminal, and tells by lines on its standard
output how far it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

PRELUDE = r"""
import itertools, os, re, signal, sys, threading, time
from poolagg import *
from poolagg.strategies import *

METHOD = {method!r}

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # at once, whole

def hang(x):
    say("busy")
    time.sleep(30)

def short(x):
    time.sleep(0.001)
    return x

def pool_of_two():
    return ProcessPool(2, start_method=METHOD)
"""


class Program:
    """A program that runs, and everything that descends from it."""

    def __init__(self, method: str, source: str) -> None:
        code = PRELUDE.format(method=method) + textwrap.dedent(source)
        # As from a terminal: a session and process group of its own.
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, line: str, times: int = 1) -> None:
        """Read its output up to the line."""
        for said in self.process.stdout:  # type: ignore[union-attr]
            times -= said.strip() == line
            if not times:
                return
        raise AssertionError(f"it ended, and did not say {line!r}: {self.process.stderr.read()}")  # type: ignore

    def family(self) -> list[psutil.Process]:
        """Return the living processes of its session: the program, forkservers, workers, orphans."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def interrupt(self, everyone: bool) -> None:
        """Ctrl-C: a terminal sends it to the whole group, `kill -INT` to the program alone."""
        (os.killpg if everyone else os.kill)(self.process.pid, signal.SIGINT)

    def ends_within(self, seconds: float) -> tuple[int, str, str]:
        """Return how it ends, and its output; it must leave no process behind."""
        began = time.monotonic()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds} s: {self.family()}") from None
        while (left := self.family()) and time.monotonic() < began + seconds:
            time.sleep(0.01)
        assert not left, f"left behind: {[(process, process.cmdline()) for process in left]}"
        out, err = self.process.stdout.read(), self.process.stderr.read()  # type: ignore[union-attr]
        return code, out, err

    def clear(self) -> None:
        """Kill whatever is left, for the next test's sake."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()  # type: ignore[union-attr]


@pytest.fixture
def start(method: str) -> Iterator[Any]:
    """Start a program; it is cleared away after the test."""
    programs: list[Program] = []

    def start(source: str) -> Program:
        programs.append(Program(method, source))
        return programs[-1]

    yield start
    for program in programs:
        program.clear()


pytestmark = pytest.mark.orphans

# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("everyone", [True, False], ids=["group", "parent"])
def test_ctrl_c_ends_all_within_two_seconds(start: Any, everyone: bool) -> None:
    program = start("aggregate(hang, range(10), Sum(), pool=pool_of_two())")
    program.wait_for("busy", 2)
    program.interrupt(everyone)
    code, _, err = program.ends_within(2)
    assert code == -signal.SIGINT or code == 130
    assert "\nKeyboardInterrupt\n" in err  # from 3.14 on, notes may follow: pickle adds what it was pickling
    assert err.count("Traceback") == 1, "the workers say nothing"


@pytest.mark.parametrize(
    "run",
    [
        "aggregate(short, range(10**6), Into(busy), pool=pool_of_two())",
        "aggregate(short, range(10**6), Fold(add, init=int, merge=busy), pool=pool_of_two())",
        "aggregate(short, map(busy, itertools.count()), Sum(), pool=pool_of_two())",
        "aggregate(short, range(10**6), Sum(), pool=pool_of_two(), watch=busy)",
        "list(snapshots(short, range(10**6), Sum().then(busy), pool=pool_of_two(), every=0.05))",
    ],
    ids=["apply", "merge", "input", "watcher", "finish"],
)
def test_ctrl_c_in_the_parents_own_work(start: Any, run: str) -> None:
    program = start(f"""
        def add(a, b):
            return a + b

        def busy(*_, once=[]):
            if not once:
                once.append(1)
                say("busy")
                time.sleep(30)

        {run}
    """)
    program.wait_for("busy")
    program.interrupt(everyone=True)
    _, _, err = program.ends_within(2)
    assert "KeyboardInterrupt" in err


def test_ctrl_c_while_workers_start(start: Any) -> None:
    program = start("""
        say("begin")
        with ProcessPool(8, start_method=METHOD) as pool:
            aggregate(short, itertools.count(), Sum(), pool=pool)
    """)
    program.wait_for("begin")
    time.sleep(0.05)
    program.interrupt(everyone=True)
    _, _, err = program.ends_within(2)
    assert "\nKeyboardInterrupt\n" in err  # from 3.14 on, notes may follow: pickle adds what it was pickling
    assert err.count("Traceback") == 1


@pytest.mark.parametrize("everyone", [True, False], ids=["group", "parent"])
def test_a_kept_pool_is_good_after_ctrl_c(start: Any, everyone: bool) -> None:
    program = start("""
        with pool_of_two() as pool:
            for func in (hang, short, short):
                try:
                    watch = lambda event: func is short and say("busy")
                    aggregate(func, itertools.count(), Sum(), pool=pool, watch=watch)
                except KeyboardInterrupt:
                    began = time.monotonic()
                    assert aggregate(short, range(100), Sum(), pool=pool) == 4950
                    assert time.monotonic() - began < 5, time.monotonic() - began
                    say("good")
    """)
    for times in (2, 1, 1):
        program.wait_for("busy", times)
        program.interrupt(everyone)
        program.wait_for("good")
    code, _, err = program.ends_within(2)
    assert (code, err) == (0, "")


def test_ctrl_c_in_a_kept_pool_ends_the_work_at_once(start: Any) -> None:
    program = start("""
        with pool_of_two() as pool:
            try:
                aggregate(hang, range(10), Sum(), pool=pool)
            except KeyboardInterrupt:
                say("caught")
            time.sleep(30)
    """)
    program.wait_for("busy", 2)
    busy = {process.pid for process in program.family()}
    program.interrupt(everyone=False)
    program.wait_for("caught")
    left = {process.pid for process in program.family()} & busy
    assert len(left) <= 2, "the program, and perhaps its forkserver"


def test_interrupts_that_fall_anywhere_leave_a_kept_pool_good(start: Any) -> None:
    program = start("""
        import random, _thread
        choose = random.Random(3)
        with pool_of_two() as pool:
            for _ in range(4 if METHOD == "portable" else 20):
                delay = choose.uniform(0, 0.02)
                timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
                try:
                    timer.start()
                    for _ in range(10**6):
                        aggregate(bytes, map(int, [10_000] * 50), Count(), pool=pool, chunksize=3)
                except KeyboardInterrupt:
                    pass
                timer.join()
                assert aggregate(len, ["ab"] * 50, Sum(), pool=pool) == 100
        say("good")
    """)
    program.wait_for("good")
    code, _, err = program.ends_within(2)
    assert (code, err) == (0, "")


# -- death of the parent -----------------------------------------------------------------------------------------------


ITEMS = {
    "sleep": "time.sleep(30)",
    "power": "pow(3, 10**9)",
    "sum": "sum(range(10**11))",
    "regex": "re.match('(a*)*b', 'a' * 60)",
}


@pytest.mark.parametrize("item", ITEMS)
def test_kill_9_of_the_parent_ends_all_its_processes(start: Any, item: str) -> None:
    program = start(f"""
        def item(x):
            say("busy")
            {ITEMS[item]}

        aggregate(item, range(10), Sum(), pool=pool_of_two())
    """)
    program.wait_for("busy", 2)
    time.sleep(0.05)  # in the middle of C code that holds the GIL
    program.process.kill()
    program.ends_within(3)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)", "os.abort()", "sys.exit()"])
def test_however_the_parent_ends_its_workers_do(start: Any, end: str) -> None:
    program = start(f"""
        pool = pool_of_two().__enter__()
        print(aggregate(short, range(10), Sum(), pool=pool), flush=True)
        threading.Thread(target=aggregate, args=(hang, range(10), Sum()), kwargs={{"pool": pool}}, daemon=True).start()
        time.sleep(0.1)
        {end}
    """)
    program.wait_for("45")
    _, _, err = program.ends_within(3)
    assert "Traceback" not in err, "the thread whose run it ends says nothing, and starts no other workers"


def test_a_parent_that_ends_without_closing_its_idle_pool(start: Any) -> None:
    program = start("""
        pool = pool_of_two().__enter__()
        aggregate(short, range(10), Sum(), pool=pool)
        results = pool.imap_unordered(short, itertools.count())
        next(results)
    """)
    code, _, err = program.ends_within(3)
    assert (code, err) == (0, "")


def test_a_pool_that_is_forgotten_is_cleared_away(start: Any) -> None:
    program = start("""
        def run():
            pool = pool_of_two().__enter__()
            return aggregate(short, range(10), Sum(), pool=pool)

        import psutil
        from poolagg.pools.process.launch.forkserver.kept import kept
        run()
        forkserver = {kept().process.pid} if kept() else set()
        assert {child.pid for child in psutil.Process().children()} == forkserver, psutil.Process().children()
    """)
    code, _, err = program.ends_within(5)
    assert (code, err) == (0, "")


def test_sigterm_of_the_parent(start: Any) -> None:
    program = start("aggregate(hang, range(10), Sum(), pool=pool_of_two())")
    program.wait_for("busy", 2)
    program.process.terminate()
    code, _, _ = program.ends_within(3)
    assert code == -signal.SIGTERM


CHILDREN = {
    "os.fork": "os.fork() or time.sleep(30)",
    "multiprocessing": """
            import multiprocessing
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,)).start()
    """,
    "subprocess": "import subprocess; subprocess.Popen(['sleep', '30'], close_fds=False)",
    "os.system": "os.system('sleep 30 &')",
}


@pytest.mark.parametrize("child", CHILDREN)
def test_other_children_of_the_parent_keep_no_worker_alive(start: Any, child: str) -> None:
    program = start(f"""
        def others():
            {CHILDREN[child].strip()}

        with pool_of_two() as pool:
            assert aggregate(short, range(10), Sum(), pool=pool) == 45
            others()
            assert aggregate(short, range(10), Sum(), pool=pool) == 45
            say(*[handle.child.pid for handle in pool._handles.values()])
            aggregate(hang, range(10), Sum(), pool=pool)
    """)
    workers = [int(pid) for pid in program.process.stdout.readline().split()]
    assert len(workers) == 2
    program.wait_for("busy", 2)
    program.process.kill()
    until = time.monotonic() + 10
    while any(process.pid in workers for process in program.family()):
        assert time.monotonic() < until, "workers outlive their parent"
        time.sleep(0.01)


def test_a_forked_child_of_the_parent_may_have_pools_of_its_own_and_touches_no_one_elses(start: Any) -> None:
    program = start("""
        with pool_of_two() as pool:
            assert aggregate(short, range(10), Sum(), pool=pool) == 45
            pid = os.fork()
            if pid == 0:
                assert aggregate(short, range(10), Sum(), pool=pool_of_two()) == 45
                assert aggregate(short, range(10), Sum(), pool=pool) == 45
                sys.exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert aggregate(short, range(10), Sum(), pool=pool) == 45
        say("good")
    """)
    program.wait_for("good")
    code, _, err = program.ends_within(3)
    assert (code, err) == (0, "")


def test_workers_may_have_children_which_are_theirs(start: Any) -> None:
    program = start("""
        import subprocess
        def shell(x):
            return int(subprocess.run(["sh", "-c", f"echo {x}"], capture_output=True).stdout)

        def interruptible(x):
            # SIGINT is not ignored in programs that a worker runs.
            program = "import os; os.kill(os.getpid(), 2)"
            return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode

        with pool_of_two() as pool:
            assert aggregate(shell, range(10), Sum(), pool=pool) == 45
            assert aggregate(interruptible, [0], Collect(), pool=pool) == [-2]
    """)
    code, _, err = program.ends_within(10)
    assert (code, err) == (0, "")
