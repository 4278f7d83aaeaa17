"""A value that all workers read, and that lies in memory once: written when it is shared, mapped where it is used.

    share(value) ── pickle, buffers ──▶ sealed memory ◀── map, to read only ── .value, in a worker
                                            │
                                            ▼ what travels: /proc/<pid>/fd/<fd>, and what must be found there

The memory is a descriptor of the process that shares the value, and any process of the machine may open that. So this
needs no help from pools, and works in those of other people. Where there is no such memory, the pickle itself travels.

A process opens a value once, at its first use, and keeps it with the object that refers to it. What a job refers to is
kept from job to job, until one comes that does not (`open_job`): runs that follow each other on one pool open a value
once, and a worker holds no more than its job needs.
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
from poolagg._runtime.interrupts import even_if_interrupted, interrupts_held_back
from poolagg._runtime.sizes import size
from poolagg.pools.process.arena import ArenaBuffers
from poolagg.pools.process.launch.standard_streams import standard_descriptors
from poolagg.pools.serialization.pickling import in_main, main_namespace

__all__ = ["open_job", "pickle_far", "share"]

T = TypeVar("T")

Segments: TypeAlias = Sequence[Any]
"""A pickle, and the buffers that it was made without: bytes, or views of some."""

STEP = 16 << 20
"""Bytes that are allocated at once: a signal handler has its turn in between, and does not undo what was done."""

_IDENT = 16
"""Bytes of a random name, with which the memory begins: descriptors, pids and inodes are used again, this is not."""

_CACHE_LINE = 64


class share(Generic[T]):  # noqa: N801 - reads as the function it is used as
    """A value for all workers: sent once to each, read-only, and without a copy where the platform allows.

    `X = share(array)`, then `X.value` inside `func`. Arrays (of numpy, and what is made of them) lie in memory that all
    processes map, and cannot be written to by workers; everything else is unpickled once in each. It costs one copy,
    and a pickling, at the call: workers see the value as it was then, whatever is done to it later. Here, and in
    threads, `.value` is the very object. The memory is given back when nobody refers to `X` any more.

    Raises TypeError if the value does not pickle, MemoryError if there is no room for it.

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
        """The value; in a worker, the value as it was when it was shared, which may be read and not changed."""
        if self._process != os.getpid():  # not opened yet, or by the process that this one was forked from
            self._keep(self._open())
        return cast(T, self._value)

    def __repr__(self) -> str:
        return f"share({self._kind}, {size(self._size)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self._ident, self._kind, self._size, self._reachable())

    def _store(self, segments: Segments) -> _Memory | _Carried:
        """Put the pickle where others can get it."""
        if not hasattr(os, "memfd_create"):
            return _Carried(tuple(map(bytes, segments)))
        no_space = f"share() has no room for the {size(self._size)} of this {self._kind}"
        with interrupts_held_back():  # until the memory has an owner that closes it
            memory = _Memory.made(self._ident)
            close = weakref.finalize(self, even_if_interrupted, memory.close, self._ident)
        # A process that ends needs no help to close its descriptors, and others may still be opening this one.
        close.atexit = False
        try:
            memory = memory.filled(self._ident, segments, no_space)
            self._holds = memory.is_there(self._ident)
        except BaseException:
            close()
            raise
        if self._holds:
            return memory
        close()  # there is no /proc, or not for others
        return _Carried(tuple(map(bytes, segments)))

    _holds = False
    """Whether the memory is a descriptor of this process, made here or inherited by a fork."""

    def _reachable(self) -> _Memory | _Carried:
        if (values := _apart.get()) is not None:
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
        """Be as if not opened yet."""
        self._process, self._value = 0, None


# -- where a shared value is looked up ---------------------------------------------------------------------------------


class _Registry:
    """The shared values of this process, by their idents."""

    def __init__(self) -> None:
        self.known: weakref.WeakValueDictionary[bytes, share[Any]] = weakref.WeakValueDictionary()
        """Values that this process shared, or that what it unpickled refers to."""
        self._of_job: dict[bytes, share[Any]] = {}
        """Values that the job of this process refers to."""
        self._found: dict[bytes, share[Any]] | None = None
        """Values that the job refers to which is being unpickled."""
        self._came: Mapping[bytes, Segments] = {}
        """Values that came with that job."""

    def attach(self, ident: bytes, kind: str, size: int, source: _Memory | _Carried) -> share[Any]:
        """Give the value if it is known, else one that opens it at its first use."""
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
        """Unpickle a job; let go of values that the job before it referred to, and this one does not."""
        before, self._found, self._came = self._of_job, {}, values
        try:
            return pickle.loads(data)
        finally:
            self._of_job, self._found, self._came = self._found, None, {}
            for ident in before.keys() - self._of_job.keys():
                before[ident]._forget()


_registry = _Registry()

_apart: ContextVar[dict[bytes, Segments] | None] = ContextVar("_apart", default=None)
"""Where values go that what is being pickled refers to, if it is for another machine."""


def _attached(ident: bytes, kind: str, size: int, source: _Memory | _Carried) -> share[Any]:
    """Open what a pickle refers to."""
    return _registry.attach(ident, kind, size, source)


