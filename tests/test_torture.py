"""Runs that are killed again and again, whose disks fail at every call in turn, and whose files are damaged.

The claim is always the same: what was said to be kept is kept, nothing is in the result twice, and in the end there is
the result of a run to which nothing ever happened, or an error that names the file.

Where chance is at work, a failure tells the seed, and all that was done to the run: `POOLAGG_SEED=7 pytest ...` does it
again. `POOLAGG_KILLS=500` kills each kind of run so often.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count, takewhile
from pathlib import Path
from time import perf_counter
from typing import Any

import postgres
import pytest
from families import BAD, FAMILIES, ITEMS, OPTIONS, POSTGRES, PROCESSES, REDUCERS, RESOURCES, WRITES
from paths import PROGRAMS
from torture import AfterSeconds, AtCall, AtWrite, Fault, Life, Server, run_here, text

import poolagg
from poolagg import SkippedItems, events
from poolagg._checkpoint.store import look

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="the disk that fails, and the care for orphans, are Linux's"),
]

SEED = os.environ.get("POOLAGG_SEED", "1")
KILLS = int(os.environ.get("POOLAGG_KILLS", "6"))
"""Of each kind of run: hundreds in all."""

LIVES = 8
"""A run that was killed so often, less one, is let live: so that each ends."""


@pytest.fixture(scope="module")
def folders() -> Iterator[Iterator[Path]]:
    """New folders, in memory: `kill -9` asks nothing of the disk, and on a slow one this would take minutes."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as parent:
        yield (Path(parent, str(number)) for number in count())


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[str]:
    """A PostgreSQL server, for whatever process asks the environment; or why there is none."""
    with contextlib.ExitStack() as stack:
        try:
            os.environ[POSTGRES], why = stack.enter_context(postgres.server()), ""
        except postgres.Missing as missing:
            if os.environ.get("POOLAGG_CI"):
                raise
            why = str(missing)
        yield why
        os.environ.pop(POSTGRES, None)


@pytest.fixture(autouse=True)
def need_the_database(request: pytest.FixtureRequest, database: str) -> None:
    """A test of the family that uses it is left out where there is none."""
    if database and "[postgres]" in request.node.name:
        pytest.skip(database)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Where runs are forked from."""
    server = Server()
    yield server
    server.close()


# -- killed at any moment ----------------------------------------------------------------------------------------------

Moments = Callable[[random.Random, Life, float], Fault]


def at_any_call(chance: random.Random, whole: Life, seconds: float) -> Fault:
    """Of the parent's Python code."""
    return AtCall(chance.randint(1, whole.calls))


def at_any_time(chance: random.Random, whole: Life, seconds: float) -> Fault:
    """While C code runs, too, in whatever process."""
    return AfterSeconds(chance.uniform(0, seconds)) if chance.random() < 0.7 else at_any_call(chance, whole, seconds)


@dataclass
class Series:
    """A run, again and again in one folder until it ends."""

    server: Server
    family: str
    folder: Path
    history: list[tuple[Fault | None, Life]] = field(default_factory=list)

    def live(self, fault: Fault | None = None, here: bool = False) -> Life:
        """Once more; what was kept must be there."""
        kept = max((life.kept for _, life in self.history), default=0)
        life = run_here(self.family, self.folder) if here else self.server.run(self.family, self.folder, fault)
        self.history.append((fault, life))
        assert life.begun is None or life.begun >= kept, self.told(f"{kept} items were kept, {life.begun} are there")
        return life

    def look(self) -> None:
        """As `poolagg show` does: it may read whatever a kill has left."""
        if (path := self.folder / "run.ckpt").exists():
            look(path)

    def told(self, what: str) -> str:
        """For a failure."""
        lives = "".join(f"\n    {fault}: {life}" for fault, life in self.history)
        return f"{self.family}, POOLAGG_SEED={SEED}: {what}{lives}"


