"""Files and memory on Windows; the names are those of `posix`, which describes them.

Python opens files without FILE_SHARE_DELETE. So no process can rename, replace or remove a file that one has open.
"""

from __future__ import annotations

import ctypes
import errno
import msvcrt
import os
import stat
import sys
import time
from ctypes import wintypes
from time import monotonic

from poolagg._runtime.system import windows_acl

assert sys.platform == "win32"  # for type checkers, which then know what Windows alone has

__all__ = [
    "CAN_REPLACE_OPEN_FILES",
    "HOW_TO_KEEP_FILE",
    "HOW_TO_KEEP_FOLDER",
    "NO_FOLLOW",
    "NO_WAIT",
    "open_file",
    "other_owner",
    "other_writers",
    "peak_memory",
    "read_at",
    "rename",
    "sync_folder",
    "try_lock",
    "unlock",
]

NO_FOLLOW = 1 << 30  # for `open_file` alone; Windows has no such flag
NO_WAIT = 0
CAN_REPLACE_OPEN_FILES = False

HOW_TO_KEEP_FILE, HOW_TO_KEEP_FOLDER = windows_acl.HOW_TO_KEEP_FILE, windows_acl.HOW_TO_KEEP_FOLDER
other_owner, other_writers = windows_acl.other_owner, windows_acl.other_writers

LOCKED_BYTE = 1 << 43
"""The byte that a lock locks, 8 TiB behind the start (Wine takes little more): others cannot read locked bytes."""

REFUSED = {0, errno.EACCES, errno.EDEADLK}
"""Errors of `msvcrt.locking` that mean the lock is taken; 0 is Wine's."""

PATIENCE, PAUSE = 2.0, 0.01
"""Seconds to wait for the end of another's reading, and between two looks: Windows tells of no such event."""

_REPLACE_EXISTING, _WRITE_THROUGH = 1, 8

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.MoveFileExW.argtypes = [wintypes.LPCWSTR, wintypes.LPCWSTR, wintypes.DWORD]
_kernel32.GetCurrentProcess.restype = wintypes.HANDLE


def open_file(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file in binary mode; the access rights of a new one are those that its folder gives."""
    if flags & NO_FOLLOW:
        flags &= ~NO_FOLLOW
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return os.open(path, flags | os.O_BINARY | os.O_NOINHERIT, mode)


def try_lock(descriptor: int) -> bool:
    """Lock an open file by one byte of it."""
    try:
        _locking(descriptor, msvcrt.LK_NBLCK)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release the lock."""
    _locking(descriptor, msvcrt.LK_UNLCK)


def _locking(descriptor: int, what: int) -> None:
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, what, 1)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def read_at(descriptor: int, most: int, position: int) -> bytes:
    """Read from a position; the file's own position stays."""
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, position, os.SEEK_SET)
    try:
        return os.read(descriptor, most)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)


def rename(made: str, path: str) -> None:
    """Give a file another name, and return when the disk has it. (`os.replace` does not wait for the disk.)

    A process that reads the file at `path`, such as a virus scanner, prevents the replacement as long as it does.
    """
    until = monotonic() + PATIENCE
    while not _kernel32.MoveFileExW(made, path, _REPLACE_EXISTING | _WRITE_THROUGH):
        error = ctypes.WinError(ctypes.get_last_error())
        if not isinstance(error, PermissionError) or monotonic() >= until:
            raise error
        time.sleep(PAUSE)


def sync_folder(path: str) -> None:
    """Do nothing: `rename` has waited for the disk, and Windows cannot flush a folder."""


class _Counters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS."""

    _fields_ = (
        ("cb", wintypes.DWORD),
        ("page_faults", wintypes.DWORD),
        ("peak_working_set", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def peak_memory() -> tuple[int, int]:
    """Return the peak of this process; Windows keeps none of children that have ended, so theirs is 0."""
    counters = _Counters(cb=ctypes.sizeof(_Counters))
    _kernel32.K32GetProcessMemoryInfo.argtypes = [wintypes.HANDLE, ctypes.POINTER(_Counters), wintypes.DWORD]
    if not _kernel32.K32GetProcessMemoryInfo(_kernel32.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
        return 0, 0
    return counters.peak_working_set, 0
