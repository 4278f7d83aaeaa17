"""Places that partials go into, exactly once: each with a reducer that puts them there, and its outcome.

A partial is a pair of an item and a text. A place is known by a few words (`name`, `folder`, `address`), so that a
script that is to be killed can go on with it: `place(*sys.argv[1:4])`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sqlite3
import sys
from typing import Any

from poolagg import Into
from poolagg.resources import IntoDatabase, IntoFile

NAMES = ("sqlite", "postgres", "file", "own")

INSERT = {"sqlite": "INSERT INTO found VALUES (?, ?)", "postgres": "INSERT INTO found VALUES (%s, %s)"}


def place(name: str, folder: str, address: str = "") -> Position:
    """The place of this name; `address` is that of a PostgreSQL server."""
    kinds = {"sqlite": SQLite, "postgres": PostgreSQL, "file": File, "own": Own}
    return kinds[name](str(folder), address)


def outcome(where: Position) -> list[tuple[int, str]]:
    """The partials that are there, sorted; each as often as it is there."""
    return sorted(where.found())


class Position:
    """A place in a folder, or in a server."""

    def __init__(self, folder: str, address: str) -> None:
        self.folder, self.address = folder, address

    def make(self) -> None:
        """Make it anew, and empty."""

    def into(self, **options: Any) -> Any:
        """A reducer that puts partials there."""
        raise NotImplementedError

    def found(self) -> list[tuple[int, str]]:
        """Return the content."""
        raise NotImplementedError

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)


class SQLite(Position):
    def make(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path("found.db"))) as connection:
            connection.executescript("DROP TABLE IF EXISTS found; CREATE TABLE found (item INTEGER, text TEXT)")

    def into(self, **options: Any) -> Any:
        return IntoDatabase(self.path("found.db"), INSERT["sqlite"], **{"run": "all", "batch": 20, **options})

    def found(self) -> list[tuple[int, str]]:
        with contextlib.closing(sqlite3.connect(self.path("found.db"))) as connection:
            return connection.execute("SELECT item, text FROM found ORDER BY rowid").fetchall()


class PostgreSQL(Position):
    """Its table belongs to the folder, so that each test has one of its own."""

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.address)

    @property
    def table(self) -> str:
        return f"found_{abs(hash_of(self.folder))}"

    def make(self) -> None:
        with self.connect() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {self.table}")
            connection.execute(f"CREATE TABLE {self.table} (number SERIAL, item INTEGER, text TEXT)")

    def into(self, **options: Any) -> Any:
        statement = f"INSERT INTO {self.table} (item, text) VALUES (%s, %s)"
        return IntoDatabase(self.connect, statement, **{"run": self.table, "batch": 20, "private": True, **options})

    def found(self) -> list[tuple[int, str]]:
        with self.connect() as connection:
            return connection.execute(f"SELECT item, text FROM {self.table} ORDER BY number").fetchall()


def hash_of(text: str) -> int:
    """The same in every process."""
    return int.from_bytes(text.encode(), "big") % 1_000_000_007


class File(Position):
    def into(self, **options: Any) -> Any:
        return IntoFile(self.path("found.jsonl"), **options).of(json.dumps)

    def found(self) -> list[tuple[int, str]]:
        if not os.path.exists(self.path("found.jsonl")):
            return []
        with open(self.path("found.jsonl")) as file:
            return [tuple(json.loads(line)) for line in file.read().splitlines()]


class Own(Position):
    """A resource as anyone might write one."""

    def into(self, **options: Any) -> Any:
        return Into(Pickled(self.path("found.pickle")), **options)

    def found(self) -> list[tuple[int, str]]:
        return Pickled(self.path("found.pickle")).load()[0]


if sys.platform == "win32":
    import msvcrt

    def _lock(file: Any) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)

    def _unlock(file: Any) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: Any) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: Any) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)  # forked workers may have it open, too


class Pickled:
    """All partials and the ledger in one file, which is written anew and then renamed."""

    private = True

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> tuple[list[Any], bytes | None]:
        if not os.path.exists(self.path):
            return [], None
        with open(self.path, "rb") as file:
            return pickle.load(file)

    def begin(self) -> bytes | None:
        self.lock = open(f"{self.path}.lock", "w")
        _lock(self.lock)
        self.partials, ledger = self.load()
        return ledger

    def apply(self, partial: Any) -> None:
        self.partials.append(partial)

    def commit(self, ledger: bytes) -> None:
        with open(f"{self.path}.new", "wb") as file:
            pickle.dump((self.partials, ledger), file)
        os.replace(f"{self.path}.new", self.path)

    def rollback(self) -> None:
        _unlock(self.lock)
        self.lock.close()