def torture(server: Server, family: str, folders: Iterator[Path], moments: Moments, kills: int = KILLS) -> int:
    """Kill a run so many times, in as many series as it takes; how often one went on from something."""
    chance = random.Random(f"{SEED} {family}")
    began = perf_counter()
    whole = server.run(family, next(folders), AtCall(1 << 60))
    seconds = perf_counter() - began
    assert whole.value is not None, whole
    killed = went_on = 0
    while killed < kills:
        series = Series(server, family, next(folders))
        for number in range(LIVES):
            life = series.live(moments(chance, whole, seconds) if number < LIVES - 1 else None)
            killed += life.killed
            went_on += bool(life.begun)
            if not life.killed:
                break
            if chance.random() < 0.3:
                series.look()
        assert life.value == whole.value, series.told(f"expected {whole.value}")
        assert series.live().value == whole.value, series.told("and finished as it was, it was asked again")
        shutil.rmtree(series.folder)
    return went_on


@pytest.mark.parametrize("family", REDUCERS)
def test_whatever_the_reducer_a_run_survives_kill_9(family: str, server: Server, folders: Iterator[Path]) -> None:
    """At any call of its code, and again while it goes on: the result is the same, and nothing kept is lost."""
    torture(server, family, folders, at_any_call)


def test_no_reducer_is_left_out() -> None:
    """A new one is killed as well. `Into` is refused with a checkpoint: what it changes lies outside."""
    public = {name for name in poolagg.__all__ if isinstance(thing := getattr(poolagg, name), type)
              and issubclass(thing, poolagg.Reducer)}  # fmt: skip
    sketches = {"Distinct", "HeavyHitters", "Quantiles"} if find_spec("datasketches") is None else set()
    assert public - {"Reducer", "Into"} - sketches <= REDUCERS.keys()


@pytest.mark.parametrize("family", OPTIONS)
def test_whatever_the_options_a_run_survives_kill_9(family: str, server: Server, folders: Iterator[Path]) -> None:
    """With every strategy, kind of input, and way to look at it; what failed is still known to have failed."""
    torture(server, family, folders, at_any_time)


@pytest.mark.parametrize("family", PROCESSES)
def test_kill_9_of_a_run_with_all_its_workers(family: str, server: Server, folders: Iterator[Path]) -> None:
    """At any moment, whatever any of its processes does just then."""
    torture(server, f"{family} in processes", folders, at_any_time)


@pytest.mark.parametrize("family", RESOURCES)
def test_every_partial_is_in_the_resource_once_whatever_is_killed(
    family: str, server: Server, folders: Iterator[Path]
) -> None:
    """At any call of the code that writes into databases and files."""
    torture(server, family, folders, at_any_call)


def test_most_runs_that_were_killed_went_on_from_something(server: Server, folders: Iterator[Path]) -> None:
    """Else the tests above would only show that a run can be begun anew."""
    assert torture(server, "Stream", folders, at_any_call, 20) >= 10


# -- a disk that fails at every call in turn ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Where runs are forked from whose writes can fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        why = "no C compiler, which tests/support/programs/faulty.c needs: apt-get install gcc libc6-dev"
        pytest.fail(why) if os.environ.get("POOLAGG_CI") else pytest.skip(why)
    shim = tmp_path_factory.mktemp("shim") / "faulty.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, PROGRAMS / "faulty.c", "-ldl"], check=True)
    server = Server(shim)
    yield server
    server.close()


FAULTS = {
    "an error, once": ("FAIL", errno.EIO),
    "full from then on": ("FULL", errno.ENOSPC),
    "killed before it": ("KILL", 0),
    "killed in the middle of it": ("TEAR", 0),
}


def fail_and_go_on(series: Series, fault: AtWrite, expected: str) -> Life:
    """A run with a fault, and one without, which is right. The first is right, or its error names the file."""
    life = series.live(fault)
    if not life.killed and life.value != expected:
        assert life.error is not None, series.told(f"expected {expected}")
        assert life.error[0] == FAMILIES[series.family].error, series.told("another error")
        assert str(series.folder) in life.error[1], series.told("the error does not name the file")
    series.look()
    assert series.live(here=True).value == expected, series.told(f"expected {expected}")
    shutil.rmtree(series.folder)
    return life


