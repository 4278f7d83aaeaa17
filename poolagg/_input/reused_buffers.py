"""Buffers that a function returns and fills again: noticed, and copied before the next call overwrites them.

`functools.reduce(step, map(func, items))` folds each partial before it calls `func` again, so `func` may fill one
buffer over and over (numpy's `out=`, a list that is cleared). A worker maps a batch of items first and folds it later.

A partial can change later only where something else refers to a mutable object in it. The reference count tells this
at C speed, so what is fresh costs next to nothing. An object that something else refers to, and not just the item, is
*shared*. A worker copies shared partials until it has seen enough of them to tell two cases apart:

    the same object, or memory, came twice    a buffer: the worker goes on copying for the rest of the run
    several came, all of them different       a cache, say: the worker maps in bulk, and only looks for repetitions
"""

from __future__ import annotations

import copy
import enum
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from sys import getrefcount
from typing import Any, TypeAlias

from poolagg._input.worker_state import here
from poolagg._runtime.value_types import types_of

__all__ = ["Aliasing", "copied", "listed", "mutable"]

PLAIN: set[type] = {int, float, complex, bool, str, bytes, type(None), range}
"""Types that hold nothing mutable; with those of `_later` whose modules are loaded by now: workers need few of them."""

_later = {"decimal": ("Decimal",), "fractions": ("Fraction",), "datetime": ("date", "datetime", "time", "timedelta")}
"""Types that are added once their modules are loaded."""

ENOUGH = 5
"""Shared partials, all different, after which a function is taken to have no buffer: more than anyone alternates."""

SAMPLE = 64
"""Results of a batch in which repetitions are looked for, all the same: more would cost something."""

WIDTH, DEPTH = 16, 3
"""How many elements of a container are looked at, and how deep. What is nested wider or deeper is not seen."""

LONE = next(map(getrefcount, [[]]))
"""What `getrefcount`, mapped over a container, tells of an element that nothing but the container refers to."""


