"""No other user's pickle is opened: another local user plants real files next to those that a run continues."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poolagg import CheckpointError, CheckpointMismatch, Count, ResourceError, SerialPool, Sum, aggregate
from poolagg._checkpoint.checkpoint import NOTHING
from poolagg._checkpoint.store import FileStore, ResourceStore
from poolagg._runtime.system import this
from poolagg._runtime.system.ownership import exposure_of_database, exposure_of_file
from poolagg.resources import IntoDatabase, IntoFile

NOBODY = 65534
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

as_root = pytest.mark.skipif(not ROOT, reason="to act as another user takes root")

# -- the attacker ------------------------------------------------------------------------------------------------------


class Evil:
    """Pickled, it makes a folder where it is opened."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


PLANT = """
import os, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.umask(0)
for number in range(1, len(sys.argv), 2):
    with open(sys.argv[number], "rb") as file:
        content = file.read()
    descriptor = os.open(sys.argv[number + 1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, content)
"""


def plant(*files: tuple[Path, str]) -> bool:
    """Copy files to new names as the user `nobody`, and return whether that user could."""
    words = [str(word) for pair in files for word in pair]
    return subprocess.run([sys.executable, "-c", PLANT, *words], capture_output=True, timeout=30).returncode == 0


def journal(content: bytes) -> bytes:
    """A hot journal: SQLite plays it back into a database, which then has this content."""
    page = int.from_bytes(content[16:18], "big")
    page = 1 << 16 if page == 1 else page
    count = len(content) // page
    head = bytes.fromhex("d9d505f920a163d7") + struct.pack(">5I", count, 0, count, 512, page)
    records = []
    for number in range(count):
        data = content[number * page : (number + 1) * page]
        checksum = sum(data[at] for at in range(page - 200, 0, -200))
        records.append(struct.pack(">I", number + 1) + data + struct.pack(">I", checksum))
    return head.ljust(512, b"\0") + b"".join(records)


class Target:
    """A run in a folder, half of which has been done, and what an attacker plants to take over the other half."""

    refusal: type[Exception] = CheckpointError

    def __init__(self, folder: str, workshop: Path) -> None:
        self.folder, self.workshop = folder, workshop
        self.marker = str(workshop / "code ran")
        self.evil = pickle.dumps(Evil(self.marker))
        self.make()

    def make(self) -> None:
        """Make what is there before the first run."""

    def run(self, folder: str | None = None, items: int = 20) -> Any:
        raise NotImplementedError

    def made(self) -> list[tuple[Path, str]]:
        """Make what is planted: the files, and their names in the folder."""
        raise NotImplementedError

    def keep(self, name: str, content: bytes) -> Path:
        path = self.workshop / name
        path.write_bytes(content)
        path.chmod(0o644)
        return path

    @property
    def ran(self) -> bool:
        return os.path.exists(self.marker)


def total(item: int) -> int:
    return item


class InCheckpoint(Target):
    def run(self, folder: str | None = None, items: int = 20) -> Any:
        path = os.path.join(folder or self.folder, "run.ckpt")
        return aggregate(total, range(items), Sum(), pool=SerialPool(), checkpoint=path)

    def made(self) -> list[tuple[Path, str]]:
        own = str(self.workshop)
        self.run(own, 10)
        store = FileStore(os.path.join(own, "run.ckpt"))
        held = store.open()
        store.commit(replace(held, state=self.evil))
        store.close()
        return [(self.keep("evil", (self.workshop / "run.ckpt").read_bytes()), "run.ckpt.new")]


def row(item: int) -> tuple[int]:
    return (item,)


class InDatabase(Target):
    """There is another reducer, whose state is a pickle in the ledger."""

    refusal = ValueError
    mode = "delete"

    def reducer(self, folder: str, **options: Any) -> Any:
        table = IntoDatabase(os.path.join(folder, "rows.db"), "INSERT INTO rows VALUES (?)", run="a", **options)
        return {"rows": table, "n": Count()}

    def make(self) -> None:
        with contextlib.closing(sqlite3.connect(os.path.join(self.folder, "rows.db"))) as connection:
            connection.execute("CREATE TABLE rows (item)")
            connection.execute(f"PRAGMA journal_mode={self.mode}")

    def run(self, folder: str | None = None, items: int = 20) -> Any:
        return aggregate(row, range(items), self.reducer(folder or self.folder), pool=SerialPool())

    def spoil(self, database: str) -> None:
        """Put the pickle into the ledger, checksums and all."""
        entrusted = ResourceStore(self.reducer(os.path.dirname(database), private=True)["rows"].resource)
        held = entrusted.open()
        entrusted.commit(replace(held, state=self.evil))
        entrusted.close()

    def made(self) -> list[tuple[Path, str]]:
        copy = shutil.copy(os.path.join(self.folder, "rows.db"), self.workshop)
        self.spoil(copy)
        return [(self.keep("journal", journal(Path(copy).read_bytes())), "rows.db-journal")]


