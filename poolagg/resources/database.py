"""A database as a resource: partials are written in batches, each in one transaction with the ledger.

    apply     buffer the partial in memory
    commit    BEGIN; mark the ledger open, if it is still the one this run knows; write all partials; write the new
              ledger, if the old one is still marked open; COMMIT

So a transaction is short, and others can use the database meanwhile. The partials are kept until the transaction has
ended, so that after any failure it is repeated as a whole. A user's function that ends the transaction early is
detected: after a rollback the ledger is no longer marked open, and after a commit others see the mark.

Rule: the outcome of a commit without a reply is unknown until a new session reads the ledger. If it is the new one, all
of the batch is in the database; if it is the old one, none of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, NoReturn, TypeVar

from poolagg._runtime.arguments import checked_count
from poolagg._runtime.durations import checked_seconds
from poolagg._runtime.exception_text import said
from poolagg._runtime.files import FIRST_PAUSE, pause, within
from poolagg._runtime.interrupts import interrupts_allowed, interrupts_held_back
from poolagg._runtime.system.ownership import exposure_of_database
from poolagg.errors import ResourceError, short_repr
from poolagg.reducers import Into
from poolagg.resources.pieces import are_whole, checksum, cut, joined
from poolagg.resources.session import Session, connector, is_locked, opened, passes

__all__ = ["IntoDatabase"]

T = TypeVar("T")

TABLE = "poolagg_ledger"

SCHEMA = f"""CREATE TABLE {TABLE} (
    run VARCHAR(200) NOT NULL, number INTEGER NOT NULL, piece TEXT NOT NULL, PRIMARY KEY (run, number))"""
"""Pieces are text, because each database has another type for bytes. Piece 0 is the checksum of the ledger."""

OPEN = "open"
"""The mark that replaces the checksum from the start of a batch to its end."""

OTHERS = 10.0
"""Most seconds to wait for another run of the same name: a server takes a moment to notice that it is dead."""


class IntoDatabase(Into):
    """Write each partial into a database exactly once, whatever dies; the result is None.

    connect    the path of a SQLite database, or a function that opens a connection with any DB-API driver
    statement  executed with each partial, which must be a tuple, list or dict that the driver accepts
    function   instead of a statement: called with a cursor and each partial. It must not commit or roll back; SQLite
               and PostgreSQL are made to refuse that
    run        the name of the run; its ledger is in the table `poolagg_ledger` of the same database, under this name
    batch      partials in a transaction; the run also commits after a second, or 50 times the last commit's duration
    ordered    keep the input order
    patience   seconds to wait for a lost connection, and from the start on for another's lock
    private    True declares that only you can write the ledger's table. Only then may the run have other reducers next
               to this one, because their state is stored there as a pickle. For a path, poolagg checks itself who can
               write the file, the files that SQLite reads with it, and the folder

    The same call continues the run; for another run take another name. The parent writes the batches. If a connection
    is lost, the parent writes the whole batch again, so that a function may be called more than once for a partial, and
    one call counts. Raises `ResourceError` if the database is unreachable, locked or full for too long, or if another
    process continues the run; exceptions of the statement or the function propagate unchanged.

    >>> import os, sqlite3, tempfile
    >>> from poolagg import SerialPool, aggregate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "squares.db")
    ...     database = sqlite3.connect(path)
    ...     _ = database.execute("CREATE TABLE squares (x, square)")
    ...     table = IntoDatabase(path, "INSERT INTO squares VALUES (?, ?)", run="squares")
    ...     for _ in range(2):  # the second time there is nothing left to do
    ...         aggregate(lambda x: (x, x * x), range(4), table, pool=SerialPool())
    ...     print(database.execute("SELECT * FROM squares").fetchall())
    ...     database.close()
    [(0, 0), (1, 1), (2, 4), (3, 9)]
    """

    def __init__(
        self,
        connect: str | os.PathLike[str] | Callable[[], Any],
        statement_or_function: str | Callable[[Any, Any], object],
        *,
        run: str,
        batch: int = 5_000,
        ordered: bool = False,
        patience: float = 60.0,
        private: bool = False,
    ) -> None:
        super().__init__(Database(connect, statement_or_function, run, batch, patience, private), ordered)

    def __repr__(self) -> str:
        text = repr(self.resource)
        return f"{text[:-1]}, ordered=True)" if self.ordered else text


class Database:
    """The resource behind `IntoDatabase`."""

    def __init__(self, connect: Any, write: Any, run: str, batch: int, patience: float, private: bool) -> None:
        self._connect, self._place = connector(connect)
        self._write = write
        if not (isinstance(write, str) and write.strip()) and not callable(write):
            raise TypeError(f"IntoDatabase takes a statement, or a function of a cursor and a partial, not {write!r}")
        if not isinstance(run, str) or not 0 < len(run) <= 200 or not run.isprintable():
            raise ValueError(f"run is the name of the run, a text of 1 to 200 characters, not {run!r}")
        self._patience = checked_seconds("patience", patience, zero=True)
        self._run, self._batch, self._private = run, checked_count("batch", batch), private
        self._session: Session | None = None
        self._applied: list[Any] = []
        self._ledger, self._pieces = b"", list[str]()  # as they are in the database

    @property
    def known_by(self) -> Any:
        """The statement or function and the name of the run identify it; the database does not."""
        return self._write, self._run

    @property
    def private(self) -> bool:
        """True if only this user can write the ledger."""
        return self._private or (isinstance(self._place, str) and self.exposure is None)

    @property
    def exposure(self) -> str | None:
        """How another user can write the ledger, as text; known only of a database that was given by its path."""
        if not isinstance(self._place, str):
            return None
        opened_file = None if self._session is None else self._session.file
        return exposure_of_database(opened_file or os.path.realpath(self._place))

    @property
    def full(self) -> bool:
        """True if a batch is complete."""
        return len(self._applied) >= self._batch

    def __repr__(self) -> str:
        return f"IntoDatabase({_shown(self._place)}, {_shown(self._write)}, run={self._run!r})"

    # -- the protocol --------------------------------------------------------------------------------------------------

    def begin(self) -> bytes | None:
        """Connect, lock, and read the ledger of the run."""
        self.rollback()
        try:
            self._pieces = self._persistently(self._first_look)
            self._ledger = joined(self._pieces)
            return self._ledger if self._pieces else None
        except BaseException:
            self.rollback()
            raise

    def apply(self, partial: Any) -> None:
        """Buffer a partial for the next batch."""
        if isinstance(self._write, str) and not isinstance(partial, (tuple, list, Mapping)):
            raise TypeError(
                f"{self!r} takes partials that are tuples, lists or dicts, the parameters of the statement, not "
                f"{short_repr(partial)}: return a tuple, or make one with .of(lambda partial: (partial,))"
            )
        self._applied.append(partial)

    def commit(self, ledger: bytes) -> None:
        """Write the batch and the ledger, and try again as long as that may help."""
        pieces = cut(ledger, self._ledger, self._pieces)
        self._persistently(lambda: self._commit_once(pieces))
        self._ledger, self._pieces = ledger, pieces
        self._applied.clear()

    def rollback(self) -> None:
        """Forget the uncommitted partials, and disconnect; an interrupted call may be repeated."""
        self._applied.clear()
        self._disconnect()

    # -- one attempt ---------------------------------------------------------------------------------------------------

    def _first_look(self) -> list[str]:
        try:
            session = self._connected()
        except Exception as error:  # waiting helps against a lock, not against a wrong address
            if _is_of_database(error) and not is_locked(error):
                raise ResourceError(f"{self!r}: no connection to the database: {error}") from error
            raise
        self._lock(session, min(self._patience, OTHERS))
        return self._read(session)

    def _connected(self) -> Session:
        """Begin a session. An interrupt ends the wait for the server and leaks no connection."""
        with interrupts_held_back():
            made: list[Any] = []
            try:
                with interrupts_allowed():
                    made.append(self._connect())
                self._session = session = opened(made[0])
            except BaseException:  # an interrupt at the end of the wait, or not a connection
                for connection in made:
                    with contextlib.suppress(Exception):
                        connection.close()
                raise
        return session

    def _lock(self, session: Session, patience: float) -> None:
        """Acquire the lock on the run, or raise."""
        try:
            held = within(patience, lambda: session.acquire(self._run))
        except OSError as error:
            raise ResourceError(f"{self!r}: the lock file next to the database cannot be created: {error}") from error
        if not held:
            raise ResourceError(
                f"{self!r}: another run of this name is writing into the database: wait for its end, or give this one "
                "a name of its own"
            )
        if callable(self._write):
            session.prepare_guard()

    def _read(self, session: Session) -> list[str]:
        """Read the ledger's pieces from the database; there are none before the first commit."""
        query = f"SELECT number, piece FROM {TABLE} WHERE run = ? ORDER BY number"
        try:
            rows = session.rows(query, self._run)
        except Exception as error:
            if passes(error) or not _is_of_database(error):
                raise
            self._make_table(session)
            rows = session.rows(query, self._run)
        session.rollback()
        pieces = [str(piece) for _, piece in rows]
        if pieces and pieces[0] == OPEN:
            self._half_written(pieces)
        if [number for number, _ in rows] != [*range(len(rows))] or not are_whole(pieces):
            raise ResourceError(f"{self!r}: its ledger, in the table {TABLE}, is damaged: it was left as it is")
        return pieces

    def _make_table(self, session: Session) -> None:
        session.rollback()
        try:
            session.start()
            session.execute(SCHEMA)
            session.commit()
        except Exception as error:
            session.rollback()
            try:
                session.rows(f"SELECT count(*) FROM {TABLE}")  # another run may have created it first
            except Exception:
                raise error from None

    def _commit_once(self, pieces: list[str]) -> None:
        session = self._session
        if session is None:
            session = self._connected()
            self._lock(session, self._patience)
            if (found := self._read(session)) == pieces:  # the last attempt succeeded, and only its reply was lost
                return
            if found != self._pieces:
                self._overtaken()
        session.start()
        self._open_ledger(session)
        self._write_partials(session)
        self._write_ledger(session, pieces)
        session.commit()

    def _open_ledger(self, session: Session) -> None:
        """Mark the ledger open, only if it is the one that this run knows; any other writer has changed it."""
        if not self._pieces:
            self._insert(session, 0, OPEN)
            return
        update = f"UPDATE {TABLE} SET piece = ? WHERE run = ? AND number = 0 AND piece = ?"
        if session.execute(update, OPEN, self._run, self._pieces[0]).rowcount != 1:
            self._overtaken()

    def _write_ledger(self, session: Session, pieces: list[str]) -> None:
        """Write the new ledger, only if the old one is marked open: else the transaction that marked it has ended."""
        for number in range(1, max(len(pieces), len(self._pieces))):
            old, new = self._pieces[number : number + 1], pieces[number : number + 1]
            if old != new and old:
                session.execute(f"DELETE FROM {TABLE} WHERE run = ? AND number = ?", self._run, number)
            if old != new and new:
                self._insert(session, number, *new)
        update = f"UPDATE {TABLE} SET piece = ? WHERE run = ? AND number = 0 AND piece = ?"
        if session.execute(update, pieces[0], self._run, OPEN).rowcount != 1:
            self._meddled()

    def _insert(self, session: Session, number: int, piece: str) -> None:
        session.execute(f"INSERT INTO {TABLE} (run, number, piece) VALUES (?, ?, ?)", self._run, number, piece)

    def _write_partials(self, session: Session) -> None:
        if not self._applied:
            return
        if not isinstance(self._write, str):
            self._call(self._write, session)
            return
        try:
            session.cursor.executemany(self._write, self._applied)
        except Exception as error:
            if len(self._applied) > 1 and not passes(error):
                self._suspects(session)
            raise

    def _call(self, write: Callable[[Any, Any], object], session: Session) -> None:
        """Call the function with each partial; raise if it ends the transaction."""
        cursor, ended, error = session.cursor, session.ended, None
        with session.guarded():
            for partial in self._applied:
                try:
                    write(cursor, partial)
                except Exception as raised:
                    error = raised
                if ended():
                    self._meddled(error)
                if error is not None:
                    self._note(error, partial)
                    raise error
        if ended():
            self._meddled()

    def _note(self, error: Exception, partial: Any) -> None:
        error.add_note(
            f"poolagg: raised by {self!r}, of the partial {short_repr(partial)}. Nothing of its batch is in the "
            "database; the same call again goes on from there"
        )

    def _meddled(self, error: Exception | None = None) -> NoReturn:
        raise ResourceError(
            f"{self!r}: {_shown(self._write)} has ended the transaction of its batch, or tried to: by commit(), "
            "rollback(), executescript(), a switch to autocommit, or a statement that does so. The ledger of the batch "
            "was not written. Remove that from it, and make the same call again"
        ) from error

    def _half_written(self, pieces: list[str]) -> NoReturn:
        """Raise for a ledger that is marked open: a function has committed only a part of its batch."""
        run = self._run.replace("'", "''")
        mend = f"DELETE FROM {TABLE} WHERE run = '{run}'"
        if pieces[1:]:
            mend = f"UPDATE {TABLE} SET piece = '{checksum(joined(pieces))}' WHERE run = '{run}' AND number = 0"
        raise ResourceError(
            f"{self!r}: a part of a batch is in the database without its ledger, because {_shown(self._write)} has "
            "committed. Nothing was added, so that no row is there twice. Restore a copy; or delete the rows that came "
            f'after the last whole batch, and then execute "{mend}"'
        )

    def _suspects(self, session: Session) -> None:
        """Write the partials of a refused batch one by one, to name the one at fault in the error."""
        session.rollback()
        session.start()
        for partial in self._applied:
            try:
                session.cursor.execute(self._write, partial)
            except Exception as error:
                self._note(error, partial)
                raise

    def _overtaken(self) -> NoReturn:
        raise ResourceError(
            f"{self!r}: another run of this name has written into the database since this one last did. Nothing was "
            "written twice, and this run has ended; to continue, make one call at a time"
        )

    def _disconnect(self) -> None:
        with interrupts_held_back():
            session = self._session
            if session is None:
                return
            try:
                with interrupts_allowed():
                    session.leave()
            finally:
                self._session = None
                session.close()

    # -- repeated attempts ---------------------------------------------------------------------------------------------

    def _persistently(self, attempt: Callable[[], T]) -> T:
        """Repeat `attempt`, each time in a new session, while it fails of a transient error; return its result."""
        until, seconds = monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                return attempt()
            except BaseException as error:
                self._disconnect()
                if not passes(error):
                    self._tell(error)
                    raise
                if monotonic() >= until:
                    raise ResourceError(
                        f"{self!r}: given up after {self._patience} s: {said(error)}. Nothing is half applied: what "
                        "was committed before is in the database, and the same call again goes on from there"
                    ) from error
            seconds = pause(seconds)

    def _tell(self, error: BaseException) -> None:
        """Raise ResourceError for an error of the database itself, not of the statement."""
        name, state = getattr(error, "sqlite_errorname", "") or "", getattr(error, "sqlstate", "") or ""
        if name.startswith(_OF_THE_DISK) or state.startswith(("53", "58")):
            raise ResourceError(
                f"{self!r}: the database cannot be written: {said(error)} {name}{state}. Nothing is half applied: "
                "what was committed before is there, and the same call again goes on from it"
            ) from error


_OF_THE_DISK = tuple(
    f"SQLITE_{what}" for what in ("FULL", "IOERR", "READONLY", "CANTOPEN", "PERM", "AUTH", "NOTADB", "CORRUPT")
)


def _shown(what: Any) -> str:
    """Return a text's repr, or a function's name."""
    return short_repr(what) if isinstance(what, str) else str(getattr(what, "__qualname__", type(what).__name__))


def _is_of_database(error: BaseException) -> bool:
    """Return whether a driver raised the error: all drivers use the class name of PEP 249."""
    return any(kind.__name__ == "Error" and kind.__module__ != "builtins" for kind in type(error).__mro__)
