"""The Python stack of a worker at its crash, or when an item exceeds its time: `faulthandler` writes it.

It writes at the level of C, in the handler of a signal, even if C code holds the GIL. The parent asks for a stack by a
signal that ends the worker: a real-time signal, which nothing else sends, or SIGXCPU where there is none.
"""

from __future__ import annotations

import faulthandler
import re
import signal
from pathlib import Path

__all__ = ["ASK", "CRASH", "stack_in", "write_stacks"]

ASK = signal.SIGRTMIN + 13 if hasattr(signal, "SIGRTMIN") else int(signal.SIGXCPU)
"""The signal by which the parent asks for a stack."""

CRASH = "Fatal Python error: "
"""Begins the text of a crash."""

_FRAME = re.compile(r'  File "(.*)", line \d+ in ')
_PACKAGE = Path(__file__).parents[3]
_WORKER = str(Path(__file__).parents[1] / "worker_main.py")


def write_stacks(fd: int) -> None:
    """Have this process write its stack to `fd` when it crashes, and when the parent asks, which ends it, too."""
    faulthandler.enable(fd)
    faulthandler.register(ASK, fd, chain=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {ASK})


def stack_in(text: str) -> str | None:
    """Return the stacks in the text of a crash, most recent call first; None if there are none.

    It leaves out the frames that called `func`.

    >>> print(stack_in(f'''Current thread 0x0 (most recent call first):
    ...   File "hangs.py", line 3 in f
    ...   File "{_WORKER}", line 1 in main'''))
    Current thread 0x0 (most recent call first):
      File "hangs.py", line 3 in f
    """
    threads: list[list[str]] = []
    for line in text.splitlines():
        if line.endswith("(most recent call first):"):
            threads.append([line])
        elif threads and _FRAME.match(line):
            threads[-1].append(line)
        elif not line:
            threads.append([])  # what follows belongs to no thread
    told = [line for thread in threads if len(frames := _of_func(thread)) > 1 for line in frames]
    return "\n".join(told) or None


def _of_func(thread: list[str]) -> list[str]:
    files = [frame[1] if (frame := _FRAME.match(line)) else "" for line in thread]
    end = files.index(_WORKER) if _WORKER in files else len(files)
    while end > 1 and _PACKAGE in Path(files[end - 1]).parents:
        end -= 1
    return thread[:end]
