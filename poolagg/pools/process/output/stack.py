"""The Python stack of a worker at its crash, or when an item exceeds its time: `faulthandler` writes it.

It writes at the level of C, in the handler of a signal, even if C code holds the GIL. The parent asks for a stack by a
signal that ends the worker: a real-time signal, which nothing else sends, or SIGXCPU where there is none.
"""

from __future__ import annotations

import faulthandler
import signal

__all__ = ["ASK", "CRASH", "write_stacks"]

ASK: int = signal.SIGRTMIN + 13 if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGXCPU", 0)
"""The signal by which the parent asks for a stack."""

CRASH = "Fatal Python error: "
"""Begins the text of a crash."""


def write_stacks(fd: int) -> None:
    """Have this process write its stack to `fd` when it crashes, and when the parent asks, which ends it, too."""
    faulthandler.enable(fd)
    faulthandler.register(ASK, fd, chain=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {ASK})