class Aliasing:
    """Map items with `func` and `prepare`, one after the other, and copy what `func` may still change.

    `careful`: the next batch has to be mapped by calling this object. Otherwise the worker maps it in bulk, and asks
    `suspects` of the results; if they are suspect, it maps the batch again, by calling this object.
    """

    def __init__(
        self, func: Callable[[Any], Any], prepare: Callable[[Any], Any] | None, accepts_iterators: bool
    ) -> None:
        _add_loaded()
        self._func = func
        self._prepare = prepare
        self._accepts_iterators = accepts_iterators
        self._seen: dict[int, Any] = {}
        self._kinds: set[type] = set()
        self._reuses = self._refills = self._trusted = self._suspected = False
        self.careful = True
        self.copies = True
        """Whether what is shared is copied: not where it is folded before `func` is called again."""
        self.bulk = func
        """What to map in bulk, before `prepare`."""

    def __call__(self, item: Any) -> Any:
        """What becomes of one item."""
        box = [self._func(item)]  # and nothing else refers to the partial, or its count would say more
        if self._accepts_iterators and hasattr(type(box[0]), "__next__"):
            self.bulk = self._drawn
            box = [self._listed(item, box.pop())]
        shared = not _is_plain(box) and self._is_shared(box, item)
        if self._prepare is not None:
            if here.generators:
                here.generators.clear()
            box[0] = self._prepare(box[0])
            shared = shared or (not _is_plain(box) and self._is_shared(box, item))
        return copied(box[0]) if shared and self.copies else box[0]

    def settle(self) -> None:
        """Decide, after a batch, how to map the next one."""
        harmless = self._suspected and not self._seen
        self._suspected = False
        if self._reuses or harmless or len(self._seen) >= ENOUGH:
            self._trusted = not self._reuses
            self._seen.clear()
        self.careful = self._reuses or bool(self._seen)

    def suspects(self, partials: Sequence[Any]) -> bool:
        """Whether some of the results of a bulk map may be gone, for the next call has overwritten them."""
        if not self._accepts_iterators and {type(partials[0]), type(partials[-1])} <= PLAIN:
            return False  # they have to be numbers, of which to look at each takes longer than to add it
        self._suspected = self._may_change(partials)
        return self._suspected

    def suspects_prepared(self, prepareds: Sequence[Any]) -> bool:
        """The same of what `prepare` has made of them, which as a rule is the same, or plain."""
        if {type(prepareds[0]), type(prepareds[-1])} <= self._kinds | PLAIN:
            return False
        self._suspected = self._may_change(prepareds)
        return self._suspected

    def _may_change(self, partials: Sequence[Any]) -> bool:
        found = self._kinds = types_of(partials)
        if found <= PLAIN:
            return False
        if self._accepts_iterators and any(hasattr(kind, "__next__") for kind in found):
            return True  # what it draws on may have been filled again
        changing = set(filter(mutable, found))
        if not changing:
            return False
        few = changing != found
        some = [partial for partial in partials if type(partial) in changing] if few else partials
        if self._trusted:
            some = some[:SAMPLE]
            self._reuses = len(set(map(id, some))) < len(some)
            return self._reuses
        return list(map(getrefcount, some)).count(LONE + few) < len(some)

    def _is_shared(self, box: list[Any], item: Any) -> bool:
        """Whether `func` may still change what is in the box; remembers what it is."""
        shared = list(_shared(box))
        if not shared:
            return False
        own = set(_ids([item]))
        others = [found for found in shared if own.isdisjoint(found[1])]
        if not others:
            self._trusted = True  # for it returns parts of its items
            return False
        for key, _, value in others:
            self._reuses = self._reuses or key in self._seen
            if not self._reuses:
                self._seen[key] = value
        return True

    def _drawn(self, item: Any) -> Any:
        """What `func` returns; of an iterator its elements, before what it draws on is filled again."""
        partial = self._func(item)
        if not hasattr(type(partial), "__next__"):
            return partial
        if self._refills:
            return list(map(copied, partial))
        elements = list(partial)
        if not elements or (type(elements[0]) in PLAIN and type(elements[-1]) in PLAIN):
            return elements  # of the first item, all were looked at
        return self._once_each(item, elements)

    def _listed(self, item: Any, iterator: Iterator[Any]) -> list[Any]:
        """The elements of an iterator that `func` returned; if it yields one buffer again and again, copies of it."""
        if self._refills:
            return list(map(copied, iterator))
        return self._once_each(item, list(iterator))

    def _once_each(self, item: Any, elements: list[Any]) -> list[Any]:
        """The elements, unless one of them is there again and again: then copies, of another iterator."""
        if PLAIN.issuperset(map(type, elements)) or not _repeats(elements):
            return elements
        self._refills = True
        return list(map(copied, self._func(item)))


def _add_loaded() -> None:
    for module, names in [*_later.items()]:
        if module in sys.modules:
            found = [vars(sys.modules[module]).get(name) for name in names]
            PLAIN.update(kind for kind in found if kind is not None)
            if None not in found:  # else the module is being imported
                _later.pop(module, None)


def listed(elements: Callable[[], Iterable[Any]]) -> list[Any]:
    """The list of `elements()`; if one object comes again and again, of copies, for which it is called once more.

    Raises TypeError where the elements cannot be iterated a second time.
    """
    found = list(elements())
    if PLAIN.issuperset(map(type, found)) or not _repeats(found):
        return found
    again = list(map(copied, elements()))
    if len(again) != len(found):
        raise TypeError(
            f"the partial yields one {type(found[0]).__name__} again and again, and can be iterated only once: return "
            f"a list of copies"
        )
    return again


def copied(value: Any) -> Any:
    """A deep copy; what cannot be copied is itself."""
    kind: Any = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, set) and PLAIN.issuperset(map(type, value)):
        return kind(value)
    if kind is memoryview:
        return memoryview(bytearray(value)).cast("B").cast(value.format, value.shape)
    try:
        return copy.deepcopy(value)
    except Exception:  # whatever a class raises that does not copy; what it stands beside may
        if kind in (list, tuple):
            return kind(map(copied, value))
        return {key: copied(inner) for key, inner in value.items()} if kind is dict else value


