"""A batch and its ledger are one transaction, also where a function tries to end it or a lock is in the way.

And a partial is one line of a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import places
import postgres
import pytest
from hypothesis import given
from hypothesis import strategies as some

from poolagg import Checkpoint, ResourceError, SerialPool, aggregate
from poolagg.resources import IntoDatabase, IntoFile, database
from poolagg.resources import session as sessions

KEY = Checkpoint(key="whatever the function is")

ITEMS, BATCH, BAD = 30, 5, 12
"""Items 10 to 14 are a batch, and at item 12 the function does what it must not do."""


def pair(item: int) -> tuple[int, str]:
    return item, str(item)


def pairs(count: int) -> list[tuple[int, str]]:
    return [pair(item) for item in range(count)]


@pytest.fixture(scope="module", autouse=True)  # before the fixture that counts what a test leaves behind
def server() -> Iterator[str | None]:
    """The address of a PostgreSQL server, if there can be one."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(postgres.server())
        except postgres.Missing:
            if os.environ.get("POOLAGG_CI") and sys.platform != "win32":
                raise
            yield None


class Table:
    """A table in a database, and runs into it by a function."""

    def __init__(self, where: places.Position) -> None:
        self.where = where
        where.make()
        self.is_sqlite = isinstance(where, places.SQLite)
        name, mark = ("found", "?") if self.is_sqlite else (where.table, "%s")  # type: ignore[attr-defined]
        self.insert = f"INSERT INTO {name} (item, text) VALUES ({mark}, {mark})"
        self.connect: Any = where.path("found.db") if self.is_sqlite else where.connect  # type: ignore[attr-defined]

    def write(self, cursor: Any, partial: tuple[int, str]) -> None:
        cursor.execute(self.insert, partial)

    def run(self, function: Callable[[Any, Any], object], count: int = ITEMS, **options: Any) -> None:
        given = {"run": self.where.folder, "batch": BATCH, **options}
        table = IntoDatabase(self.connect, function, **given)
        aggregate(pair, range(count), table, pool=SerialPool(), chunksize=1, checkpoint=KEY)

    @property
    def found(self) -> list[tuple[int, str]]:
        return places.outcome(self.where)


@pytest.fixture
def sqlite(tmp_path: Path) -> Table:
    return Table(places.place("sqlite", str(tmp_path)))


@pytest.fixture
def postgresql(tmp_path: Path, server: str | None) -> Table:
    if server is None:
        pytest.skip("no PostgreSQL here")
    return Table(places.place("postgres", str(tmp_path), server))


@pytest.fixture(params=["sqlite", "postgresql"])
def table(request: pytest.FixtureRequest) -> Table:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


# -- a function that ends the transaction ------------------------------------------------------------------------------


def autocommitting(cursor: Any) -> None:
    """As far as the driver has it: sqlite3 from Python 3.12 on."""
    if not hasattr(cursor.connection, "autocommit"):
        cursor.connection.isolation_level = None
    cursor.connection.autocommit = True


def leaving_a_block(cursor: Any) -> None:
    with cursor.connection:
        pass


def words(text: str) -> Callable[[Any], object]:
    return lambda cursor: cursor.execute(text)


ANYWHERE = {
    "commit()": lambda cursor: cursor.connection.commit(),
    "rollback()": lambda cursor: cursor.connection.rollback(),
    "close()": lambda cursor: cursor.connection.close(),
    "autocommit": autocommitting,
    "with connection": leaving_a_block,
    "COMMIT": words("COMMIT"),
    "END": words("/* so that nobody finds it */ END"),
    "ROLLBACK": words("ROLLBACK"),
}

IN_SQLITE = {
    "executescript": lambda cursor: cursor.executescript("CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1);"),
    "isolation_level": lambda cursor: setattr(cursor.connection, "isolation_level", None),
    "commit and begin": lambda cursor: (cursor.execute("COMMIT"), cursor.execute("BEGIN")),
    "a conflict": lambda cursor: (
        cursor.execute("CREATE TABLE u (x UNIQUE)"),
        cursor.executemany("INSERT OR ROLLBACK INTO u VALUES (?)", [(1,), (1,)]),
    ),
}

