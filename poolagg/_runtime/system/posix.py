"""Files, owners and memory on Linux, macOS and other POSIX systems."""

from __future__ import annotations

import fcntl
import os
import stat
import sys

NO_FOLLOW = os.O_NOFOLLOW
"""The flag of `open_file` that refuses a symbolic link."""

NO_WAIT = os.O_NONBLOCK
"""The flag of `open_file` that does not wait for the other end of a FIFO."""

CAN_REPLACE_OPEN_FILES = True
"""Whether a file can get the name of another one that a process has open."""

HOW_TO_KEEP_FILE = "chmod 600"
HOW_TO_KEEP_FOLDER = "(mkdir -m 700), or chmod go-w that one if it is yours"


def open_file(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file, which child processes do not inherit; return its descriptor."""
    return os.open(path, flags | os.O_CLOEXEC, mode)


def try_lock(descriptor: int) -> bool:
    """Lock an open file, unless it is locked by another opening of it, here or in another process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release the lock. (Closing alone leaves it to a copy that a fork has just made.)"""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def read_at(descriptor: int, most: int, position: int) -> bytes:
    """Read from a position, `most` bytes at most."""
    return os.pread(descriptor, most, position)


def rename(made: str, path: str) -> None:
    """Give a file the name `path`, also if there is another one of this name."""
    os.replace(made, path)


def sync_folder(path: str) -> None:
    """Write to disk which names a folder has for which files."""
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def peak_memory() -> tuple[int, int]:
    """Return the peaks of memory, in bytes: of this process, and of its largest child that has ended."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    here, children = (
        resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return here, children


# -- owners ------------------------------------------------------------------------------------------------------------


def other_owner(path: str, status: os.stat_result, *, folder: bool = False) -> str | None:
    """Name the owner of a file or folder if that is another user; a folder may belong to root, too."""
    del path
    own = {os.geteuid(), 0} if folder else {os.geteuid()}
    return None if status.st_uid in own else f"uid {status.st_uid}"


def other_writers(path: str, status: os.stat_result) -> str | None:
    """Tell how users other than the owner may write a file, or make files in a folder; None if they may not."""
    for_all, for_group = status.st_mode & stat.S_IWOTH, status.st_mode & stat.S_IWGRP
    if for_all or (for_group and not (_is_private_group(status.st_gid) and not _has_acl(path))):
        return f"mode {stat.S_IMODE(status.st_mode):o}, uid {status.st_uid}, gid {status.st_gid}"
    return None


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
