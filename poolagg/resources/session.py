"""A connection to a database, and how drivers differ: marks of parameters, transactions, locks, what passes by itself.

Everything that is not told from the DB-API (PEP 249) is here. Of SQLite and PostgreSQL two runs of the same name are
told apart by a lock; of other databases by the ledger alone, at the second one's first commit.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from types import ModuleType
from typing import Any

from poolagg._runtime.files import LockFile

__all__ = ["Session", "bound", "connector", "is_locked", "opened", "passes"]

MARKS = {"qmark": "?", "numeric": ":{n}", "named": ":p{n}", "format": "%s", "pyformat": "%(p{n})s"}

PASSING = ("08", "40", "53300", "55P03", "57P")
"""SQLSTATEs that may be gone at the next try: the connection, a conflict, too many clients, a lock, a shutdown."""


def passes(error: BaseException) -> bool:
    """Whether it may be gone at the next try: somebody's lock, or a connection that was lost."""
    if type(error).__module__ == "sqlite3":
        return is_locked(error)
    if not {kind.__name__ for kind in type(error).__mro__} & {"OperationalError", "InterfaceError"}:
        return False
    state = state_of(error)
    return state is None or state.startswith(PASSING)


def state_of(error: BaseException) -> str | None:
    """The SQLSTATE that a driver tells, if it does."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def is_locked(error: BaseException) -> bool:
    """Whether a SQLite database is locked by somebody, or its folder's memory of locks is."""
    return (getattr(error, "sqlite_errorname", "") or "").startswith(
        ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
    )


def bound(sql: str, values: Sequence[Any], style: str) -> tuple[str, Any]:
    """A statement whose parameters are question marks, and their values, in the `paramstyle` of a driver.

    >>> bound("UPDATE t SET a = ? WHERE b = ?", (1, 2), "numeric")
    ('UPDATE t SET a = :1 WHERE b = :2', (1, 2))
    >>> bound("DELETE FROM t WHERE b = ?", (2,), "pyformat")
    ('DELETE FROM t WHERE b = %(p1)s', {'p1': 2})
    """
    first, *others = sql.split("?")
    text = first + "".join(MARKS[style].format(n=n) + other for n, other in enumerate(others, 1))
    named = style in ("named", "pyformat")
    return text, {f"p{n}": value for n, value in enumerate(values, 1)} if named else tuple(values)


def opened(connection: Any) -> Session:
    """The session that suits a connection."""
    driver = _driver(connection)
    kind = {"sqlite3": _SQLite, "psycopg": _PostgreSQL, "psycopg2": _PostgreSQL}.get(driver.__name__, Session)
    return kind(connection, driver)


def _driver(connection: Any) -> ModuleType:
    """The module that a connection is from: it says how parameters are marked."""
    for kind in type(connection).__mro__:
        name = kind.__module__
        while name:
            module = sys.modules.get(name)
            if getattr(module, "paramstyle", None) in MARKS:
                return module  # type: ignore[return-value]
            name = name.rpartition(".")[0]
    raise TypeError(f"connect() must return a connection of a DB-API driver, such as psycopg, not {connection!r}")


