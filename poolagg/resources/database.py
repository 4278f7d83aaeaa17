"""A database: partials are written in batches, each in one transaction with the ledger of the items it came from.

    apply     keeps the partial in memory
    commit    BEGIN; open the ledger, if it is still the one this run knows; all partials; the new ledger, if the old
              one is still open; COMMIT

So a transaction is short, and others can use the database meanwhile. Whatever happens in it, it is begun anew as a
whole: the partials are kept until it has ended. A function that ends the transaction in its middle is found out: after
a rollback the ledger is not open any more, and after a commit it is open for others to see. Rule: nobody
knows what became of a commit that was not answered. A new session looks into the ledger: it is the new one, and all is
there; or the old one, and nothing is.
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
from poolagg._runtime.files import FIRST_PAUSE, exposure_of_database, pause, within
from poolagg._runtime.interrupts import interrupts_allowed, interrupts_held_back
from poolagg.errors import ResourceError, short_repr
from poolagg.reducers import Into
from poolagg.resources.pieces import are_whole, checksum, cut, joined
from poolagg.resources.session import Session, connector, is_locked, opened, passes

__all__ = ["IntoDatabase"]

T = TypeVar("T")

TABLE = "poolagg_ledger"

SCHEMA = f"""CREATE TABLE {TABLE} (
    run VARCHAR(200) NOT NULL, number INTEGER NOT NULL, piece TEXT NOT NULL, PRIMARY KEY (run, number))"""
"""Text, since every database calls bytes by another name. Number 0 is the checksum of the others, put together."""

OPEN = "open"
"""Stands in the place of the checksum from the start of a batch to its end."""

OTHERS = 10.0
"""Seconds at most that another run of the same name is waited for: a server takes a moment to see that it is dead."""


class IntoDatabase(Into):
    """Write each partial into a database, once, whatever dies; the result is None.

    connect    the path of a SQLite database, or a function that opens a connection, by any DB-API driver
    statement  executed with each partial, which must be a tuple, list or dict, as the driver takes it
    function   instead of a statement: called with a cursor and each partial. It must not commit or roll back, and
               SQLite and PostgreSQL are told to refuse that
    run        the name of the run: its ledger is in the table `poolagg_ledger` of the same database, under this name
    batch      partials in a transaction; one is also made when a second, or 50 times what the last one took, has passed
    ordered    keep to the input order
    patience   seconds that a lost connection is waited for, and somebody's lock from the start on
    private    True says that nobody but you can write the ledger's table. Only then may other reducers stand beside
               this one, for their state is a pickle there. At a path it is looked at who can write the file, what
               SQLite reads beside it, and the folder

    The same call again continues the run; another run takes another name. Batches are written in the parent. If one
    has to be written again after its connection was lost, so is all that was in it: a function may be called more than
    once for a partial, and one call counts. Raises `ResourceError` if the database is out of reach, locked or full for
    too long, or the run goes on elsewhere; what the statement or the function raises propagates as it is.

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
        said = repr(self.resource)
        return f"{said[:-1]}, ordered=True)" if self.ordered else said


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
        """What is written decides whether it is the same run, and not where."""
        return self._write, self._run

    @property
    def private(self) -> bool:
        """Whether nobody but this user can write the ledger."""
        return self._private or (isinstance(self._place, str) and self.exposure is None)

    @property
    def exposure(self) -> str | None:
        """How another user can write the ledger, where that can be told: of a database that was given by its path."""
        if not isinstance(self._place, str):
            return None
        opened_file = None if self._session is None else self._session.file
        return exposure_of_database(opened_file or os.path.realpath(self._place))

    @property
    def full(self) -> bool:
        """Whether a batch is complete."""
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
        """Keep it for the next batch."""
        if isinstance(self._write, str) and not isinstance(partial, (tuple, list, Mapping)):
            raise TypeError(
                f"{self!r} takes partials that are tuples, lists or dicts, the parameters of the statement, not "
                f"{short_repr(partial)}: return a tuple, or make one with .of(lambda partial: (partial,))"
            )
        self._applied.append(partial)

    def commit(self, ledger: bytes) -> None:
        """Write the batch and the ledger, as often as it takes."""
        pieces = cut(ledger, self._ledger, self._pieces)
        self._persistently(lambda: self._commit_once(pieces))
        self._ledger, self._pieces = ledger, pieces
        self._applied.clear()

    def rollback(self) -> None:
        """Forget what was applied, and disconnect. A call that was interrupted may be made again."""
        self._applied.clear()
        self._disconnect()

    # -- one try -------------------------------------------------------------------------------------------------------

    def _first_look(self) -> list[str]:
        try:
            session = self._connected()
        except Exception as error:  # a wrong address will not be right in a minute, while a lock may be gone by then
            if _is_of_database(error) and not is_locked(error):
                raise ResourceError(f"{self!r}: no connection to the database: {error}") from error
            raise
        self._lock(session, min(self._patience, OTHERS))
        return self._read(session)

    def _connected(self) -> Session:
        """Begin a session. An interrupt ends the wait for a server, and leaves no connection without an owner."""
        with interrupts_held_back():
            made: list[Any] = []
            try:
                with interrupts_allowed():
                    made.append(self._connect())
                self._session = session = opened(made[0])
            except BaseException:  # an interrupt as the wait ends, or a connection of no driver
                for connection in made:
                    with contextlib.suppress(Exception):
                        connection.close()
                raise
        return session

    def _lock(self, session: Session, patience: float) -> None:
        """Have the lock."""
        try:
            held = within(patience, lambda: session.acquire(self._run))
        except OSError as error:
            raise ResourceError(f"{self!r}: no lock can be made beside the database: {error}") from error
        if not held:
            raise ResourceError(
                f"{self!r}: another run of this name is writing into the database: wait for its end, or give this one "
                "a name of its own"
            )
        if callable(self._write):
            session.prepare_guard()

    def _read(self, session: Session) -> list[str]:
        """The ledger as it is in the database now, in pieces; none if there was no commit yet."""
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
                session.rows(f"SELECT count(*) FROM {TABLE}")  # another run may have been quicker
            except Exception:
                raise error from None

    def _commit_once(self, pieces: list[str]) -> None:
        session = self._session
        if session is None:
            session = self._connected()
            self._lock(session, self._patience)
            if (found := self._read(session)) == pieces:  # the last try got through, and only its answer was lost
                return
            if found != self._pieces:
                self._overtaken()
        session.start()
        self._open_ledger(session)
        self._write_partials(session)
        self._write_ledger(session, pieces)
        session.commit()

    def _open_ledger(self, session: Session) -> None:
        """Only if it is the one that this run knows, which whoever wrote it last has seen to."""
        if not self._pieces:
            self._insert(session, 0, OPEN)
            return
        update = f"UPDATE {TABLE} SET piece = ? WHERE run = ? AND number = 0 AND piece = ?"
        if session.execute(update, OPEN, self._run, self._pieces[0]).rowcount != 1:
            self._overtaken()

    def _write_ledger(self, session: Session, pieces: list[str]) -> None:
        """Last, and only if it is open: else the transaction is not the one that opened it."""
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
        """Call the function with each partial; it must leave the transaction as it is."""
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
            "was not written. Leave that to poolagg, and make the same call again"
        ) from error

    def _half_written(self, pieces: list[str]) -> NoReturn:
        """A commit in the middle of a batch was not refused, and no later one has made it whole."""
        mend = f"UPDATE {TABLE} SET piece = '{checksum(joined(pieces))}' WHERE run = '{self._run}' AND number = 0"
        raise ResourceError(
            f"{self!r}: a part of a batch is in the database without its ledger, for {_shown(self._write)} has "
            "committed, which is not for it to do. Nothing was added to it, lest rows be there twice. Go back to a "
            "copy; or delete the rows that came after the last whole batch, and say so by "
            + (f"{mend!r}" if pieces[1:] else repr(f"DELETE FROM {TABLE} WHERE run = '{self._run}'"))
        )

    def _suspects(self, session: Session) -> None:
        """A batch was refused: write its partials one by one, to raise the same with the one that is to blame."""
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
            "doubled, for it is the other's now; to continue, make one call at a time"
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

    # -- again and again -----------------------------------------------------------------------------------------------

    def _persistently(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, once it does not fail of something that passes; each time from a new session on."""
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
        """What is the matter with the database, and not with what was asked of it, is told with its name."""
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
    """A text as it is written, a function by its name."""
    return short_repr(what) if isinstance(what, str) else str(getattr(what, "__qualname__", type(what).__name__))


def _is_of_database(error: BaseException) -> bool:
    """Whether a driver raised it: all of them have the same names."""
    return any(kind.__name__ == "Error" and kind.__module__ != "builtins" for kind in type(error).__mro__)
