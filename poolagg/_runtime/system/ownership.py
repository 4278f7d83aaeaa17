"""Checks of ownership: which files can another user have written?

poolagg unpickles only files that no other user can have written: a regular file of this user's own, which no other
user may write, in a folder in which no other user may make files. The private group that many systems give each user
does not count as others. SQLite plays back a journal beside its database, so the checks cover those files, too.
"""

from __future__ import annotations

import os
import stat

from poolagg._runtime.files import OpenFile
from poolagg._runtime.interrupts import interrupts_held_back
from poolagg._runtime.system import this

__all__ = ["Exposed", "exposure_of_database", "exposure_of_file", "open_own"]

BESIDE = ("-journal", "-wal", "-shm")
"""Suffixes of the files that SQLite reads beside a database, and plays back into it."""


class Exposed(Exception):
    """Another user can have written the file; the message says how."""


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
    if (owner := this.other_owner(path, status)) is not None:
        return (
            f"{path!r} belongs to another user ({owner}), and opening it can run code: if you trust its contents, "
            "make a copy of your own"
        )
    if (how := this.other_writers(path, status)) is not None:
        return (
            f"others may write {path!r} ({how}), and opening it can run code: if you trust its contents, "
            f"{this.HOW_TO_KEEP_FILE}"
        )
    return None


def open_own(file: OpenFile, path: str, flags: int = os.O_RDONLY) -> None:
    """Open a file; raise `Exposed` if another user can have written it. The check reads the open file, not the path."""
    with interrupts_held_back():
        file.open(path, flags | this.NO_FOLLOW | this.NO_WAIT)  # or a FIFO would block
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
    if (owner := this.other_owner(folder, status, folder=True)) is not None:
        where = f"{path!r} lies in {folder!r}, a folder of another user ({owner})"
    elif (how := this.other_writers(folder, status)) is not None:
        where = f"{path!r} lies in {folder!r}, where others may make files ({how})"
    else:
        return None
    return (
        f"{where}: another user can put a file in its place or beside it, and opening that can run code. Take a folder "
        f"of your own {this.HOW_TO_KEEP_FOLDER}"
    )
