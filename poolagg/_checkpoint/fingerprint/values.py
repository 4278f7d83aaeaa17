"""Describe any value by its state, the same in every process whatever its hashes, addresses and import order are.

A value counts as follows; the first matching line decides:

    numbers, text, bytes, None          by themselves
    containers                          by their contents; the order of a set or of a dict's keys does not count
    functions and classes of the user   by their instructions and definitions, defaults, closures and attributes
    functions, classes and singletons   by their names, if Python or an installed package has them
    modules                             by their names
    arrays of numpy                     by their bytes, types and shapes
    types that `transient.py` lists     by their type
    any other object                    by its `__reduce_ex__` value, if its class or copyreg defines how to pickle it;
                                        otherwise by `vars()`, slots, and the contents of a list or dict among its bases

Any other value is refused, with the path that leads to it; none is ignored. No value is changed, and reading attributes
runs no hook of the user's; but `__reduce_ex__` and its like run, as they do when the function is sent to workers.

`walk.py` goes from object to object, and this file describes each.
"""

from __future__ import annotations

import enum
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from hashlib import sha256
from itertools import chain, count
from operator import attrgetter
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from poolagg._checkpoint.canonical import ATOMS
from poolagg._checkpoint.fingerprint import origin
from poolagg._checkpoint.fingerprint.attributes import (
    HEAP,
    attributes,
    has_hooks,
    hidden_state,
    is_resource,
    omitted_attributes,
    reduced,
    variables,
)
from poolagg._checkpoint.fingerprint.instructions import global_names, instructions
from poolagg._checkpoint.fingerprint.transient import is_transient
from poolagg._checkpoint.fingerprint.walk import Form, Walk
from poolagg._input.worker_state import per_worker

__all__ = ["State"]

_NOTED = {
    *("__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__slots__", "__slotnames__", "_abc_impl"),
    *("__firstlineno__", "__static_attributes__", "__annotations_cache__"),
    *("__pydantic_core_schema__", "__pydantic_validator__", "__pydantic_serializer__"),
}
"""Attributes that Python adds to a class, and those that pydantic derives from the others and that hold addresses."""

_SINGLEDISPATCH = {part for part in functools.singledispatch.__code__.co_consts if isinstance(part, CodeType)}


