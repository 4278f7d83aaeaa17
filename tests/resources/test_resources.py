"""Every partial is in the resource once, whatever dies: databases, a file, and one written by anyone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource as limits
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections import Counter
from operator import itemgetter
from pathlib import Path

import places
import postgres
import pytest
from paths import SUPPORT
from places import outcome

from poolagg import (
    Checkpoint,
    CheckpointError,
    CheckpointMismatch,
    Count,
    Into,
    ProcessPool,
    ResourceError,
    SerialPool,
    SkippedItems,
    Sum,
    TaskError,
    aggregate,
    events,
    snapshots,
)
from poolagg._checkpoint.checkpoint import CheckpointData
from poolagg._checkpoint.store import ResourceStore
from poolagg._runtime.files import LockFile
from poolagg.resources import IntoDatabase, IntoFile, database
from poolagg.resources import session as sessions
from poolagg.resources.pieces import PIECE
from poolagg.strategies import Combine, Ordered, Stream
from poolagg.testing import LawBroken, check_resource

SERIAL = SerialPool()
SERIAL.__enter__()

ITEMS = 120


@pytest.fixture(scope="module", autouse=True)  # before the fixture that counts what a test leaves behind
def postgresql():
    """The address of a PostgreSQL server, or why there is none: where CI installs it, that is an error."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(postgres.server())
        except postgres.Missing as error:
            if os.environ.get("POOLAGG_CI"):
                raise
            found = error
        yield found


@pytest.fixture
def address(postgresql):
    """That of a server; without one, the tests that need it are left out."""
    if isinstance(postgresql, postgres.Missing):
        pytest.skip(str(postgresql))
    return postgresql


@pytest.fixture(scope="module", autouse=True)
def pool():
    """Two workers for the tests that need some, started before anything is counted."""
    with ProcessPool(2) as made:
        aggregate(abs, range(100), Sum(), pool=made)
        yield made


def made(name, folder, request):
    where = places.place(name, folder, request.getfixturevalue("address") if name == "postgres" else "")
    where.make()
    return where


@pytest.fixture(params=places.NAMES)
def where(request, tmp_path):
    """A place of each kind, empty."""
    return made(request.param, tmp_path, request)


@pytest.fixture(params=["sqlite", "postgres"])
def table(request, tmp_path):
    """A table in each database."""
    return made(request.param, tmp_path, request)


@pytest.fixture
def lines(tmp_path):
    return places.place("file", tmp_path)


def pair(item):
    return item, str(item)


def pairs(items):
    return [pair(item) for item in items]


class Breaking:
    """Gives pairs and counts its calls; raises at `bad` items until it is mended."""

    def __init__(self, *bad):
        self.state = {"bad": set(bad), "ran": []}

    def __call__(self, item):
        if item in self.state["bad"]:
            raise ValueError(f"no {item}")
        self.state["ran"].append(item)
        return pair(item)

    def mend(self):
        self.state["bad"] = set()
        ran, self.state["ran"] = self.state["ran"], []
        return ran


KEY = Checkpoint(key="whatever it holds")
"""`Breaking` changes from run to run."""


def kept(**options):
    return Checkpoint(key=KEY.key, **options)


def into(func, items, where, **options):
    """A run on this thread, chunk by chunk."""
    given = {"pool": SERIAL, "chunksize": 10, "checkpoint": KEY, **options}
    return aggregate(func, items, where.into(), **given)


# -- what every resource promises --------------------------------------------------------------------------------------


def test_every_partial_is_there_once_and_a_finished_run_does_nothing(where, pool):
    """From worker processes; the result is None."""
    for _ in range(2):
        assert aggregate(pair, range(ITEMS), where.into(), pool=pool) is None
        assert outcome(where) == pairs(range(ITEMS))
    assert aggregate(pair, range(ITEMS), where.into(), pool=Idle()) is None


class Idle(SerialPool):
    """A pool that must not be used."""

    def _begin(self, job, slots):
        raise AssertionError("a finished run needs no workers")


