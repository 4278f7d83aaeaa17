"""A checkpoint: one SQLite file that holds a run's state and which items are in it, written in one step or not at all.

A commit is one transaction: SQLite's rollback journal with `synchronous=EXTRA`. After `kill -9` the file holds the
last commit whole. After a power cut too, if the disk has written what it said it had. The file is locked while a run
uses it, by a lock that the kernel gives back when the process ends, however it ends.

Rule of the room: a file is believed only as far as it is proved. The owner and mode of the file and of its folder are
looked at before it is opened and again when it is open and locked, its head before SQLite sees it, and a checksum over
everything before anything in it is unpickled. Until a commit nothing is written. The checksums find damage; they are
not a seal: who may write the file may run code in whoever continues it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, NoReturn
from weakref import WeakValueDictionary
from zlib import crc32

from poolagg._chunks import Intervals
from poolagg._interrupts import interrupts_held_back
from poolagg._ownership import content_of, exposure_of_database
from poolagg._seconds import checked_seconds
from poolagg.errors import CheckpointError

__all__ = ["NOTHING", "Checkpoint", "FailedItem", "Held", "Store", "look", "packed", "unpacked"]

MAGIC = int.from_bytes(b"pagg", "big")
FORMAT = 4
"""Counted up when the tables, how states are kept, or how func and input are known again, change."""

PAGE = 1 << 16
"""Bytes of a page of the file, as many as SQLite allows: with its usual 4 kB a large state takes it four times as long.
A small checkpoint takes 0.3 MB."""

PIECE = 64 << 20
"""Bytes of state in a row: SQLite's rows end at a gigabyte."""

SCHEMA = """
    CREATE TABLE head (id INTEGER PRIMARY KEY, text TEXT NOT NULL, checksum BLOB NOT NULL);
    CREATE TABLE state (number INTEGER PRIMARY KEY, piece BLOB NOT NULL);
    CREATE TABLE pages (number INTEGER PRIMARY KEY, digests BLOB NOT NULL);
    CREATE TABLE failed (item INTEGER PRIMARY KEY, text TEXT NOT NULL, checksum BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run keeps its state, for `aggregate(..., checkpoint=...)`; a path alone is `Checkpoint(path)`.

    A run into a resource that can commit (`poolagg.resources`) keeps it there: then give the options alone.

    every          seconds between two commits at most; by default as seldom as costs 1 % of the run
    retry_failed   run again what an earlier run skipped as failed, and nothing that is in the result already
    key            stands for func and reducer: the checkpoint is that of any run with the same key

    >>> Checkpoint("run.ckpt", every=60)
    Checkpoint('run.ckpt', every=60)
    """

    path: str | os.PathLike[str] | None = None
    every: float | None = None
    retry_failed: bool = False
    key: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            _check_name(self.path)
        if self.every is not None:
            object.__setattr__(self, "every", checked_seconds("Checkpoint(every=...)", self.every))
        if self.key is not None and not isinstance(self.key, str):
            raise TypeError(f"Checkpoint(key=...) takes a text, such as 'v1', not {self.key!r}")

    def __repr__(self) -> str:
        given = {"every": self.every, "retry_failed": self.retry_failed, "key": self.key}
        options = [f"{name}={value!r}" for name, value in given.items() if value not in (None, False)]
        return f"Checkpoint({', '.join([*([] if self.path is None else [repr(os.fspath(self.path))]), *options])})"


def _check_name(path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"checkpoint takes a path or a Checkpoint, not {path!r}")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"{path!r} names no file for a checkpoint")


class FailedItem(NamedTuple):
    """An item that was skipped as failed, as text: it is shown, and never unpickled."""

    number: int
    item: str
    attempts: int
    kind: str
    trace: str


