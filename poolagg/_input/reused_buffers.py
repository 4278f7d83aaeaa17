"""Aliasing: detect buffers that `func` returns and fills again, and copy them before the next call overwrites them.

`functools.reduce(step, map(func, items))` folds each partial before it calls `func` again, so `func` may fill one
buffer over and over (numpy's `out=`, a list that it clears). A worker maps a batch of items first and folds it later.

A partial can change later only if something else refers to a mutable object in it. The reference count shows this at
C speed, so fresh partials cost next to nothing. An object is *shared* if anything but the partial and the item refers
to it. A worker copies shared partials until it can tell two cases apart:

    the same object, or memory, came twice    a buffer: the worker copies for the rest of the run
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
"""Types that hold nothing mutable. `_add_loaded` adds those of `_later`, to import no module that the user does not."""

_later = {"decimal": ("Decimal",), "fractions": ("Fraction",), "datetime": ("date", "datetime", "time", "timedelta")}
"""Types to add once their modules are loaded."""

ENOUGH = 5
"""Different shared partials in a row that prove that a function reuses no buffer: more than any function alternates."""

SAMPLE = 64
"""Partials of a batch in which to look for repetitions even then; more would cost measurable time."""

WIDTH, DEPTH = 16, 3
"""How many elements of a container to examine, and how deep; objects nested wider or deeper are missed."""

LONE = next(map(getrefcount, [[]]))
"""The result of `getrefcount`, mapped over a container, for an element that only the container refers to."""


class Aliasing:
    """Map items with `func` and `prepare`, one by one, and copy the partials that `func` may still change.

    If `careful`, the worker maps the next batch by calling this object for each item. Otherwise it maps the batch in
    bulk and passes the results to `suspects`; if that returns true, it maps the batch again by calling this object.
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
        """Whether to copy shared partials; false if the worker folds each before it calls `func` again."""
        self.bulk = func
        """The function to map in bulk, before `prepare`."""

    def __call__(self, item: Any) -> Any:
        """Map one item."""
        box = [self._func(item)]  # only the box refers to the partial, so the reference count shows any other owner
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
        """Tell whether a later call may have overwritten some results of a bulk map."""
        if not self._accepts_iterators and {type(partials[0]), type(partials[-1])} <= PLAIN:
            return False  # the reducer takes only numbers, and looking at each takes longer than adding it
        self._suspected = self._may_change(partials)
        return self._suspected

    def suspects_prepared(self, prepareds: Sequence[Any]) -> bool:
        """Tell the same of the results of `prepare`, which are mostly the partials themselves, or plain."""
        if {type(prepareds[0]), type(prepareds[-1])} <= self._kinds | PLAIN:
            return False
        self._suspected = self._may_change(prepareds)
        return self._suspected

    def _may_change(self, partials: Sequence[Any]) -> bool:
        found = self._kinds = types_of(partials)
        if found <= PLAIN:
            return False
        if self._accepts_iterators and any(hasattr(kind, "__next__") for kind in found):
            return True  # a later call may have filled again the buffer that the iterator reads
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
        """Tell whether `func` may still change the partial in the box, and remember its shared objects."""
        shared = list(_shared(box))
        if not shared:
            return False
        own = set(_ids([item]))
        others = [found for found in shared if own.isdisjoint(found[1])]
        if not others:
            self._trusted = True  # it returns parts of its items
            return False
        for key, _, value in others:
            self._reuses = self._reuses or key in self._seen
            if not self._reuses:
                self._seen[key] = value
        return True

    def _drawn(self, item: Any) -> Any:
        """Call `func`; if it returns an iterator, list its elements before a later call fills their buffer again."""
        partial = self._func(item)
        if not hasattr(type(partial), "__next__"):
            return partial
        if self._refills:
            return list(map(copied, partial))
        elements = list(partial)
        if not elements or (type(elements[0]) in PLAIN and type(elements[-1]) in PLAIN):
            return elements  # `_listed` examined all elements of the first item
        return self._once_each(item, elements)

    def _listed(self, item: Any, iterator: Iterator[Any]) -> list[Any]:
        """List the elements of an iterator that `func` returned; copies, if it yields one buffer again and again."""
        if self._refills:
            return list(map(copied, iterator))
        return self._once_each(item, list(iterator))

    def _once_each(self, item: Any, elements: list[Any]) -> list[Any]:
        """Return the elements; if one object repeats, return copies from another call of `func`."""
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
    """List `elements()`; if it yields one object again and again, call it once more and list copies.

    Raises TypeError if the elements cannot be iterated a second time.
    """
    found = list(elements())
    if PLAIN.issuperset(map(type, found)) or not _repeats(found):
        return found
    again = list(map(copied, elements()))
    if len(again) != len(found):
        raise TypeError(
            f"the partial yields one {type(found[0]).__name__} again and again, and can be iterated only once: return "
            f"a list of copies from func"
        )
    return again