def test_the_laws_hold(where):
    """As `check_resource` tries them: a killed process among them."""
    given = pairs(range(3))
    partials = [json.dumps(partial) for partial in given] if isinstance(where, places.File) else given
    read = where.found if not isinstance(where, places.File) else lambda: map(json.dumps, where.found())
    check_resource(lambda: _inner(where.into()), partials, read)


def _inner(into):
    return getattr(into, "inner", into)


@pytest.mark.parametrize("strategy", [Stream(), Ordered()], ids=repr)
def test_a_run_that_an_exception_ended_is_continued(strategy, where):
    """Items that are in the resource do not run again."""
    func = Breaking(70)
    with pytest.raises(TaskError):
        into(func, range(ITEMS), where, strategy=strategy)
    before = outcome(where)
    assert before == pairs(range(len(before)))
    assert len(before) >= 60
    func.mend()
    into(func, range(ITEMS), where, strategy=strategy)
    assert func.mend() == [*range(len(before), ITEMS)]
    assert outcome(where) == pairs(range(ITEMS))


@pytest.mark.parametrize("options", [{"reproducible": True}, {"strategy": Ordered()}, {}], ids=repr)
def test_in_input_order_where_it_is_asked_for(options, where, pool):
    """By the strategy, or by the resource."""
    ordered = {} if options else {"ordered": True}
    aggregate(pair, range(ITEMS), where.into(**ordered), pool=pool, chunksize=1, **options)
    assert where.found() == pairs(range(ITEMS))


def test_an_input_that_has_grown_at_its_end(where):
    """Only what is new is run; another input is refused, with the item that differs."""
    into(pair, [*range(50)], where)
    into(pair, [*range(60)], where)
    assert outcome(where) == pairs(range(60))
    with pytest.raises(CheckpointMismatch, match=r"ledger in .* item 7 is not what it was.*another path"):
        into(pair, [*range(7), 99, *range(8, 60)], where)
    with pytest.raises(CheckpointMismatch, match="func"):
        aggregate(str, [*range(60)], where.into(), pool=SERIAL)
    assert outcome(where) == pairs(range(60))


def test_skipped_items_are_remembered_and_run_again_when_asked(where):
    """Their partials come in late, and nothing else does."""
    func = Breaking(3, 44)
    for _ in range(2):
        with pytest.warns(SkippedItems, match="2 of 120"):
            into(func, range(ITEMS), where, on_error="skip")
    assert outcome(where) == pairs(item for item in range(ITEMS) if item not in (3, 44))
    func.mend()
    into(func, range(ITEMS), where, on_error="skip", checkpoint=kept(retry_failed=True))
    assert func.mend() == [3, 44]
    assert outcome(where) == pairs(range(ITEMS))


def test_what_comes_late_is_refused_where_order_counts(where):
    """With a name to begin anew under."""
    func = Breaking(3)
    with pytest.warns(SkippedItems):
        into(func, range(ITEMS), where, on_error="skip", reproducible=True)
    with pytest.raises(CheckpointMismatch, match=r"such as item 3.* begin anew: take another"):
        into(func, range(ITEMS), where, on_error="skip", reproducible=True, checkpoint=kept(retry_failed=True))