class State(Walk):
    """A walk that describes any value by its state."""

    def __init__(self) -> None:
        super().__init__()
        self._namespaces: dict[str, dict[int, int]] = {}
        self._ways: dict[type, _Describe] = {}
        self._plain: set[type] = set()
        self._globals_of: dict[str, dict[int, str]] = {}

    # -- the parts of a value ------------------------------------------------------------------------------------------

    def described(self, value: Any) -> Form:
        kind = type(value)
        if (describe := self._ways.get(kind)) is None:
            describe = self._ways[kind] = _way(kind)
        return describe(self, value)

    def _sequence(self, value: Any) -> Form:
        name, types = type(value).__name__, set(map(type, value))
        if types <= ATOMS:
            return name, *value
        if types <= {list, tuple} and ATOMS.issuperset(map(type, chain.from_iterable(value))):
            return name, "rows", value
        return name, *[self.form(part, number) for number, part in enumerate(value)]

    def _mapping(self, mapping: Any) -> Form:
        return "dict", *self._pairs(dict.items(mapping))

    # -- code ----------------------------------------------------------------------------------------------------------

    def has_parts(self, func: Any) -> bool:
        """Return whether func is a function that counts by its parts."""
        return type(func) is FunctionType and not origin.is_imported(func) and func.__code__ not in _SINGLEDISPATCH

    def parts_of(self, function: FunctionType) -> Iterator[tuple[str, Any]]:
        """Yield the parts of a user's function, except its globals."""
        yield "code", function.__code__
        yield "defaults", (function.__defaults__, function.__kwdefaults__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield f"variable {name!r}", cell
        for name in sorted(function.__dict__):
            yield f"attribute {name!r}", function.__dict__[name]

    def _function(self, function: FunctionType) -> Form:
        if origin.is_imported(function):
            return "named", origin.counted_as(function.__module__), function.__qualname__
        if function.__code__ in _SINGLEDISPATCH and hasattr(function, "registry"):
            # Its closure also holds a cache, and a number that counts how many classes are registered anywhere.
            return "singledispatch", self.form(function.registry, ".registry")
        parts = [(name, self.form(part, f" (its {name})")) for name, part in self.parts_of(function)]
        return "function", parts, self.note_globals(function)

    def _cell(self, cell: CellType) -> Form:
        try:
            held = cell.cell_contents
        except ValueError:
            return ("empty cell",)
        return "cell", self.form(held, "")

    def _variable(self, variable: ContextVar[Any]) -> Form:
        try:
            held = variable.get()
        except LookupError:
            return "empty variable", variable.name
        return "variable", variable.name, self.form(held, ".get()")

    def _method(self, method: MethodType) -> Form:
        return "method", self.form(method.__self__, ".__self__"), self.form(method.__func__, ".__func__")

    def _builtin(self, builtin: Any) -> Form:
        owner, module = builtin.__self__, getattr(builtin, "__module__", None)
        if owner is None or isinstance(owner, ModuleType) or origin.is_reached(builtin, module, builtin.__qualname__):
            return "named", origin.counted_as(module), builtin.__qualname__
        return "bound", builtin.__name__, self.form(owner, ".__self__")

    def _descriptor(self, descriptor: Any) -> Form:
        return "descriptor", self.form(descriptor.__objclass__, ".__objclass__"), descriptor.__name__

    def _wrapped(self, wrapper: Any) -> Form:
        """Describe a staticmethod or classmethod."""
        return type(wrapper).__name__, self._class_of(wrapper), self.form(wrapper.__func__, ".__func__")

    def _property(self, value: property) -> Form:
        parts = {"fget": value.fget, "fset": value.fset, "fdel": value.fdel}
        return "property", self._class_of(value), self._names({**attributes(value), **parts})

    def _module(self, module: ModuleType) -> Form:
        if type(module) is ModuleType and sys.modules.get(module.__name__) is not module:
            held = {name: part for name, part in vars(module).items() if not name.startswith("__")}
            return "module", module.__name__, self._names(held)  # created by the user, as a namespace
        return "module", module.__name__

    def note_globals(self, function: FunctionType) -> str | None:
        """Note the globals that a user's function refers to; return the label of its namespace, if it needs one."""
        namespace = function.__globals__
        module = namespace.get("__name__")
        names = [name for name in sorted(global_names(function.__code__)) if name in namespace]
        if not names or not origin.is_own(module):
            return None
        label = self._label(str(module), namespace)
        for name in names:
            key = name if label == "__main__" else f"{label}.{name}"
            if key not in self.referred:
                self.referred[key] = namespace[name]
                self._referrers[f"the global {key!r}"] = self._part
        return label

    def _label(self, module: str, namespace: dict[str, Any]) -> str:
        """Return a namespace's label: the module's name, or `name (2)` for a second namespace of that name."""
        known = self._namespaces.setdefault(module, {})
        number = known.setdefault(id(namespace), len(known) + 1)
        return module if number == 1 else f"{module} ({number})"

    # -- classes -------------------------------------------------------------------------------------------------------

    def _class_of(self, value: Any) -> Form:
        return self.form(type(value), " (its class)")

    def _class(self, kind: type) -> Form:
        """Describe a user's class by its definitions, another by its name."""
        module, name = kind.__module__, kind.__qualname__
        if not origin.is_own(module) and (origin.is_reached(kind, module, name) or not kind.__flags__ & HEAP):
            return "named", *origin.name_of_type(kind)
        bases = [self.form(base, ".__bases__") for base in kind.__bases__]
        defined = {name: part for name, part in vars(kind).items() if name not in _NOTED}
        members: list[Form] = []
        if issubclass(kind, enum.Enum):
            for name, member in kind._member_map_.items():
                defined.pop(name, None)
                members.append((name, self._member_state(member)))
            defined = {name: part for name, part in defined.items() if name == "_missing_" or not _is_sunder(name)}
        return "class", kind.__qualname__, self._class_of(kind), bases, self._names(defined), members

    def _member(self, member: enum.Enum) -> Form:
        return "member", self._class_of(member), self._member_state(member)

    def _member_state(self, member: Any) -> Form:
        """Describe an enum's member without the attributes that Enum adds, some of them only when it is used."""
        more = {name: part for name, part in vars(member).items() if not _is_sunder(name) and name != "__objclass__"}
        return member._name_, self.form(member._value_, "._value_"), self._names(more)

    # -- objects of libraries whose pickles do not show their state ----------------------------------------------------

    def _known_by(self, value: Any, names: tuple[str, ...]) -> Form:
        return "object", self._class_of(value), self._names({name: attrgetter(name)(value) for name in names})

    def _transient(self, value: Any) -> Form:
        """Describe a transient value by its type and the public attributes that a user's class adds."""
        more = attributes(value) if origin.is_own(type(value).__module__) else {}
        return "transient", self._class_of(value), self._names({n: more[n] for n in more if not n.startswith("_")})

    def _singleton(self, value: Any) -> str | None:
        """Return the name of an instance in the library module of its class, such as `random._inst`, or None."""
        module = type(value).__module__
        if module not in self._globals_of:
            names = {} if origin.is_own(module) else vars(sys.modules.get(module, ModuleType("")))
            self._globals_of[module] = {id(names[name]): name for name in sorted(names, reverse=True)}
        return self._globals_of[module].get(id(value))

    def _numbers(self, value: Any) -> Form:
        """Describe an array or a number of numpy."""
        import numpy

        kind: Any = type(value)
        plain = issubclass(kind, numpy.generic) or (
            kind.__reduce__ is numpy.ndarray.__reduce__ and kind.__reduce_ex__ is numpy.ndarray.__reduce_ex__
        )
        if not plain:
            return self._instance(value)
        more = {} if issubclass(kind, (numpy.generic, numpy.memmap)) else attributes(value)
        return "numpy", self._class_of(value), self._content(numpy.asarray(value), numpy), self._names(more)

    def _content(self, array: Any, numpy: Any) -> Form:
        """Describe an array's content without padding bytes: between fields, and at the end of long doubles."""
        kind, head = array.dtype, (self.form(array.dtype, ".dtype"), array.shape)
        if kind.names is not None:
            return *head, [self._content(array[name], numpy) for name in kind.names]
        if kind.hasobject or kind.kind == "T":
            return *head, self.form(array.ravel().tolist(), "")
        if not array.nbytes:
            return head
        data = numpy.ascontiguousarray(array).view("u1")
        if kind.kind in "fc" and kind.itemsize > 8 * (1 + (kind.kind == "c")) and numpy.finfo(kind).nmant == 63:
            data = numpy.ascontiguousarray(data.reshape(-1, kind.itemsize // (1 + (kind.kind == "c")))[:, :10])
        return *head, sha256(data).digest()

    def _per_worker(self, value: per_worker[Any]) -> Form:
        # Its own name differs in each process and does not count.
        return "per_worker", self.form(value._factory, "._factory"), self.form(value._arguments, "._arguments")

    # -- any other object ----------------------------------------------------------------------------------------------

    def _instance(self, value: Any) -> Form:
        kind = type(value)
        if (name := self._singleton(value)) is not None:
            return "named", origin.counted_as(kind.__module__), name
        head = "object", self._class_of(value)
        if issubclass(kind, (set, frozenset)):  # its pickle is in the order of this process
            parts = set.__iter__(value) if issubclass(kind, set) else frozenset.__iter__(value)
            return *head, self._unordered(parts), self._names(attributes(value))
        error = None
        if reduces := has_hooks(kind):
            try:
                pickled = reduced(value)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
            else:
                if isinstance(pickled, str):
                    return *head, *self._named(value, pickled)
                return *head, *self._parts(kind, pickled), self._names(omitted_attributes(value))
        if (hidden := hidden_state(value, reduces, self._plain)) is not None:
            self.refuse(value, error or hidden)
        return *head, *self._held(value), self._names(attributes(value))

    def _held(self, value: Any) -> Iterator[Form]:
        """Yield the contents of a subclass of list or dict, bypassing its hooks."""
        if issubclass(type(value), list):
            yield [self.form(part, number) for number, part in enumerate(list.__iter__(value))]
        elif issubclass(type(value), dict):
            yield self._pairs(dict.items(value))

    def _named(self, value: Any, name: str) -> Iterator[Form]:
        """Describe an object that pickles by name: by that, and by its attributes unless a library holds it there."""
        try:
            module = getattr(value, "__module__", None)
        except Exception:  # raised by a user's hook
            module = None
        reached = [place for place in (module, type(value).__module__) if origin.is_reached(value, place, name)]
        yield from ("named", name)
        if not reached or any(map(origin.is_own, reached)):
            more = attributes(value)
            if not (reached or more or origin.is_reached_anywhere(value, name)):
                self.refuse(value, f"it pickles as {name!r}, and no module has it under that name")
            yield self._names(more)

    def _parts(self, kind: type, pickled: tuple[Any, ...]) -> Iterator[Form]:
        make, arguments, state, parts, pairs, setter = (pickled + (None,) * 4)[:6]
        yield self.form(make, " (what makes it)")
        yield self.form(arguments, " (its arguments)")
        yield self.form(state, " (its state)")
        yield None if parts is None else self.form(list(parts), "")
        if pairs is None or issubclass(kind, OrderedDict):
            yield None if pairs is None else [self.form(list(pair), ("[]", pair[0])) for pair in pairs]
        else:
            yield self._pairs(pairs)
        yield self.form(setter, " (what sets its state)")


def _is_sunder(name: str) -> bool:
    return name.startswith("_") and name.endswith("_") and not name.startswith("__")


_Describe = Callable[[State, Any], Form]

_DESCRIPTORS: tuple[Any, ...] = (
    *(MethodDescriptorType, WrapperDescriptorType, ClassMethodDescriptorType),
    *(MemberDescriptorType, GetSetDescriptorType),
)

_EXACTLY: dict[Any, _Describe] = {
    list: State._sequence,
    tuple: State._sequence,
    dict: State._mapping,
    set: lambda walk, value: ("set", *walk._unordered(value)),
    frozenset: lambda walk, value: ("frozenset", *walk._unordered(value)),
    bytearray: lambda _, value: ("bytearray", bytes(value)),
    memoryview: lambda _, value: ("memoryview", value.format, value.shape, value.tobytes()),
    MappingProxyType: lambda walk, value: ("mappingproxy", walk.form(value.copy(), "")),
    type({}.keys()): lambda walk, value: ("keys", *walk._unordered(value)),
    type({}.values()): lambda walk, value: ("values", *[walk.form(part, " (one of)") for part in value]),
    type({}.items()): lambda walk, value: ("items", *walk._pairs(value)),
    CodeType: lambda _, value: ("code", instructions(value)),
    CellType: State._cell,
    ContextVar: State._variable,
    **({count: lambda _, value: ("count", repr(value))} if sys.version_info >= (3, 14) else {}),  # does not pickle
    FunctionType: State._function,
    MethodType: State._method,
    BuiltinFunctionType: State._builtin,
    MethodWrapperType: lambda walk, value: ("bound", value.__name__, walk.form(value.__self__, ".__self__")),
    **dict.fromkeys(_DESCRIPTORS, State._descriptor),
}

_DERIVED: list[tuple[type | tuple[type, ...], _Describe]] = [
    (type, State._class),
    (ModuleType, State._module),
    (enum.Enum, State._member),
    (PurePath, lambda walk, value: ("path", walk._class_of(value), str(value), walk._names(variables(value)))),
    (property, State._property),
    ((staticmethod, classmethod), State._wrapped),
    (per_worker, State._per_worker),
]

_BY_ATTRIBUTES = {
    ("_struct", "Struct"): ("format",),
    ("_json", "Scanner"): ("strict", "object_hook", "object_pairs_hook", "parse_float", "parse_int", "parse_constant"),
    ("ctypes", "CDLL"): ("_name",),
    ("numba.core.registry", "CPUDispatcher"): ("py_func", "targetoptions"),  # pickles with a random name
    ("pydantic._internal._validate_call", "ValidateCallWrapper"): ("function", "function.__annotations__"),
    (origin.PACKAGE, "share"): ("value",),
    **{("typing", name): ("__name__",) for name in ("TypeVar", "ParamSpec", "TypeVarTuple")},
}
"""Types that do not pickle, or not as their state, with the attributes that hold it."""


def _way(kind: type) -> _Describe:
    """Return the method that describes values of a type."""
    if (describe := _EXACTLY.get(kind)) is not None:
        return describe
    for base, describe in _DERIVED:
        if issubclass(kind, base):
            return describe
    if is_transient(kind):
        return State._transient
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, (numpy.ndarray, numpy.generic)):
        return State._numbers
    # A resource holds connections and files, which differ in each process.
    names = ("known_by",) if is_resource(kind) else _BY_ATTRIBUTES.get(origin.name_of_type(kind))
    return State._instance if names is None else lambda walk, value: walk._known_by(value, names)