class InWal(InDatabase):
    mode = "wal"

    def made(self) -> list[tuple[Path, str]]:
        copy = shutil.copy(os.path.join(self.folder, "rows.db"), self.workshop)
        with contextlib.closing(sqlite3.connect(copy)) as other:
            other.execute("SELECT count(*) FROM rows").fetchone()  # so that the last one to close it is not the spoiler
            self.spoil(copy)
            return [(self.keep("wal", Path(f"{copy}-wal").read_bytes()), "rows.db-wal")]


TARGETS = [InCheckpoint, InDatabase, InWal]

FOLDERS = {
    "as /tmp is": lambda folder: os.chmod(folder, 0o1777),
    "open to all": lambda folder: os.chmod(folder, 0o777),
    "open to a group": lambda folder: (os.chown(folder, -1, NOBODY), os.chmod(folder, 0o3770)),
    "the attacker's": lambda folder: (os.chown(folder, NOBODY, NOBODY), os.chmod(folder, 0o700)),
}


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that other users can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture
def folder(reachable: Path) -> str:
    """A private one there."""
    (inner := reachable / "work").mkdir(0o700)
    return str(inner)


@pytest.fixture
def workshop(reachable: Path) -> Path:
    """Where the attacker makes what is planted."""
    (inner := reachable / "workshop").mkdir()
    inner.chmod(0o755)
    return inner


def planted(target: Target) -> bool:
    return plant(*[(path, os.path.join(target.folder, name)) for path, name in target.made()])


# -- what is planted ---------------------------------------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("target", TARGETS)
def test_what_another_user_plants_is_not_played_back(
    target: type[Target], kind: str, folder: str, workshop: Path
) -> None:
    """Wherever another user can make a file next to the database. The error names the folder and the way out."""
    victim = target(folder, workshop)
    victim.run(items=10)
    FOLDERS[kind](folder)
    assert planted(victim)
    with pytest.raises(victim.refusal, match=rf"{folder}.*mkdir -m 700"):
        victim.run()
    assert not victim.ran


@as_root
@pytest.mark.parametrize("target", [InDatabase, InWal])
def test_the_attack_is_a_real_one(
    target: type[Target], folder: str, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the look at the folder the planted code runs: else the tests here would show nothing."""
    monkeypatch.setattr("poolagg.resources.database.exposure_of_database", lambda path: None)
    victim = target(folder, workshop)
    victim.run(items=10)
    FOLDERS["as /tmp is"](folder)
    assert planted(victim)
    with contextlib.suppress(Exception):
        victim.run()
    assert victim.ran


@as_root
@pytest.mark.parametrize("name", ["run.ckpt", "run.ckpt.new", "run.ckpt-journal"])
def test_a_checkpoint_is_looked_at_when_it_is_open(
    name: str, folder: str, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a file of another user's is not read, nor written, in a folder that was looked at a moment too early."""
    monkeypatch.setattr("poolagg._checkpoint.store.exposure_of_file", lambda path: None)
    victim = InCheckpoint(folder, workshop)
    ((path, _),) = victim.made()
    FOLDERS["open to all"](folder)
    assert plant((path, os.path.join(folder, name)))
    if name == "run.ckpt":
        with pytest.raises(CheckpointError, match="belongs to another user"):
            victim.run()
    else:
        assert victim.run() == victim.run() == sum(range(20))
    assert not victim.ran


@as_root
@pytest.mark.parametrize("target", TARGETS)
def test_in_a_folder_of_ones_own_nothing_can_be_planted(target: type[Target], folder: str, workshop: Path) -> None:
    """And the run goes on, in one that a private group may write, too."""
    victim = target(folder, workshop)
    victim.run(items=10)
    for mode in (0o700, 0o755, *([0o775] if this._is_private_group(os.getegid()) else [])):
        os.chmod(folder, mode)
        assert not planted(victim)
        shutil.rmtree(workshop)
        workshop.mkdir()
    victim.run()
    assert not victim.ran


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o702])
def test_a_folder_that_others_may_write_is_refused_before_anything_is_made(
    target: type[Target], mode: int, folder: str, workshop: Path
) -> None:
    """With and without a planted file."""
    os.chmod(folder, mode)
    victim = target(folder, workshop)
    with pytest.raises(victim.refusal, match=rf"{folder}.*others may make files \(mode {mode:o}, uid"):
        victim.run()
    assert set(os.listdir(folder)) <= {"rows.db"}


@pytest.mark.parametrize(
    ("target", "end"),
    [(InCheckpoint, ""), *itertools.product([InDatabase, InWal], ["", "-journal", "-wal", "-shm"])],
)
@pytest.mark.parametrize("how", ["others may write", pytest.param("another user", marks=as_root)])
def test_each_file_that_is_read_is_looked_at(
    target: type[Target], end: str, how: str, folder: str, workshop: Path
) -> None:
    """Its mode and its owner; of a database, also the files that SQLite reads with it."""
    victim = target(folder, workshop)
    victim.run(items=10)
    path = os.path.join(folder, ("run.ckpt" if target is InCheckpoint else "rows.db") + end)
    open(path, "ab").close()
    os.chmod(path, 0o602) if how == "others may write" else os.chown(path, NOBODY, -1)
    with pytest.raises(victim.refusal, match=rf"{path}'? .*{how}|{how} '{path}'"):
        victim.run()