def pickle_far(pickled: Callable[[], bytes]) -> tuple[bytes, dict[bytes, Segments]]:
    """Pickle for other machines; give the pickle and the values it refers to, each a few buffers where they lie."""
    values: dict[bytes, Segments] = {}
    token = _apart.set(values)
    try:
        return pickled(), values
    finally:
        _apart.reset(token)


def open_job(data: Any, values: Mapping[bytes, Segments] | None = None) -> Any:
    """Unpickle a job; `values` came with it."""
    return _registry.open_job(data, values or {})


# -- where its pickle is -----------------------------------------------------------------------------------------------


class _Carried(NamedTuple):
    """A pickle that travels with those who refer to it."""

    carried: Segments

    def segments(self, ident: bytes) -> Segments:
        """The pickle and its buffers."""
        return self.carried

    def __reduce__(self) -> tuple[Any, ...]:
        return _Carried, (tuple(map(bytes, self.carried)),)


class _Memory(NamedTuple):
    """A pickle in memory that a process holds by a descriptor: ident, number of segments, their spans, segments."""

    pid: int
    fd: int
    size: int

    @classmethod
    def made(cls, ident: bytes) -> _Memory:
        """Make memory that holds its name, by which `close` knows it, and nothing else yet."""
        with standard_descriptors():
            fd = os.memfd_create("poolagg-share", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        memory = cls(os.getpid(), fd, len(ident))
        os.pwrite(memory.fd, ident, 0)
        return memory

    def filled(self, ident: bytes, segments: Segments, no_space: str) -> _Memory:
        """Write the pickle down, once and for all: the memory is sealed."""
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
        """The pickle and its buffers, where they lie: nobody can write to them. OSError if they are not there."""
        # The number may stand for something else by now. Opening that must neither wait for a pipe nor be a terminal.
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
        """Whether others can open it: a process that has changed its user hides what it holds from all but itself."""
        try:
            return bool(self.segments(ident)) and os.stat(f"/proc/{self.pid}/fd").st_uid == os.geteuid()
        except OSError:
            return False

    def close(self, ident: bytes) -> None:
        """Let go of it, unless somebody has closed it already, and the number is another file's."""
        with interrupts_held_back():
            try:
                if os.pread(self.fd, _IDENT, 0) == ident:
                    os.close(self.fd)
            except OSError:
                pass  # it is closed, or what has its number now is no file

    @property
    def _path(self) -> str:
        return f"/proc/{self.pid}/fd/{self.fd}"


def _allocate(fd: int, size: int, no_space: str) -> None:
    """Have all pages before the first is written to: later a lack of memory would be a SIGBUS."""
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
    """Nobody can change it any more, or make it shorter under a mapping."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)


# -- its pickle --------------------------------------------------------------------------------------------------------


def _pickled(value: Any) -> Segments:
    """Pickle, plainly if possible, and as a function would if not; a TypeError that says so if it does not pickle."""
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
    """As `dumps_by_value` does: functions of `__main__` arrive in the `__main__` of the process that opens them.

    But that process runs a job, whose globals are later than those of the time when the value was shared, and win.
    """
    import cloudpickle

    from poolagg.pools.serialization.by_value import reduction

    namespace = main_namespace()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if (made_again := reduction(obj)) is not NotImplemented:
                return made_again
            reduced = super().reducer_override(obj)
            if isinstance(obj, FunctionType) and obj.__globals__ is namespace and isinstance(reduced, tuple):
                make, arguments, state, *nothing, setter = in_main(reduced, {})
                return (make, arguments, (setter, state), *nothing, _complete)
            return reduced

    return _dumped(value, Pickler, cloudpickle.Pickler.dispatch_table)


def _complete(function: FunctionType, given: tuple[Any, Any]) -> None:
    """Set up a function of `__main__`, and those globals of it that this process does not have."""
    setter, (attributes, segments) = given
    missing = {
        name: segments["__globals__"][name] for name in segments["__globals__"].keys() - function.__globals__.keys()
    }
    setter(function, (attributes, {**segments, "__globals__": missing}))


def _dumped(value: Any, pickler: Any, table: Mapping[type, Any]) -> Segments:
    """Pickle, with all buffers apart: what lies in the pickle itself is copied by those who open it."""

    class Pickler(pickler):  # type: ignore[misc]
        dispatch_table = {**table, **_reductions()}

    file, out_of_band = io.BytesIO(), ArenaBuffers(0)
    Pickler(file, 5, buffer_callback=out_of_band).dump(value)
    return [file.getvalue(), *(buffer.raw() for buffer in out_of_band)]


def _reductions() -> dict[type, Any]:
    """How to reduce arrays, if there can be any."""
    if "numpy" not in sys.modules:
        return {}
    import numpy as np

    return dict.fromkeys((np.ndarray, np.memmap), _reduce_array)


def _reduce_array(array: Any) -> Any:
    """As an array that is a buffer, which slices of others, dates and those in files are not by themselves."""
    import numpy as np

    if array.dtype.hasobject:
        return array.__reduce_ex__(5)
    plain = np.asarray(array)
    if not plain.flags.forc:
        plain = np.ascontiguousarray(plain)
    if plain.dtype.kind in "mM":
        return np.ndarray.view, (plain.view("i8"), plain.dtype)
    return plain.__reduce_ex__(5)