def test_ctrl_c_keeps_what_is_there(where):
    """And the next call goes on from it."""

    def items():
        yield from range(60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        into(pair, items(), where)
    assert len(outcome(where)) >= 50
    into(pair, iter(range(ITEMS)), where)
    assert outcome(where) == pairs(range(ITEMS))


def test_leaving_snapshots_early_keeps_what_was_shown(where):
    with snapshots(pair, range(10_000), where.into(), every=0.001, pool=SERIAL, chunksize=10) as looks:
        for snapshot in looks:
            if snapshot.done:
                break
    found = outcome(where)
    assert len(found) >= snapshot.done
    assert found == pairs(range(len(found)))


def test_next_to_other_reducers_all_continue_together(where):
    """Their states are in the same ledger."""
    func = Breaking(70)
    reducers = {"rows": where.into(), "n": Count(), "sum": Sum().of(itemgetter(0))}
    call = {"pool": SERIAL, "chunksize": 10, "checkpoint": KEY}
    with pytest.raises(TaskError):
        aggregate(func, range(ITEMS), reducers, **call)
    func.mend()
    result = aggregate(func, range(ITEMS), reducers, **call)
    assert len(func.mend()) < 70
    assert result == {"rows": None, "n": ITEMS, "sum": sum(range(ITEMS))}
    assert outcome(where) == pairs(range(ITEMS))


def test_the_derived_forms(where, pool):
    """Run in the workers, as with any reducer."""
    reducer = where.into().of(pair).where(lambda item: item % 2).flat()
    aggregate(range, [3, 0, 6], reducer, pool=pool)
    assert outcome(where) == sorted(pairs([1, 1, 3, 5]))


def test_an_apply_that_fails_commits_nothing_after_it(where, monkeypatch):
    """The last commit stands, and the item is named."""
    into(pair, range(30), where)
    reducer = where.into()
    resource = _inner(reducer).resource
    apply = resource.apply
    monkeypatch.setattr(_inner(reducer), "apply", lambda partial: apply(partial) if "45" not in str(partial) else 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        aggregate(pair, range(ITEMS), reducer, pool=SERIAL, chunksize=10, checkpoint=KEY)
    assert "the partial of item 45, 45" in caught.value.__notes__[0]
    assert outcome(where) == pairs(range(len(outcome(where))))
    assert len(outcome(where)) <= 40
    into(pair, range(ITEMS), where)
    assert outcome(where) == pairs(range(ITEMS))


@pytest.mark.parametrize("name", ["sqlite", "postgres", "file"])
def test_two_runs_at_a_time_are_refused(name, tmp_path, request, monkeypatch):
    """The second, in this process and in another; afterwards it is free."""
    where = made(name, tmp_path, request)
    monkeypatch.setattr("poolagg.resources.database.OTHERS", 0.05)
    monkeypatch.setattr("poolagg.resources.file.PATIENCE", 0.05)

    def items():
        yield from range(30)
        for reducer in (shared, where.into()):
            with pytest.raises(ResourceError, match="another run"):
                aggregate(pair, range(30), reducer, pool=SerialPool())
        other = subprocess.run([sys.executable, "-c", OTHER, *arguments(where)], capture_output=True, text=True)
        assert "ResourceError" in other.stderr
        assert "another run" in other.stderr
        yield 30

    shared = where.into()
    aggregate(pair, items(), shared, pool=SerialPool())
    monkeypatch.undo()
    assert outcome(where) == pairs(range(31))
    aggregate(pair, iter(range(32)), where.into(), pool=SerialPool())
    assert outcome(where) == pairs(range(32))


def arguments(where):
    """The words that a script finds the place by."""
    names = {places.SQLite: "sqlite", places.PostgreSQL: "postgres", places.File: "file", places.Own: "own"}
    return [str(SUPPORT), names[type(where)], where.folder, where.address]


OTHER = """
import sys; sys.path.insert(0, sys.argv[1])
from places import place
from poolagg import SerialPool, aggregate
import poolagg.resources.database, poolagg.resources.file
poolagg.resources.database.OTHERS = poolagg.resources.file.PATIENCE = 0.05
aggregate(lambda item: (item, str(item)), range(5), place(*sys.argv[2:]).into(), pool=SerialPool())
"""

# -- kill -9 -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time; sys.path.insert(0, sys.argv[1])
from places import place
from poolagg import Checkpoint, aggregate
def work(item):
    time.sleep(0.001)
    return item, str(item)
aggregate(work, iter(range(500)), place(*sys.argv[2:]).into(), workers=2, checkpoint=Checkpoint(every=0.01))
"""


@pytest.mark.orphans
def test_kill_9_of_all_processes_at_any_moment(where, tmp_path):
    """Again and again; every partial is there once, as in a run that was never killed."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    moments = random.Random(type(where).__name__)
    command = [sys.executable, str(script), *arguments(where)]
    for _ in range(3):
        process = subprocess.Popen(command, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.25, 0.6))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert max(Counter(outcome(where)).values(), default=1) == 1
    ended = subprocess.run(command, capture_output=True, text=True)
    assert outcome(where) == pairs(range(500)), ended.stderr


def in_a_fork(what):
    """Do it in a child process; how that ended."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(30)
            what()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Countdown:
    """Wraps functions; at the n-th call of any of them it does something before it, or after it."""

    def __init__(self, number, then, after):
        self.left, self.then, self.after = number, then, after

    def wrap(self, owner, *names):
        for name in names:
            self._wrap(owner, name, getattr(owner, name))
        return self

    def _wrap(self, owner, name, function):
        def counted(*arguments, **keywords):
            self.left -= 1
            mine = not self.left
            if mine and not self.after:
                self.then()
            result = function(*arguments, **keywords)
            if mine and self.after:
                self.then()
            return result

        setattr(owner, name, counted)


CALLS = {
    "file": [(os, ("write", "fsync", "replace", "ftruncate", "unlink"))],
    "sqlite": [(sessions.Session, ("execute", "commit", "close")), (sessions._SQLite, ("start",)), (os, ("unlink",))],
    "postgres": [(sessions.Session, ("execute", "commit", "close"))],
    "own": [(os, ("replace",))],
}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def full():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", places.NAMES)
def test_a_process_that_dies_before_any_call_loses_and_doubles_nothing(name, tmp_path, request):
    """Any one of those that change something outside."""
    survived = False
    number = 0
    while not survived:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        where = made(name, folder, request)

        def run(where=where, number=number):
            countdown = Countdown(number, kill, after=False)
            for owner, names in CALLS[name]:
                countdown.wrap(owner, *names)
            into(pair, iter(range(2)), where, chunksize=1, checkpoint=kept(every=1e-9))

        code = in_a_fork(run)
        assert code in (0, -signal.SIGKILL)
        survived = code == 0
        into(pair, iter(range(3)), where, chunksize=1)
        assert outcome(where) == pairs(range(3)), number
    assert number > (10 if name != "own" else 2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_file_system_that_fails_at_any_call_loses_and_doubles_nothing(after, tmp_path, monkeypatch):
    """The error names the file, and the same call again goes on."""
    calls = ("write", "fsync", "replace", "ftruncate", "unlink")
    told, reached = [], True
    while reached:
        folder = tmp_path / str(len(told))
        folder.mkdir()
        where = places.place("file", folder)
        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, getattr(os, name))
            countdown = Countdown(len(told) + 1, full, after).wrap(os, *calls)
            told.append(raised_by(lambda: into(pair, iter(range(2)), where, chunksize=1, checkpoint=kept(every=1e-9))))
            reached = countdown.left <= 0
        into(pair, iter(range(3)), where, chunksize=1)
        assert outcome(where) == pairs(range(3)), told
    errors = [str(error) for error in told if error is not None]
    assert len(errors) > 10
    assert all("found.jsonl" in error and "No space left" in error for error in errors)


def raised_by(what):
    """The ResourceError that it raised, if it did."""
    try:
        what()
    except ResourceError as error:
        return error
    return None


# -- databases ---------------------------------------------------------------------------------------------------------


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


def test_a_partial_that_is_not_a_row_is_refused(table):
    """A text of one letter would pass as a sequence of one."""
    with pytest.raises(TypeError, match=r"tuples, lists or dicts.*not 'a'.*\.of\(lambda") as caught:
        aggregate(chr, [97], table.into(), pool=SERIAL)
    assert "item 0" in caught.value.__notes__[0]


def test_a_full_disk_is_told_with_the_name_of_the_database(tmp_path):
    """A limit on file sizes is a disk that is full."""
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


def test_an_object_that_is_not_a_connection_is_refused():
    with pytest.raises(TypeError, match="must return a connection of a DB-API driver"):
        aggregate(pair, range(3), IntoDatabase(dict, "INSERT", run="a"), pool=SERIAL)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_partly_written_file_is_cut_to_what_was_committed(lines):
    """Half a line, and more; what was committed stays."""
    into(pair, range(30), lines)
    with open(lines.path("found.jsonl"), "a") as file:
        file.write('[30, "30"]\n[31, "3')
    into(pair, range(60), lines)
    assert outcome(lines) == pairs(range(60))


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:-3] + b"x\n\n", lambda data: b""])
def test_a_file_that_is_not_what_was_committed_is_refused(damage, lines):
    """And left as it is."""
    into(pair, range(30), lines)
    path = Path(lines.path("found.jsonl"))
    path.write_bytes(damaged := damage(path.read_bytes()))
    with pytest.raises(ResourceError, match=r"found\.jsonl.*committed.*begin anew, delete it and"):
        into(pair, range(60), lines)
    assert path.read_bytes() == damaged


def test_a_ledger_next_to_a_file_with_any_bit_wrong_is_refused(lines):
    """Or the outcome is right."""
    into(pair, range(30), lines)
    path = Path(lines.path("found.jsonl.ledger"))
    whole, chance = path.read_bytes(), random.Random(1)
    refused = 0
    for number in range(60):
        damaged = bytearray(whole)
        if number % 3:
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        path.write_bytes(damaged)
        if (error := raised_by(lambda: into(pair, range(30), lines))) is not None:
            assert "found.jsonl" in str(error)
            assert path.read_bytes() == damaged
            refused += 1
        assert outcome(lines) == pairs(range(30))
    assert refused > 50


def test_a_ledger_next_to_a_file_belongs_to_one_user(lines):
    """It may hold a state, which is a pickle: one that others may write is not opened."""
    before = os.umask(0)
    try:
        into(pair, range(30), lines)
    finally:
        os.umask(before)
    ledger = lines.path("found.jsonl.ledger")
    assert os.stat(ledger).st_mode & 0o777 == 0o600
    assert sorted(os.listdir(lines.folder)) == ["found.jsonl", "found.jsonl.ledger"]
    os.chmod(ledger, 0o602)
    with pytest.raises(ResourceError, match="others may write"):
        into(pair, range(60), lines)


def test_what_is_in_a_file_before_the_first_run_stays(lines):
    """The head of a table, say; also when the first run is killed before its first commit."""
    path = Path(lines.path("found.jsonl"))
    path.write_text('[-1, "head"]\n')

    def run():
        Countdown(2, kill, False).wrap(os, "replace")
        into(pair, range(30), lines, checkpoint=kept(every=1e-9))

    assert in_a_fork(run) == -signal.SIGKILL
    into(pair, range(30), lines)
    assert lines.found() == [(-1, "head"), *pairs(range(30))]


def test_a_file_whose_last_line_has_no_end_is_refused(lines):
    """The first line would be glued to it."""
    Path(lines.path("found.jsonl")).write_text("head")
    with pytest.raises(ResourceError, match="does not end with a line end"):
        into(pair, range(30), lines)


@pytest.mark.parametrize(
    ("partial", "said"), [(b"a", r"\.of\(json\.dumps\)"), (3, r"\.of\(str\)"), ("a\nb", r"\.flat\(\)")]
)
def test_a_partial_that_is_not_a_line_is_refused(partial, said, tmp_path):
    """With how to make one."""
    with pytest.raises((TypeError, ValueError), match=said):
        aggregate(lambda item: partial, range(3), IntoFile(tmp_path / "lines"), pool=SERIAL)


def test_a_full_disk_is_told_with_the_name_of_the_file(lines):
    """A limit on file sizes is a disk that is full."""
    into(pair, range(30), lines)
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (60_000, hard))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(ResourceError, match=r"found\.jsonl.*File too large"):
            into(pair, range(60_000), lines)
    finally:
        signal.signal(signal.SIGXFSZ, before)
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    assert outcome(lines) == pairs(range(30))
    into(pair, range(60), lines)
    assert outcome(lines) == pairs(range(60))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ResourceError, match="No such file or directory"):
        aggregate(str, range(3), IntoFile(tmp_path / "missing" / "lines"), pool=Idle())


@pytest.mark.parametrize("wrong", [3, b"path", "", "a\0"])
def test_a_path_is_a_path(wrong):
    with pytest.raises((TypeError, ValueError), match=r"path|names no file"):
        IntoFile(wrong)


def test_a_lock_file_goes_with_its_lock(tmp_path):
    """One that was left behind by `kill -9` is taken over."""
    path = str(tmp_path / "lock")
    first, second = LockFile(path), LockFile(path)
    assert in_a_fork(lambda: (first.acquire(), kill())) == -signal.SIGKILL
    assert os.path.exists(path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert not os.path.exists(path)
    assert second.acquire()
    second.release()


# -- what is refused at the call, and what is told ---------------------------------------------------------------------


def test_two_resources_are_refused(tmp_path):
    """They cannot commit together; the same one twice can."""
    one, two = (IntoFile(tmp_path / name) for name in ("one", "two"))
    with pytest.raises(ValueError, match="2 resources, which cannot commit together"):
        aggregate(str, range(3), (one, two), pool=Idle())
    aggregate(str, range(3), (one, one.where(lambda text: text != "1")), pool=SERIAL)
    assert sorted((tmp_path / "one").read_text().split()) == ["0", "0", "1", "2", "2"]


def test_next_to_an_into_that_cannot_commit_it_is_refused(tmp_path):
    """A continued run would apply some partials twice."""
    with pytest.raises(ValueError, match="by an Into that cannot"):
        aggregate(str, range(3), (IntoFile(tmp_path / "one"), Into(print)), pool=Idle())


def test_a_path_for_the_checkpoint_is_refused(tmp_path):
    """The ledger is in the resource; and without a resource, a path it takes."""
    for checkpoint in ("a.ckpt", Checkpoint("a.ckpt", every=3)):
        with pytest.raises(ValueError, match=r"the resource of .* keeps the checkpoint itself"):
            aggregate(str, range(3), IntoFile(tmp_path / "one"), pool=Idle(), checkpoint=checkpoint)
    with pytest.raises(ValueError, match="needs a path"):
        aggregate(str, range(3), Sum(), pool=Idle(), checkpoint=Checkpoint(every=3))
    assert not os.listdir(tmp_path)


def test_a_pickle_is_not_kept_where_others_may_write_it(table, tmp_path):
    """The state of another reducer would be one: refused at the call, unless one says that it is private."""
    os.chmod(tmp_path / "found.db", 0o606) if isinstance(table, places.SQLite) else None
    both = {"rows": table.into(private=False), "n": Count()}
    with pytest.raises(ValueError, match="a pickle in its ledger"):
        aggregate(pair, range(30), both, pool=Idle())
    aggregate(pair, range(30), {**both, "rows": table.into(private=True)}, pool=SERIAL, checkpoint=KEY)
    with pytest.raises(CheckpointError, match="holds a state, which is a pickle"):
        aggregate(pair, range(30), table.into(private=False), pool=Idle(), checkpoint=KEY)


def test_strategies_that_merge_are_refused(tmp_path):
    """Only the parent writes."""
    with pytest.raises(ValueError, match="has no merge"):
        aggregate(str, range(3), IntoFile(tmp_path / "one"), pool=Idle(), strategy=Combine())


def test_commits_are_told_to_watchers(lines):
    """As those of a checkpoint are."""
    told = []
    into(pair, range(30), lines, watch=told.append)
    assert [event for event in told if isinstance(event, events.Checkpointed)]


@pytest.mark.parametrize("name", places.NAMES)
def test_workers_that_are_forked_neither_keep_the_lock_nor_end_the_session(name, tmp_path, request):
    """They have the parent's descriptors, and end while the run goes on, or outlive it."""
    where = made(name, tmp_path, request)
    with ProcessPool(2, start_method="fork", max_items_per_worker=20) as forked:
        for count in (60, 120):
            into(pair, iter(range(count)), where, pool=forked, chunksize=5)
            assert outcome(where) == pairs(range(count))


def test_lambdas_and_open_handles_stay_in_the_parent(tmp_path, pool):
    """A resource need not pickle."""
    path = tmp_path / "found.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE found (item, text)")
        handle = open(os.devnull)
        table = IntoDatabase(lambda: handle and sqlite3.connect(path), places.INSERT["sqlite"], run="a")
        aggregate(pair, range(30), table, pool=pool)
        handle.close()
        assert sorted(connection.execute("SELECT * FROM found")) == pairs(range(30))