@as_root
def test_a_list_of_users_who_may_write_counts(folder: str) -> None:
    """Such a list hides behind the bits of the group."""
    os.chmod(folder, 0o770)
    path = os.path.join(folder, "run.ckpt")
    if not this._is_private_group(os.stat(folder).st_gid):
        pytest.skip("root's group has members here")
    assert exposure_of_database(path) is exposure_of_file(path) is None
    entries = [(1, 7, 2**32 - 1), (2, 7, NOBODY), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 5, 2**32 - 1)]
    listed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(folder, "system.posix_acl_access", listed)
    except OSError as error:
        pytest.skip(f"no such lists here: {error}")
    assert "others may make files" in str(exposure_of_database(path))
    assert "others may make files" in str(exposure_of_file(path))


# -- between the look and the opening ----------------------------------------------------------------------------------


def test_a_checkpoint_that_is_replaced_while_it_is_opened_is_refused(
    folder: str, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a rename of its folder, say, of which nothing is left to see when it is open."""
    victim = InCheckpoint(folder, workshop)
    victim.run(items=10)
    victim.made()
    opening = os.open

    def racing(path: Any, *arguments: Any, **keywords: Any) -> int:
        if not str(path).endswith("run.ckpt"):
            return opening(path, *arguments, **keywords)
        os.rename(folder, f"{folder}.away")
        os.rename(workshop, folder)
        try:
            return opening(path, *arguments, **keywords)
        finally:
            os.rename(folder, workshop)
            os.rename(f"{folder}.away", folder)

    monkeypatch.setattr(os, "open", racing)
    with pytest.raises(CheckpointError, match="was replaced while it was opened"):
        victim.run()
    assert not victim.ran
    monkeypatch.undo()
    assert victim.run() == sum(range(20))


@as_root
def test_a_ledger_next_to_a_file_is_checked_when_it_is_open(
    folder: str, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user who puts one in its place, the moment before it is opened, gains nothing."""

    def call() -> Any:
        return aggregate(str, range(20), {"lines": IntoFile(path), "n": Count()}, pool=SerialPool())

    path, marker = os.path.join(folder, "lines"), str(workshop / "code ran")
    call()
    entrusted = ResourceStore(IntoFile(path).resource)
    held = entrusted.open()
    entrusted.commit(replace(held, state=pickle.dumps(Evil(marker))))
    entrusted.close()
    evil = os.path.join(folder, "evil")
    os.rename(f"{path}.ledger", evil)
    os.chown(evil, NOBODY, NOBODY)
    opening = os.open

    def racing(name: Any, *arguments: Any, **keywords: Any) -> int:
        if str(name).endswith(".ledger") and os.path.exists(evil):
            os.replace(evil, name)
        return opening(name, *arguments, **keywords)

    monkeypatch.setattr(os, "open", racing)
    with pytest.raises(ResourceError, match="belongs to another user"):
        call()
    assert not os.path.exists(evil)
    assert not os.path.exists(marker)


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_what_is_not_a_file_is_not_waited_for(make: Callable[[str], Any], folder: str) -> None:
    """A named pipe, a link, a folder: an error, at once."""
    make(os.path.join(folder, "lines.ledger"))
    with pytest.raises(ResourceError, match="lines"):
        aggregate(str, range(3), IntoFile(os.path.join(folder, "lines")), pool=SerialPool())


# -- partials alone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
def test_where_partials_alone_are_kept_no_pickle_is_opened(private: bool, folder: str, workshop: Path) -> None:
    """Not from a ledger whose checksums are right, nor where `private=True` says that it can be trusted."""
    victim = InDatabase(folder, workshop)

    def call(items: int) -> Any:
        return aggregate(row, range(items), victim.reducer(folder, private=private)["rows"], pool=SerialPool())

    call(10)
    victim.spoil(os.path.join(folder, "rows.db"))
    os.chmod(os.path.join(folder, "rows.db"), 0o600 if private else 0o606)
    with pytest.raises((CheckpointError, CheckpointMismatch), match="holds a state"):
        call(20)
    assert not victim.ran


def test_a_database_that_others_may_write_takes_partials_alone(folder: str, workshop: Path) -> None:
    """There is nothing in its ledger that runs."""
    victim = InDatabase(folder, workshop)
    os.chmod(folder, 0o1777)
    for count in (10, 20):
        aggregate(row, range(count), victim.reducer(folder)["rows"], pool=SerialPool())
    with contextlib.closing(sqlite3.connect(os.path.join(folder, "rows.db"))) as connection:
        assert connection.execute("SELECT count(*), sum(item) FROM rows").fetchone() == (20, 190)
    entrusted = ResourceStore(victim.reducer(folder)["rows"].resource)
    assert entrusted.open().state == NOTHING
    entrusted.close()
