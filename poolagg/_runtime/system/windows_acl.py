"""Owners of files on Windows, and who else may write them: what the file's access control list says.

The system, the administrators and the installer of Windows count as root does elsewhere. An entry that denies is not
looked at, nor which users a group has: so a file may be refused that no other user can write, and never the reverse. A
disk without owners (FAT) belongs to everyone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from ctypes import wintypes

if sys.platform != "win32":  # type checkers then know what Windows alone has
    raise ImportError("this module is for Windows")

__all__ = ["HOW_TO_KEEP_FILE", "HOW_TO_KEEP_FOLDER", "other_owner", "other_writers"]

HOW_TO_KEEP_FILE = 'icacls FILE /inheritance:r /grant:r "%USERNAME%:F"'
HOW_TO_KEEP_FOLDER = '(one in %USERPROFILE% is), or icacls FOLDER /inheritance:r /grant:r "%USERNAME%:(OI)(CI)F"'

ADMINISTRATORS = {
    "S-1-5-18",  # SYSTEM
    "S-1-5-32-544",  # Administrators
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",  # TrustedInstaller
}

OWNERS = {"S-1-3-0", "S-1-3-4"}
"""CREATOR OWNER and OWNER RIGHTS: entries for whoever owns the file."""

WRITES_FILE = 0x2 | 0x4 | 0x10000 | 0x40000 | 0x80000 | 0x10000000 | 0x40000000
"""Rights to write, append, delete, change the rights, take the file over; the generic ones to write and to do all."""

WRITES_FOLDER = WRITES_FILE & ~0x4 | 0x40
"""The same for a folder: without that to make folders in it, and with that to delete what is in it."""

_ALLOWS, _DENIES, _INHERIT_ONLY = {0, 9}, {1, 6, 10, 12}, 0x8
_FILE_OBJECT, _OWNER, _DACL, _QUERY, _TOKEN_USER = 1, 1, 4, 8, 1

_Pointer = ctypes.POINTER(ctypes.c_void_p)

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.GetCurrentProcess.restype = wintypes.HANDLE
_kernel32.CloseHandle.argtypes = [wintypes.HANDLE]
_kernel32.LocalFree.argtypes = [ctypes.c_void_p]

_advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
_advapi32.GetNamedSecurityInfoW.argtypes = [wintypes.LPCWSTR, ctypes.c_int, wintypes.DWORD, *[_Pointer] * 5]
_advapi32.ConvertSidToStringSidW.argtypes = [ctypes.c_void_p, ctypes.POINTER(wintypes.LPWSTR)]
_advapi32.GetAce.argtypes = [ctypes.c_void_p, wintypes.DWORD, _Pointer]
_advapi32.OpenProcessToken.argtypes = [wintypes.HANDLE, wintypes.DWORD, ctypes.POINTER(wintypes.HANDLE)]
_advapi32.GetTokenInformation.argtypes = [
    *(wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD, ctypes.POINTER(wintypes.DWORD)),
]


def other_owner(path: str, status: os.stat_result, *, folder: bool = False) -> str | None:
    """Name the owner of a file or folder if that is neither this user nor an administrator."""
    del status, folder
    owner, _ = _access(path)
    return None if owner in {_this_user(), *ADMINISTRATORS} else f"SID {owner}"


def other_writers(path: str, status: os.stat_result) -> str | None:
    """Name the others who may write a file, or make and delete files in a folder; None if none may."""
    del status
    writes = WRITES_FOLDER if os.path.isdir(path) else WRITES_FILE
    _, allowed = _access(path)
    if allowed is None:
        return "everyone"
    trusted = {_this_user(), *ADMINISTRATORS, *OWNERS}
    others = [f"SID {sid}" for sid, rights in allowed if rights & writes and sid not in trusted]
    return ", ".join(dict.fromkeys(others)) or None


def _access(path: str) -> tuple[str, list[tuple[str, int]] | None]:
    """Return the owner of a file, and which rights it gives to whom; None if it gives all rights to everyone."""
    owner, rights, found = (ctypes.c_void_p() for _ in range(3))
    failed = _advapi32.GetNamedSecurityInfoW(
        path, _FILE_OBJECT, _OWNER | _DACL, ctypes.byref(owner), None, ctypes.byref(rights), None, ctypes.byref(found)
    )
    if failed:
        raise ctypes.WinError(failed)
    try:
        return _sid(owner.value), list(_entries(rights.value)) if rights.value else None
    finally:
        _kernel32.LocalFree(found)


def _entries(rights: int) -> Iterator[tuple[str, int]]:
    """Yield the entries of an access control list that hold for the file itself and allow something."""
    for number in range(ctypes.c_uint16.from_address(rights + 4).value):
        entry = ctypes.c_void_p()
        if not _advapi32.GetAce(rights, number, ctypes.byref(entry)) or entry.value is None:
            raise ctypes.WinError(ctypes.get_last_error())
        kind, flags = (ctypes.c_uint8.from_address(entry.value + offset).value for offset in (0, 1))
        mask = ctypes.c_uint32.from_address(entry.value + 4).value
        if kind in _ALLOWS and not flags & _INHERIT_ONLY:
            yield _sid(entry.value + 8), mask
        elif kind not in _ALLOWS | _DENIES and not flags & _INHERIT_ONLY:  # files have none of these today
            yield f"in an entry of kind {kind}", mask


def _sid(address: int | None) -> str:
    text = wintypes.LPWSTR()
    if not _advapi32.ConvertSidToStringSidW(address, ctypes.byref(text)):
        raise ctypes.WinError(ctypes.get_last_error())
    try:
        return str(text.value)
    finally:
        _kernel32.LocalFree(text)


@functools.cache
def _this_user() -> str:
    token, needed = wintypes.HANDLE(), wintypes.DWORD()
    if not _advapi32.OpenProcessToken(_kernel32.GetCurrentProcess(), _QUERY, ctypes.byref(token)):
        raise ctypes.WinError(ctypes.get_last_error())
    try:
        user = ctypes.create_string_buffer(512)  # a pointer to the SID, and the SID: 84 bytes at most
        if not _advapi32.GetTokenInformation(token, _TOKEN_USER, user, len(user), ctypes.byref(needed)):
            raise ctypes.WinError(ctypes.get_last_error())
        return _sid(ctypes.c_void_p.from_buffer(user).value)
    finally:
        _kernel32.CloseHandle(token)
