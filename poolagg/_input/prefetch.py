"""`prefetch` pulls an input ahead, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Prefetch", "prefetch"]

T = TypeVar("T")


def prefetch(iterable: Iterable[T], n: int) -> Prefetch[T]:
    """Pull `iterable` on a thread of its own, at most `n` items ahead of whoever iterates.

    For a source that blocks (a socket, a slow disk, a database cursor): it is waited for while the run goes
    on. The items are the same, in the same order, and an exception of the source is raised at its place. The
    thread ends with the source, and when the iterator is closed (`close`, or `with`) or garbage.

    >>> with prefetch(range(5), 2) as numbers:
    ...     list(numbers)
    [0, 1, 2, 3, 4]
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"prefetch() got n={n!r}: write how many items may be pulled ahead, at least 1")
    return Prefetch(iter(iterable), n)


class Prefetch(Generic[T], Iterator[T]):
    """What `prefetch` returns: an iterator and context manager over items that a thread pulls ahead."""

    # The thread holds the link and never this object, which can so be collected while the thread waits.
    def __init__(self, source: Iterator[T], n: int) -> None:
        self._link: _Link[T] = _Link(n)
        threading.Thread(target=_pull, args=(source, self._link), name="poolagg-prefetch", daemon=True).start()

    def __next__(self) -> T:
        if self._link.closed:
            raise StopIteration
        pulled = self._link.items.get()
        if isinstance(pulled, _End):
            self.close()
            raise StopIteration if pulled.error is None else pulled.error
        self._link.room.put(None)
        return pulled[0]

    def close(self) -> None:
        """Pull no more: the thread ends, at once unless it is inside the source. Calling it twice is fine."""
        self._link.closed = True
        self._link.room.put(None)
        self._link.items.put(_End(None))  # for a thread that waits in __next__ meanwhile

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_link"):
            self.close()


class _Link(Generic[T]):
    """What iterator and thread share. SimpleQueue.put is reentrant, so `__del__` may call it at any time."""

    def __init__(self, n: int) -> None:
        self.items: SimpleQueue[tuple[T] | _End] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()  # one None for each item that may be pulled
        self.closed = False
        for _ in range(n):
            self.room.put(None)


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def _pull(source: Iterator[T], link: _Link[T]) -> None:
    try:
        while True:
            link.room.get()
            if link.closed:
                return
            link.items.put((next(source),))
    except StopIteration:
        link.items.put(_End(None))
    except BaseException as error:
        link.items.put(_End(error))
