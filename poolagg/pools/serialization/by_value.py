"""Reduce objects that cloudpickle cannot pickle by value to parts from which they can be rebuilt, or to their names.

    functools.cache, lru_cache      the function and the parameters: the cache starts empty, as in any new process
    functools.singledispatch        the implementations, by class
    functools.cached_property       on Python 3.11 it holds a lock, which is made anew
    functools.partialmethod         from Python 3.14 on it cannot be made without its function
    typing.NewType, type aliases    the name, and its value
    struct.Struct                   its format
    weak dicts, sets, references    the contents; objects without other references vanish again on arrival
    threading.local                 empty, as for a new thread
    itertools.count                 the next number and the step, where they are plain numbers
    random.SystemRandom             it has no state
    json.JSONDecoder                the options of its scanner
    sys.stdout, sys.flags, ...      the worker's own, by name; so for the buffers of the standard streams

Functions may refer to themselves: a recursive one under `cache` has its wrapper among its globals. So the unpickler
first makes each from as little as possible, and then sets the rest as its state.
"""

from __future__ import annotations

import _json
import ast
import functools
import io
import itertools
import random
import struct
import sys
import threading
import typing
import weakref
from collections.abc import Callable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, cast

__all__ = ["is_found_by_name", "reduction"]

_DISPATCHING = cast(Any, functools.singledispatch(abs)).__code__


_ALIAS: Any = getattr(typing, "TypeAliasType", None)
"""The type of a `type` statement's alias, from Python 3.12."""


def reduction(obj: Any) -> Any:
    """Reduce an object, for a pickler's `reducer_override`; return NotImplemented to leave it to cloudpickle."""
    if (reduce := _REDUCTIONS.get(type(obj))) is not None:
        return reduce(obj)
    if isinstance(obj, FunctionType):
        dispatching = obj.__code__ is _DISPATCHING and not is_found_by_name(obj)
        return _reduce_dispatching(obj) if dispatching else NotImplemented
    if isinstance(obj, MethodType) and isinstance(cls := obj.__self__, type) and is_found_by_name(cls):
        # cloudpickle looks for the function of a class method by name, and finds the method.
        return (getattr, (cls, obj.__name__)) if getattr(cls, obj.__name__, None) == obj else NotImplemented
    return NotImplemented if isinstance(obj, _NOT_OF_SYS) else _reduce_of_sys(obj)


def is_found_by_name(obj: Any) -> bool:
    """Tell if a worker can import the object from a module other than `__main__`, not registered to go by value."""
    name, path = getattr(obj, "__module__", None), getattr(obj, "__qualname__", "") or getattr(obj, "__name__", "")
    found = sys.modules.get(name or "")
    if found is None or name == "__main__" or _goes_by_value(name):
        return False
    try:
        return functools.reduce(getattr, path.split("."), found) is obj
    except AttributeError:
        return False


def _goes_by_value(module: Any) -> bool:
    registered = sys.modules["cloudpickle"].list_registry_pickle_by_value()
    return any(f"{module}.".startswith(f"{name}.") for name in registered)


# -- functions ---------------------------------------------------------------------------------------------------------


