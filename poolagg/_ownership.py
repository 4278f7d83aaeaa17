"""Whether this user alone can have written a file: poolagg asks here before it opens a pickle from a file.

SQLite reads more than the file that it is given. It plays back a journal that lies beside a database, so a user who
can make a file in the folder can change the database, even in a sticky folder such as /tmp. Rule of the room: a
database is this user's own if the file, the files beside it, and the folder are. The group of a file does not count
as others if it is this user's private group, which many systems give each user.
"""

from __future__ import annotations

import os
import stat

from poolagg._interrupts import interrupts_held_back

__all__ = ["content_of", "exposure", "exposure_of_database"]

BESIDE = ("", "-journal", "-wal", "-shm")
"""What SQLite reads: the database, and what it plays back into it."""


def exposure_of_database(path: str) -> str | None:
    """Say how another user can change what SQLite reads from the real path `path`; None if no other user can."""
    return _exposure_of_folder(path) or next(
        (told for end in BESIDE if (told := _exposure_of_entry(path + end)) is not None), None
    )


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


def content_of(path: str, most: int | None = None) -> tuple[bytes, os.stat_result, str | None]:
    """Read a file: its content, and its status and exposure, taken from what is open and not from the name.

    Nothing is read of a file that another user can have written.
    """
    with interrupts_held_back():
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO would wait
        try:
            status = os.fstat(descriptor)
            if (told := exposure(path, status)) is not None:
                return b"", status, told
            return _read(descriptor, status.st_size if most is None else most), status, None
        finally:
            os.close(descriptor)


def _read(descriptor: int, most: int) -> bytes:
    pieces = []
    while most and (piece := os.read(descriptor, most)):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


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
        f"{lies}: SQLite plays back a journal that lies there, so that opening it can run code. Take a folder of your "
        "own (mkdir -m 700), or chmod go-w that one if it is yours"
    )


def _others_may_write(path: str, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not (_is_private_group(status.st_gid) and not _has_acl(path))


def _is_private_group(number: int) -> bool:
    """Whether a group has this user's name, and no other member."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return user.pw_gid == number and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _has_acl(path: str) -> bool:
    """Whether users are listed for it one by one: then the bits of the group are a bound for all of them."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except (OSError, AttributeError):  # it has none, or there is no such thing here
        return False


def _shown(status: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(status.st_mode):o}, uid {status.st_uid}, gid {status.st_gid}"
