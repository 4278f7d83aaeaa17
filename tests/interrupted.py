"""A program that is interrupted at each line of poolagg's own code in turn, and tells what was left or did not work.

    python interrupted.py CASE METHOD STEP FIRST

One run is recorded. Then there is one run for each line that it came to (each STEP-th, from FIRST on), with a SIGINT at
that line. The signal is raised there by a trace function: so its handler runs there, as it may between any two
instructions, and each run can be repeated.

After each run nothing is left of it, the next run in the same pool and one in a new pool give the right result, and
no finalizer closes the files that were opened meanwhile. Each complaint is a line of the output; the last line counts.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import poolagg
from poolagg import ProcessPool, SerialPool, Sum, ThreadPool, aggregate, snapshots

PACKAGE = str(Path(poolagg.__file__).parent)
TRACED = (f"{PACKAGE}/pools/", f"{PACKAGE}/_run.py", f"{PACKAGE}/_engine.py", f"{PACKAGE}/_interrupts.py")
ITEMS = 6
RIGHT = sum(range(ITEMS))

Place = tuple[str, int]


class Tracer:
    """Notes each line at which traced code arrives; raises SIGINT when it first arrives at `target`."""

    def __init__(self, target: Place | None = None) -> None:
        self.target, self.fired = target, False
        self.places: dict[Place, None] = {}
        self._pid = os.getpid()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if os.getpid() != self._pid or self.fired:
            return None
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            place = frame.f_code.co_filename.removeprefix(f"{PACKAGE}/"), frame.f_lineno
            self.places[place] = None
            if place == self.target:
                self.fired = True
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
                return None
        return self


# -- what is run -------------------------------------------------------------------------------------------------------


def item(x: int, marker: str = "") -> int:
    """Kill the worker that runs item 3, the first time."""
    if x == 3 and marker:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
    return x


def run(pool: Any, marker: str) -> None:
    func = partial(item, marker=marker) if isinstance(pool, ProcessPool) else item
    assert aggregate(func, range(ITEMS), Sum(), pool=pool, chunksize=1) == RIGHT


def within(make: Callable[[], Any], marker: str) -> None:
    """The whole life of a pool."""
    with make() as pool:
        run(pool, marker)


def alone(make: Callable[[], Any], marker: str) -> None:
    """A pool for one run."""
    run(make(), marker)


def looked_at(pool: Any, marker: str) -> None:
    """Runs that are left early, and one that is not."""
    for _ in pool.imap_unordered(item, range(ITEMS)):
        break
    for _ in snapshots(item, range(ITEMS), Sum(), pool=pool, every=1e-6):
        break
    assert sum(pool.imap_unordered(item, range(ITEMS))) == RIGHT


def executor(make: Callable[[], Any], marker: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            run(threads, marker)


KEPT = {"kept": run, "looked_at": looked_at}
OWN = {"within": within, "alone": alone}


# -- what is looked at afterwards --------------------------------------------------------------------------------------


def held() -> dict[str, Any]:
    """What this process holds, quickly."""
    descriptors = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            descriptors[f"fd {fd}"] = os.readlink(f"/proc/self/fd/{fd}")
    children = {}
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            for pid in Path(f"/proc/self/task/{task}/children").read_text().split():
                children[f"process {pid}"] = "child"
    return {**descriptors, **children, **{f"thread {t.name} {t.ident}": "alive" for t in threading.enumerate()}}


def left_behind(before: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + 5
    while (extra := dict(held().items() - before.items())) and time.monotonic() < until:
        time.sleep(0.002)
    return extra


def stays_open(files: list[int]) -> bool:
    """Whether each is still the file it was; they are closed."""
    gc.collect()
    device = os.stat(os.devnull)
    with contextlib.suppress(OSError):
        for file in files:
            if not os.path.samestat(os.fstat(file), device):
                return False
            os.close(file)
        return True
    return False


@contextlib.contextmanager
def traced(target: Place | None) -> Iterator[Tracer]:
    tracer = Tracer(target)
    sys.settrace(tracer)
    try:
        yield tracer
    finally:
        sys.settrace(None)


def interrupted(work: Callable[[], None], target: Place, complain: Callable[[str], None]) -> bool:
    """Whether the work came to the target; it is over then, and has told so."""
    unraisable: list[Any] = []
    sys.unraisablehook = lambda what: unraisable.append(what.exc_type)
    raised = False
    try:
        with traced(target) as tracer:
            work()
    except KeyboardInterrupt:
        raised = True
    except BaseException as error:
        complain(f"{type(error).__name__}: {error}")
    sys.unraisablehook = sys.__unraisablehook__
    if tracer.fired and not raised and KeyboardInterrupt not in unraisable:
        complain("the interrupt was lost")
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        complain("the handler was not put back")
    if signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        complain("the mask was not put back")
    return tracer.fired


def sweep(case: str, method: str, step: int, first: int, folder: str) -> None:
    makes = {"threads": partial(ThreadPool, 2), "serial": SerialPool}
    make = makes.get(method, partial(ProcessPool, 2, start_method=method))
    count = complaints = 0

    def marker() -> str:
        nonlocal count
        count += 1
        return f"{folder}/{count}"

    def after(before: dict[str, Any], pool: Any, complain: Callable[[str], None]) -> None:
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
        try:
            if pool is not None:
                run(pool, "")
        except BaseException as error:
            complain(f"the next run: {type(error).__name__}: {error}")
        if not stays_open(files):
            complain("a file of the user's was closed")

    def one(target: Place | None) -> Tracer | bool:
        def complain(what: str) -> None:
            nonlocal complaints
            complaints += 1
            print(case, method, target, what, flush=True)

        before = held()
        if case in KEPT:
            with make() as pool:
                run(pool, "")
                work = partial(KEPT[case], pool, marker())
                if target is None:
                    with traced(None) as tracer:
                        work()
                    return tracer
                fired = interrupted(work, target, complain)
                after(before, pool, complain)
        else:
            work = partial(executor if case == "executor" else OWN[case], make, marker())
            if target is None:
                with traced(None) as tracer:
                    work()
                return tracer
            fired = interrupted(work, target, complain)
            after(before, None, complain)
        if extra := left_behind(before):
            complain(f"left behind: {extra}")
        return fired

    one(None)  # so that everything is imported
    recorded = one(None)
    assert isinstance(recorded, Tracer)
    places = list(recorded.places)[first::step]
    fired = sum(bool(one(place)) for place in places)
    if method not in makes:
        run(make(), "")
    print(f"{len(places)} places, {fired} reached, {complaints} complaints", flush=True)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sweep(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), folder)
