"""Files: atomic writes, locks that end with their process, and checks of ownership.

poolagg unpickles only files that no other user can have written: a regular file of this user's own, which no other
user may write, in a folder in which no other user may make files. The private group that many systems give each user
does not count as others. SQLite plays back a journal beside its database, so the checks cover those files, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import stat
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from poolagg._runtime.interrupts import interrupts_allowed, interrupts_held_back

__all__ = [
    "FIRST_PAUSE",
    "Exposed",
    "LockFile",
    "OpenFile",
    "check_folder_is_writable",
    "create",
    "errors_of_the_disk",
    "exposure_of_database",
    "exposure_of_file",
    "open_own",
    "pause",
    "read",
    "remove",
    "replace",
    "within",
    "write_all",
]

BESIDE = ("-journal", "-wal", "-shm")
"""Suffixes of the files that SQLite reads beside a database, and plays back into it."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds between two tries, doubled each time; `pause` waits a random part, so that two runs get out of step."""

# -- errors ------------------------------------------------------------------------------------------------------------


class Exposed(Exception):
    """Another user can have written the file; the message says how."""


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
            self._descriptor = os.open(path, flags | os.O_CLOEXEC, mode)

    def lock(self) -> bool:
        """Lock the file, unless another process or another part of this one has locked it."""
        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._locked = True
        return True

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
                    if self._locked:  # closing alone leaves the lock to a copy that a fork has just made
                        fcntl.flock(descriptor, fcntl.LOCK_UN)
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
                    self._file.open(self._path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW)
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
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
                self._file.close()


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
    while done < most and (part := os.pread(file.fileno(), most - done, done)):
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(file: OpenFile, data: bytes | bytearray) -> None:
    """Write all bytes."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(file.fileno(), view[written:])


def replace(path: str, parts: Iterable[bytes], old: OpenFile | None = None) -> None:
    """Replace the file at a path atomically: after `kill -9`, or an error, the old file or the new one is there.

    `old`, an open and locked file, becomes the new one, open and locked. Only one process may call this at a time.
    """
    made = f"{path}.new"
    with interrupts_held_back():
        remove(made)  # left behind by a run that was killed
        with _written(made, parts) as new:
            if old is not None:
                new.lock()
            os.replace(made, path)
            if old is not None:
                old.take(new)
        _sync_folder(os.path.dirname(path))


def create(path: str, parts: Iterable[bytes]) -> None:
    """Make a file atomically, unless another process is quicker.

    `kill -9` leaves a file `*.new` behind, which poolagg never reads.
    """
    made = f"{path}.{os.urandom(4).hex()}.new"
    with interrupts_held_back():
        with _written(made, parts):
            try:
                os.link(made, path)
            except FileExistsError:
                pass
            except OSError:  # the file system has no links
                os.rename(made, path)
            remove(made)
        _sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def _written(path: str, parts: Iterable[bytes]) -> Iterator[OpenFile]:
    """Write and fsync a new file that only this user can read; remove it if the block raises.

    Interrupts may strike during the write.
    """
    new = OpenFile()
    new.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    try:
        with interrupts_allowed():
            for part in parts:
                write_all(new, part)
            os.fsync(new.fileno())
        yield new
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        new.close()


def remove(path: str) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _sync_folder(path: str) -> None:
    folder = OpenFile()
    folder.open(path, os.O_RDONLY)
    try:
        os.fsync(folder.fileno())
    finally:
        folder.close()


# -- ownership ---------------------------------------------------------------------------------------------------------


def exposure_of_database(path: str) -> str | None:
    """Say how another user can change what SQLite reads from the real path `path`; None if no other user can."""
    beside = (_exposure_of_entry(path + end) for end in BESIDE)
    return exposure_of_file(path) or next((reason for reason in beside if reason is not None), None)


def exposure_of_file(path: str) -> str | None:
    """Say how another user can change or replace the file at the real path `path`; None if no other user can."""
    return _exposure_of_folder(path) or _exposure_of_entry(path)


def exposure(path: str, status: os.stat_result) -> str | None:
    """Say how another user can have written the file at `path`, whose status is this; None if no other user can."""
    if not stat.S_ISREG(status.st_mode):
        return f"{path!r} is not a regular file"
    if status.st_uid != os.geteuid():
        return (
            f"{path!r} belongs to another user (uid {status.st_uid}), and opening it can run code: if you trust its "
            "contents, make a copy of your own"
        )
    if _others_may_write(path, status):
        return (
            f"others may write {path!r} ({_shown(status)}), and opening it can run code: if you trust its contents, "
            "chmod 600"
        )
    return None


def open_own(file: OpenFile, path: str, flags: int = os.O_RDONLY) -> None:
    """Open a file; raise `Exposed` if another user can have written it. The check reads the open file, not the path."""
    with interrupts_held_back():
        file.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # or a FIFO would block
        if (reason := exposure(path, os.fstat(file.fileno()))) is not None:
            file.close()
            raise Exposed(reason)


def _exposure_of_entry(path: str) -> str | None:
    try:
        return exposure(path, os.lstat(path))
    except FileNotFoundError:
        return None


def _exposure_of_folder(path: str) -> str | None:
    folder = os.path.dirname(path)
    try:
        status = os.lstat(folder)
    except FileNotFoundError:  # without the folder no user can make a file in it
        return None
    if status.st_uid not in (0, os.geteuid()):
        where = f"{path!r} lies in {folder!r}, a folder of another user (uid {status.st_uid})"
    elif _others_may_write(folder, status):
        where = f"{path!r} lies in {folder!r}, where others may make files ({_shown(status)})"
    else:
        return None
    return (
        f"{where}: another user can put a file in its place or beside it, and opening that can run code. Take a folder "
        "of your own (mkdir -m 700), or chmod go-w that one if it is yours"
    )


def _others_may_write(path: str, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not (_is_private_group(status.st_gid) and not _has_acl(path))


def _is_private_group(number: int) -> bool:
    """Tell whether a group has this user's name and no other member."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return user.pw_gid == number and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _has_acl(path: str) -> bool:
    """Tell whether the file has an ACL: then the group's bits are the upper bound for all users that it lists."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except (OSError, AttributeError):  # the file has none, or the system has no ACLs
        return False


def _shown(status: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(status.st_mode):o}, uid {status.st_uid}, gid {status.st_gid}"
