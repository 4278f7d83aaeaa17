"""What a function or reducer is, as digests of its parts: whether a checkpoint was made by the same code.

A function is its instructions with the constants they load, its defaults, the values in its closure, and the globals
of its own module that it refers to, functions among them likewise. So a comment, a docstring, a moved line or another
file name is no difference, and a changed constant is one. Rule of the room: what is imported counts by its name alone.
Of another version of Python the instructions differ.
"""

from __future__ import annotations

import dis
import functools
import operator
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from poolagg._stable import dump, plain
from poolagg.functions import per_worker

__all__ = ["differences", "fingerprint"]

_OPERATORS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
_BY_NAME = (MethodDescriptorType, WrapperDescriptorType)
_HAS_DOCSTRING = 0x4000000  # from Python 3.13 on
_SILENT = {"NOP", "EXTENDED_ARG", "CACHE"}

PYTHON = "the version of Python"


def fingerprint(func: Callable[[Any], Any], reducer: Any) -> dict[str, str]:
    """The parts of func and reducer by their names, each as a digest.

    >>> a, b = fingerprint(lambda x: x + 1, None), fingerprint(lambda x: x + 2, None)
    >>> [name for name in a if a[name] != b[name]]
    ["func's code"]
    """
    try:
        return _parts(func, reducer)
    except (RecursionError, ValueError) as error:  # marshal has a limit of its own
        raise ValueError(
            f"func or reducer refers to something that contains itself, or very deep, so that it can't be known again: "
            f"{error}. Say with Checkpoint(path, key=...) what counts as the same"
        ) from error


def _parts(func: Callable[[Any], Any], reducer: Any) -> dict[str, str]:
    walk = _Walk()
    parts = {PYTHON: f"{sys.version_info.major}.{sys.version_info.minor}"}
    if isinstance(func, FunctionType):
        parts |= {f"func's {name}": _digest(part) for name, part in walk.parts(func)}
    else:
        parts["func"] = _digest(walk.described(func))
    parts["the reducer"] = _digest(walk.described(reducer))
    return parts | {f"the global {name!r}": _digest(part) for name, part in sorted(walk.globals.items())}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of the parts that differ, in order; another Python is one only where the code differs with it."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [] if names == [PYTHON] else names


def _digest(value: Any) -> str:
    return blake2b(dump(value), digest_size=16).hexdigest()


