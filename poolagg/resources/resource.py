"""The interface of a resource: four methods. `poolagg.testing.check_resource` tests their laws on yours."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Resource"]


class Resource(Protocol):
    """An object that takes partials and can commit them: pass `Into(resource)` as the reducer.

    A run calls `begin`, then `apply` any number of times and `commit` now and then, and always `rollback` at its end.
    The ledger is a bytes object of some 10 to 50 kB, opaque to the resource. The laws:

    - `begin()` returns the ledger of the last `commit(ledger)`, in this process and any other, whatever died meanwhile.
    - Partials applied before a commit are stored once, in order, from then on.
    - Partials applied since the last commit are gone after `rollback()`, and after `begin()` if a process was killed.
    - `commit()` is atomic: if it raises or is killed, it has stored both the ledger and the partials, or neither.

    The essential lines are in `begin` and `commit`: they read and write the ledger in the same transaction as the
    partials. Here with a row for each partial:

    >>> import sqlite3
    >>> from poolagg import Into, SerialPool, aggregate
    >>> class Table:
    ...     def __init__(self, connection):
    ...         self.connection = connection
    ...     def begin(self):
    ...         self.connection.rollback()
    ...         return self.connection.execute("SELECT max(ledger) FROM kept").fetchone()[0]
    ...     def apply(self, partial):
    ...         self.connection.execute("INSERT INTO squares VALUES (?)", (partial,))
    ...     def commit(self, ledger):
    ...         self.connection.execute("UPDATE kept SET ledger = ?", (ledger,))
    ...         self.connection.commit()
    ...     def rollback(self):
    ...         self.connection.rollback()
    >>> connection = sqlite3.connect(":memory:")
    >>> _ = connection.execute("CREATE TABLE squares (x)")
    >>> _ = connection.execute("CREATE TABLE kept AS SELECT NULL AS ledger")
    >>> for _ in range(2):  # the second time there is nothing left to do
    ...     aggregate(lambda x: x * x, range(4), Into(Table(connection)), pool=SerialPool())
    >>> connection.execute("SELECT sum(x), count(*) FROM squares").fetchone()
    (14, 4)
    >>> connection.close()

    Three attributes are optional. `full`: true asks for a commit ahead of the schedule, because many partials were
    applied. `known_by`: a value that identifies, with the class, the same resource in another process; no other state
    counts. `private`: true declares that only this user can write the ledger, so that it may hold a pickle: the state
    of other reducers next to the resource.

    Let `begin` refuse a resource that another process has begun, by a lock that ends with its process. Without the
    lock, two simultaneous runs would undo or repeat each other's work.
    """

    def begin(self) -> bytes | None:
        """Undo uncommitted partials, and return the last committed ledger, None if there is none."""

    def apply(self, partial: Any, /) -> object:
        """Take a partial, which counts from the next commit on."""

    def commit(self, ledger: bytes, /) -> object:
        """Store the partials applied since the last commit and the ledger atomically."""

    def rollback(self) -> object:
        """Forget partials applied since the last commit, and release the resource. The next call is `begin`.

        The run calls it also after a `begin` that Ctrl-C has interrupted, and again if it was interrupted itself.
        """
