"""`prefetch` pulls an input ahead, on a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from poolagg._runtime.threads import HelperThread

__all__ = ["Prefetch", "prefetch"]

T = TypeVar("T")


def prefetch(iterable: Iterable[T], n: int) -> Prefetch[T]:
    """Pull `iterable` on a thread of its own, at most `n` items ahead of the run.

    Use it for a source that blocks (a socket, a slow disk, a database cursor): the thread waits for the source while
    the run goes on. The iterator yields the same items in the same order, and raises an exception of the source in its
    place. The thread ends when the source ends, and when the iterator is closed (`close`, or `with`) or collected.

    >>> with prefetch(range(5), 2) as numbers:
    ...     list(numbers)
    [0, 1, 2, 3, 4]
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"prefetch() got n={n!r}: write how many items may be pulled ahead, at least 1")
    return Prefetch(iter(iterable), n)


class Prefetch(Generic[T], Iterator[T]):
    """The iterator and context manager that `prefetch` returns, over items that a thread pulls ahead."""

    # The thread refers to the link, never to this object, so this can be collected while the thread waits.
    def __init__(self, source: Iterator[T], n: int) -> None:
        self._link: _Link[T] = _Link(n)
        HelperThread(target=_pull, args=(source, self._link), name="poolagg-prefetch").start()

    def __next__(self) -> T:
        if self._link.closed:
            raise StopIteration
        pulled = self._link.items.get()
        if isinstance(pulled, _End):
            self.close()
            raise StopIteration if pulled.error is None else pulled.error
        self._link.permits.put(None)
        return pulled[0]

    def close(self) -> None:
        """Stop pulling: the thread ends, at once unless it is inside the source. A second call does nothing."""
        self._link.closed = True
        self._link.permits.put(None)
        self._link.items.put(_End(None))  # wakes a thread that waits in __next__

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
    """The queues between iterator and thread. SimpleQueue.put is reentrant, so `__del__` may call it at any time."""

    def __init__(self, n: int) -> None:
        self.items: SimpleQueue[tuple[T] | _End] = SimpleQueue()
        self.permits: SimpleQueue[None] = SimpleQueue()  # one None for each item that the thread may pull
        self.closed = False
        for _ in range(n):
            self.permits.put(None)


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def _pull(source: Iterator[T], link: _Link[T]) -> None:
    try:
        while True:
            link.permits.get()
            if link.closed:
                return
            link.items.put((next(source),))
    except StopIteration:
        link.items.put(_End(None))
    except BaseException as error:
        link.items.put(_End(error))
