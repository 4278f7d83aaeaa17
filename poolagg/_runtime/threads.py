"""Threads that work for another thread, and the thread that a call counts as.

A thread that waits for its own helper must not wait for a pool that the helper uses, nor the helper for the thread's.
So a helper counts as the thread that started it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import Thread
from typing import Any

__all__ = ["HelperThread", "here"]


class HelperThread(Thread):
    """A daemon that does a part of the work of the thread that makes it."""

    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...], name: str) -> None:
        super().__init__(target=target, args=args, name=name, daemon=True)
        self.helps = here.thread


class _Here(threading.local):
    """`here.thread` is the current thread; for a helper, the thread that it helps.

    Not its identifier, which another thread takes over when this one has ended.
    """

    def __init__(self) -> None:
        thread = threading.current_thread()
        self.thread: Thread = thread.helps if isinstance(thread, HelperThread) else thread


here = _Here()
