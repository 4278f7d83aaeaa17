"""Workers that a forkserver forks: a pool's use of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poolagg.pools.process.launch.child import PosixChild
from poolagg.pools.process.launch.forkserver.connection import Connection, Forkserver
from poolagg.pools.process.launch.forkserver.kept import give_back, lose, take
from poolagg.pools.process.launch.forkserver.preload import modules_named
from poolagg.pools.process.launch.frozen import advice, is_frozen

__all__ = ["ForkserverLauncher", "ForkserverLost"]


class ForkserverLost(OSError):
    """The forkserver was killed. It may have forked a worker first, so the descriptors must not be used again."""


class ForkserverLauncher:
    """Has the forkserver of this process fork the workers of a pool."""

    def __init__(self, environ: Mapping[str, str], alike: bool, start: Any = None) -> None:
        del start
        self._environ, self._alike = environ, alike
        self._names: list[str] = []
        """The modules that the workers will open."""
        self._preloaded: set[str]
        self.forkserver: Forkserver | None = None
        self._connection: Connection
        self._connect()  # a forkserver starts up in the background; the first launch waits for it

    def _connect(self) -> Connection:
        self._preloaded = set()
        self.forkserver = take(self._environ, self._alike, self)
        try:
            self._connection = self.forkserver.connect()
        except EOFError:  # it has ended, being idle, say
            lose(self.forkserver)
            self.forkserver = take(self._environ, self._alike, self)
            self._connection = self.forkserver.connect()
        return self._connection

    def expect(self, pickles: Sequence[bytes]) -> None:
        """Have the modules that these pickles name imported before the next worker is forked."""
        if self._alike and not is_frozen():
            self._names = modules_named(pickles)

    def launch(self, fds: Sequence[int]) -> PosixChild:
        """Have a worker forked; raise ForkserverLost if the forkserver was killed: the next call starts another."""
        connection = self._connect() if self.forkserver is None else self._connection
        self._preload(connection)
        try:
            pid = connection.fork(fds)
        except EOFError as error:
            if self.forkserver is not None:
                lose(self.forkserver)
            self.close()
            self._alike = False  # an import may have ended it: from now on the workers of this pool import all
            raise ForkserverLost(f"the forkserver ended, and started no worker{advice()}") from error
        try:
            return PosixChild(pid, connection.reap)
        except ProcessLookupError as error:  # init has reaped it
            raise ForkserverLost("the forkserver was killed") from error

    def _preload(self, connection: Connection) -> None:
        wanted = {"", *self._names}  # the empty name: the modules that it has imported before
        if not is_frozen() and not self._preloaded.issuperset(wanted):
            connection.preload(self._names if self._alike else [])
            self._preloaded |= wanted

    def close(self) -> None:
        """Give the forkserver back."""
        forkserver, self.forkserver = self.forkserver, None
        if forkserver is not None:
            self._connection.close()
            give_back(forkserver, self)
