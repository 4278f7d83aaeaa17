"""A program that starts runs, ends them while they write, and tells what became of them.

A run is a child of one warm server, forked for it, with a process group of its own: so no kill costs the start of an
interpreter. What a run says goes to a file, which outlives it. When it dies is counted in calls rather than seconds,
so that it may be anywhere, on a slow machine as on a fast one. `python torture.py` is the server: a task in JSON on
each line of its input, and how it ended on its output.

Rule: results are compared as text, and equal texts are equal results to the bit, but for the order of sets
and of keys, which is promised to nobody.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import leaks
import numpy as np
from families import FAMILIES
from paths import SUPPORT

from poolagg import events

# -- faults ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AtCall:
    """SIGKILL of the group at the n-th call or return of the parent's Python code."""

    number: int


@dataclass(frozen=True)
class AfterSeconds:
    """SIGKILL of the group after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class AtWrite:
    """The fault at the n-th call that changes something in the folder: FAIL, FULL, KILL, TEAR (`faulty.c`)."""

    number: int
    action: str
    error: int = errno.EIO


Fault = AtCall | AfterSeconds | AtWrite

ACTIONS = ("FAIL", "FULL", "KILL", "TEAR")


@dataclass(frozen=True)
class Life:
    """The outcome of a run."""

    status: int
    """Of the process: 0, or below 0 for the signal that killed it."""
    begun: int | None = None
    """How many items it found done; None if it died before."""
    kept: int = 0
    """How many were done when it last said that it had committed."""
    value: str | None = None
    error: tuple[str, str] | None = None
    """Its class and what it says."""
    calls: int = 0
    """The calls that `AtCall` counts, if it counts them."""
    writes: int = 0
    """The writes that `AtWrite` counts."""

    @property
    def killed(self) -> bool:
        """Whether the run was killed."""
        return self.status == -signal.SIGKILL


# -- the side of the tests ---------------------------------------------------------------------------------------------


class Server:
    """A warm process that runs are forked from. With `shim`, what `faulty.c` compiles to, their writes can fail."""

    def __init__(self, shim: Path | None = None) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a fork wants no threads
        environment["PYTHONPATH"] = str(SUPPORT)
        if shim is not None:
            environment["LD_PRELOAD"] = str(shim)
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, family: str, folder: Path, fault: Fault | None = None) -> Life:
        """Begin a run in the folder, or go on with it; back when it and all its processes have ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task = _task(family, folder, fault)
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline()
        assert status, "the server has ended"
        return _life(task, int(status))

    def close(self) -> None:
        """End it, with whatever is left of its runs."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def run_here(family: str, folder: Path) -> Life:
    """The same in this process, which is cheaper by half; to be used where nothing is going to happen to it."""
    task = _task(family, folder, None)
    with warnings.catch_warnings():
        live(task)
    return _life(task, 0)


def _task(family: str, folder: Path, fault: Fault | None) -> dict[str, Any]:
    if not folder.exists():
        folder.mkdir()
        FAMILIES[family].make(str(folder))
    told = folder.with_name(f"{folder.name}.told")
    told.write_text("")
    task = {"family": family, "folder": str(folder), "told": str(told), "kind": None}
    return task if fault is None else {**task, "kind": type(fault).__name__, **asdict(fault)}


def _life(task: dict[str, Any], status: int) -> Life:
    return Life(status, **dict(json.loads(line) for line in Path(task["told"]).read_text().splitlines()))


# -- the server --------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Do the tasks, one after another."""
    leaks.adopt_orphans()
    _warm_up()
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            live(task)
            os._exit(0)
        print(_ended(child, task), flush=True)


def _warm_up() -> None:
    """Import here what every run would import, and leave nothing to do for their garbage collectors."""
    with tempfile.TemporaryDirectory() as folder:
        FAMILIES["a report"].run(folder, str)
    gc.freeze()


def _ended(child: int, task: dict[str, Any]) -> int:
    """Wait for the child and for all its descendants; how it ended."""
    if task["kind"] == "AfterSeconds":
        signal.signal(signal.SIGALRM, partial(_kill, child))
        signal.setitimer(signal.ITIMER_REAL, task["seconds"])
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        while True:  # what a group leaves when it is killed; a survivor is a leak, and the test's time runs out
            os.wait()
    except ChildProcessError:
        return os.waitstatus_to_exitcode(status)


def _kill(child: int, *_: Any) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it has not begun, or has just ended
        pass


# -- a run -------------------------------------------------------------------------------------------------------------


class Teller:
    """The output of a run, written at once; a watcher of the run, too."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._done = 0

    def close(self) -> None:
        """All is said."""
        os.close(self._file)

    def say(self, what: str, value: Any) -> None:
        """A line."""
        os.write(self._file, (json.dumps([what, value]) + "\n").encode())

    def __call__(self, event: Any) -> None:
        """Count what is done, and tell how much of it is kept."""
        if isinstance(event, events.RunStarted):
            self._done = event.done
            self.say("begun", event.done)
        elif isinstance(event, events.StateMerged):
            self._done += event.items
        elif isinstance(event, events.Checkpointed):
            self.say("kept", self._done)


def live(task: dict[str, Any]) -> None:
    """A run, up to its end or to its fault."""
    warnings.simplefilter("ignore")
    teller = Teller(task["told"])
    family, folder = FAMILIES[task["family"]], task["folder"]
    try:
        with _armed(task, teller):
            value = family.run(folder, teller)
        teller.say("value", text((value, family.read(folder))))
    except BaseException as error:
        notes = getattr(error, "__notes__", [])
        teller.say("error", (type(error).__name__, "\n".join([str(error), *notes])))
    finally:
        teller.close()


class _armed:
    """Within this, the task's fault happens."""

    def __init__(self, task: dict[str, Any], teller: Teller) -> None:
        self._task, self._teller, self._calls = task, teller, 0
        self._nth = task["number"] if task["kind"] == "AtCall" else None

    def __enter__(self) -> None:
        if self._task["kind"] == "AtWrite":
            path = os.fsencode(self._task["folder"])
            action = ACTIONS.index(self._task["action"])
            ctypes.CDLL(None).faulty_arm(path, ctypes.c_long(self._task["number"]), action, self._task["error"])
        if self._nth is not None:
            sys.setprofile(self._count)

    def __exit__(self, *_: Any) -> None:
        if self._nth is not None:
            sys.setprofile(None)
            self._teller.say("calls", self._calls)
        if self._task["kind"] == "AtWrite":
            self._teller.say("writes", ctypes.CDLL(None).faulty_disarm())

    def _count(self, *_: Any) -> None:
        self._calls += 1
        if self._calls == self._nth:
            os.killpg(0, signal.SIGKILL)


def text(value: Any) -> str:
    """A result to compare: `repr` has every bit of a float."""
    return repr(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return str(value.dtype), value.tolist()
    if isinstance(value, Mapping):
        return sorted((repr(key), _plain(each)) for key, each in value.items())
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    serve()