def undisturbed(server: Server, family: str, folder: Path) -> str:
    """The result of a run that nothing happens to."""
    life = server.run(family, folder)
    assert life.value is not None, life
    return life.value


def met(life: Life, fault: AtWrite) -> bool:
    """Tell whether the run came as far as its fault."""
    return life.killed or life.writes >= fault.number


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("family", WRITES)
def test_every_single_write_fails_in_turn(family: str, fault: str, faulty: Server, folders: Iterator[Path]) -> None:
    """Each `open` that makes a file, each `write`, `fsync`, `link`, `rename`, our own and SQLite's, up to the last of
    them: the run says so, and goes on later as if nothing had been; no item is lost or doubled."""
    expected = undisturbed(faulty, family, next(folders))
    for number in count(1):
        at = AtWrite(number, *FAULTS[fault])
        if not met(fail_and_go_on(Series(faulty, family, next(folders)), at, expected), at):
            break
    assert number > 10


@pytest.mark.parametrize("fault", FAULTS)
def test_some_writes_of_a_large_state_fail(fault: str, faulty: Server, folders: Iterator[Path]) -> None:
    """Each commit writes all of it anew."""
    chance = random.Random(f"{SEED} {fault}")
    whole = faulty.run("a large state", next(folders), AtWrite(1 << 30, "FAIL"))
    assert whole.value is not None, whole
    for _ in range(KILLS):
        at = AtWrite(chance.randint(1, whole.writes), *FAULTS[fault])
        fail_and_go_on(Series(faulty, "a large state", next(folders)), at, whole.value)
    assert whole.writes > 50


# -- what a crash leaves, under another one ----------------------------------------------------------------------------

Files = dict[str, bytes]


def contents(folder: Path) -> Files:
    """The checkpoint, and what was to replace it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in ("run.ckpt", "run.ckpt.new")}


def laid(files: Files, folder: Path) -> Path:
    """The folder, with these files in it."""
    folder.mkdir()
    for name, data in files.items():
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def wreckage(faulty: Server, folders: Iterator[Path]) -> list[Files]:
    """Return the files that `kill -9` leaves at each write of a run that makes the file of the next commit."""
    found = []
    killed = True
    for number in takewhile(lambda _: killed, count(1)):
        folder = next(folders)
        killed = faulty.run("a few commits", folder, AtWrite(number, "TEAR")).killed
        files = contents(folder)
        if "run.ckpt.new" in files:
            found.append(files)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_crash_while_a_crash_is_made_good(
    fault: str, wreckage: list[Files], faulty: Server, folders: Iterator[Path]
) -> None:
    """At each write of the run that goes on, which also removes what was left."""
    files = random.Random(f"{SEED} {fault}").choice(wreckage)
    expected = undisturbed(faulty, "a few commits", next(folders))
    for number in count(1):
        at = AtWrite(number, *FAULTS[fault])
        if not met(fail_and_go_on(Series(faulty, "a few commits", laid(files, next(folders))), at, expected), at):
            break
    assert number > 5


# -- damage ------------------------------------------------------------------------------------------------------------


def flipped(data: bytes, bit: int) -> bytes:
    """One bit is another."""
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


GOOD = [x for x in range(ITEMS) if x not in BAD]
EXPECTED = {"a few commits": ({"n": dict.fromkeys(GOOD, 1), "all": GOOD}, None), "skip, in order": (GOOD, None)}
"""Results of the runs whose files are damaged here."""


def is_refused(family: str, files: Files, folder: Path, what: object) -> bool:
    """Go on from these files, and again from what they are then: each time it is right, or refused with their name."""
    laid(files, folder)
    as_it_was = True
    for _ in range(2):
        life = run_here(family, folder)
        refused = life.error is not None and life.error[0] == "CheckpointError" and str(folder) in life.error[1]
        assert refused or life.value == text(EXPECTED[family]), f"{what}, POOLAGG_SEED={SEED}: {life}"
        if refused:
            break
        as_it_was = False  # from now on it is a run's
    assert not (refused and as_it_was) or contents(folder) == files, f"{what}, POOLAGG_SEED={SEED}: it was changed"
    shutil.rmtree(folder)
    return refused


def commits(family: str, folder: Path) -> list[bytes]:
    """A checkpoint as it is after each commit of a run."""
    folder.mkdir()
    seen = []

    def watch(event: Any) -> None:
        if isinstance(event, events.Checkpointed):
            seen.append((folder / "run.ckpt").read_bytes())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedItems)
        FAMILIES[family].run(str(folder), watch)
    return seen


def test_no_flipped_bit_is_a_wrong_result(folders: Iterator[Path]) -> None:
    """Each of the file's head, which says how the rest is to be read, and many others."""
    chance = random.Random(f"{SEED} bits")
    data = commits("a few commits", next(folders))[0]
    bits = [*range(8 * 100), *chance.sample(range(8 * 100, 8 * len(data)), 300)]
    refused = sum(
        is_refused("a few commits", {"run.ckpt": flipped(data, bit)}, next(folders), f"bit {bit}") for bit in bits
    )
    assert refused == len(bits)


