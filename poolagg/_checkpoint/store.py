"""Where a checkpoint is kept: in a file, which each commit replaces in one step, or as the ledger of a resource.

A resource commits the ledger and what was applied to it in one step, or neither. A file is locked while a run uses it;
the lock goes over to each new file, and the kernel gives it back when the process ends, however it ends. To read a
file takes no lock, for a file with the name of the checkpoint is always whole.

Rule: a state is a pickle. A file is read only if this user alone can have written it, which is looked at
before the file is opened and again of what is open. A resource that others may write must not hold a state, and a run
that keeps no state opens none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from typing import NoReturn
from weakref import WeakValueDictionary

from poolagg._checkpoint.checkpoint import LONGEST_HEAD, NOTHING, CheckpointData, check_format
from poolagg._runtime.files import (
    Exposed,
    OpenFile,
    check_folder_is_writable,
    create,
    errors_of_the_disk,
    exposure_of_file,
    open_own,
    read,
    remove,
    replace,
    within,
)
from poolagg._runtime.interrupts import interrupts_held_back
from poolagg.errors import CheckpointError, ResourceError
from poolagg.resources import Resource

__all__ = ["FileStore", "ResourceStore", "Store", "is_private", "look"]

PATIENCE = 0.25
"""Seconds that a lock is waited for: a process that a killed run was just forking has it for a moment."""

TRIES = 10
"""How often a file is opened that has been replaced until it is locked, as each commit of another run does."""


class Store:
    """A checkpoint: `open` claims it for one run, `held` is what was in it then, `commit` replaces that.

    Making one opens nothing, so that its owner has it, and closes it, whatever interrupts `open`.
    """

    full = False
    """True: commit before the time for it has come."""

    anew: str
    """How to begin anew, as part of a sentence."""

    def __init__(self, name: str, key: Hashable) -> None:
        self.name = name
        self._key = key

    def open(self) -> CheckpointData:
        """Claim it, and read what it holds."""
        with interrupts_held_back(), _claiming:
            if self._key in _in_use:
                self._refuse_second()
            _in_use[self._key] = self
        content = self._begin()
        self.held = CheckpointData() if content is None else CheckpointData.decoded(content, self._refuse)
        self._check(self.held)
        return self.held

    def commit(self, data: CheckpointData) -> None:
        """Replace it in one step."""
        self._write(data.encoded())

    def close(self) -> None:
        """Give it free. A call that was interrupted may be made again."""
        try:
            self._end()
        except Exception:
            self._let_go()
            raise
        self._let_go()

    def _let_go(self) -> None:
        with interrupts_held_back():
            if _in_use.get(self._key) is self:
                del _in_use[self._key]

    def _refuse(self, why: str) -> NoReturn:
        raise CheckpointError(f"{self.name} {why}. It was left as it is; to begin anew, {self.anew}")

    def _refuse_second(self) -> NoReturn:
        raise NotImplementedError

    def _begin(self) -> bytes | None:
        """Lock it, and return its bytes."""
        raise NotImplementedError

    def _check(self, held: CheckpointData) -> None:
        """Refuse what must not be opened from here."""

    def _write(self, parts: list[bytes]) -> None:
        """Replace its bytes in one step."""
        raise NotImplementedError

    def _end(self) -> None:
        """Undo `_begin`."""
        raise NotImplementedError


_in_use: WeakValueDictionary[Hashable, Store] = WeakValueDictionary()
"""The stores that runs of this process have open, by the real path of a file or the id of a resource."""

_claiming = threading.Lock()


class FileStore(Store):
    """A file of the checkpoint's own."""

    anew = "delete it or name another path"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._real = os.path.realpath(self.path)
        self._file = OpenFile()
        super().__init__(f"the checkpoint {self.path!r}", self._real)

    def look(self) -> CheckpointData:
        """Return what it holds, of a run that goes on, too. Nothing is unpickled."""
        with errors_of_the_disk(CheckpointError, self.name):
            self._check_owner()
            file = OpenFile()
            try:
                self._open(file, os.O_RDONLY)
                return CheckpointData.decoded(read(file), self._refuse)
            finally:
                file.close()

    def _begin(self) -> bytes:
        with errors_of_the_disk(CheckpointError, self.name):
            self._check_owner()
            if not os.path.lexists(self._real):
                create(self._real, CheckpointData().encoded())
            self._lock()
            check_folder_is_writable(os.path.dirname(self._real))
            self._check_owner()
            return read(self._file)

    def _check(self, held: CheckpointData) -> None:
        with errors_of_the_disk(CheckpointError, self.name):
            remove(f"{self._real}.new")  # of a run that was killed

    def _lock(self) -> None:
        """Open and lock the file that has its name then."""
        for _ in range(TRIES):
            self._open(self._file, os.O_RDWR)
            if not within(PATIENCE, self._file.lock):
                raise CheckpointError(f"{self.name} is in use by another run: wait for its end, or take another path")
            if self._file.has_name(self._real):
                return
            self._file.close()
        self._refuse("was replaced while it was opened: see who can rename files and folders there")

    def _open(self, file: OpenFile, flags: int) -> None:
        try:
            open_own(file, self._real, flags)
        except Exposed as exposed:
            raise CheckpointError(f"the checkpoint {exposed}") from None
        check_format(read(file, LONGEST_HEAD), self._refuse)

    def _write(self, parts: list[bytes]) -> None:
        with errors_of_the_disk(CheckpointError, self.name):
            if os.path.lexists(self._real) and not self._file.has_name(self._real):
                self._refuse("was replaced by another file while a run used it")
            replace(self._real, parts, self._file)

    def _end(self) -> None:
        self._file.close()

    def _check_owner(self) -> None:
        """Refuse what another user can have written, or can write while it is open."""
        if (told := exposure_of_file(self._real)) is not None:
            raise CheckpointError(f"the checkpoint {told}")

    def _refuse_second(self) -> NoReturn:
        raise CheckpointError(
            f"{self.name} is in use by another run of this process: wait for it, or take another path"
        )


def look(path: str | os.PathLike[str]) -> CheckpointData:
    """Return what a checkpoint's file holds, of a run that goes on, too. Nothing is unpickled."""
    return FileStore(path).look()


class ResourceStore(Store):
    """The ledger of a resource that the partials go into."""

    anew = "take another resource: another path, another `run`"

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._begun = False
        super().__init__(f"the ledger in {resource!r}", id(resource))

    @property
    def full(self) -> bool:  # type: ignore[override]
        """Tell whether the resource wants a commit before the time for it has come."""
        return getattr(self._resource, "full", False)

    def _begin(self) -> bytes | None:
        self._begun = True
        try:
            ledger = self._resource.begin()
        except Exception:  # it has refused, and holds nothing; an interruption may have come when it had begun
            self._begun = False
            raise
        return None if ledger is None else bytes(ledger)

    def _check(self, held: CheckpointData) -> None:
        if held.state not in (None, NOTHING) and not is_private(self._resource):
            self._refuse("holds a state, which is a pickle, and others may have written it")

    def _write(self, parts: list[bytes]) -> None:
        self._resource.commit(b"".join(parts))

    def _end(self) -> None:
        if self._begun:
            try:
                self._resource.rollback()
            except Exception:
                self._begun = False
                raise
        self._begun = False

    def _refuse_second(self) -> NoReturn:
        raise ResourceError(f"{self._resource!r} is in use by another run of this process: wait for its end")


def is_private(resource: Resource) -> bool:
    """Tell whether the resource says that nobody but this user can write its ledger."""
    return bool(getattr(resource, "private", False))
