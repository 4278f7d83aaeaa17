"""A program that is interrupted at each line of poolagg's own code in turn, and tells what was left or did not work.

    python interrupted.py lines CASE METHOD STEP FIRST
    python interrupted.py moments CASE METHOD COUNT SEED

`lines`: one run is recorded. Then there is one run for each line that it came to (each STEP-th, from FIRST on), with a
SIGINT at that line. The signal is raised there by a trace function: so its handler runs there, as it may between any
two instructions, and each run can be repeated. `moments`: COUNT runs, with one to three signals at random moments, a
millisecond or more apart: that is the promise (`_runtime/interrupts.py`).

After each run nothing is left of it, the next run in the same pool and one in a new pool give the right result, and
no finalizer closes the files that were opened meanwhile. Each complaint is a line of the output; the last line counts.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import poolagg
from poolagg import ProcessPool, SerialPool, Sum, ThreadPool, aggregate, share, snapshots
from poolagg._runtime import interrupts
from poolagg.pools.process.launch.forkserver import kept as kept_forkserver

PACKAGE = str(Path(poolagg.__file__).parent)
FILES = ("pools/", "_engine/", "_runtime/interrupts.py")
TRACED = tuple(f"{PACKAGE}/{name}" for name in FILES)
ITEMS = 6
RIGHT = sum(range(ITEMS))

Position = tuple[str, int]


class Tracer:
    """Notes each line at which traced code arrives; raises SIGINT when it first arrives at `target`."""

    def __init__(self, target: Position | None = None) -> None:
        self.target, self.fired = target, False
        self.places: dict[Position, None] = {}
        self._pid = os.getpid()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if os.getpid() != self._pid or self.fired:
            return None
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            place = frame.f_code.co_filename.removeprefix(f"{PACKAGE}/"), frame.f_lineno
            self.places[place] = None
            if place == self.target and not begins_a_finalizer(frame):
                self.fired = True
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
                return None
        return self


def begins_a_finalizer(frame: FrameType) -> bool:
    """Tell whether the interpreter has just called a finalizer, whose errors it always drops."""
    callers = frame, frame.f_back
    return any(
        caller is not None and (caller.f_code.co_name == "__del__" or caller.f_code.co_filename == weakref.__file__)
        for caller in callers
    )


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


def read(x: int, shared: Any) -> int:
    return x * len(shared.value) // 100_000


def sharing(make: Callable[[], Any], marker: str) -> None:
    """A value that workers read."""
    shared = share(bytearray(100_000))
    with make() as pool:
        assert aggregate(partial(read, shared=shared), range(ITEMS), Sum(), pool=pool) == RIGHT


KEPT = {"kept": run, "looked_at": looked_at}
OWN = {"within": within, "alone": alone, "executor": executor, "sharing": sharing}


# -- what is looked at afterwards --------------------------------------------------------------------------------------


def held() -> dict[str, Any]:
    """Return the resources of this process, quickly; without the forkserver that it keeps."""
    forkserver = kept_forkserver.kept()
    process = forkserver.process if forkserver else None
    kept = {forkserver._control.fileno(), forkserver._death.fileno(), process.sentinel} if process else set()
    descriptors = {}
    for fd in set(os.listdir("/proc/self/fd")) - set(map(str, kept)):
        with contextlib.suppress(OSError):  # the one that lists them
            descriptors[f"fd {fd}"] = os.readlink(f"/proc/self/fd/{fd}")
    children = {}
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            for pid in set(Path(f"/proc/self/task/{task}/children").read_text().split()) - {
                str(process and process.pid)
            }:
                children[f"process {pid}"] = "child"
    return {**descriptors, **children, **{f"thread {t.name} {t.ident}": "alive" for t in threading.enumerate()}}


def left_behind(before: dict[str, Any]) -> dict[str, Any]:
    until = time.monotonic() + 5
    while (extra := dict(held().items() - before.items())) and time.monotonic() < until:
        time.sleep(0.002)
    return extra


def stays_open(files: list[int]) -> bool:
    """Tell whether each is still the same file, and close them."""
    gc.collect()
    device = os.stat(os.devnull)
    with contextlib.suppress(OSError):
        for file in files:
            if not os.path.samestat(os.fstat(file), device):
                return False
            os.close(file)
        return True
    return False


class AtLine:
    """A SIGINT when the work arrives at a line for the first time."""

    def __init__(self, target: Position | None) -> None:
        self.tracer = Tracer(target)

    def __enter__(self) -> None:
        sys.settrace(self.tracer)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    @property
    def fired(self) -> bool:
        return self.tracer.fired

    def __str__(self) -> str:
        return f"at {self.tracer.target}"


class AtMoments:
    """SIGALRM after `delay` seconds, and then each `gap`; a handler of the program raises, three times at most."""

    def __init__(self, delay: float, gap: float = 0.0) -> None:
        self._times = delay, gap
        self._most, self.fired = 3, False

    def __enter__(self) -> None:
        self._usual = signal.signal(signal.SIGALRM, self._handle)
        self._began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, *self._times)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.seconds = time.monotonic() - self._began
        if signal.signal(signal.SIGALRM, self._usual) != self._handle:
            raise AssertionError("the handler was not put back")

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        codes = []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        if at_work.__code__ in codes and note_unraisable.__code__ not in codes and self._most:
            self.fired = True
            self._most -= 1
            raise KeyboardInterrupt

    def __str__(self) -> str:
        return f"after {self._times} s"


unraisable: list[Any] = []


def note_unraisable(what: Any) -> None:
    """An interrupt within a finalizer is told by the interpreter. Its traceback is not kept."""
    unraisable.append(what.exc_type)


def at_work(work: Callable[[], None]) -> None:
    """Do the work; nothing else is interrupted."""
    work()


def interrupted(work: Callable[[], None], trigger: Any, complain: Callable[[str], None]) -> bool:
    """Tell whether the work was interrupted; it has then ended, and reported it."""
    sys.unraisablehook = note_unraisable
    raised = False
    try:
        with trigger:
            at_work(work)
    except KeyboardInterrupt:
        raised = True
    except BaseException as error:
        complain(f"{type(error).__name__}: {error}")
    sys.unraisablehook = sys.__unraisablehook__
    if trigger.fired and not raised and KeyboardInterrupt not in unraisable:
        complain("the interrupt was lost")
    unraisable.clear()
    if (handler := signal.getsignal(signal.SIGINT)) is not signal.default_int_handler:
        state = interrupts._installed, interrupts._holding, interrupts._replaced, interrupts._noted
        complain(f"the handler was not put back: {handler!r}, {state}")
    if signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        complain("the mask was not put back")
    return bool(trigger.fired)


class Trial:
    """Runs of one case, each with an interrupt of its own."""

    def __init__(self, case: str, method: str, folder: str) -> None:
        self.case, self.method, self.folder = case, method, folder
        makes: dict[str, Callable[[], Any]] = {"threads": partial(ThreadPool, 2), "serial": SerialPool}
        self.make = makes.get(method, partial(ProcessPool, 2, start_method=method))
        self.runs = self.fired = self.complaints = 0
        self.one(AtLine(None), 0)  # so that everything is imported

    def one(self, trigger: Any, count: int = 1) -> None:
        def complain(what: str) -> None:
            self.complaints += 1
            print(self.case, self.method, trigger, what, flush=True)

        self.runs += count
        before = held()
        marker = f"{self.folder}/{time.monotonic()}"
        if self.case in KEPT:
            with self.make() as pool:
                run(pool, "")
                self.fired += interrupted(partial(KEPT[self.case], pool, marker), trigger, complain)
                self._look(pool, complain)
        else:
            self.fired += interrupted(partial(OWN[self.case], self.make, marker), trigger, complain)
            self._look(None, complain)
        if extra := left_behind(before):
            complain(f"left behind: {extra}")

    def _look(self, pool: Any, complain: Callable[[str], None]) -> None:
        """Check that the pool, or a new one, works, and that nothing closes the user's files."""
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
        try:
            run(self.make() if pool is None and self.runs % 16 == 1 else pool or SerialPool(), "")
        except BaseException as error:
            complain(f"the next run: {type(error).__name__}: {error}")
        if not stays_open(files):
            complain("a file of the user's was closed")


def main(how: str, case: str, method: str, many: int, first: int, folder: str) -> None:
    trial = Trial(case, method, folder)
    if how == "lines":
        recorded = AtLine(None)
        trial.one(recorded, 0)
        for place in list(recorded.tracer.places)[first::many]:
            trial.one(AtLine(place))
    else:
        choose, calm = random.Random(first), AtMoments(100)
        trial.one(calm, 0)
        for _ in range(many):
            trial.one(AtMoments(choose.uniform(0, calm.seconds), choose.choice((0, 1e-3, 1e-2))))
    print(f"{trial.runs} runs, {trial.fired} interrupted, {trial.complaints} complaints", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(*sys.argv[1:4], *map(int, sys.argv[4:6]), folder)