def _reduce_cached(cached: Any) -> Any:
    if is_found_by_name(cached) or not hasattr(cached, "cache_parameters"):
        return NotImplemented
    attributes = {name: value for name, value in vars(cached).items() if name != "cache_parameters"}
    return _cached, (cached.__wrapped__, cached.cache_parameters()), attributes


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _reduce_dispatching(function: Any) -> Any:
    own = {"register", "dispatch", "registry", "_clear_cache"}
    attributes = {name: value for name, value in vars(function).items() if name not in own}
    attributes |= {name: getattr(function, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(function, name)}
    state = dict(function.registry), attributes
    return _dispatching, (function.__name__,), state, None, None, _complete_dispatching


def _dispatching(name: str) -> Any:
    def stub(argument: Any) -> None: ...

    stub.__name__ = name
    return functools.singledispatch(stub)


def _complete_dispatching(function: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    registry, attributes = state
    for cls, implementation in registry.items():
        function.register(cls, implementation)
    for name, value in attributes.items():
        setattr(function, name, value)


def _reduce_cached_property(own: functools.cached_property[Any]) -> Any:
    return functools.cached_property, (own.func,), {name: value for name, value in vars(own).items() if name != "lock"}


def _reduce_partial_method(own: functools.partialmethod[Any]) -> Any:
    return _partial_method, (own.func, own.args, own.keywords)


def _partial_method(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return functools.partialmethod(function, *arguments, **keywords)


# -- values ------------------------------------------------------------------------------------------------------------


def _reduce_new_type(own: Any) -> Any:
    if is_found_by_name(own):
        return NotImplemented
    return typing.NewType, (own.__name__, own.__supertype__), dict(vars(own))


class _Value:
    """Holds the value of a type alias; a separate object, since an alias may refer to itself."""

    def __init__(self, alias: Any) -> None:
        try:
            self.value = alias.__value__
        except NameError:  # defined for type checkers only
            self.value = Any


_values: dict[int, tuple[Any, _Value]] = {}
"""By id, each alias that was pickled and its one `_Value`; never dropped, since aliases belong to the program."""


def _reduce_alias(own: Any) -> Any:
    if is_found_by_name(own):
        return NotImplemented
    if id(own) not in _values:
        _values[id(own)] = own, _Value(own)
    return _alias, (own.__name__, _values[id(own)][1], own.__type_params__)


def _alias(name: str, value: _Value, parameters: tuple[Any, ...]) -> Any:
    if parameters:
        return _ALIAS(name, value.value, type_params=parameters)
    namespace: dict[str, Any] = {"value": value, "__name__": "__main__"}
    exec(f"type {name} = value.value", namespace)  # an alias is evaluated lazily
    return namespace[name]


def _reduce_struct(own: struct.Struct) -> Any:
    return struct.Struct, (own.format,)


def _reduce_weak_dict(own: Any) -> Any:
    return type(own), (), None, None, iter(list(own.items()))


def _reduce_weak_set(own: Any) -> Any:
    return weakref.WeakSet, (list(own),)


def _reduce_weak_reference(own: Any) -> Any:
    return _weak_reference, (own(),)


class _Gone:
    """The target of a dead reference."""


def _weak_reference(target: Any) -> Any:
    return weakref.ref(_Gone() if target is None else target)


def _reduce_local(_: threading.local) -> Any:
    return threading.local, ()


def _reduce_count(own: Any) -> Any:
    """Reduce a counter by its repr: from Python 3.14 on nothing else tells its state without changing it."""
    try:
        arguments = ast.literal_eval(repr(own).removeprefix("count"))
    except (ValueError, SyntaxError):
        return NotImplemented
    return itertools.count, arguments if isinstance(arguments, tuple) else (arguments,)


def _reduce_system_random(_: random.SystemRandom) -> Any:
    return random.SystemRandom, ()


def _reduce_scanner(own: Any) -> Any:
    return _scanner, ({name: getattr(own, name) for name in _OPTIONS_OF_SCANNERS if hasattr(own, name)},)


def _scanner(options: dict[str, Any]) -> Any:
    return _json.make_scanner(cast(Any, SimpleNamespace(**options)))


_OPTIONS_OF_SCANNERS = (
    *("strict", "object_hook", "object_pairs_hook", "parse_float", "parse_int", "parse_constant"),
    "array_hook",  # from Python 3.15 on
)

# -- what each process has in sys --------------------------------------------------------------------------------------

_STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
_FACTS = ("flags", "float_info", "hash_info", "implementation", "int_info", "thread_info", "version_info")


_NOT_OF_SYS = (type, CodeType, CellType, ModuleType, BuiltinFunctionType)
"""Types of most objects that a function refers to; of these sys has none."""


def _reduce_of_sys(own: Any) -> Any:
    for name in (*_STREAMS, *_FACTS):
        if own is getattr(sys, name, None) and own is not None:
            return _of_sys, (name,)
    if isinstance(own, io.IOBase):
        for name in _STREAMS:
            if own is getattr(getattr(sys, name, None), "buffer", None):
                return _of_sys, (name, "buffer")
    return NotImplemented


def _of_sys(*names: str) -> Any:
    return functools.reduce(getattr, names, cast(Any, sys))


_REDUCTIONS: dict[type, Callable[[Any], Any]] = {
    type(functools.cache(abs)): _reduce_cached,
    functools.cached_property: _reduce_cached_property,
    functools.partialmethod: _reduce_partial_method,
    typing.NewType: _reduce_new_type,
    struct.Struct: _reduce_struct,
    itertools.count: _reduce_count,
    random.SystemRandom: _reduce_system_random,
    _json.make_scanner: _reduce_scanner,
    threading.local: _reduce_local,
    weakref.WeakKeyDictionary: _reduce_weak_dict,
    weakref.WeakValueDictionary: _reduce_weak_dict,
    weakref.WeakSet: _reduce_weak_set,
    weakref.ref: _reduce_weak_reference,
}
if _ALIAS is not None:
    _REDUCTIONS[_ALIAS] = _reduce_alias
