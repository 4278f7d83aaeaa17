"""Reduce objects of which each process has its own, such as locks, so that code which refers to them works in a worker.

    Lock, RLock                  unlocked
    Condition, Barrier           with its lock, or its number of threads; none waits
    Semaphore, BoundedSemaphore  with the permits that are left; a bounded one with all
    Event                        set if it is set here
    SimpleQueue                  empty; one with contents does not pickle
    local, and its subclasses    empty, as for a new thread
    ContextVar                   with its default, and with the value that it has here

Rule: one object here is one object in a worker, whichever pickles refer to it. So `func` finds what an initializer has
set in a `local`, and a lock of two functions is one lock.

Rule: a forked worker inherits the objects that globals hold, as they are, and gets its own in place of the globals that
are locks themselves: one in a list may be held for ever there.

Rule: only code brings them: `func`, the reducer, an initializer, a class. A lock among items or partials is a mistake.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

__all__ = ["note_after_fork", "note_before_fork", "own_object", "sent_after_fork"]

_LOCK, _RLOCK = type(threading.Lock()), type(threading.RLock())
_PURE_RLOCK: type = cast(Any, threading)._RLock


def own_object(own: Any) -> Any:
    """Reduce an object, for a pickler's `reducer_override`; return NotImplemented if it is none of these."""
    if (reduce := _REDUCTIONS.get(type(own))) is not None:
        return reduce(own)
    return _reduce_local(own) if isinstance(own, threading.local) else NotImplemented


# -- one object in each process ----------------------------------------------------------------------------------------

_names: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
_objects: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
_variable_names: dict[ContextVar[Any], bytes] = {}
_variables: dict[bytes, ContextVar[Any]] = {}
"""Context variables take no weak references; Python's contexts keep them alive as well."""


def _tables(kind: type) -> tuple[Any, Any]:
    return (_variable_names, _variables) if kind is ContextVar else (_names, _objects)


def _name_of(own: Any) -> bytes:
    names, objects = _tables(type(own))
    if own not in names:
        name = names[own] = os.urandom(16)
        objects[name] = own
    return names[own]  # type: ignore[no-any-return]


def _made(own: Any, make: Callable[..., Any], *arguments: Any) -> tuple[Any, ...]:
    return _make, (type(own) is ContextVar, _name_of(own), make, arguments)


def _make(is_variable: bool, name: bytes, make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Return this process's object of that name; make it first if there is none."""
    names, objects = _tables(ContextVar if is_variable else object)
    if (own := objects.get(name)) is None:
        own = objects[name] = make(*arguments)
        names[own] = name
    return own


# -- each kind ---------------------------------------------------------------------------------------------------------


def _reduce_event(own: threading.Event) -> Any:
    return *_made(own, threading.Event), own.is_set(), None, None, _set_event


def _set_event(event: threading.Event, is_set: bool) -> None:
    if is_set:  # never clear: this process may have set it
        event.set()


def _reduce_queue(own: queue.SimpleQueue[Any]) -> Any:
    return _made(own, queue.SimpleQueue) if own.empty() else NotImplemented


def _reduce_local(own: threading.local) -> Any:
    kind: Any = type(own)
    if (kind.__reduce_ex__, kind.__reduce__) != (object.__reduce_ex__, object.__reduce__):
        return NotImplemented
    if kind.__init__ is not object.__init__:
        import inspect

        try:
            inspect.signature(kind.__init__).bind(own)
        except TypeError as error:
            raise TypeError(
                f"{kind.__qualname__}, a subclass of threading.local, cannot be made in a worker without its "
                f"arguments: {error}. Give them defaults, or the class a __reduce__"
            ) from error
    return _made(own, kind)


_ABSENT: tuple[Any, ...] = ()
_sent: ContextVar[dict[ContextVar[Any], tuple[Any, Token[Any] | None]]] = ContextVar("sent")
"""Of each variable, the value that came with a pickle and what undoes it, or the value that a fork brought."""


def _reduce_variable(own: ContextVar[Any]) -> Any:
    try:
        default = (Context().run(own.get),)
    except LookupError:
        default = _ABSENT
    return *_made(own, _variable, own.name, default), _value_of(own), None, None, _set_value


def _value_of(variable: ContextVar[Any]) -> tuple[Any, ...]:
    here = copy_context()
    return (here[variable],) if variable in here else _ABSENT


def _variable(name: str, default: tuple[Any, ...]) -> ContextVar[Any]:
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def _set_value(variable: ContextVar[Any], value: tuple[Any, ...]) -> None:
    """Set the value that came with a pickle, instead of the one before; one that this process has set itself stays."""
    sent, here = dict(_sent.get({})), _value_of(variable)
    if variable in sent:
        before, token = sent.pop(variable)
        if here and here[0] is before:
            here = _ABSENT
            if token is not None:
                variable.reset(token)
    if value and not here:
        sent[variable] = value[0], variable.set(value[0])
    _sent.set(sent)


_REDUCTIONS: dict[type, Callable[[Any], Any]] = {
    _LOCK: lambda own: _made(own, threading.Lock),
    _RLOCK: lambda own: _made(own, threading.RLock),
    _PURE_RLOCK: lambda own: _made(own, _PURE_RLOCK),
    threading.Condition: lambda own: _made(own, threading.Condition, own._lock),
    threading.Barrier: lambda own: _made(own, threading.Barrier, own.parties, own._action, own._timeout),
    threading.Semaphore: lambda own: _made(own, threading.Semaphore, own._value),
    threading.BoundedSemaphore: lambda own: _made(own, threading.BoundedSemaphore, own._initial_value),
    threading.Event: _reduce_event,
    queue.SimpleQueue: _reduce_queue,
    ContextVar: _reduce_variable,
}

# -- forks -------------------------------------------------------------------------------------------------------------

_LOCKS = tuple(set(_REDUCTIONS) - {queue.SimpleQueue, ContextVar})
_inherited: dict[ContextVar[Any], tuple[Any, ...] | None] = {}
"""The values that variables had at the first fork; None once one has changed, since workers have either."""


def note_before_fork(objects: Iterable[Any]) -> None:
    """Note what a fork will copy: name locals and variables, so that the child has them by these names."""
    for own in objects:
        if isinstance(own, (ContextVar, threading.local)):
            _name_of(own)
        if isinstance(own, ContextVar):
            _inherited.setdefault(own, _value_of(own))


def note_after_fork() -> None:
    """Note in the child the values that it has from the parent's context: those that come with pickles replace them."""
    _sent.set({variable: (value, None) for variable, value in copy_context().items()})


def sent_after_fork(own: Any) -> bool:
    """Tell whether a forked worker needs an object although it inherited it.

    Another thread may have held a lock at that moment; a variable may have another value now.
    """
    if isinstance(own, ContextVar):
        before, now = _inherited.get(own), _value_of(own)
        if before is None or len(before) != len(now) or (now and now[0] is not before[0]):
            before = _inherited[own] = None
        return before is None
    return isinstance(own, _LOCKS)
