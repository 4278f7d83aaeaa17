"""A value that all workers read from one copy in memory: written when it is shared, mapped where it is used.

    share(value) ── pickle, buffers ──▶ sealed memory ◀── map, read-only ── .value, in a worker
                                            │
                                            ▼ sent: /proc/<pid>/fd/<fd>, and an ident to verify

The memory is a descriptor of the process that shares the value, and any process of the machine may open it. So this
needs no support from pools, and works in external ones. Where the system has no such memory, the pickle itself is sent.

A process opens a value once, at its first use, and keeps it with the object that refers to it. It keeps the values of a
job until it opens a job that does not refer to them (`open_job`): successive runs on one pool open a value once, and a
worker holds no more than its job needs.
"""

from __future__ import annotations

import copyreg
import io
import mmap
import os
import pickle
import sys
import weakref
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

from poolagg._runtime.exception_text import works
from poolagg._runtime.interrupts import interrupts_held_back, when_collected
from poolagg._runtime.sizes import size
from poolagg.pools.process.arena import ArenaBuffers
from poolagg.pools.process.descriptors import memory_fd
from poolagg.pools.process.launch.standard_streams import standard_descriptors
from poolagg.pools.serialization.pickling import in_main, pickler_by_value

__all__ = ["open_job", "pickle_far", "share"]

T = TypeVar("T")

Segments: TypeAlias = Sequence[Any]
"""A pickle, followed by its out-of-band buffers: bytes or memoryviews."""

STEP = 16 << 20
"""Bytes that one call allocates: signal handlers run in between, and an interrupted call loses only this much work."""

_IDENT = 16
"""Bytes of a random name at the start of the memory: unlike descriptors, pids and inodes, it is never reused."""

_CACHE_LINE = 64


class share(Generic[T]):  # noqa: N801 - reads as the function it is used as
    """A read-only value for all workers, sent once to each, and without a copy where the platform allows.

    `X = share(array)`, then `X.value` inside `func`. All processes map numpy arrays, and objects made of them, from one
    copy in memory, which workers cannot write to; each worker unpickles everything else once. The call costs one
    pickling and one copy: workers see the value as it was then, even if you change it later. In this process, and so in
    threads, `.value` is the object itself. The memory is freed when the last reference to `X` goes.

    Raises TypeError if the value does not pickle, MemoryError if memory is short.

    >>> import numpy as np
    >>> from poolagg import Sum, aggregate
    >>> X = share(np.arange(1_000_000.0))
    >>> X
    share(ndarray, 8.0 MB)
    >>> aggregate(lambda row: X.value[row], [3, 999_999], Sum(), workers=1)
    1000002.0
    """

    def __init__(self, value: T) -> None:
        segments = _pickled(value)
        self._ident = os.urandom(_IDENT)
        self._kind = type(value).__name__
        self._size = sum(memoryview(segment).nbytes for segment in segments)
        self._source = self._store(segments)
        self._keep(value)
        _registry.known[self._ident] = self

    @property
    def value(self) -> T:
        """The value; in a worker, a read-only copy from when it was shared."""
        if self._process != os.getpid():  # not opened yet, or opened before this process was forked
            self._keep(self._open())
        return cast(T, self._value)

    def __repr__(self) -> str:
        return f"share({self._kind}, {size(self._size)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self._ident, self._kind, self._size, self._reachable())

    def _store(self, segments: Segments) -> _Memory | _Carried:
        """Store the pickle where other processes can read it."""
        no_space = f"share() has no room for the {size(self._size)} of this {self._kind}"
        with interrupts_held_back():  # until the memory has an owner that closes it
            if (memory := _Memory.made(self._ident)) is None:
                return _Carried(tuple(map(bytes, segments)))
            # Not at exit: the system closes descriptors then, and until then other processes may open this one.
            when_collected(self, memory.close, self._ident)
        try:
            memory = memory.filled(self._ident, segments, no_space)
            self._holds = memory.is_there(self._ident)
        except BaseException:
            memory.close(self._ident)
            raise
        if self._holds:
            return memory
        memory.close(self._ident)  # the system has no /proc, or hides it from other processes
        return _Carried(tuple(map(bytes, segments)))

    _holds = False
    """True if the memory is a descriptor of this process, made here or inherited by a fork."""

    def _reachable(self) -> _Memory | _Carried:
        if (values := _collected.get()) is not None:
            values[self._ident] = self._source.segments(self._ident)
            return _Carried(())
        if self._holds and isinstance(self._source, _Memory):
            return self._source._replace(pid=os.getpid())
        return self._source

    def _open(self) -> Any:
        try:
            pickled, *buffers = self._reachable().segments(self._ident)
        except OSError as error:
            raise RuntimeError(
                f"{self!r} can't be opened: {error}. Keep what share() returned for as long as workers use it, in "
                f"the process that shared it, which must be one of this machine"
            ) from error
        return pickle.loads(pickled, buffers=buffers)

    def _keep(self, value: Any) -> None:
        self._value = value
        self._process = os.getpid()

    def _forget(self) -> None:
        """Reset to not opened."""
        self._process, self._value = 0, None