class _Walk:
    """One walk over everything that a function or reducer consists of; `globals` are what was found on the way."""

    def __init__(self) -> None:
        self.globals: dict[str, Any] = {}
        self._within: dict[int, int] = {}
        self._in_global = False

    def described(self, value: Any) -> Any:
        """The value as nested tuples of atoms."""
        if id(value) in self._within:
            return "again", self._within[id(value)]
        self._within[id(value)] = len(self._within)
        try:
            return plain(value, self._thing)
        finally:
            del self._within[id(value)]

    def parts(self, function: FunctionType) -> Iterator[tuple[str, Any]]:
        """What a function consists of."""
        yield "code", _code(function.__code__)
        yield "defaults", self.described((function.__defaults__, function.__kwdefaults__))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield f"variable {name!r}", self._contents(cell)
        self._note_globals(function)

    def _contents(self, cell: Any) -> Any:
        try:
            return self.described(cell.cell_contents)
        except ValueError:
            return "empty"

    def _thing(self, value: Any) -> Any:
        if id(value) not in self._within:  # a part of a value that was asked about, and may refer to itself
            return self.described(value)
        if isinstance(value, FunctionType):
            return "function", *self.parts(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, MethodType):
            return "method", self.described(value.__self__), self.described(value.__func__)
        if isinstance(value, ModuleType):
            return "module", value.__name__
        if isinstance(value, (BuiltinFunctionType, MethodWrapperType)):
            owner = value.__self__
            return "builtin", value.__name__, None if owner is None else self.described(owner)
        if isinstance(value, _BY_NAME):
            return "builtin", value.__qualname__
        return self._object(value)

    def _object(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return "partial", self.described((value.func, value.args, value.keywords))
        if isinstance(value, per_worker):  # which has a name that is another in each process
            return "per_worker", self.described((value._factory, value._arguments))
        if isinstance(value, _OPERATORS):
            return type(value).__name__, self.described(value.__reduce__()[1])
        if isinstance(value, re.Pattern):
            return "pattern", self.described((value.pattern, value.flags))
        if isinstance(value, (staticmethod, classmethod)) or hasattr(value, "__wrapped__"):
            return type(value).__name__, self.described(value.__wrapped__)
        if isinstance(value, property):
            return "property", self.described((value.fget, value.fset, value.fdel))
        if type(value).__module__ == "poolagg.pools._share":
            return "share", self.described(value.value)
        if hasattr(type(value), "known_by"):  # a resource holds connections and files, which are others in each process
            return "object", self.described(type(value)), self.described(value.known_by)
        return self._instance(value)

    def _instance(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, dict):
            return "object", self.described(kind), self.described(dict(value))
        if isinstance(value, (list, set, frozenset, deque)):
            return "object", self.described(kind), [self.described(part) for part in value]
        # A global client or logger of some library is another at every start; what a closure holds was put there.
        if _is_of_python(kind.__module__) or (self._in_global and not _is_own(kind.__module__)):
            return "object", self.described(kind)
        own = _is_own(kind.__module__) or kind.__module__.startswith("poolagg.")
        return "object", self.described(kind), self._state(value) if own else self._reduced(value)

    def _reduced(self, value: Any) -> Any:
        """An object of some library, by what it would pickle; one that does not pickle is its type alone."""
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:
            return "?"
        if isinstance(reduced, str):
            return reduced
        return [self.described(list(part) if number > 2 and part else part) for number, part in enumerate(reduced[:5])]

    def _state(self, value: Any) -> Any:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
        state = {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots}}
        return [(name, self.described(state[name])) for name in sorted(state)]

    def _class(self, kind: type) -> Any:
        """Classes of one's own by what they define; others by name."""
        if not _is_own(kind.__module__):
            return "class", kind.__module__, kind.__qualname__
        defined = {name: value for name, value in vars(kind).items() if _is_part(name, value)}
        bases = [self.described(base) for base in kind.__bases__]
        return "class", kind.__qualname__, bases, [(name, self.described(defined[name])) for name in sorted(defined)]

    def _note_globals(self, function: FunctionType) -> None:
        """Note the globals that a function of one's own refers to, and those that these refer to."""
        if not _is_own(function.__module__):
            return
        for name in sorted(_global_names(function.__code__)):
            key = name if function.__module__ == "__main__" else f"{function.__module__}.{name}"
            if name in function.__globals__ and key not in self.globals:
                self.globals[key] = "being walked"
                self.globals[key] = self._global(function.__globals__[name])

    def _global(self, value: Any) -> Any:
        before, self._in_global = self._in_global, True
        try:
            return self.described(value)
        finally:
            self._in_global = before


def _is_own(module: str | None) -> bool:
    """Whether a module's code is the user's own rather than a library's, as far as its name and place tell."""
    root = (module or "").partition(".")[0]
    if root == "__main__":
        return True
    loaded = getattr(sys.modules.get(root), "__file__", None) or ""
    library = _is_of_python(module) or root == "poolagg" or "site-packages" in loaded or "dist-packages" in loaded
    return not library


def _is_of_python(module: str | None) -> bool:
    root = (module or "").partition(".")[0]
    return root != "__main__" and root in sys.stdlib_module_names


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    return [slots] if isinstance(slots, str) else [name for name in slots if not name.startswith("__")]


def _is_part(name: str, value: Any) -> bool:
    """Whether something in a class's namespace was defined there, rather than noted there by Python."""
    if name.startswith("__") and name.endswith("__"):
        return isinstance(value, (FunctionType, staticmethod, classmethod, property))
    return name != "_abc_impl" and type(value).__name__ not in ("member_descriptor", "getset_descriptor")


def _global_names(code: CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_global_names(part) for part in code.co_consts if isinstance(part, CodeType)))


# -- code -------------------------------------------------------------------------------------------------------------


def _code(code: CodeType) -> Any:
    """A function's instructions, with what they load. Where constants and jump targets lie is no part of it."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _SILENT]
    offsets = [step.offset for step in steps]
    flags = code.co_flags & ~_HAS_DOCSTRING
    arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, flags)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return arguments, names, [_step(step, offsets) for step in steps], code.co_exceptiontable


def _step(step: dis.Instruction, offsets: list[int]) -> Any:
    if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
        return step.opname, sum(offset < step.argval for offset in offsets)
    if step.opcode in dis.hasconst:
        return step.opname, plain(step.argval, _constant)
    if isinstance(step.argval, str):
        return step.opname, step.argval, step.arg if step.opname == "LOAD_GLOBAL" and (step.arg or 0) & 1 else None
    return step.opname, step.arg


def _constant(value: Any) -> Any:
    return _code(value) if isinstance(value, CodeType) else repr(value)
