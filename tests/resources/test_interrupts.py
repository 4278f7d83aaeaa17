"""Ctrl-C at any line of the code that opens, writes and closes checkpoints and resources: all are usable at once.

A run is made again and again, and interrupted at one line that it executes there, each time at another. The same call
follows at once, in the same process, while the interruption is still being handled. Where an earlier test in the suite
waits for chance, this one goes through all lines: `POOLAGG_INTERRUPTS=all` through each time that each is executed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import leaks
import places
import postgres
import pytest

import poolagg
from poolagg import Checkpoint, Collect, SerialPool, aggregate
from poolagg.strategies import Stream

PACKAGE = Path(poolagg.__file__).parent

SWEPT = {
    str(path)
    for path in (
        *PACKAGE.glob("resources/*.py"),
        *(PACKAGE / "_checkpoint" / name for name in ("checkpoint.py", "store.py")),
        *(PACKAGE / "_engine" / "checkpointer.py", PACKAGE / "_runtime" / "files.py"),
    )
}

ALL = os.environ.get("POOLAGG_INTERRUPTS") == "all"

ITEMS = 6
KEPT = {"run.ckpt", "found.db", "found.jsonl", "found.jsonl.ledger"}
"""The files that a run leaves in its folder."""


class Interrupting:
    """Within this, Ctrl-C comes at the n-th line of the swept code; notes all lines."""

    def __init__(self, number: int = 0) -> None:
        self._number = number
        self.lines: list[str] = []

    def __enter__(self) -> Interrupting:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename in SWEPT else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            if len(self.lines) == self._number:
                signal.raise_signal(signal.SIGINT)
        return self._line


def pair(item: int) -> tuple[int, str]:
    return item, str(item)


EXPECTED = [pair(item) for item in range(ITEMS)]


class Position:
    """Where a run keeps its result: the same objects serve the run that is interrupted, and the one after it."""

    def __init__(self, kind: str, folder: str, address: str) -> None:
        self._kind, self.folder = kind, folder
        os.mkdir(folder)
        if kind != "checkpoint":
            self._place = places.place(kind, folder, address)
            self._place.make()
            self._into = self._place.into()

    def run(self) -> Any:
        """A run that commits after each chunk; what is there in the end."""
        options: dict[str, Any] = {"pool": SerialPool(), "chunksize": 2}
        if self._kind == "checkpoint":
            kept = Checkpoint(os.path.join(self.folder, "run.ckpt"), every=1e-9)
            return aggregate(pair, iter(range(ITEMS)), Collect(), strategy=Stream(), checkpoint=kept, **options)
        aggregate(pair, iter(range(ITEMS)), self._into, checkpoint=Checkpoint(every=1e-9), **options)
        return places.outcome(self._place)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str | None]:
    """A PostgreSQL server, if there can be one."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(postgres.server())
        except postgres.Missing:
            yield None


@pytest.fixture(params=["checkpoint", "sqlite", "file", "postgres"])
def place(request: pytest.FixtureRequest, server: str | None) -> Iterator[Callable[[], Position]]:
    """New places of one kind."""
    if request.param == "postgres" and server is None:
        pytest.skip("no PostgreSQL here")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    gc.freeze()  # what is there by now need not be looked through a thousand times
    with tempfile.TemporaryDirectory(dir=memory) as parent:
        numbers = count()
        yield lambda: Position(request.param, os.path.join(parent, str(next(numbers))), server or "")
    gc.unfreeze()


def lines_of(place: Callable[[], Position]) -> list[str]:
    """The lines that a run executes, in their order; the first run imports, and executes more."""
    for _ in range(2):
        with Interrupting() as interrupting:
            assert place().run() == EXPECTED
    return interrupting.lines


def survives(place: Position, number: int) -> bool:
    """Interrupt the run at this line, and look what becomes of it; whether it came so far."""
    before = frozenset(leaks._descriptors())
    own: list[int] = []
    interrupting = Interrupting(number)
    try:
        with interrupting:
            place.run()
    except KeyboardInterrupt:  # with all frames and objects of the run that it holds
        own = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
        assert place.run() == EXPECTED, interrupting.lines[number - 1]
    came = len(interrupting.lines) >= number
    assert came == bool(own), "it was swallowed"
    gc.collect()
    for descriptor in own:  # fails if anybody else has closed it
        os.close(descriptor)
    assert not frozenset(leaks._descriptors()) - before, interrupting.lines[number - 1]
    assert set(os.listdir(place.folder)) <= KEPT, interrupting.lines[number - 1]
    shutil.rmtree(place.folder)
    return came


@pytest.mark.timeout(900 if ALL else 120)
def test_after_ctrl_c_at_any_line_the_same_call_goes_on_at_once(
    place: Callable[[], Position], request: pytest.FixtureRequest
) -> None:
    """Every row is there once; no lock, descriptor or temporary file stays; the run closes no file of the user's."""
    lines = lines_of(place)
    last = {line: number for number, line in enumerate(lines, 1)}
    numbers = range(1, len(lines) + 1) if ALL else sorted(last.values())
    if "postgres" in request.node.name and not ALL:
        numbers = [*numbers][::6]
    assert sum([survives(place(), number) for number in numbers]) >= len(numbers) * 0.9
