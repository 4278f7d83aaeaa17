"""Store a checkpoint in a file, which each commit replaces atomically, or as the ledger of a resource.

A resource commits the ledger and the applied partials atomically. A run locks its file; each new file takes the lock
over, and the kernel releases it when the process ends in any way. Reading needs no lock, because the file with the
checkpoint's name is always complete.

Rule: a state is a pickle, so a file is read only if no other user can have written it; this is checked before the file
is opened and again on the open file. A ledger that others may write must hold no state, and a run without state
unpickles none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable
from typing import NoReturn
from weakref import WeakValueDictionary

from poolagg._checkpoint.checkpoint import LONGEST_HEAD, NOTHING, CheckpointData, check_format
from poolagg._runtime.files import (
    OpenFile,
    ReplaceableFile,
    check_folder_is_writable,
    create,
    errors_of_the_disk,
    read,
    remove,
    replace,
    within,
)
from poolagg._runtime.interrupts import interrupts_held_back
from poolagg._runtime.system.ownership import Exposed, exposure_of_file, open_own
from poolagg.errors import CheckpointError, ResourceError
from poolagg.resources import Resource

__all__ = ["FileStore", "ResourceStore", "Store", "is_private", "look"]

PATIENCE = 0.25
"""Seconds to wait for a lock: a process that a killed run was just forking holds it for a moment."""

TRIES = 10
"""Attempts to open and lock a file that another run's commits replace in between."""


class Store:
    """The storage of a checkpoint: `open` claims it for one run, `held` is its content then, `commit` replaces it.

    The constructor opens nothing, so that the owner can always close the store, even if `open` is interrupted.
    """

    full = False
    """True asks the run to commit ahead of the schedule."""

    anew: str
    """The instruction for beginning anew, as part of a sentence."""

    def __init__(self, name: str, key: Hashable) -> None:
        self.name = name
        self._key = key

    def open(self) -> CheckpointData:
        """Claim the store and read its content."""
        with interrupts_held_back(), _claiming:
            if self._key in _in_use:
                self._refuse_second()
            _in_use[self._key] = self
        content = self._begin()
        self.held = CheckpointData() if content is None else CheckpointData.decoded(content, self._refuse)
        self._check(self.held)
        return self.held

    def commit(self, data: CheckpointData) -> None:
        """Replace the content atomically."""
        self._write(data.encoded())

    def close(self) -> None:
        """Release the store; an interrupted call may be repeated."""
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
        """Lock the store and return its bytes, None if it is empty."""
        raise NotImplementedError

    def _check(self, held: CheckpointData) -> None:
        """Refuse content that this store must not hold."""

    def _write(self, parts: list[bytes]) -> None:
        """Replace the bytes atomically."""
        raise NotImplementedError

    def _end(self) -> None:
        """Undo `_begin`."""
        raise NotImplementedError


_in_use: WeakValueDictionary[Hashable, Store] = WeakValueDictionary()
"""The open stores of this process, by the real path of the file or the id of the resource."""

_claiming = threading.Lock()


class FileStore(Store):
    """A checkpoint in a file of its own."""

    anew = "delete it or name another path"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._real = os.path.realpath(self.path)
        self._file = ReplaceableFile(self._real)
        super().__init__(f"the checkpoint {self.path!r}", self._real)

    def look(self) -> CheckpointData:
        """Return the content, also while a run uses the file; unpickle nothing."""
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
            remove(f"{self._real}.new")  # left by a killed run

    def _lock(self) -> None:
        """Open the file and lock it, and try again if it was replaced in between."""
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
        """Refuse a file that another user can have written, or can write while it is open."""
        if (exposure := exposure_of_file(self._real)) is not None:
            raise CheckpointError(f"the checkpoint {exposure}")

    def _refuse_second(self) -> NoReturn:
        raise CheckpointError(
            f"{self.name} is in use by another run of this process: wait for it, or take another path"
        )


def look(path: str | os.PathLike[str]) -> CheckpointData:
    """Return the content of a checkpoint's file, also while a run uses it; unpickle nothing."""
    return FileStore(path).look()


class ResourceStore(Store):
    """A checkpoint in the ledger of the resource that the partials go into."""

    anew = "take another resource: another path, another `run`"

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._begun = False
        super().__init__(f"the ledger in {resource!r}", id(resource))

    @property
    def full(self) -> bool:  # type: ignore[override]
        """True if the resource asks for a commit ahead of the schedule."""
        return getattr(self._resource, "full", False)

    def _begin(self) -> bytes | None:
        self._begun = True
        try:
            ledger = self._resource.begin()
        except Exception:  # a refusal leaves nothing to roll back; after an interruption, it may have begun
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
    """Return whether the resource declares that only this user can write its ledger."""
    return bool(getattr(resource, "private", False))
