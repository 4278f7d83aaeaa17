"""Databases: connections that are lost, locks, and what a database refuses."""

from __future__ import annotations

import contextlib
import sqlite3

import places
import pytest
from checkpointed import SERIAL, Idle
from places import outcome
from runs_into import ITEMS, KEY, into, made, pair, pairs

from poolagg import ResourceError, SerialPool, aggregate, events
from poolagg._checkpoint.checkpoint import CheckpointData
from poolagg._checkpoint.store import ResourceStore
from poolagg.resources import IntoDatabase, database
from poolagg.resources import session as sessions
from poolagg.resources.pieces import PIECE

pytestmark = pytest.mark.usefixtures("postgresql", "pool")


def test_a_connection_that_is_lost_in_the_middle_of_a_batch(tmp_path, request, monkeypatch):
    """The server ends it; the batch is written again as a whole, on another one."""
    where = made("postgres", tmp_path, request)
    write, lost = database.Database._write_ledger, []

    def losing(self, session, pieces):
        write(self, session, pieces)
        if len(lost) < 2 and self._pieces:
            (pid,) = session.rows("SELECT pg_backend_pid()")[0]
            with where.connect() as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            lost.append(pid)

    monkeypatch.setattr(database.Database, "_write_ledger", losing)
    into(pair, range(ITEMS), where)
    assert len({*lost}) == 2
    assert outcome(where) == pairs(range(ITEMS))


def test_a_commit_whose_answer_was_lost(table, monkeypatch):
    """It came about, and is not made again; or it did not, and is."""
    commit, told = sessions.Session.commit, []

    def losing(self):
        told.append(None)
        if len(told) % 3 == 1:
            commit(self)
        if len(told) % 3:
            raise OperationalError("server closed the connection unexpectedly")
        commit(self)

    monkeypatch.setattr(sessions.Session, "commit", losing)
    into(pair, range(ITEMS), table)
    assert len(told) > 5
    assert outcome(table) == pairs(range(ITEMS))


class OperationalError(Exception):
    """As a driver would raise it: they are known by this name."""


def test_a_locked_database_is_waited_for(tmp_path):
    """By somebody else's transaction, which ends in time."""
    where = places.place("sqlite", tmp_path)
    where.make()
    other = sqlite3.connect(where.path("found.db"), isolation_level=None, check_same_thread=False)
    waits = []

    def paused(seconds, pause=database.pause):
        waits.append(seconds)
        if len(waits) == 2:
            other.execute("COMMIT")
        return pause(seconds)

    def items():
        yield from range(30)
        other.execute("BEGIN EXCLUSIVE")
        yield from range(30, 60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "pause", paused)
        into(pair, items(), where)
    other.close()
    assert len(waits) >= 2
    assert outcome(where) == pairs(range(60))