# -- the registry ------------------------------------------------------------------------------------------------------


class _Registry:
    """The shared values of this process, by their idents."""

    def __init__(self) -> None:
        self.known: weakref.WeakValueDictionary[bytes, share[Any]] = weakref.WeakValueDictionary()
        """Values that this process has shared, or to which unpickled objects refer."""
        self._of_job: dict[bytes, share[Any]] = {}
        """Values to which the current job refers."""
        self._found: dict[bytes, share[Any]] | None = None
        """Values found so far in the job that is being unpickled."""
        self._came: Mapping[bytes, Segments] = {}
        """Values that came with that job."""

    def attach(self, ident: bytes, kind: str, size: int, source: _Memory | _Carried) -> share[Any]:
        """Return the known value, else one that opens at its first use."""
        shared = self.known.get(ident)
        if ident in self._came:
            source = _Carried(self._came[ident])
        if shared is None:
            shared = object.__new__(share)
            shared._ident, shared._kind, shared._size, shared._source = ident, kind, size, source
            shared._forget()
            self.known[ident] = shared
        if self._found is not None:
            self._found[ident] = shared
        return shared

    def open_job(self, data: Any, values: Mapping[bytes, Segments]) -> Any:
        """Unpickle a job, and drop values to which only the job before it referred."""
        before, self._found, self._came = self._of_job, {}, values
        try:
            return pickle.loads(data)
        finally:
            self._of_job, self._found, self._came = self._found, None, {}
            for ident in before.keys() - self._of_job.keys():
                before[ident]._forget()


_registry = _Registry()

_collected: ContextVar[dict[bytes, Segments] | None] = ContextVar("_collected", default=None)
"""Collects the values to which a pickle for another machine refers."""


def _attached(ident: bytes, kind: str, size: int, source: _Memory | _Carried) -> share[Any]:
    """Return the value to which a pickle refers."""
    return _registry.attach(ident, kind, size, source)


def pickle_far(pickled: Callable[[], bytes]) -> tuple[bytes, dict[bytes, Segments]]:
    """Pickle for other machines; return the pickle and the buffers of each value to which it refers, not copied."""
    values: dict[bytes, Segments] = {}
    token = _collected.set(values)
    try:
        return pickled(), values
    finally:
        _collected.reset(token)


def open_job(data: Any, values: Mapping[bytes, Segments] | None = None) -> Any:
    """Unpickle a job; `values` came with it."""
    return _registry.open_job(data, values or {})


# -- where the pickle is stored ----------------------------------------------------------------------------------------


class _Carried(NamedTuple):
    """A pickle that is sent along with each reference to it."""

    carried: Segments

    def segments(self, ident: bytes) -> Segments:
        """Return the pickle and its buffers."""
        return self.carried

    def __reduce__(self) -> tuple[Any, ...]:
        return _Carried, (tuple(map(bytes, self.carried)),)


