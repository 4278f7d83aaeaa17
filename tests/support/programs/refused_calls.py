"""Runs a program on a kernel that refuses some system calls: `refused_calls.py ERROR CALL,CALL... PROGRAM`.

The kernel does so by a filter, as for a container's processes; all that the program starts inherits it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {"memfd_create": 319, "pidfd_send_signal": 424, "pidfd_open": 434},
    "aarch64": {"memfd_create": 279, "pidfd_send_signal": 424, "pidfd_open": 434},
}
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ERRNO, ALLOW = 0x0005_0000, 0x7FFF_0000


def refuse(calls: list[str], error: int) -> None:
    """Have the kernel answer these calls of this process, and of all its children, with an error."""
    numbers = [NUMBERS[platform.machine()][call] for call in calls]
    rules = [(LOAD, 0, 0, 0)]
    rules += [(JUMP_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    rules += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | error)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HP", len(rules), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")


if __name__ == "__main__":
    _, name, refused, *command = sys.argv
    refuse(refused.split(","), getattr(errno, name))
    os.execv(sys.executable, [sys.executable, *command])