def test_reprs_say_what_it_is(tmp_path):
    """Without what it is connected with."""
    table = IntoDatabase("a.db", "INSERT INTO t VALUES (?)", run="r", ordered=True)
    assert repr(table) == "IntoDatabase('a.db', 'INSERT INTO t VALUES (?)', run='r', ordered=True)"
    assert repr(IntoFile("a", ordered=True)) == "IntoFile('a', ordered=True)"
    assert repr(Into(places.Pickled("a"))).startswith("Into(<places.")


# -- check_resource ----------------------------------------------------------------------------------------------------


class Lawful:
    """One file, written anew; each law has a subclass that breaks it."""

    def __init__(self, path):
        self.path = Path(path)

    def load(self):
        return json.loads(self.path.read_text()) if self.path.exists() else [[], None]

    def begin(self):
        self.partials, ledger = self.load()
        return None if ledger is None else bytes.fromhex(ledger)

    def apply(self, partial):
        self.partials.append(partial)

    def commit(self, ledger):
        self.path.write_text(json.dumps([self.partials, ledger.hex()]))

    def rollback(self):
        self.partials = None


class ForgetsEmptyLedgers(Lawful):
    def begin(self):
        return super().begin() or None


class Doubles(Lawful):
    def commit(self, ledger):
        super().commit(ledger)
        self.partials += self.partials