class _Memory(NamedTuple):
    """A pickle in memory behind a process's descriptor. Layout: ident, number of segments, their spans, segments."""

    pid: int
    fd: int
    size: int

    @classmethod
    def made(cls, ident: bytes) -> _Memory | None:
        """Make memory that holds only its ident, by which `close` recognizes it; None where the system has none."""
        with standard_descriptors():
            fd = memory_fd("poolagg-share")
        if fd < 0:
            return None
        memory = cls(os.getpid(), fd, len(ident))
        os.pwrite(memory.fd, ident, 0)
        return memory

    def filled(self, ident: bytes, segments: Segments, no_space: str) -> _Memory:
        """Write the pickle, and seal the memory."""
        spans = array("q", [len(segments)])
        end = _IDENT + 8 * (1 + 2 * len(segments))
        for segment in segments:
            start = -(-end // _CACHE_LINE) * _CACHE_LINE
            end = start + memoryview(segment).nbytes
            spans.extend((start, end))
        _allocate(self.fd, end, no_space)
        for offset, data in zip((0, *spans[1::2]), (ident + spans.tobytes(), *segments), strict=True):
            _write(self.fd, data, offset)
        _seal(self.fd)
        return self._replace(size=end)

    def segments(self, ident: bytes) -> Segments:
        """Return the pickle and its buffers, mapped read-only; raise OSError if the memory is gone."""
        # The number may mean another file by now. Opening it must neither block on a pipe nor acquire a terminal.
        with interrupts_held_back():
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                if os.pread(fd, _IDENT, 0) != ident:
                    raise FileNotFoundError(f"process {self.pid} has closed it")
                memory = memoryview(mmap.mmap(fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ))
            finally:
                os.close(fd)
        (count,) = memory[_IDENT : _IDENT + 8].cast("q")
        spans = memory[_IDENT + 8 : _IDENT + 8 + 16 * count].cast("q").tolist()
        return [memory[start:end] for start, end in zip(spans[::2], spans[1::2], strict=True)]

    def is_there(self, ident: bytes) -> bool:
        """Tell if other processes can open it: the system hides descriptors of a process that has changed its user."""
        try:
            return bool(self.segments(ident)) and os.stat(f"/proc/{self.pid}/fd").st_uid == os.geteuid()
        except OSError:
            return False

    def close(self, ident: bytes) -> None:
        """Close it, unless the program has closed it and the number means another file."""
        with interrupts_held_back():
            try:
                if os.pread(self.fd, _IDENT, 0) == ident:
                    os.close(self.fd)
            except OSError:
                pass  # it is closed, or the number now means a pipe or a socket

    @property
    def _path(self) -> str:
        return f"/proc/{self.pid}/fd/{self.fd}"


def _allocate(fd: int, size: int, no_space: str) -> None:
    """Allocate all pages before writing the first: later, a lack of memory would be a SIGBUS."""
    try:
        for start in range(0, size, STEP):
            os.posix_fallocate(fd, start, min(STEP, size - start))
    except OSError as error:
        raise MemoryError(f"{no_space} ({size:,} bytes): {error}") from error


def _write(fd: int, data: Any, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _seal(fd: int) -> None:
    """Forbid every process to change the file, or to shorten it under a mapping."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)


# -- the pickle --------------------------------------------------------------------------------------------------------


def _pickled(value: Any) -> Segments:
    """Pickle, plainly if possible, else by cloudpickle; raise TypeError if the value does not pickle."""
    try:
        segments = _plainly(value)
        if b"__main__" not in segments[0]:
            return segments
    except Exception:
        if works(_plainly, value):
            raise
    try:
        return _by_value(value)
    except Exception as error:
        if isinstance(error, MemoryError) or works(_by_value, value):
            raise
        raise TypeError(
            f"share() can't pickle this {type(value).__name__}: {type(error).__name__}: {error}. Make it in each "
            f"worker instead: per_worker(a function that makes it)"
        ) from error


def _plainly(value: Any) -> Segments:
    return _dumped(value, pickle.Pickler, copyreg.dispatch_table)


def _by_value(value: Any) -> Segments:
    """Pickle as `dumps_by_value` does: functions of `__main__` join the `__main__` of the process that opens them.

    Globals that this process already has win, since those of its job are more recent than those of the shared value.
    """
    pickler = pickler_by_value(_completing)
    return _dumped(value, pickler, pickler.dispatch_table)


def _completing(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Have `_complete` set a function's state when it is opened."""
    make, arguments, state, *nothing, setter = in_main(reduced, {})
    return (make, arguments, (setter, state), *nothing, _complete)


def _complete(function: FunctionType, given: tuple[Any, Any]) -> None:
    """Set the state of a function of `__main__`, and those of its globals that this process does not have."""
    setter, (attributes, slots) = given
    missing = {name: slots["__globals__"][name] for name in slots["__globals__"].keys() - function.__globals__.keys()}
    setter(function, (attributes, {**slots, "__globals__": missing}))


def _dumped(value: Any, pickler: Any, table: Mapping[type, Any]) -> Segments:
    """Pickle with all buffers out of band, since opening a pickle copies what it contains."""

    class Pickler(pickler):  # type: ignore[misc]
        dispatch_table = {**table, **_reductions()}

    file, out_of_band = io.BytesIO(), ArenaBuffers(0)
    Pickler(file, 5, buffer_callback=out_of_band).dump(value)
    return [file.getvalue(), *(buffer.raw() for buffer in out_of_band)]


def _reductions() -> dict[type, Any]:
    """Return how to reduce arrays, if numpy is imported."""
    if "numpy" not in sys.modules:
        return {}
    import numpy as np

    return dict.fromkeys((np.ndarray, np.memmap), _reduce_array)


def _reduce_array(array: Any) -> Any:
    """Reduce an array to a contiguous buffer, also a slice, an array of dates, or one in a file."""
    import numpy as np

    if array.dtype.hasobject:
        return array.__reduce_ex__(5)
    plain = np.asarray(array)
    if not plain.flags.forc:
        plain = np.ascontiguousarray(plain)
    if plain.dtype.kind in "mM":
        return np.ndarray.view, (plain.view("i8"), plain.dtype)
    return plain.__reduce_ex__(5)
