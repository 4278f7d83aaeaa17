"""Read an object's state without pickling it: its slots and `vars()`, or its `__reduce_ex__` value.

Rule: reading attributes runs no hook of the user's. A class's pickling methods run, as they do when a function is sent
to workers, and may raise.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import os
from types import BuiltinFunctionType, MemberDescriptorType
from typing import Any

from poolagg._checkpoint.fingerprint.origin import PACKAGE, is_own, name_of_type
from poolagg.errors import short_repr

__all__ = [
    "HEAP",
    "attributes",
    "has_hooks",
    "hidden_state",
    "is_resource",
    "omitted_attributes",
    "reduced",
    "variables",
]

HEAP = 1 << 9
"""The flag of a type that was created at run time."""

_HOOKS = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")
"""Methods by which a class defines how its instances pickle."""

_COPIED_BY_WRAPS = {*functools.WRAPPER_ASSIGNMENTS, "__annotations__", "__annotate__", "__type_params__"}
"""Attributes that `functools.wraps` copies: names, a docstring, annotations."""


def attributes(value: Any) -> dict[str, Any]:
    """Return the contents of slots and `vars()`, bypassing the hooks of the class."""
    found: dict[str, Any] = {}
    for base in [base for base in type(value).__mro__ if "__slots__" in vars(base)]:
        for name, slot in list(vars(base).items()):
            if type(slot) is MemberDescriptorType:
                with contextlib.suppress(AttributeError):  # nothing was set
                    found[f"{base.__qualname__}.{name}" if name in found else name] = slot.__get__(value)
    return {name: part for name, part in (found | variables(value)).items() if not _is_passing(value, name, part)}


def omitted_attributes(value: Any) -> dict[str, Any]:
    """Return the attributes that pickling may omit: those of a user's class that defines no pickling itself.

    Its base, a library's class such as Counter, may pickle fewer attributes than the subclass adds.
    """
    own = [base for base in type(value).__mro__ if is_own(base.__module__)]
    return attributes(value) if own and not any(name in vars(base) for base in own for name in _HOOKS) else {}


def variables(value: Any) -> dict[str, Any]:
    """Return `vars(value)`, bypassing its hooks, without attributes that only document it."""
    try:
        names = dict(object.__getattribute__(value, "__dict__"))
    except AttributeError:
        return {}
    hidden = _COPIED_BY_WRAPS if "__wrapped__" in names else {"__doc__"}
    return {name: part for name, part in names.items() if name not in hidden}


def _is_passing(value: Any, name: Any, part: Any) -> bool:
    """Return whether an attribute depends on the process.

    It is the process's id, which clients store, the value's own cached hash, or a class's address in pydantic's
    `cls_ref`.
    """
    if name == "cls_ref" and type(value).__module__.startswith("pydantic."):
        return True
    if type(part) is not int or not isinstance(name, str):
        return False
    if name in ("pid", "_pid"):
        return part == os.getpid()
    if name.startswith("_") and name.endswith("hash"):
        with contextlib.suppress(Exception):  # the value may be unhashable
            return part == hash(value)
    return False


def is_resource(kind: type) -> bool:
    """Return whether `known_by` identifies instances: those of resources, and of classes that apply partials to one."""
    methods = ("begin", "apply", "commit", "rollback")
    return hasattr(kind, "known_by") and (
        name_of_type(kind)[0] == PACKAGE or all(callable(getattr(kind, name, None)) for name in methods)
    )


def has_hooks(kind: type) -> bool:
    """Return whether a class, or copyreg for it, defines how its instances pickle."""
    own = any(getattr(kind, name, None) is not getattr(object, name, None) for name in _HOOKS)
    return own or _registered(kind) is not None


def _registered(kind: type) -> Any:
    """Return copyreg's entry for a type; none for exceptions, for which libraries register tracebacks on import."""
    return None if issubclass(kind, BaseException) else copyreg.dispatch_table.get(kind)


def reduced(value: Any) -> Any:
    """Return the value that pickle would get; raise TypeError if it is neither a name nor the parts of a value."""
    kind: Any = type(value)
    reduce = _registered(kind)
    found = kind.__reduce_ex__(value, 4) if reduce is None else reduce(value)
    if not isinstance(found, str) and not (isinstance(found, tuple) and 2 <= len(found) <= 6):
        raise TypeError(f"__reduce_ex__ returned {short_repr(found)}")
    if not isinstance(found, str) and any(part is value for part in found[1]):
        raise TypeError("__reduce_ex__ tells to make the object from itself")
    return found


def hidden_state(value: Any, reduces: bool, plain: set[type]) -> str | None:
    """Return why an object has more state than `vars()` and slots, None if it has not."""
    kind: Any = type(value)
    if reduces or kind.__getattribute__ is not object.__getattribute__:  # reading attributes would run the user's code
        made = next(base for base in kind.__mro__ if not base.__flags__ & HEAP or _makes_itself(base))
        return None if made in (object, list, dict) else f"{kind.__qualname__} does not pickle"
    if kind not in plain:
        try:
            object.__reduce_ex__(value, 2)  # raises if the object has memory besides slots and vars()
        except Exception as error:
            return str(error)
        plain.add(kind)
    return None


def _makes_itself(kind: type) -> bool:
    """Return whether C code of the class itself creates its instances."""
    new = kind.__new__
    return isinstance(new, BuiltinFunctionType) and new.__self__ is kind
