"""What a resource is: four methods. `poolagg.testing.check_resource` tries their laws on yours."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Resource"]


class Resource(Protocol):
    """Something of yours that partials go into and that can commit: `Into(resource)` in the reducer's place.

    A run calls `begin`, then any number of times `apply` and now and then `commit`, and at its end, however it ends,
    `rollback`. The ledger is a string of bytes, of some 10 to 50 kB, that means nothing to the resource. The laws:

        what commit(ledger) was given, begin() returns: in this process and in any other, whatever died meanwhile
        what was applied before a commit is there once, in order, from then on
        what was applied since the last commit is gone: after rollback(), and after begin() when a process was killed
        a commit() that raises or is killed has kept both or neither: the ledger, and what was applied

    The two lines that make an object a resource are in `begin` and `commit`: the ledger is read and written in the
    same transaction as everything else. Here with a row for each partial:

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

    Three attributes are looked at if they are there. `full`, true: a commit is wanted before its time, because what was
    applied has become much. `known_by`: what tells, beside the class, whether it is the same resource in another
    process; of what else it holds nothing counts. `private`, true: nobody but this user can write the ledger, so that
    it may hold a pickle: the state of other reducers beside the resource.

    Refuse in `begin` what another process has begun, by a lock that ends with its process: without one, two runs at a
    time would each undo or double what the other did.
    """

    def begin(self) -> bytes | None:
        """Undo what was applied and not committed, and return the last committed ledger; None if there is none."""

    def apply(self, partial: Any, /) -> object:
        """Take a partial. It counts from the next commit on."""

    def commit(self, ledger: bytes, /) -> object:
        """Keep what was applied since the last commit, and the ledger, in one step: both, or neither."""

    def rollback(self) -> object:
        """The run is over: forget what was applied since the last commit, and let go. The next call is `begin`.

        It is called after a `begin` that Ctrl-C has interrupted, too, and again if it was interrupted itself.
        """
