"""A connection to a database, and the differences of drivers: parameter marks, transactions, locks, transient errors.

This module holds all that the DB-API (PEP 249) leaves open. With SQLite and PostgreSQL a lock excludes a second run of
the same name; with other databases only the ledger does, at the second run's first commit.
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
"""SQLSTATEs of transient errors: a lost connection, a conflict, too many clients, a lock, a shutdown."""


def passes(error: BaseException) -> bool:
    """Return whether an error is transient: another's lock, or a lost connection."""
    if type(error).__module__ == "sqlite3":
        return is_locked(error)
    if not {kind.__name__ for kind in type(error).__mro__} & {"OperationalError", "InterfaceError"}:
        return False
    state = state_of(error)
    return state is None or state.startswith(PASSING)


def state_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's error, if it has one."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def is_locked(error: BaseException) -> bool:
    """Return whether the error is a lock on a SQLite database, or on its shared-memory file."""
    return (getattr(error, "sqlite_errorname", "") or "").startswith(
        ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
    )


def bound(sql: str, values: Sequence[Any], style: str) -> tuple[str, Any]:
    """Convert a statement with question marks, and its values, to the `paramstyle` of a driver.

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
    """Return the session for a connection."""
    driver = _driver(connection)
    kind = {"sqlite3": _SQLite, "psycopg": _PostgreSQL, "psycopg2": _PostgreSQL}.get(driver.__name__, Session)
    return kind(connection, driver)


def _driver(connection: Any) -> ModuleType:
    """Return the module of a connection, which defines the `paramstyle`."""
    for kind in type(connection).__mro__:
        name = kind.__module__
        while name:
            module = sys.modules.get(name)
            if getattr(module, "paramstyle", None) in MARKS:
                return module  # type: ignore[return-value]
            name = name.rpartition(".")[0]
    raise TypeError(f"connect() must return a connection of a DB-API driver, such as psycopg, not {connection!r}")


class Session:
    """A connection of any DB-API driver. A transaction begins implicitly, and ends with `commit` or the session."""

    file: str | None = None
    """The file of the database, if it has one."""

    meddled = False
    """True if the database refused a function's attempt to end its transaction."""

    def __init__(self, connection: Any, driver: ModuleType) -> None:
        self.connection, self._style = connection, driver.paramstyle
        self._set_up()
        self.cursor = connection.cursor()

    def _set_up(self) -> None:
        if getattr(self.connection, "autocommit", False) is True:
            self.connection.autocommit = False

    def acquire(self, run: str) -> bool:
        """Take the lock on this run, if it is free; the session holds it until its end."""
        del run
        return True

    def _release(self) -> None:
        """Release the lock."""

    def start(self) -> None:
        """Begin a transaction."""

    def prepare_guard(self) -> None:
        """Prepare `guarded`, outside of any transaction."""

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Let a commit by a user's function fail within this context, if the database can refuse it."""
        yield

    def ended(self) -> bool:
        """Return whether a function has ended the transaction, or tried to, as far as the driver shows it."""
        return self.meddled

    def execute(self, sql: str, *values: Any) -> Any:
        """Execute a statement with question marks; return the cursor."""
        self.cursor.execute(*bound(sql, values, self._style))
        return self.cursor

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as tuples, also if the connection's row factory returns dicts."""
        found = self.execute(sql, *values).fetchall()
        return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in found]

    def commit(self) -> None:
        """Commit the transaction."""
        self.connection.commit()

    def rollback(self) -> None:
        """Roll the transaction back."""
        self.connection.rollback()

    def leave(self) -> None:
        """Roll back and release the lock. This may wait for a server, and may be omitted."""
        for end in (self.connection.rollback, self._release):
            with contextlib.suppress(Exception):  # a lost connection may raise
                end()

    def close(self) -> None:
        """End the session; uncommitted work is lost."""
        for end in (self.cursor.close, self.connection.close):
            with contextlib.suppress(Exception):
                end()


class _SQLite(Session):
    """A session of SQLite. Transactions take the write lock at their start, so that none waits for it in its middle.

    SQLite calls an authorizer for each statement that it prepares, and so for each way to end a transaction:
    `commit()`, `executescript`, a switch to autocommit, a COMMIT statement. With this isolation level the driver begins
    a missing transaction before a statement that writes, and the authorizer refuses that as well.
    """

    _lock: LockFile | None = None

    def _set_up(self) -> None:
        if hasattr(self.connection, "autocommit"):  # from Python 3.12 on
            import sqlite3

            self.connection.autocommit = sqlite3.LEGACY_TRANSACTION_CONTROL  # type: ignore[attr-defined,unused-ignore]
        self.connection.commit()
        self.connection.isolation_level = "IMMEDIATE"

    def acquire(self, run: str) -> bool:
        """Lock a file next to the database; a database in memory needs no lock."""
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
        if self._lock is not None:  # only after the transaction has ended
            self._lock.release()


class _PostgreSQL(Session):
    """A session of PostgreSQL, with an advisory lock, which the server releases when it has ended the session.

    So once the next session has the lock, a commit whose reply was lost has happened, or never will. While a user's
    function runs, rows in a temporary table violate a deferred constraint, so that the server refuses a commit. It
    cannot refuse a rollback, but that removes the rows, which shows it.
    """

    _has_guard = False

    def acquire(self, run: str) -> bool:
        key = int.from_bytes(blake2b(run.encode(), digest_size=8, person=b"poolagg").digest(), "big", signed=True)
        ((held,),) = self.rows("SELECT pg_try_advisory_lock(?)", key)
        self.commit()
        return bool(held)

    def _release(self) -> None:
        """Release the lock at once: the server takes a moment to notice the end of a session."""
        self.execute("SELECT pg_advisory_unlock_all()")
        self.commit()

    def prepare_guard(self) -> None:
        """Create the temporary table, if the user may do so."""
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


# -- opening a connection ----------------------------------------------------------------------------------------------


def connector(connect: Any) -> tuple[Callable[[], Any], Any]:
    """Return a function that opens a connection, and the object that represents it in texts."""
    if not isinstance(connect, type) and hasattr(connect, "cursor") and hasattr(connect, "commit"):
        raise TypeError(
            f"connect takes the path of a SQLite database, or a function that opens a connection, not the connection "
            f"{connect!r}: the run opens its own, and again if it is lost. For SQLite pass the path, else a function "
            f"such as lambda: psycopg.connect(...)"
        )
    if callable(connect):
        return connect, connect
    if not isinstance(connect, (str, os.PathLike)) or not isinstance(os.fspath(connect), str):
        raise TypeError(f"connect takes the path of a SQLite database, or a function that opens one, not {connect!r}")
    path = os.fspath(connect)
    if "://" in path:
        raise ValueError(f"connect={path!r} is not a path: for PostgreSQL, connect=lambda: psycopg.connect({path!r})")
    if not path or path == ":memory:" or "\0" in path:
        raise ValueError(f"connect={path!r} names no file, and a database in memory ends with its connection")
    return lambda: _sqlite(path), path


def _sqlite(path: str) -> Any:
    import sqlite3

    connection = None
    try:
        connection = sqlite3.connect(path, timeout=0.1, check_same_thread=False)
        connection.execute("PRAGMA synchronous=EXTRA")
        return connection
    except BaseException:
        if connection is not None:
            connection.close()
        raise