class KeepsTheLast(Lawful):
    def commit(self, ledger):
        super().commit(ledger)
        self.partials = []


class AppliesAtOnce(Lawful):
    def apply(self, partial):
        partials, ledger = self.load()
        self.partials.append(partial)
        self.path.write_text(json.dumps([[*partials, partial], ledger]))


class BeginsOnce(Lawful):
    partials = None

    def begin(self):
        if hasattr(self, "begun"):
            raise RuntimeError("once is enough")
        self.begun = True
        return super().begin()


class CommitsWhenItRollsBack(Lawful):
    def rollback(self):
        self.path.write_text(json.dumps([self.partials, self.load()[1]]))


class KeptByTheProcess(Lawful):
    held: list = [[], None]

    def load(self):
        return [list(self.held[0]), self.held[1]]

    def commit(self, ledger):
        self.held[:] = [list(self.partials), ledger.hex()]


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (ForgetsEmptyLedgers, "whatever bytes these are"),
        (Doubles, "each commit keeps"),
        (KeepsTheLast, "there once|each commit keeps"),
        (AppliesAtOnce, "gone after rollback"),
        (CommitsWhenItRollsBack, "gone after rollback"),
        (BeginsOnce, "begin again"),
        (KeptByTheProcess, "when it has been killed"),
    ],
)
def test_a_broken_law_is_named_with_a_small_example(kind, law, tmp_path):
    path = tmp_path / "kept"
    with pytest.raises(LawBroken, match=law) as broken:
        check_resource(lambda: kind(path), ["a", "b", "c", "d"], lambda: kind(path).load()[0])
    assert len(broken.value.samples) <= 2
    assert kind.__name__ in str(broken.value)


def test_a_lawful_one_passes(tmp_path):
    check_resource(lambda: Lawful(tmp_path / "kept"), "abc", lambda: Lawful(tmp_path / "kept").load()[0])
    with pytest.raises(ValueError, match="needs partials"):
        check_resource(lambda: Lawful(tmp_path / "kept"), [], list)


def test_no_warning_is_given_by_a_run_that_went_well(where):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        into(pair, range(30), where)