class Session:
    """A connection of any DB-API driver. A transaction begins by itself, and ends with `commit` or with the session."""

    file: str | None = None
    """The file of the database, if it is one."""

    meddled = False
    """Whether a function was refused an end of the transaction that it was called in."""

    def __init__(self, connection: Any, driver: ModuleType) -> None:
        self.connection, self._style = connection, driver.paramstyle
        self._set_up()
        self.cursor = connection.cursor()

    def _set_up(self) -> None:
        if getattr(self.connection, "autocommit", False) is True:
            self.connection.autocommit = False

    def acquire(self, run: str) -> bool:
        """Take the lock on this run, if it is free; it is held until the session ends."""
        del run
        return True

    def _release(self) -> None:
        """Give the lock back."""

    def start(self) -> None:
        """Begin a transaction."""

    def prepare_guard(self) -> None:
        """Make ready for `guarded`, outside of any transaction."""

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Within this, a commit by a function of the user's fails, where the database can be told to refuse it."""
        yield

    def ended(self) -> bool:
        """Whether a function has ended the transaction, or tried to, as far as can be told."""
        return self.meddled

    def execute(self, sql: str, *values: Any) -> Any:
        """Execute a statement whose parameters are question marks; the cursor."""
        self.cursor.execute(*bound(sql, values, self._style))
        return self.cursor

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds, whatever the connection makes of its rows."""
        found = self.execute(sql, *values).fetchall()
        return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in found]

    def commit(self) -> None:
        """End the transaction: all of it counts."""
        self.connection.commit()

    def rollback(self) -> None:
        """End the transaction: nothing of it counts."""
        self.connection.rollback()

    def leave(self) -> None:
        """Roll back, and give the lock back. This may wait for a server, and may be left out."""
        for end in (self.connection.rollback, self._release):
            with contextlib.suppress(Exception):  # a connection that was lost may complain
                end()

    def close(self) -> None:
        """End the session. What was not committed does not count."""
        for end in (self.cursor.close, self.connection.close):
            with contextlib.suppress(Exception):
                end()


class _SQLite(Session):
    """Transactions are for writing from their start, so that none has to wait in its middle for another to end.

    SQLite asks an authorizer about each statement when it is prepared, and so about each way to end a transaction:
    `commit()`, `executescript`, a switch to autocommit, a COMMIT in words. The isolation level makes the driver begin a
    transaction before a statement that writes, should there be none, and that is refused as well.
    """

    _lock: LockFile | None = None

    def _set_up(self) -> None:
        if hasattr(self.connection, "autocommit"):  # from Python 3.12 on
            import sqlite3

            self.connection.autocommit = sqlite3.LEGACY_TRANSACTION_CONTROL  # type: ignore[attr-defined,unused-ignore]
        self.connection.commit()
        self.connection.isolation_level = "IMMEDIATE"

    def acquire(self, run: str) -> bool:
        """A database in memory is nobody else's."""
        self.file = next((str(row[2]) for row in self.rows("PRAGMA database_list") if row[1] == "main"), "") or None
        if self.file is not None:
            self._lock = LockFile(f"{self.file}-{blake2b(run.encode(), digest_size=6).hexdigest()}.lock")
        return self._lock is None or self._lock.acquire()

    def start(self) -> None:
        self.cursor.execute("BEGIN IMMEDIATE")

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        self.connection.set_authorizer(self._authorize)
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # the function may have closed the connection
                self.connection.set_authorizer(None)

    def _authorize(self, action: int, *_: Any) -> int:
        import sqlite3

        if action != sqlite3.SQLITE_TRANSACTION:
            return sqlite3.SQLITE_OK
        self.meddled = True
        return sqlite3.SQLITE_DENY

    def ended(self) -> bool:
        try:
            return self.meddled or not self.connection.in_transaction
        except Exception:  # the function has closed the connection
            return True

    def close(self) -> None:
        super().close()
        if self._lock is not None:  # now that no transaction is open any more
            self._lock.release()


class _PostgreSQL(Session):
    """The lock is an advisory one. The server gives it back when it has done with the session: so a commit whose answer
    was lost has come about, or never will, when the next session has the lock.

    To have the server refuse a commit, a table of this session's own breaks a deferred constraint while a function is
    at work. A rollback cannot be refused, but takes the rows out of that table.
    """

    _has_guard = False

    def acquire(self, run: str) -> bool:
        key = int.from_bytes(blake2b(run.encode(), digest_size=8, person=b"poolagg").digest(), "big", signed=True)
        ((held,),) = self.rows("SELECT pg_try_advisory_lock(?)", key)
        self.commit()
        return bool(held)

    def _release(self) -> None:
        """At once: the server takes a moment to see that a session has ended."""
        self.execute("SELECT pg_advisory_unlock_all()")
        self.commit()

    def prepare_guard(self) -> None:
        """Make the table; a user who may not make temporary ones goes without."""
        try:
            self.execute(
                "CREATE TEMP TABLE poolagg_guard (number INTEGER, "
                "CONSTRAINT a_function_must_not_commit UNIQUE (number) DEFERRABLE INITIALLY DEFERRED)"
            )
        except Exception as error:
            if state_of(error) != "42501":
                raise
            self.rollback()
            return
        self.commit()
        self._has_guard = True

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        if not self._has_guard:
            yield
            return
        self.execute("INSERT INTO pg_temp.poolagg_guard VALUES (1), (1)")
        yield
        self.meddled |= self.execute("DELETE FROM pg_temp.poolagg_guard").rowcount != 2

    def ended(self) -> bool:
        closed = self.connection.closed == 1 and not getattr(self.connection, "broken", False)
        return self.meddled or closed or self.connection.info.transaction_status == 0  # 0: idle


# -- what opens one ----------------------------------------------------------------------------------------------------


def connector(connect: Any) -> tuple[Callable[[], Any], Any]:
    """What opens a connection; and what to call it."""
    if callable(connect):
        return connect, connect
    if not isinstance(connect, (str, os.PathLike)) or not isinstance(os.fspath(connect), str):
        raise TypeError(f"connect takes the path of a SQLite database, or a function that opens one, not {connect!r}")
    path = os.fspath(connect)
    if "://" in path:
        raise ValueError(f"connect={path!r} is no path: for PostgreSQL write connect=lambda: psycopg.connect({path!r})")
    if not path or path == ":memory:" or "\0" in path:
        raise ValueError(f"connect={path!r} names no file, and a database in memory ends with its connection")
    return lambda: _sqlite(path), path


def _sqlite(path: str) -> Any:
    import sqlite3

    connection = sqlite3.connect(path, timeout=0.1, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous=EXTRA")
        return connection
    except BaseException:
        connection.close()
        raise