@dataclass
class Held:
    """What a checkpoint holds: `facts` are small values for people and comparisons, `pages` digests of the input."""

    facts: dict[str, Any] = field(default_factory=dict)
    state: bytes | None = None
    pages: bytes = b""
    failed: dict[int, FailedItem] = field(default_factory=dict)

    @property
    def unlisted(self) -> Intervals:
        """The items that failed after those that are listed in `failed`: their indices alone."""
        return Intervals((start, stop) for start, stop in self.facts.get("unlisted", ()))

    @property
    def all_failed(self) -> Intervals:
        """All items that failed."""
        failed = Intervals((index, index + 1) for index in sorted(self.failed))
        failed.update(self.unlisted)
        return failed


NOTHING = pickle.dumps(None, 5)
"""The state of what keeps none."""


def packed(state: Any) -> bytes:
    """Pickle a state, plainly if possible."""
    try:
        return pickle.dumps(state, 5)
    except Exception:
        import cloudpickle

        return cloudpickle.dumps(state, 5)  # type: ignore[no-any-return]


def unpacked(name: str, data: bytes) -> Any:
    """Open a state whose checksum was right; `name` is what holds it."""
    if data == NOTHING:
        return None
    try:
        return pickle.loads(data)
    except Exception as error:
        raise CheckpointError(
            f"the state in {name} does not unpickle here: {type(error).__name__}: {error}. Make what it names "
            "importable again, or begin anew elsewhere"
        ) from error


class Store:
    """A checkpoint: `open` locks it for one run, `held` is what was in it then, `commit` replaces that.

    Making one opens nothing, so that its owner has it, and closes it, whatever interrupts `open`.
    """

    full = False
    anew = "delete it or name another path"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.name = f"the checkpoint {self.path!r}"
        self._identity: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None

    def open(self) -> Held:
        """Lock the file, and read what it holds."""
        real = os.path.realpath(self.path)
        with _named(self.path):
            _check_ownership(real)
            if not os.path.lexists(real):
                _create(real)
            self._claim(real)
            identity = _check_content(real)
            _check_writable(real)
            with interrupts_held_back():
                self._connection = _connected(real)
            _check_ownership(real)
            _check_opened(real, identity)
            self.held = _read(self._connection)
        self._pages = blake2b(self.held.pages, digest_size=16)
        self._failed = {index: _row(item)[1] for index, item in self.held.failed.items()}
        return self.held

    def _claim(self, real: str) -> None:
        """Keep other runs of this process away from the file."""
        with interrupts_held_back(), _claiming:
            identity = _free(real)
            self._identity, _in_use[identity] = identity, self

    def commit(self, facts: dict[str, Any], state: bytes, pages: bytes, failed: Iterable[FailedItem]) -> None:
        """One transaction: new facts and state, more pages, and these failed items and no others."""
        with _named(self.path):
            connection = self._open
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._write(facts, state, pages, {item.number: item for item in failed})
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def close(self) -> None:
        """Give the file free."""
        with interrupts_held_back():
            connection, self._connection = self._connection, None
            identity, self._identity = self._identity, None
            try:
                if connection is not None:
                    connection.close()
            finally:
                if identity is not None:
                    _in_use.pop(identity, None)

    def _write(self, facts: dict[str, Any], state: bytes, pages: bytes, failed: dict[int, FailedItem]) -> None:
        execute = self._open.execute
        execute("DELETE FROM state")
        for number, start in enumerate(range(0, len(state), PIECE)):
            execute("INSERT INTO state VALUES (?, ?)", (number, memoryview(state)[start : start + PIECE]))
        if pages:
            execute("INSERT INTO pages (digests) VALUES (?)", (pages,))
        for index in [index for index in self._failed if index not in failed]:
            execute("DELETE FROM failed WHERE item = ?", (index,))
            del self._failed[index]
        for index, item in failed.items():
            text, checksum = _row(item)
            if self._failed.get(index) != checksum:
                execute("REPLACE INTO failed VALUES (?, ?, ?)", (index, text, checksum))
                self._failed[index] = checksum
        self._pages.update(pages)
        sums = {"state": _sum_of_state(state), "pages": self._pages.hexdigest(), "failed": _sum_of_rows(self._failed)}
        text = json.dumps({"facts": facts, "sums": sums})
        execute("REPLACE INTO head VALUES (1, ?, ?)", (text, _checksum(text)))