@lru_cache(256)
def mutable(kind: Any) -> bool:
    """Whether objects of a type can change: by their lack of a hash, or by state that their hash does not look at.

    >>> mutable(list), mutable(tuple), mutable(type(None)), mutable(bytearray)
    (True, False, False, True)
    """
    if kind in PLAIN or issubclass(kind, (type, types.ModuleType, enum.Enum)):
        return False
    if kind.__hash__ is None or hasattr(kind, "__setitem__"):
        return True
    own_state = kind.__dictoffset__ != 0 or bool(getattr(kind, "__slots__", ()))
    return own_state and kind.__hash__ is object.__hash__ and kind.__module__ != "builtins"


# -- what is shared ----------------------------------------------------------------------------------------------------


_Found: TypeAlias = tuple[int, list[int], Any]
"""A shared value: its key, the identities of itself and of what its memory belongs to, and the value itself.

The key is the identity, or of an array the address of its memory: `buffer[:n]` is another object each time.
"""


def _shared(values: Iterable[Any], depth: int = DEPTH, outer: bool = False) -> Iterator[_Found]:
    """The mutable objects in `values` that something else refers to, as well; `outer`: to `values` itself."""
    if PLAIN.issuperset(map(type, islice(values, WIDTH))):
        return
    counts = list(map(getrefcount, islice(values, WIDTH)))
    for value, count in zip(values, counts, strict=False):
        kind: Any = type(value)
        if kind in PLAIN:
            continue
        shared = outer or count > LONE
        if kind is memoryview or _is_array(kind):
            yield from _shared_memory(value, shared)
        elif shared and mutable(kind):
            yield id(value), [id(value)], value
        elif depth and (inner := _inside(value)):
            yield from _shared(inner, depth - 1, shared)


def _shared_memory(value: Any, shared: bool) -> Iterator[_Found]:
    """An array, if something else refers to it or to what its memory belongs to, and may write there."""
    owners = list(_owners(value))
    for owner in owners:
        box = [_base(owner)]
        shared = shared or (box[0] is not None and next(map(getrefcount, box)) > LONE + 1)
    if shared and any(map(_writable, owners)):
        interface = getattr(value, "__array_interface__", None)
        key = id(owners[-1]) if interface is None else interface["data"][0]
        yield key, list(map(id, owners)), value


def _owners(value: Any) -> Iterator[Any]:
    """An array, what it is a view of, and what that is a view of."""
    while value is not None:
        yield value
        value = _base(value)


def _base(value: Any) -> Any:
    if type(value) is memoryview:
        return None if value.readonly else value.obj  # the one of `share`, say, which no one writes to
    kind: Any = type(value)
    return value.base if _is_array(kind) else None


def _is_array(kind: Any) -> bool:
    return mutable(kind) and hasattr(kind, "__array_interface__") and hasattr(kind, "base")


def _writable(owner: Any) -> bool:
    kind: Any = type(owner)
    if kind is memoryview:
        return not owner.readonly
    return bool(owner.flags.writeable) if _is_array(kind) else mutable(kind)


def _inside(value: Any) -> Iterable[Any]:
    """What a container holds, or an object in its attributes."""
    if isinstance(value, (tuple, list, deque)):
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (type, types.ModuleType, types.FunctionType, enum.Enum)):
        return ()
    return getattr(value, "__dict__", {}).values()


def _ids(values: Iterable[Any], depth: int = DEPTH) -> Iterator[int]:
    """The identities of an item and of what is in it."""
    for value in islice(values, 4 * WIDTH):
        yield from map(id, _owners(value))
        if depth and type(value) not in PLAIN:
            yield from _ids(_inside(value), depth - 1)


def _is_plain(box: list[Any]) -> bool:
    """Whether what is in the box is seen at once to be nobody else's: a plain value, or a fresh list of such."""
    kind = type(box[0])
    if kind is list:
        return next(map(getrefcount, box)) == LONE and PLAIN.issuperset(map(type, islice(box[0], WIDTH)))
    return kind in PLAIN


def _repeats(elements: Sequence[Any]) -> bool:
    """Whether one mutable object, or memory, is in several of the elements."""
    changing = set(filter(mutable, types_of(elements)))
    tops = [id(element) for element in elements if type(element) in changing]
    keys = [key for key, _, _ in _shared(elements)]
    return len(set(tops)) < len(tops) or len(set(keys)) < len(keys)