def copied(value: Any) -> Any:
    """Return a deep copy, or the value itself if it cannot be copied."""
    kind: Any = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, set) and PLAIN.issuperset(map(type, value)):
        return kind(value)
    if kind is memoryview:
        return memoryview(bytearray(value)).cast("B").cast(value.format, value.shape)
    try:
        return copy.deepcopy(value)
    except Exception:  # raised by a class that does not copy; the values beside it may copy
        if kind in (list, tuple):
            return kind(map(copied, value))
        return {key: copied(inner) for key, inner in value.items()} if kind is dict else value


@lru_cache(256)
def mutable(kind: Any) -> bool:
    """Tell whether objects of a type can change: they have no hash, or state that their hash ignores.

    >>> mutable(list), mutable(tuple), mutable(type(None)), mutable(bytearray)
    (True, False, False, True)
    """
    if kind in PLAIN or issubclass(kind, (type, types.ModuleType, enum.Enum)):
        return False
    if kind.__hash__ is None or hasattr(kind, "__setitem__"):
        return True
    own_state = kind.__dictoffset__ != 0 or bool(getattr(kind, "__slots__", ()))
    return own_state and kind.__hash__ is object.__hash__ and kind.__module__ != "builtins"


# -- shared objects ----------------------------------------------------------------------------------------------------


_Found: TypeAlias = tuple[int, list[int], Any]
"""A shared value: its key, the identities of the value and of the owners of its memory, and the value.

The key is the identity, but for an array the address of its memory: `buffer[:n]` is another object each time.
"""


def _shared(values: Iterable[Any], depth: int = DEPTH, outer: bool = False) -> Iterator[_Found]:
    """Find the mutable objects in `values` that have other references, too; `outer`: `values` itself has some."""
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
    """Find an array if anything else refers to it, or to an owner of its memory, and may write there."""
    owners = list(_owners(value))
    for owner in owners:
        box = [_base(owner)]
        shared = shared or (box[0] is not None and next(map(getrefcount, box)) > LONE + 1)
    if shared and any(map(_writable, owners)):
        interface = getattr(value, "__array_interface__", None)
        key = id(owners[-1]) if interface is None else interface["data"][0]
        yield key, list(map(id, owners)), value


def _owners(value: Any) -> Iterator[Any]:
    """Iterate over an array, the object that it is a view of, and so on."""
    while value is not None:
        yield value
        value = _base(value)


def _base(value: Any) -> Any:
    if type(value) is memoryview:
        return None if value.readonly else value.obj  # nothing writes to a read-only one, such as that of `share`
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
    """Return the elements of a container, or the attributes of an object."""
    if isinstance(value, (tuple, list, deque)):
        return value
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (type, types.ModuleType, types.FunctionType, enum.Enum)):
        return ()
    return getattr(value, "__dict__", {}).values()


def _ids(values: Iterable[Any], depth: int = DEPTH) -> Iterator[int]:
    """Iterate over the identities of values and of the objects in them."""
    for value in islice(values, 4 * WIDTH):
        yield from map(id, _owners(value))
        if depth and type(value) not in PLAIN:
            yield from _ids(_inside(value), depth - 1)


def _is_plain(box: list[Any]) -> bool:
    """Tell, by a quick look, whether the box holds a plain value, or a fresh list of plain values."""
    kind = type(box[0])
    if kind is list:
        return next(map(getrefcount, box)) == LONE and PLAIN.issuperset(map(type, islice(box[0], WIDTH)))
    return kind in PLAIN


def _repeats(elements: Sequence[Any]) -> bool:
    """Tell whether several of the elements contain one mutable object, or share memory."""
    changing = set(filter(mutable, types_of(elements)))
    tops = [id(element) for element in elements if type(element) in changing]
    keys = [key for key, _, _ in _shared(elements)]
    return len(set(tops)) < len(tops) or len(set(keys)) < len(keys)
