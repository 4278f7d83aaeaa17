"""A process of ours dies with its parent, at once, whatever it is doing.

The parent holds the only writing end of a pipe, and each of its processes a reading end. When the parent is gone,
however it went, the pipe ends; the kernel is asked to say so by SIGIO (O_ASYNC), whose default action kills, even in
the middle of C code that holds the GIL. (PDEATHSIG would follow the thread that forked, not the process.)
Where there is no such thing, a thread waits for the end of the pipe, and C code that holds the GIL delays it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator

__all__ = ["born_deaf", "die_with_parent", "ignore_interrupts"]


def die_with_parent(fd: int) -> None:
    """Die when the pipe whose reading end is `fd` ends. The descriptor is this process's own."""
    if sys.platform == "linux":
        import fcntl  # not everywhere, while threads and the serial pool are

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(fd)
        if poll.poll(0):  # it ended before we asked to be told
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        threading.Thread(target=_wait_for_end, args=(fd,), daemon=True).start()


def _wait_for_end(fd: int) -> None:
    os.read(fd, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def ignore_interrupts() -> None:
    """Ctrl-C is the parent's to handle. A handler that does nothing, for SIG_IGN would be inherited by programs run."""
    signal.set_wakeup_fd(-1)  # a forked child must not wake the parent's event loop
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def born_deaf() -> Iterator[None]:
    """Start processes to which Ctrl-C does nothing, before they say so themselves (`ignore_interrupts`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