def look(path: str | os.PathLike[str]) -> Held:
    """What a checkpoint holds, of a run that goes on too. Checksums are compared, and nothing is unpickled."""
    real = os.path.realpath(path)
    with _named(os.fspath(path)):
        _check_ownership(real)
        _free(real)
        _check_content(real)
        try:
            connection = _connected(real)
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            return _glimpse(real)
        with contextlib.closing(connection):
            return _read(connection)


def _glimpse(path: str) -> Held:
    """Read past the lock of the run that uses it. That may be half of a commit, and then its checksums are wrong."""
    uri = f"file:{_quoted(path)}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            return _read(connection)
    except (sqlite3.Error, _Damaged):
        _refuse(f"{path!r} is being written just now, by a run that is using it: look again")


_in_use: WeakValueDictionary[tuple[int, int], Store] = WeakValueDictionary()
"""The files that runs of this process have open. The kernel's lock is the process's, and given back as soon as any
descriptor of the file is closed: so such a file must not even be looked into. A store that is gone uses none."""

_claiming = threading.Lock()


def _free(path: str) -> tuple[int, int]:
    """Which file it is, if no run of this process uses it."""
    identity = _identity(os.lstat(path))
    if identity in _in_use:
        _refuse(f"{path!r} is in use by another run of this process: wait for it, or take another path")
    return identity


# -- before it is opened ----------------------------------------------------------------------------------------------


def _create(path: str) -> None:
    """Make an empty checkpoint under another name, and give it its own when it is whole.

    `kill -9` just then leaves a file `*.new` behind, which nobody reads.
    """
    made = f"{path}.{os.urandom(4).hex()}.new"
    with interrupts_held_back():
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
                connection.executescript(
                    f"PRAGMA page_size={PAGE}; PRAGMA application_id={MAGIC}; PRAGMA user_version={FORMAT}; "
                    f"PRAGMA synchronous=EXTRA; BEGIN; {SCHEMA} COMMIT"
                )
            _give_name(made, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
        _sync_folder(os.path.dirname(path))


def _give_name(made: str, path: str) -> None:
    try:
        os.link(made, path)
    except FileExistsError:  # another run was quicker
        pass
    except OSError:  # a file system without links
        os.rename(made, path)


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_ownership(path: str) -> None:
    """Refuse what another user can have written, or can write while it is open."""
    if (told := exposure_of_database(path)) is not None:
        _refuse(told)


def _check_content(path: str) -> tuple[int, int]:
    """Look at what can be seen before SQLite opens it; which file it is."""
    head, status, told = content_of(path, 100)
    if told is not None:
        _refuse(told)
    _check_head(path, head)
    return _identity(status)


def _check_opened(path: str, identity: tuple[int, int]) -> None:
    """Refuse a file that was replaced after the look at it: what SQLite has open is not what was looked at."""
    if _identity(os.lstat(path)) != identity or not _is_open(identity):
        _refuse(f"{path!r} was replaced while it was opened: {_ANEW}")


_ANEW = "see who can rename files and folders there, and take a folder of your own"


def _is_open(identity: tuple[int, int]) -> bool:
    """Whether this process has a file open, where it can tell."""
    if not os.path.isdir("/dev/fd"):
        return True
    for number in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError, ValueError):  # the one that listed them
            if _identity(os.fstat(int(number))) == identity:
                return True
    return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _check_writable(path: str) -> None:
    """A commit needs the file, and its folder for the journal; better to know before there is something to commit."""
    for name in (path, os.path.dirname(path)):
        if not os.access(name, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)


