"""The types whose values count by type alone: each process creates its own, and they hold no state of a function.

The list: primitives of threads and processes (locks, threads, executors, all of `multiprocessing`), loggers and their
handlers, open files, sockets, simple queues, random numbers of the system, weak references and collections of them,
event loops, and progress bars of tqdm. Workers get their own of most (`pools/serialization/own_objects.py`). The public
attributes of a user's subclass count as well. Rule: the fingerprint cannot see the state of a type listed here.
"""

from __future__ import annotations

__all__ = ["is_transient"]

_TRANSIENT = {
    *(("_thread", name) for name in ("lock", "LockType", "RLock", "_local")),
    *(("threading", name) for name in ("_RLock", "Condition", "Semaphore", "Event", "Barrier", "Thread")),
    *(("concurrent.futures._base", name) for name in ("Executor", "Future")),
    *(("logging", name) for name in ("Logger", "LoggerAdapter", "Handler")),
    *(("weakref", name) for name in ("ReferenceType", "ProxyType", "CallableProxyType", "finalize")),
    *(("weakref", name) for name in ("WeakKeyDictionary", "WeakValueDictionary")),
    *(("_weakrefset", "WeakSet"), ("asyncio.events", "AbstractEventLoop")),
    *(("_socket", "socket"), ("_ssl", "_SSLContext"), ("subprocess", "Popen"), ("mmap", "mmap")),
    *(("_queue", "SimpleQueue"), ("random", "SystemRandom")),
    *(("tempfile", "_TemporaryFileWrapper"), ("tqdm.std", "tqdm")),
}
_IN_MEMORY = {("_io", "BytesIO"), ("_io", "StringIO")}


def is_transient(kind: type) -> bool:
    """Return whether values of this type count by their type alone.

    >>> import io, logging
    >>> [is_transient(kind) for kind in (logging.RootLogger, io.FileIO, io.BytesIO, list)]
    [True, True, False, False]
    """
    names = {(base.__module__, base.__qualname__) for base in kind.__mro__}
    if ("_io", "_IOBase") in names:
        return names.isdisjoint(_IN_MEMORY)
    return not names.isdisjoint(_TRANSIENT) or any(
        isinstance(module, str) and module.partition(".")[0] == "multiprocessing" for module, _ in names
    )