IN_POSTGRESQL = {
    "commit and chain": words("COMMIT AND CHAIN"),
    "rollback and chain": words("ROLLBACK AND CHAIN"),
    "rollback and begin": lambda cursor: (cursor.connection.rollback(), cursor.execute("SELECT 1")),
}

CASES = [
    *[("sqlite", name) for name in ANYWHERE],
    *[("postgresql", name) for name in ANYWHERE if name != "autocommit"],
    *[("sqlite", name) for name in IN_SQLITE],
    *[("postgresql", name) for name in IN_POSTGRESQL],
]


def meddling(table: Table, name: str, swallow: bool, then: Callable[[], object] = int) -> Callable[[Any, Any], None]:
    """A function that ends its transaction in the middle of a batch, and may pass over the error that it gets."""
    end = {**ANYWHERE, **IN_SQLITE, **IN_POSTGRESQL}[name]

    def write(cursor: Any, partial: tuple[int, str]) -> None:
        table.write(cursor, partial)
        if partial[0] == BAD:
            with contextlib.suppress(*[Exception] * swallow):
                end(cursor)
            with contextlib.suppress(Exception):
                cursor.execute("SELECT 1")
            then()

    return write


@pytest.mark.parametrize("swallow", [False, True], ids=["", "and passes over the error"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_function_that_ends_its_transaction_loses_and_doubles_nothing(
    kind: str, name: str, swallow: bool, request: pytest.FixtureRequest
) -> None:
    """An error says so; only whole batches are there, with their ledger; mended, the same call goes on."""
    table: Table = request.getfixturevalue(kind)
    with pytest.raises(ResourceError, match=r"write has ended the transaction of its batch, or tried to"):
        table.run(meddling(table, name, swallow))
    assert table.found == pairs(10)
    table.run(table.write)
    assert table.found == pairs(ITEMS)


def test_what_the_driver_refuses_itself_propagates(postgresql: Table) -> None:
    """Of psycopg a switch to autocommit: passed over, it is as if it had not been tried."""
    with pytest.raises(Exception, match="autocommit") as caught:
        postgresql.run(meddling(postgresql, "autocommit", False))
    assert "Nothing of its batch is in the database" in caught.value.__notes__[0]
    assert postgresql.found == pairs(10)
    postgresql.run(meddling(postgresql, "autocommit", True))
    assert postgresql.found == pairs(ITEMS)


@pytest.mark.parametrize("at", ["before", "after", "next"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_kill_9_around_the_end_of_a_transaction_loses_and_doubles_nothing(
    kind: str, name: str, at: str, request: pytest.FixtureRequest
) -> None:
    """Before the function ends it, or after, or in the middle of the next batch."""
    table: Table = request.getfixturevalue(kind)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(cursor: Any, partial: tuple[int, str]) -> None:
        if (at, partial[0]) in (("before", BAD), ("next", BAD + 1)):
            die()
        meddling(table, name, True, die if at == "after" else int)(cursor, partial)

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            table.run(write)
        os._exit(0)
    os.waitpid(child, 0)
    assert table.found == pairs(10)
    table.run(table.write)
    assert table.found == pairs(ITEMS)


def test_savepoints_are_a_functions_own(table: Table) -> None:
    """A function may undo what it has done itself."""

    def write(cursor: Any, partial: tuple[int, str]) -> None:
        cursor.execute("SAVEPOINT mine")
        table.write(cursor, (-1, "undone"))
        cursor.execute("ROLLBACK TO SAVEPOINT mine")
        cursor.execute("RELEASE SAVEPOINT mine")
        table.write(cursor, partial)

    table.run(write)
    assert table.found == pairs(ITEMS)


def test_an_error_that_a_function_passes_over_is_not_half_a_batch(table: Table) -> None:
    """PostgreSQL gives up the transaction then, and says nothing at its commit."""

    def write(cursor: Any, partial: tuple[int, str]) -> None:
        table.write(cursor, partial)
        if partial[0] == ITEMS - 1:
            with contextlib.suppress(Exception):
                cursor.execute("SELECT nothing FROM nowhere")

    if table.is_sqlite:
        table.run(write)
    else:
        with pytest.raises(Exception, match=r"aborted|ended the transaction"):
            table.run(write)
        assert table.found == pairs(ITEMS - BATCH)
        table.run(table.write)
    assert table.found == pairs(ITEMS)


def test_a_user_who_may_make_no_temporary_tables(postgresql: Table, server: str) -> None:
    """Goes without the server's help: what is half committed is found out by the ledger."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("CREATE ROLE poor LOGIN")
        admin.execute("REVOKE TEMP ON DATABASE postgres FROM PUBLIC")
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO poor; GRANT ALL ON SCHEMA public TO poor")
        admin.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO poor")
    try:
        address = server.replace("user=poolagg", "user=poor")
        postgresql.connect = lambda: psycopg.connect(address)
        postgresql.run(postgresql.write, 20)
        with pytest.raises(ResourceError, match="ended the transaction"):
            postgresql.run(meddling(postgresql, "rollback()", False), 40, run="another")
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute("GRANT TEMP ON DATABASE postgres TO PUBLIC")
            admin.execute("DROP OWNED BY poor; DROP ROLE poor")


# -- a database that cannot be told to refuse it -----------------------------------------------------------------------


@pytest.fixture
def unguarded(sqlite: Table, monkeypatch: pytest.MonkeyPatch) -> Table:
    """As any other driver is used."""
    monkeypatch.setattr(sessions._SQLite, "guarded", sessions.Session.guarded)
    monkeypatch.setattr(sessions._SQLite, "ended", sessions.Session.ended)
    return sqlite


def test_a_rollback_is_found_out_by_the_ledger(unguarded: Table) -> None:
    with pytest.raises(ResourceError, match="ended the transaction"):
        unguarded.run(meddling(unguarded, "rollback()", False))
    assert unguarded.found == pairs(10)
    unguarded.run(unguarded.write)
    assert unguarded.found == pairs(ITEMS)


@pytest.mark.parametrize("bad", [BAD, 2])
def test_half_a_batch_is_never_added_to(unguarded: Table, bad: int) -> None:
    """The next call says what happened and how to make it good, and then goes on."""

    def write(cursor: Any, partial: tuple[int, str]) -> None:
        unguarded.write(cursor, partial)
        if partial[0] == bad:
            cursor.connection.commit()
            raise KeyError(partial)

    with pytest.raises(KeyError):
        unguarded.run(write)
    whole = bad // BATCH * BATCH
    assert unguarded.found == pairs(bad + 1)
    with pytest.raises(ResourceError, match=r"a part of a batch .* has committed") as caught:
        unguarded.run(unguarded.write)
    assert unguarded.found == pairs(bad + 1)
    (mend,) = re.findall(r'"((?:UPDATE|DELETE) .*)"', str(caught.value))
    with contextlib.closing(sqlite3.connect(unguarded.connect, isolation_level=None)) as connection:
        connection.execute("DELETE FROM found WHERE item >= ?", (whole,))
        connection.execute(mend)
    unguarded.run(unguarded.write)
    assert unguarded.found == pairs(ITEMS)


# -- a database that is locked from the start --------------------------------------------------------------------------


class Other:
    """Somebody else's connection, which has a lock until the run has waited twice."""

    def __init__(self, path: str, lock: str, patch: pytest.MonkeyPatch) -> None:
        self.waits = 0
        self._lock, self._pause = lock, database.pause
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        patch.setattr(database, "pause", self.paused)

    def take(self) -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # the run has one
            self.connection.execute(f"BEGIN {self._lock}")

    def paused(self, seconds: float) -> float:
        self.waits += 1
        if self.waits == 2 and self.connection.in_transaction:
            self.connection.execute("COMMIT")
        return self._pause(seconds)


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("by", ["a path", "a function"])
@pytest.mark.parametrize("before", [0, 10])
def test_a_database_that_is_locked_at_the_start_is_waited_for(
    before: int, by: str, mode: str, lock: str, sqlite: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its ledger's table, and without."""
    path = sqlite.connect
    if before:
        sqlite.run(sqlite.write, before)
    if by == "a function":
        sqlite.connect = lambda: sqlite3.connect(path, timeout=0)
    other = Other(path, lock, monkeypatch)
    other.connection.execute(f"PRAGMA journal_mode={mode}")
    other.take()
    sqlite.run(sqlite.write)
    other.connection.close()
    assert sqlite.found == pairs(ITEMS)
    assert other.waits >= (2 if mode == "delete" and (lock == "EXCLUSIVE" or not before) else 0)


def test_a_lock_that_comes_at_any_statement_is_waited_for(tmp_path: Path) -> None:
    """Of the beginning of a run, and of all that follows."""
    number, reached = 0, True
    while reached:
        number += 1
        (folder := tmp_path / str(number)).mkdir()
        table = Table(places.place("sqlite", str(folder)))
        left = number

        with pytest.MonkeyPatch.context() as patch:
            other = Other(table.connect, "EXCLUSIVE", patch)

            def counting(statement: str, other: Other = other) -> None:
                nonlocal left
                left -= 1
                if not left:
                    other.take()

            def connect(table: Table = table, counting: Any = counting) -> Any:
                connection = sqlite3.connect(table.where.path("found.db"), timeout=0)
                connection.set_trace_callback(counting)
                return connection

            table.connect = connect
            table.run(table.write, 8)
        other.connection.close()
        assert table.found == pairs(8), number
        reached = left <= 0
    assert number > 15


def test_a_database_that_stays_locked_at_the_start_is_given_up(sqlite: Table) -> None:
    """After as long as one has patience, before anything is written."""
    with contextlib.closing(sqlite3.connect(sqlite.connect, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ResourceError, match=r"found\.db.*given up after 0\.1 s.*database is locked"):
            sqlite.run(sqlite.write, patience=0.1)
    sqlite.run(sqlite.write)
    assert sqlite.found == pairs(ITEMS)


# -- lines -------------------------------------------------------------------------------------------------------------

TEXTS = some.lists(
    some.text(some.characters(codec="utf-8") | some.sampled_from("\0\v\f\x1c\x1d\x1e\x85\u2028\u2029\ufeff"))
)


@given(texts=TEXTS, at=some.integers(0, 20))
def test_each_text_is_a_line_byte_for_byte(texts: list[str], at: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also of a run that was ended in its middle and went on. Only what would be two lines to a reader is refused."""
    texts = [text.replace("\n", "").replace("\r", "") for text in texts]
    path = tmp_path_factory.mktemp("lines") / "lines"

    def items(last: int) -> Iterator[int]:
        for index in range(len(texts)):
            if index == last:
                raise InterruptedError
            yield index

    def run(last: int) -> None:
        aggregate(texts.__getitem__, items(last), IntoFile(path), pool=SerialPool(), chunksize=2, checkpoint=KEY)

    with contextlib.suppress(InterruptedError):
        run(at)
    run(-1)
    assert path.read_bytes() == b"".join(text.encode() + b"\n" for text in texts)
    with open(path, encoding="utf-8") as file:  # as people read files: CR, LF and both are line ends
        assert [line.removesuffix("\n") for line in file] == texts


@pytest.mark.parametrize("text", ["a\rb", "\r", "a\r\n", "a\r\nb", "a\n", "a\nb", "\ud800"])
def test_what_would_not_be_one_line_is_refused_and_named(text: str, tmp_path: Path) -> None:
    """Earlier commits stay, and the same call continues after the repair."""
    path = tmp_path / "lines"
    texts = ["one", "two", text, "three"]

    def run(texts: list[str]) -> None:
        given = {"pool": SerialPool(), "chunksize": 1, "checkpoint": Checkpoint(key="lines", every=1e-9)}
        aggregate(texts.__getitem__, range(4), IntoFile(path), **given)

    with pytest.raises(ValueError, match=r"takes texts of one line each|can't encode") as caught:
        run(texts)
    assert "item 2" in "".join(caught.value.__notes__)
    assert path.read_bytes() == b"one\ntwo\n"
    texts[2] = "mended"
    run(texts)
    assert path.read_bytes() == b"one\ntwo\nmended\nthree\n"
