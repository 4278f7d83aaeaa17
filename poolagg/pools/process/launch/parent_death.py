"""Have a worker or a forkserver die with its parent, at once.

The parent holds the only writing end of a pipe, and each of its processes a reading end. When the parent ends for any
reason, so does the pipe. The kernel then sends SIGIO (O_ASYNC), whose default action kills the process, even within C
code that holds the GIL. (PDEATHSIG would follow the thread that forked, not the process.) On systems without O_ASYNC, a
thread waits for the end of the pipe, and C code that holds the GIL delays it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator

__all__ = ["born_deaf", "die_by_signal", "die_by_thread", "ignore_interrupts"]


def die_by_signal(fd: int) -> None:
    """Die when the pipe whose reading end is `fd` ends. This process owns the descriptor."""
    import fcntl  # not on every system

    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd)
    if poll.poll(0):  # the pipe ended before O_ASYNC was set
        os.kill(os.getpid(), signal.SIGKILL)


def die_by_thread(fd: int) -> None:
    """Die when the pipe whose reading end is `fd` ends, and this thread comes to run."""
    threading.Thread(target=_wait_for_end, args=(fd,), daemon=True).start()


def _wait_for_end(fd: int) -> None:
    os.read(fd, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent. Set an empty handler, since programs that this process runs would inherit SIG_IGN."""
    signal.set_wakeup_fd(-1)  # a forked child must not wake the parent's event loop
    signal.signal(signal.SIGINT, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def born_deaf() -> Iterator[None]:
    """Start processes with Ctrl-C blocked, until they call `ignore_interrupts`.

    Windows has no signal masks: there a worker is in a process group of its own, which Ctrl-C does not reach.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
