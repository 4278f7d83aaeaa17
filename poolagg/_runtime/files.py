"""Files: atomic writes, and locks that end with their process.

Windows cannot replace a file that is open. There a file that is to be replaced is locked by another file next to it,
`PATH.lock`, and is closed for the moment of its replacement.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from poolagg._runtime.interrupts import interrupts_allowed, interrupts_held_back
from poolagg._runtime.system import this

__all__ = [
    "FIRST_PAUSE",
    "LockFile",
    "OpenFile",
    "ReplaceableFile",
    "check_folder_is_writable",
    "create",
    "errors_of_the_disk",
    "pause",
    "read",
    "remove",
    "replace",
    "within",
    "write_all",
]

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds between two tries, doubled each time; `pause` waits a random part, so that two runs get out of step."""

# -- errors ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def errors_of_the_disk(kind: type[Exception], name: str, hint: str = "") -> Iterator[None]:
    """Turn an OSError of the block into an error of this kind, with the file's name and a hint."""
    try:
        yield
    except OSError as error:
        raise kind(f"{name} cannot be read or written: {error}{hint}") from error


def check_folder_is_writable(path: str) -> None:
    """Raise PermissionError if this process cannot make files in a folder."""
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


# -- an open file, and its lock ----------------------------------------------------------------------------------------


class OpenFile:
    """An open file with a lock that ends with this process: a forked child closes its copy at once.

    The constructor opens nothing. So the owner holds the object, and can close it, even if an interrupt strikes in
    `open`.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._locked = False
        _open_files.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it is open in this process."""
        return self._descriptor is not None

    def fileno(self) -> int:
        """Return its descriptor."""
        assert self._descriptor is not None
        return self._descriptor

    def open(self, path: str, flags: int, mode: int = 0o600) -> None:
        """Open the file at a path."""
        with interrupts_held_back():
            self._descriptor = this.open_file(path, flags, mode)

    def lock(self) -> bool:
        """Lock the file, unless another process or another part of this one has locked it."""
        self._locked = this.try_lock(self.fileno())
        return self._locked

    def has_name(self, path: str) -> bool:
        """Tell whether the path names this file."""
        try:
            return os.path.samestat(os.fstat(self.fileno()), os.stat(path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Release the lock, and close the file."""
        with interrupts_held_back():
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                try:
                    if self._locked:
                        this.unlock(descriptor)
                finally:
                    self._locked = False
                    os.close(descriptor)

    def take(self, other: OpenFile) -> None:
        """Close this file, and take over the descriptor and the lock of the other."""
        with interrupts_held_back():
            self.close()
            self._descriptor, other._descriptor = other._descriptor, None
            self._locked, other._locked = other._locked, False

    def _forget(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # the program may have closed the descriptor, by `os.closerange`
                os.close(descriptor)


_open_files: weakref.WeakSet[OpenFile] = weakref.WeakSet()


def _in_child() -> None:
    for file in list(_open_files):
        file._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class LockFile:
    """A file that exists only while it is locked; `kill -9` leaves it behind, empty and unlocked."""

    def __init__(self, path: str) -> None:
        self._path, self._file = path, OpenFile()

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        with interrupts_held_back():
            try:
                while True:
                    self._file.open(self._path, os.O_CREAT | os.O_RDWR | this.NO_FOLLOW)
                    if not self._file.lock():
                        self._file.close()
                        return False
                    if self._file.has_name(self._path):  # else its last owner has just removed it
                        return True
                    self._file.close()
            except BaseException:
                self._file.close()
                raise

    def release(self) -> None:
        """Release the lock, and remove the file."""
        with interrupts_held_back():
            if self._file.is_open:
                if not this.CAN_REPLACE_OPEN_FILES:
                    self._file.close()
                with contextlib.suppress(OSError):  # on Windows another process may have it open
                    os.unlink(self._path)
                self._file.close()


class ReplaceableFile(OpenFile):
    """An open file that stays open and locked when `replace` replaces it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._lock_file = None if this.CAN_REPLACE_OPEN_FILES else LockFile(f"{path}.lock")

    def lock(self) -> bool:
        """Lock the file; on Windows, lock another one next to it."""
        return super().lock() if self._lock_file is None else self._lock_file.acquire()

    def close(self) -> None:
        """Release the lock, and close the file."""
        with interrupts_held_back():
            super().close()
            if self._lock_file is not None:
                self._lock_file.release()

    def become(self, new: OpenFile, made: str) -> None:
        """Rename the new file `made`, and take its place."""
        if self._lock_file is None:
            new.lock()
            this.rename(made, self._path)
            self.take(new)
            return
        new.close()
        super().close()
        try:
            this.rename(made, self._path)
        finally:
            self.open(self._path, os.O_RDWR)


def pause(seconds: float) -> float:
    """Wait a random part of `seconds`; return the seconds for the next pause."""
    time.sleep(seconds * random.uniform(0.5, 1.0))
    return min(2 * seconds, LONGEST_PAUSE)


def within(patience: float, attempt: Callable[[], bool]) -> bool:
    """Try again and again for `patience` seconds; return whether a try succeeded. For waits without an event."""
    until, seconds = monotonic() + patience, FIRST_PAUSE
    while not attempt():
        if monotonic() >= until:
            return False
        seconds = pause(seconds)
    return True


# -- reading and writing -----------------------------------------------------------------------------------------------


def read(file: OpenFile, most: int | None = None) -> bytes:
    """Read an open file from its start, `most` bytes at most."""
    most = os.fstat(file.fileno()).st_size if most is None else most
    parts = list[bytes]()
    done = 0
    while done < most and (part := this.read_at(file.fileno(), most - done, done)):
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(file: OpenFile, data: bytes | bytearray) -> None:
    """Write all bytes."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(file.fileno(), view[written:])


def replace(path: str, parts: Iterable[bytes], old: ReplaceableFile | None = None) -> None:
    """Replace the file at a path atomically: after `kill -9`, or an error, the old file or the new one is there.

    `old`, an open and locked file, becomes the new one, open and locked. Only one process may call this at a time.
    """
    made = f"{path}.new"
    with interrupts_held_back():
        remove(made)  # left behind by a run that was killed
        with _written(made, parts) as new:
            if old is not None:
                old.become(new, made)
            else:
                new.close()
                this.rename(made, path)
        this.sync_folder(os.path.dirname(path))


def create(path: str, parts: Iterable[bytes]) -> None:
    """Make a file atomically, unless another process is quicker.

    `kill -9` leaves a file `*.new` behind, which poolagg never reads.
    """
    made = f"{path}.{os.urandom(4).hex()}.new"
    with interrupts_held_back():
        with _written(made, parts) as new:
            new.close()
            try:
                os.link(made, path)
            except FileExistsError:
                pass
            except OSError:  # the file system has no links
                os.rename(made, path)
            remove(made)
        this.sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def _written(path: str, parts: Iterable[bytes]) -> Iterator[OpenFile]:
    """Write and fsync a new file that only this user can read; remove it if the block raises.

    Interrupts may strike during the write.
    """
    new = OpenFile()
    new.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | this.NO_FOLLOW)
    try:
        with interrupts_allowed():
            for part in parts:
                write_all(new, part)
            os.fsync(new.fileno())
        yield new
    except BaseException:
        new.close()
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        new.close()


def remove(path: str) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
