"""Files: writes in one step, locks that end with their process, and the owners of what is read.

poolagg opens a pickle only from a file that this user alone can have written: a regular file of this user's own, which
no other user may write, in a folder in which no other user may make files. The group of a file does not count as
others if it is this user's private group, which many systems give each user. SQLite reads more than the file that it
is given: it plays back a journal that lies beside a database. So the files beside a database count, too.
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
"""Ends of the names of files that SQLite reads beside a database, and plays back into it."""

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds between two tries, doubled each time; each pause is a random part of that, lest two runs keep step."""

# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Exposed(Exception):
    """Another user can have written the file; the text says how."""


@contextlib.contextmanager
def errors_of_the_disk(kind: type[Exception], name: str, hint: str = "") -> Iterator[None]:
    """Within this, raise an OSError as an error of this kind, with the name of the file and a hint."""
    try:
        yield
    except OSError as error:
        raise kind(f"{name} cannot be read or written: {error}{hint}") from error


def check_folder_is_writable(path: str) -> None:
    """Raise PermissionError if no file can be made in a folder."""
    if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


# -- an open file, and its lock ----------------------------------------------------------------------------------------


class OpenFile:
    """An open file that can be locked. Its lock ends with this process: a forked child closes its copy at once.

    Making one opens nothing, so that its owner has it, and closes it, whatever interrupts `open`.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._locked = False
        _open_files.add(self)

    @property
    def is_open(self) -> bool:
        """Tell whether it is open in this process."""
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
        """Give the lock back, and close the file."""
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
        """Close this file, and be the other one."""
        with interrupts_held_back():
            self.close()
            self._descriptor, other._descriptor = other._descriptor, None
            self._locked, other._locked = other._locked, False

    def _forget(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # the program may have closed it, by `os.closerange`
                os.close(descriptor)


_open_files: weakref.WeakSet[OpenFile] = weakref.WeakSet()


def _in_child() -> None:
    for file in list(_open_files):
        file._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class LockFile:
    """A file that exists to be locked, and is gone when it is not; `kill -9` leaves it behind, empty and unlocked."""

    def __init__(self, path: str) -> None:
        self._path, self._file = path, OpenFile()

    def acquire(self) -> bool:
        """Take the lock, if it is free."""
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
        """Give the lock back."""
        with interrupts_held_back():
            if self._file.is_open:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
                self._file.close()


def pause(seconds: float) -> float:
    """Wait a random part of it; return how long to wait the next time."""
    time.sleep(seconds * random.uniform(0.5, 1.0))
    return min(2 * seconds, LONGEST_PAUSE)


def within(patience: float, attempt: Callable[[], bool]) -> bool:
    """Try it again and again, for so many seconds, and return whether it went well. There is no event to wait for."""
    until, seconds = monotonic() + patience, FIRST_PAUSE
    while not attempt():
        if monotonic() >= until:
            return False
        seconds = pause(seconds)
    return True


# -- reading and writing -----------------------------------------------------------------------------------------------


def read(file: OpenFile, most: int | None = None) -> bytes:
    """Read an open file from its start."""
    most = os.fstat(file.fileno()).st_size if most is None else most
    pieces = list[bytes]()
    done = 0
    while done < most and (piece := os.pread(file.fileno(), most - done, done)):
        pieces.append(piece)
        done += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_all(file: OpenFile, data: bytes | bytearray) -> None:
    """Write all of it."""
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(file.fileno(), view[written:])


def replace(path: str, parts: Iterable[bytes], old: OpenFile | None = None) -> None:
    """Replace the file at a path in one step: after `kill -9`, and after an error, it is the old one or the new one.

    An old file that is open and locked becomes the new one, open and locked. Only one process may do this at a time.
    """
    made = f"{path}.new"
    with interrupts_held_back():
        remove(made)  # of a run that was killed
        with _written(made, parts) as new:
            if old is not None:
                new.lock()
            os.replace(made, path)
            if old is not None:
                old.take(new)
        _sync_folder(os.path.dirname(path))


def create(path: str, parts: Iterable[bytes]) -> None:
    """Make a file in one step, unless another process is quicker.

    `kill -9` leaves a file `*.new` behind, which nobody reads.
    """
    made = f"{path}.{os.urandom(4).hex()}.new"
    with interrupts_held_back():
        with _written(made, parts):
            try:
                os.link(made, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.rename(made, path)
            remove(made)
        _sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def _written(path: str, parts: Iterable[bytes]) -> Iterator[OpenFile]:
    """Make a file of this user's alone that is on the disk; remove it again if an error comes before it has its name.

    An interrupt may come while it is written.
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
    """Remove a file, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _sync_folder(path: str) -> None:
    folder = OpenFile()
    folder.open(path, os.O_RDONLY)
    try:
        os.fsync(folder.fileno())
    finally:
        folder.close()


# -- owners ------------------------------------------------------------------------------------------------------------


def exposure_of_database(path: str) -> str | None:
    """Say how another user can change what SQLite reads from the real path `path`; None if no other user can."""
    beside = (_exposure_of_entry(path + end) for end in BESIDE)
    return exposure_of_file(path) or next((told for told in beside if told is not None), None)


def exposure_of_file(path: str) -> str | None:
    """Say how another user can change or replace the file at the real path `path`; None if no other user can."""
    return _exposure_of_folder(path) or _exposure_of_entry(path)


def exposure(path: str, status: os.stat_result) -> str | None:
    """Say how another user can have written the file at `path`, whose status is this; None if no other user can."""
    if not stat.S_ISREG(status.st_mode):
        return f"{path!r} is not a regular file"
    if status.st_uid != os.geteuid():
        return (
            f"{path!r} belongs to another user (uid {status.st_uid}), and opening it can run code: if you trust what "
            "is in it, make a copy of your own"
        )
    if _others_may_write(path, status):
        return (
            f"others may write {path!r} ({_shown(status)}), and opening it can run code: if you trust what is in it, "
            "chmod 600"
        )
    return None


def open_own(file: OpenFile, path: str, flags: int = os.O_RDONLY) -> None:
    """Open a file that this user alone can have written, by what is open and not by its name; else raise `Exposed`."""
    with interrupts_held_back():
        file.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO would wait
        if (told := exposure(path, os.fstat(file.fileno()))) is not None:
            file.close()
            raise Exposed(told)


def _exposure_of_entry(path: str) -> str | None:
    try:
        return exposure(path, os.lstat(path))
    except FileNotFoundError:
        return None


def _exposure_of_folder(path: str) -> str | None:
    folder = os.path.dirname(path)
    try:
        status = os.lstat(folder)
    except FileNotFoundError:  # no user can make a file there
        return None
    if status.st_uid not in (0, os.geteuid()):
        lies = f"{path!r} lies in {folder!r}, a folder of another user (uid {status.st_uid})"
    elif _others_may_write(folder, status):
        lies = f"{path!r} lies in {folder!r}, where others may make files ({_shown(status)})"
    else:
        return None
    return (
        f"{lies}: another user can put a file in its place or beside it, and opening that can run code. Take a folder "
        "of your own (mkdir -m 700), or chmod go-w that one if it is yours"
    )


def _others_may_write(path: str, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not (_is_private_group(status.st_gid) and not _has_acl(path))


def _is_private_group(number: int) -> bool:
    """Tell whether a group has this user's name, and no other member."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return user.pw_gid == number and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _has_acl(path: str) -> bool:
    """Tell whether users are listed one by one: then the bits of the group are a bound for all of them."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except (OSError, AttributeError):  # it has none, or there is no such thing here
        return False


def _shown(status: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(status.st_mode):o}, uid {status.st_uid}, gid {status.st_gid}"