def _check_head(path: str, head: bytes) -> None:
    """A SQLite file says at fixed places what it is."""
    if len(head) < 100 or not head.startswith(b"SQLite format 3\0") or head[68:72] != MAGIC.to_bytes(4, "big"):
        _refuse(f"{path!r} is no checkpoint of poolagg, or a damaged one: it was left as it is. Name another path")
    if (version := int.from_bytes(head[60:64], "big")) > FORMAT:
        _refuse(
            f"{path!r} was written by a newer poolagg (format {version}, and this one reads {FORMAT}): update poolagg"
        )
    if 0 < version < FORMAT:
        _refuse(
            f"{path!r} was written by an older poolagg (format {version}, and this one writes {FORMAT}), which knew "
            "functions by other marks: finish it with that version, or begin anew with another path"
        )
    if version != FORMAT or head[18:20] != b"\1\1":  # 2: it would be read along with a file beside it
        _refuse(f"{path!r} is damaged: its head is not that of a checkpoint. It was left as it is. Name another path")


# -- open -------------------------------------------------------------------------------------------------------------


def _connected(path: str) -> sqlite3.Connection:
    """Open and lock it."""
    uri = f"file:{_quoted(path)}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.executescript(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA trusted_schema=OFF; PRAGMA synchronous=EXTRA; "
            "BEGIN EXCLUSIVE; COMMIT"
        )
    except BaseException:
        connection.close()
        raise
    return connection


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(os.fsencode(path))


def _read(connection: sqlite3.Connection) -> Held:
    """All that is in it, if all of it is as it was written."""
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise _Damaged("SQLite finds it malformed")
    head = connection.execute("SELECT text, checksum FROM head").fetchall()
    if not head:  # made, and nothing committed yet
        return Held()
    (text, checksum), *more = head
    if more or _checksum(text) != checksum:
        raise _Damaged("its head has another checksum")
    parts, facts = json.loads(text)["sums"], json.loads(text)["facts"]
    state = b"".join(piece for (piece,) in connection.execute("SELECT piece FROM state ORDER BY number"))
    pages = b"".join(digests for (digests,) in connection.execute("SELECT digests FROM pages ORDER BY number"))
    rows = connection.execute("SELECT item, text, checksum FROM failed").fetchall()
    sums = {
        "state": _sum_of_state(state),
        "pages": blake2b(pages, digest_size=16).hexdigest(),
        "failed": _sum_of_rows({index: checksum for index, _, checksum in rows}),
    }
    wrong = [name for name in parts if sums[name] != parts[name]]
    if wrong or any(_checksum(text) != checksum for _, text, checksum in rows):
        raise _Damaged(f"checksums are not what they were: {wrong}")
    return Held(facts, state, pages, {index: FailedItem(index, *json.loads(text)[1:]) for index, text, _ in rows})


class _Damaged(Exception):
    """The content is not what was written."""


def _checksum(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _sum(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def _sum_of_state(state: bytes) -> list[int]:
    """Of many megabytes, maybe: a CRC finds what a disk does to them, and takes a quarter of the time."""
    return [len(state), crc32(state)]


def _row(item: FailedItem) -> tuple[str, bytes]:
    text = json.dumps(item)
    return text, _checksum(text)


def _sum_of_rows(rows: dict[int, bytes]) -> str:
    return _sum(repr(sorted(rows.items())).encode())


# -- what is said when it fails ---------------------------------------------------------------------------------------


def _refuse(why: str) -> NoReturn:
    raise CheckpointError(f"the checkpoint {why}")


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Whatever goes wrong with the file is told with its name."""
    try:
        yield
    except CheckpointError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise CheckpointError(_told(path, error)) from error
    except (_Damaged, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(_told_damage(path, error)) from error


def _told(path: str, error: BaseException) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if _is_busy(error):
        return f"the checkpoint {path!r} is in use by another run: wait for its end, or take another path"
    if isinstance(error, OSError) or name.startswith(_OF_THE_DISK):
        return f"the checkpoint {path!r} cannot be read or written: {error} {name}".rstrip()
    return _told_damage(path, error)


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


_OF_THE_DISK = tuple(f"SQLITE_{what}" for what in ("FULL", "IOERR", "READONLY", "CANTOPEN", "PERM", "AUTH", "NOMEM"))


def _told_damage(path: str, error: BaseException) -> str:
    return (
        f"the checkpoint {path!r} is damaged: {error}. It was left as it is: go back to a copy, or begin anew with "
        "another path"
    )