def test_no_cut_is_a_wrong_result(folders: Iterator[Path]) -> None:
    """Nor zeros from somewhere on, as after a power cut, nor a page of zeros, nor one that is there twice."""
    chance = random.Random(f"{SEED} cuts")
    data = commits("a few commits", next(folders))[0]
    for _ in range(40):
        at = chance.randrange(len(data))
        page, other = (chance.randrange(len(data) // PAGE) * PAGE for _ in range(2))
        for damaged in (
            data[:at],
            data[:at] + bytes(len(data) - at),
            data[:page] + bytes(PAGE) + data[page + PAGE :],
            data[:page] + data[other : other + PAGE] + data[page + PAGE :],
        ):
            is_refused("a few commits", {"run.ckpt": damaged}, next(folders), (at, page, other))


PAGE = 64
"""Bytes that are lost together."""


def test_no_mixture_of_two_commits_is_a_wrong_result(folders: Iterator[Path]) -> None:
    """As a disk leaves it that has lost some of the writes it had promised."""
    chance = random.Random(f"{SEED} mixtures")
    every = commits("skip, in order", next(folders))
    refused = 0
    for number in range(100):
        two = chance.sample(every, 2)
        longest = max(map(len, two))
        pages = [chance.choice(two)[at : at + PAGE] for at in range(0, longest, PAGE)]
        refused += is_refused("skip, in order", {"run.ckpt": b"".join(pages)}, next(folders), f"mixture {number}")
    assert refused > 30


def test_what_was_to_replace_a_file_is_not_read(wreckage: list[Files], folders: Iterator[Path]) -> None:
    """Of a run that was killed: gone, or empty, cut off, with another bit, or another run's. It is removed."""
    chance = random.Random(f"{SEED} leftovers")
    assert len(wreckage) > 5
    for number, files in enumerate(wreckage):
        left = files["run.ckpt.new"]
        damages = {
            "gone": None,
            "empty": b"",
            "cut": left[: chance.randrange(len(left) + 1)],
            "another": chance.choice(wreckage)["run.ckpt.new"],
            **({"a bit": flipped(left, chance.randrange(8 * len(left)))} if left else {}),
        }
        for what, damaged in damages.items():
            beside = {} if damaged is None else {"run.ckpt.new": damaged}
            now = {"run.ckpt": files["run.ckpt"], **beside}
            assert not is_refused("a few commits", now, folder := next(folders), f"leftover {number}: {what}")
            assert run_here("a few commits", laid(now, folder)).value is not None
            assert contents(folder).keys() == {"run.ckpt"}
