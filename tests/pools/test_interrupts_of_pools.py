"""Ctrl-C at any line: nothing is left, the next run is right, and no finalizer closes a file of the user's.

`POOLAGG_INTERRUPTS=all` interrupts at each line, and at thousands of random moments, with each start method.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from paths import PROGRAMS
from tasks import wait_for

from poolagg import ThreadPool
from poolagg._runtime import interrupts
from poolagg._runtime.interrupts import interrupts_allowed, interrupts_held_back, when_collected

THOROUGH = "POOLAGG_INTERRUPTS" in os.environ
FIRST = 0 if "POOLAGG_CI" in os.environ else random.randrange(60)
"""Of the lines, and the seed of moments; on desks the search goes on."""

PROGRAM = PROGRAMS / "interrupted.py"
CASES = ["kept", "within", "alone", "looked_at"]
QUICK = ["serial", "threads", "fork"]
"""Pools that start within milliseconds."""


def complaints_of(*arguments: object) -> str:
    """Return the program's output without its last line."""
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    *complaints, last = ran.stdout.splitlines() or [""]
    told = "\n".join(map(str, (arguments, ran.returncode, *complaints[:3], last, ran.stderr)))
    assert last.endswith("0 complaints"), told
    return last


# -- everywhere --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(3000 if THOROUGH else 60)
@pytest.mark.parametrize("pool", [*QUICK, "forkserver", "spawn"])
@pytest.mark.parametrize("case", CASES)
def test_an_interrupt_at_any_line_leaves_nothing_and_spoils_nothing(case: str, pool: str) -> None:
    """For a kept pool, a pool's whole life, a pool of one run, and loops that are left early."""
    step = 1 if THOROUGH else 60 if pool in QUICK else 300
    last = complaints_of("lines", case, pool, step, FIRST)
    assert not last.startswith("0 runs"), "some of the lines"


@pytest.mark.timeout(3000 if THOROUGH else 60)
@pytest.mark.parametrize(("case", "pool"), [("executor", "threads"), ("sharing", "fork")])
def test_nor_does_one_on_an_executor_or_with_a_shared_value(case: str, pool: str) -> None:
    complaints_of("lines", case, pool, 1 if THOROUGH else 60, FIRST)


@pytest.mark.timeout(3000 if THOROUGH else 60)
@pytest.mark.parametrize("pool", QUICK)
@pytest.mark.parametrize("case", CASES)
def test_nor_do_a_few_at_random_moments(case: str, pool: str) -> None:
    """By a handler of the program's own for another signal."""
    complaints_of("moments", case, pool, 300 if THOROUGH else 10, FIRST)


def test_a_release_that_is_due_at_collection_survives_interrupts_at_its_first_instruction() -> None:
    """Of the finalizers; the interpreter drops what they raise."""

    class Owner: ...

    came: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code is weakref.finalize.__call__.__code__ and len(came) < 3:
            came.append("an interrupt")
            raise KeyboardInterrupt

    owner = Owner()
    when_collected(owner, lambda: came.append("released"))
    hook, sys.unraisablehook = sys.unraisablehook, lambda what: sys.settrace(trace)  # an error ends the tracing
    usual = sys.gettrace()
    sys.settrace(trace)
    try:
        del owner
    finally:
        sys.settrace(usual)
        sys.unraisablehook = hook
    assert came[:4] == ["an interrupt"] * 3 + ["released"]


def test_threads_end_with_their_pool_though_no_handler_could_interrupt_that() -> None:
    """No Python code runs when the pool is collected, so there is nothing to interrupt."""
    pool = ThreadPool(2)
    pool.map(abs, range(4))
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("poolagg-")]
    assert len(threads) == 2
    called: list[str] = []
    usual = sys.getprofile()
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_qualname) if event == "call" else None)
    del pool
    sys.setprofile(usual)
    assert called == []
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


# -- the one rule ------------------------------------------------------------------------------------------------------


class Raised(Exception):
    """By a handler."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1], ids=lambda s: s.name)
def handled(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal whose handler raises."""

    def handler(signum: int, frame: Any) -> None:
        raise Raised(signum)

    usual = signal.signal(request.param, handler)
    yield request.param
    assert signal.signal(request.param, usual) is handler, "it was put back"


def test_a_handler_runs_once_after_the_block(handled: int) -> None:
    done = []
    with pytest.raises(Raised), interrupts_held_back():
        for _ in range(3):
            signal.raise_signal(handled)
        done.append("the block")
    assert done == ["the block"]


def test_blocks_nest(handled: int) -> None:
    done = []
    with pytest.raises(Raised), interrupts_held_back():
        with interrupts_held_back():
            signal.raise_signal(handled)
        done.append("the outer block")
    assert done == ["the outer block"]


def test_a_wait_within_a_block_may_be_interrupted(handled: int) -> None:
    done = []
    with pytest.raises(Raised), interrupts_held_back():
        with pytest.raises(Raised), interrupts_allowed():
            signal.raise_signal(handled)
        done.append("at once")
        signal.raise_signal(handled)
        done.append("held back again")
        with pytest.raises(Raised), interrupts_allowed():
            done.append("never")
        with interrupts_allowed(), interrupts_held_back():
            done.append("nested")
        signal.raise_signal(handled)
    assert done == ["at once", "held back again", "nested"]


def test_all_handlers_that_are_due_run(handled: int) -> None:
    came: list[int] = []
    usual = signal.signal(signal.SIGUSR2, lambda signum, frame: came.append(signum))
    try:
        with pytest.raises(Raised), interrupts_held_back():
            signal.raise_signal(handled)
            signal.raise_signal(signal.SIGUSR2)
            assert not came
    finally:
        signal.signal(signal.SIGUSR2, usual)
    assert came == [signal.SIGUSR2]


def test_a_signal_that_another_thread_is_given_is_held_back_too(handled: int) -> None:
    """A mask of the main thread would have the kernel give it to one that does not block it."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    done = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {handled})
    try:
        with pytest.raises(Raised), interrupts_held_back():
            os.kill(os.getpid(), handled)
            wait_for(lambda: handled in interrupts._noted)
            done.append("the block")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        over.set()
        thread.join()
    assert done == ["the block"]


def test_a_handler_that_is_installed_within_the_block_stays() -> None:
    def mine(signum: int, frame: Any) -> None: ...

    usual = signal.getsignal(signal.SIGUSR2)
    try:
        with interrupts_held_back():
            signal.signal(signal.SIGUSR2, mine)
        assert signal.getsignal(signal.SIGUSR2) is mine
    finally:
        signal.signal(signal.SIGUSR2, usual)


def test_in_other_threads_nothing_is_held_back() -> None:
    """No handler runs there; and the main thread's are its own."""
    seen: list[Any] = []

    def look() -> None:
        with interrupts_held_back(), interrupts_allowed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_ignored_and_default_signals_stay_so() -> None:
    before = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
    ours: Callable[..., Any] = before[signal.SIGINT]  # type: ignore[assignment]
    with interrupts_held_back():
        within = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
    assert {signum for signum in before if before[signum] is not within[signum]} == {
        signum for signum, handler in before.items() if callable(handler)
    }
    assert callable(ours)
    assert {signum: signal.getsignal(signum) for signum in before} == before


def test_a_forked_child_holds_nothing_back(handled: int) -> None:
    with interrupts_held_back():
        pid = os.fork()
        if pid == 0:
            try:
                signal.raise_signal(handled)
            except Raised:
                os._exit(7)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
