"""Plain values: values that unpickle without running the user's code, and containers of these.

A pickler looks up each type in its dispatch table, except the built-in ones that it handles in C. So the table can note
each type that is not plain, and numbers, texts and containers cost nothing.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from abc import ABCMeta
from collections.abc import Callable
from enum import EnumMeta
from types import BuiltinFunctionType, ModuleType
from typing import Any, TypeAlias, TypeVar

__all__ = ["PLAIN", "pickled", "plain"]

T = TypeVar("T", bound=type)

Reduce: TypeAlias = Callable[[Any], Any]

_PATHS = {"PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"}

PLAIN = {
    "array": {"_array_reconstructor", "array"},
    "builtins": {"bytearray", "complex", "frozenset", "range", "set", "slice"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
    "poolagg": {"Block"},
    "numpy": {"dtype", "ndarray"},
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
}
"""The names that the pickle of a plain value may contain, by module: none runs code of the user's."""

_METACLASSES = {ABCMeta, EnumMeta}
"""Metaclasses of classes that are pickled by name. (For `type` itself a pickler looks nothing up.)"""

_reductions: dict[type, Reduce] = {complex: copyreg.dispatch_table[complex]}
"""The known plain types, and the functions that reduce their instances."""

_not_met = dict(PLAIN)
"""The part of `PLAIN` whose modules this process had not imported at the last look."""


def plain(cls: T) -> T:
    """Mark a class as plain: unpickling its instances runs no code of the user's, unless their contents do."""
    # Call a class's own `__reduce__` directly, as `__reduce_ex__` would.
    kind: Any = cls
    direct = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is not object.__reduce__
    _reductions[cls] = kind.__reduce__ if direct else _reduce
    return cls


def pickled(
    value: Any,
    out_of_band: Callable[[pickle.PickleBuffer], Any] | None = None,
    alive: Callable[[], None] | None = None,
) -> tuple[bytes, bool]:
    """Pickle without cloudpickle; return the pickle, and whether all values in it are plain.

    `out_of_band` is a `buffer_callback`. The pickler calls `alive` for each 64 kB of the pickle.
    """
    file = _File(alive)
    pickler = pickle.Pickler(file, 5, buffer_callback=out_of_band)
    pickler.dispatch_table = table = _Table()
    pickler.dump(value)
    return b"".join(file.parts), table.plain


class _File:
    def __init__(self, alive: Callable[[], None] | None) -> None:
        self.parts: list[bytes] = []
        self.write: Callable[[bytes], object] = self.parts.append
        if alive is not None:
            self.write = self._write
            self._alive = alive

    def _write(self, data: bytes) -> None:
        self._alive()
        self.parts.append(data)


class _Table(dict[type, Reduce]):
    """The dispatch table of one pickler; `plain` is true while it has met plain types only."""

    def __init__(self) -> None:
        self.plain = True

    def __missing__(self, cls: type) -> Reduce:
        registered, known = copyreg.dispatch_table.get(cls), _known(cls)
        if registered not in (None, known) or (known is None and cls not in _METACLASSES):
            self.plain = False
        reduce = registered or known
        if reduce is None:
            if issubclass(cls, type):
                raise KeyError(cls)  # a class is pickled by its name
            reduce = _reduce
        self[cls] = reduce
        return reduce


def _reduce(value: Any) -> Any:
    return value.__reduce_ex__(5)


def _known(cls: type) -> Reduce | None:
    """Return the function that reduces instances of a plain type, None for any other type."""
    if cls not in _reductions:
        for name in list(_not_met):
            if (module := _imported(name)) is not None:
                _meet(name, module)
    return _reductions.get(cls)


def _imported(name: str) -> ModuleType | None:
    module = sys.modules.get(name)
    # Another thread may still be importing it.
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def _meet(name: str, module: ModuleType) -> None:
    for attribute in PLAIN[name]:
        value = getattr(module, attribute, None)
        # Skip a class of another module: the program has replaced the attribute.
        if isinstance(value, type) and value.__module__ == name and value not in _reductions:
            plain(value)
    if name == "builtins":
        plain(BuiltinFunctionType)
    if name == "numpy":
        _meet_numpy(module)
    _not_met.pop(name, None)


def _meet_numpy(numpy: Any) -> None:
    """Mark the types of dtypes and of scalars, and the metaclass of dtypes, for which numpy registers a function."""
    for dtype in map(numpy.dtype, numpy.typecodes["All"]):
        plain(type(dtype))
        plain(dtype.type)
    _reductions[type(numpy.dtype)] = copyreg.dispatch_table[type(numpy.dtype)]
