"""Read the text of a crash. Only the parent imports this: a worker would take long to start."""

from __future__ import annotations

import os
import re

from poolagg.pools.process import worker_main

__all__ = ["stack_in"]

_FRAME = re.compile(r'  File "(.*)", line \d+ in ')
_WORKER = worker_main.__file__
_PACKAGE = _WORKER.removesuffix(os.path.join("pools", "process", "worker_main.py"))


def stack_in(text: str) -> str | None:
    """Return the stacks in the text of a crash, most recent call first; None if there are none.

    It leaves out the frames that called `func`, and threads of poolagg's own.

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
    if _WORKER not in files and len(files) > 1 and files[1].startswith(_PACKAGE):
        return []  # a thread of poolagg's own
    end = files.index(_WORKER) if _WORKER in files else len(files)
    while end > 1 and files[end - 1].startswith(_PACKAGE):
        end -= 1
    return thread[:end]