def test_a_database_that_stays_locked_is_given_up(tmp_path):
    """With its name; nothing is half applied, and the same call again goes on."""
    where = places.place("sqlite", tmp_path)
    where.make()
    into(pair, range(30), where)
    with contextlib.closing(sqlite3.connect(where.path("found.db"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ResourceError, match=r"found\.db.*given up after 0\.1 s.*database is locked"):
            aggregate(pair, range(60), where.into(patience=0.1), pool=SERIAL, checkpoint=KEY)
    assert outcome(where) == pairs(range(30))
    into(pair, range(60), where)
    assert outcome(where) == pairs(range(60))


def test_a_server_that_is_not_there_is_told_at_once(address):
    """Before any worker starts, and without waiting."""
    import psycopg

    table = IntoDatabase(lambda: psycopg.connect("host=/nonexistent"), "INSERT INTO t VALUES (%s)", run="a")
    with pytest.raises(ResourceError, match=r"no connection to the database.*/nonexistent"):
        aggregate(pair, range(3), table, pool=Idle())


def test_a_server_that_went_away_is_given_up(table):
    """After as long as one has patience; the same call again goes on."""
    gone = []

    def connect():
        if gone:
            raise OperationalError("connection refused")
        return table.connect() if isinstance(table, places.PostgreSQL) else sqlite3.connect(table.path("found.db"))

    def items():
        yield from range(30)
        gone.append(True)
        resource._disconnect()
        yield from range(30, 60)

    name = getattr(table, "table", "found")
    insert = f"INSERT INTO {name} (item, text) VALUES ({'?, ?' if name == 'found' else '%s, %s'})"
    reducer = IntoDatabase(connect, insert, run=table.folder, batch=20, patience=0.1)
    resource = reducer.resource
    with pytest.raises(ResourceError, match=r"given up after 0\.1 s.*connection refused"):
        aggregate(pair, items(), reducer, pool=SerialPool(), chunksize=10, checkpoint=KEY)
    found = outcome(table)
    assert found == pairs(range(len(found)))
    gone.clear()
    aggregate(pair, iter(range(60)), reducer, pool=SERIAL, checkpoint=KEY)
    assert outcome(table) == pairs(range(60))


@pytest.mark.parametrize(
    ("state", "gone_by_itself"),
    [
        (None, True),
        ("57P01", True),
        ("40001", True),
        ("08006", True),
        ("57014", False),
        ("53100", False),
        ("25006", False),
    ],
)
def test_what_passes_by_itself_is_tried_again(state, gone_by_itself):
    """A connection, a conflict, a shutdown; no full disk, no statement that was cancelled."""
    error = OperationalError("a driver's")
    error.sqlstate = state
    assert sessions.passes(error) is gone_by_itself
    assert not sessions.passes(ValueError("anybody's"))
    assert not sessions.passes(sqlite3.OperationalError("no such table: found"))


def test_a_full_batch_is_written_before_its_time(table):
    """However short the run: what is kept in memory stays bounded."""
    told = []
    into(pair, range(ITEMS), table, watch=told.append)
    assert len([event for event in told if isinstance(event, events.Checkpointed)]) >= ITEMS // 20


def test_several_runs_share_a_database(table):
    """By their names, and at the same time."""
    shared = {"run": "one"}, {"run": "two"}

    def items():
        yield from range(30)
        aggregate(pair, range(100, 140), table.into(**shared[1]), pool=SerialPool(), chunksize=10)
        yield from range(30, 60)

    for _ in range(2):
        aggregate(pair, items(), table.into(**shared[0]), pool=SerialPool(), chunksize=10)
    assert outcome(table) == pairs([*range(60), *range(100, 140)])


@pytest.mark.parametrize("rows", [dict, None])
def test_statements_with_names_and_rows_as_dicts(rows, tmp_path, request):
    """As the driver takes them, and whatever the connection makes of rows."""
    where = made("postgres", tmp_path, request)

    def connect():
        connection = where.connect()
        if rows:
            import psycopg.rows

            connection.row_factory = psycopg.rows.dict_row
        connection.autocommit = True
        return connection

    statement = f"INSERT INTO {where.table} (item, text) VALUES (%(item)s, %(text)s)"
    for _ in range(2):
        table = IntoDatabase(connect, statement, run=where.table)
        aggregate(lambda item: {"item": item, "text": str(item)}, range(9), table, pool=SERIAL, checkpoint=KEY)
    assert outcome(where) == pairs(range(9))


def test_a_function_instead_of_a_statement(table):
    """It is given a cursor and each partial, and may do as much as it likes."""
    name = getattr(table, "table", "found")
    insert = places.INSERT["postgres" if isinstance(table, places.PostgreSQL) else "sqlite"]
    insert = insert.replace("found", f"{name} (item, text)")

    def write(cursor, number):
        cursor.execute(insert, (number, "a"))
        cursor.execute(insert, (number, "b"))

    connect = table.connect if isinstance(table, places.PostgreSQL) else table.path("found.db")
    for _ in range(2):
        aggregate(abs, range(30), IntoDatabase(connect, write, run=table.folder, batch=7), pool=SERIAL)
    assert outcome(table) == sorted((item, letter) for item in range(30) for letter in "ab")


def test_a_function_must_not_commit(table):
    """Where that can be seen, it is an error."""

    def write(cursor, number):
        cursor.connection.commit()

    connect = table.connect if isinstance(table, places.PostgreSQL) else table.path("found.db")
    with pytest.raises(ResourceError, match=r"write.* has ended the transaction of its batch, or tried to"):
        aggregate(abs, range(3), IntoDatabase(connect, write, run=f"{table.folder} commits"), pool=SERIAL)


def test_a_partial_that_the_database_refuses_is_named(table):
    """The exception is the driver's own; nothing of the batch is there."""
    with pytest.raises(Exception) as caught:
        into(lambda item: pair(item) if item != 37 else (37, "x", "too much"), range(ITEMS), table)
    assert "(37, 'x', 'too much')" in "".join(caught.value.__notes__)
    found = outcome(table)
    assert found == pairs(range(len(found)))
    assert len(found) < 37


def test_a_partial_that_is_no_row_is_refused(table):
    """A text of one letter would pass as a sequence of one."""
    with pytest.raises(TypeError, match=r"tuples, lists or dicts.*not 'a'.*\.of\(lambda") as caught:
        aggregate(chr, [97], table.into(), pool=SERIAL)
    assert "item 0" in caught.value.__notes__[0]


def test_a_full_disk_is_told_with_the_name_of_the_database(tmp_path):
    """A limit on file sizes is a disk that is full."""
    import resource as limits

    where = places.place("sqlite", tmp_path)
    where.make()
    into(pair, range(30), where)
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(ResourceError, match=r"found\.db.*cannot be written"):
            aggregate(pair, range(8_000), where.into(batch=1000), pool=SERIAL, checkpoint=KEY)
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    found = outcome(where)
    assert found == pairs(range(len(found)))
    aggregate(pair, range(8_000), where.into(batch=1000), pool=SERIAL, checkpoint=KEY)
    assert outcome(where) == pairs(range(8_000))


def test_a_database_that_may_not_be_written(tmp_path):
    """It says so, before any worker starts."""
    where = places.place("sqlite", tmp_path)
    where.make()
    uri = f"file:{where.path('found.db')}?mode=ro"
    table = IntoDatabase(lambda: sqlite3.connect(uri, uri=True), places.INSERT["sqlite"], run="a")
    with pytest.raises(ResourceError, match="READONLY"):
        aggregate(pair, range(3), table, pool=Idle())


@pytest.mark.parametrize("piece", ["AAAA", "A", "?"])
def test_a_ledger_that_was_tampered_with_is_refused(piece, table):
    """And left as it is."""
    into(pair, range(30), table)
    query = f"UPDATE poolagg_ledger SET piece = '{piece}' WHERE number = 1"
    if isinstance(table, places.PostgreSQL):
        with table.connect() as connection:
            connection.execute(f"{query} AND run = '{table.table}'")
    else:
        with contextlib.closing(sqlite3.connect(table.path("found.db"), isolation_level=None)) as connection:
            connection.execute(query)
    with pytest.raises(ResourceError, match="poolagg_ledger, is damaged"):
        into(pair, range(30), table)
    assert outcome(table) == pairs(range(30))


def test_any_driver_by_the_ledger_alone(tmp_path, monkeypatch):
    """Without a lock, of two runs at a time the one that commits first goes on, and nothing is there twice."""
    where = places.place("sqlite", tmp_path)
    where.make()
    monkeypatch.setattr(sessions._SQLite, "acquire", sessions.Session.acquire)

    def items():
        yield from range(30)
        into(pair, iter(range(50)), where, pool=SerialPool())
        yield from range(30, 60)

    with pytest.raises(ResourceError, match="another run of this name has written"):
        into(pair, items(), where, pool=SerialPool())
    assert outcome(where) == pairs(range(50))
    into(pair, iter(range(60)), where)
    assert outcome(where) == pairs(range(60))


@pytest.mark.parametrize("style", sessions.MARKS)
def test_marks_of_parameters(style):
    """In each style of the DB-API, all of which SQLite or a look can tell apart."""
    sql, values = sessions.bound("SELECT ?, ?", (1, 2), style)
    assert sql.count(sessions.MARKS[style].format(n=2)) == (2 if style in ("qmark", "format") else 1)
    if style in ("qmark", "named"):
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            assert connection.execute(sql, values).fetchone() == (1, 2)
    else:
        assert values == ({"p1": 1, "p2": 2} if style == "pyformat" else (1, 2))


def test_a_commit_writes_the_end_of_a_long_ledger_only(tmp_path):
    """Of the digests of a million items, and as many batches, no more than a few pieces each."""
    where = places.place("sqlite", tmp_path)
    where.make()
    store = ResourceStore(where.into().resource)
    store.open()
    written = []
    execute = sessions.Session.execute

    def counting(self, sql, *values):
        if sql.startswith("INSERT INTO poolagg_ledger"):
            written.append(len(values[-1]))
        return execute(self, sql, *values)

    facts = {"input": {"kind": "items"}}
    store.commit(CheckpointData(facts, b"", b"12345678" * 100_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions.Session, "execute", counting)
        for number in range(1, 11):
            store.commit(CheckpointData(facts, b"", b"12345678" * (100_000 + number)))
    store.close()
    assert sum(written) <= 10 * 2 * PIECE * 4 / 3
    again = ResourceStore(where.into().resource)
    assert again.open().pages == b"12345678" * 100_010
    again.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"connect": 3}, "path of a SQLite database"),
        ({"connect": ":memory:"}, "in memory"),
        ({"connect": "postgresql://me@here/db"}, "psycopg.connect"),
        ({"write": ""}, "statement"),
        ({"write": None}, "statement"),
        ({"run": ""}, "name of the run"),
        ({"run": "a\0"}, "name of the run"),
        ({"run": "a" * 201}, "name of the run"),
        ({"batch": 0}, "batch"),
        ({"batch": True}, "batch"),
        ({"patience": -1}, "patience"),
    ],
)
def test_arguments_are_checked_at_the_call(wrong, said):
    given = {"connect": "a.db", "write": "INSERT", "run": "a", **wrong}
    with pytest.raises((TypeError, ValueError), match=said):
        IntoDatabase(given.pop("connect"), given.pop("write"), **given)


def test_what_is_no_connection_is_told():
    with pytest.raises(TypeError, match="must return a connection of a DB-API driver"):
        aggregate(pair, range(3), IntoDatabase(dict, "INSERT", run="a"), pool=SERIAL)
