"""Fold, Reduce, Into: reducers made from user functions."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from poolagg._runtime.arguments import call, need_callable
from poolagg.reducers.keys import EMPTY
from poolagg.reducers.reducer import R, Reducer, Untouched

__all__ = ["Fold", "Into", "Reduce"]

T = TypeVar("T")

IN_PLACE = {"append": "Collect()", "extend": "Collect().flat()", "add": "Unique()", "update": "MergeCounts()"}
"""Methods that change a container and return None, and the reducers to write instead."""


class Fold(Reducer[R]):
    """A reducer from functions: `functools.reduce(step, partials, init())`, in the parent and in input order.

    `init` is a factory. Without it the first partial becomes the accumulator, and an empty input raises the TypeError
    of `functools.reduce`. With `merge`, which must be associative and must not change its right argument, workers
    combine states: in any order, so `merge` must also commute, or in input order with `ordered=True` (for a merge that
    concatenates). None is a legal accumulator.

    The result is the accumulator itself. A snapshot's value is a deep copy of it, because the accumulator keeps
    changing; an accumulator that cannot be copied, such as an open file, is the value itself.

    >>> import operator
    >>> from poolagg.reducers import reduced
    >>> reduced(Fold(operator.add, init=str), "abc")
    'abc'
    >>> Fold(operator.iadd, init=list, merge=operator.iadd, ordered=True).mergeable
    True
    """

    @overload
    def __init__(
        self,
        step: Callable[[R, Any], R],
        init: Callable[[], R] | None = None,
        merge: Callable[[R, R], R] | None = None,
        ordered: bool = False,
    ) -> None: ...
    @overload
    def __init__(
        self: Fold[Any],
        step: Callable[[Any, Any], Any],
        init: Callable[[], Any] | None = None,
        merge: Callable[[Any, Any], Any] | None = None,
        ordered: bool = False,
    ) -> None: ...
    def __init__(
        self,
        step: Callable[[Any, Any], Any],
        init: Callable[[], Any] | None = None,
        merge: Callable[[Any, Any], Any] | None = None,
        ordered: bool = False,
    ) -> None:
        need_callable("Fold(step)", step)
        if init is not None and not callable(init):
            raise TypeError(
                f"Fold(init=...) takes a factory, called for each fresh start, got {init!r}: lambda: {init!r}"
            )
        if merge is not None:
            need_callable("Fold(merge=...)", merge)
        self._step, self._init, self._merge = step, init, merge
        self.ordered = bool(ordered) or merge is None

    @property
    def mergeable(self) -> bool:
        return self._merge is not None

    def init(self) -> Any:
        return EMPTY if self._init is None else self._init()

    def step(self, acc: Any, prepared: Any) -> Any:
        try:
            return prepared if acc is EMPTY else self._step(acc, prepared)
        except AttributeError as error:
            self._advise(error)
            raise

    def steps(self, acc: Any, prepareds: Sequence[Any]) -> Any:
        try:
            if acc is not EMPTY:
                return functools.reduce(self._step, prepareds, acc)
            return functools.reduce(self._step, prepareds) if len(prepareds) else EMPTY
        except AttributeError as error:
            self._advise(error)
            raise

    def _advise(self, error: AttributeError) -> None:
        """Add a note for a function that returned None, or got a first partial that was no container."""
        if (instead := IN_PLACE.get(str(error.name))) is not None:
            error.add_note(
                f"the function of {self!r} must return the accumulator, which .{error.name}() does not: write "
                f"{instead}, or Fold(f, init=factory) with an f that ends with: return acc"
            )

    def merge(self, acc: Any, other: Any) -> Any:
        if self._merge is None:
            return super().merge(acc, other)
        if other is EMPTY:
            return acc
        # A later step may change the accumulator in place, and `other` must not change with it.
        return _copied(other) if acc is EMPTY else self._merge(acc, other)

    def finish(self, acc: Any) -> R:
        return _copied(self.finish_last(acc))

    def finish_last(self, acc: Any) -> R:
        if acc is not EMPTY:
            result: R = acc
            return result
        error = TypeError("reduce() of empty iterable with no initial value")
        error.add_note(f"no partial reached {self!r}: Fold(step, init=factory) has a result of nothing")
        raise error

    def worker_side(self) -> Reducer:
        return self if self.mergeable else Untouched()

    def _checked(self, before: Any, after: Any, method: str) -> Any:
        del before, method  # None is a value like any other here, as it is in functools.reduce
        return after

    def __repr__(self) -> str:
        ordered = (self._merge is not None and self.ordered) or None
        return call("Fold", self._step, init=self._init, merge=self._merge, ordered=ordered)


class Reduce(Fold[R]):
    """`functools.reduce(f, partials)`, combined in the workers: you declare `f` associative and commutative.

    An empty input raises the TypeError of `functools.reduce`.

    >>> import operator
    >>> from poolagg.reducers import reduced
    >>> reduced(Reduce(operator.or_), [1, 2, 4])
    7
    """

    def __init__(self, f: Callable[[Any, Any], R]) -> None:
        need_callable("Reduce(f)", f)
        super().__init__(f, merge=f)

    def __repr__(self) -> str:
        return call("Reduce", self._step)


class Into(Reducer[None]):
    """Call `apply(partial)` in the parent, one partial at a time; the result is None.

    Use it to update an existing object: a database, a grid, a file. `ordered=True` keeps the input order.

    Instead of a function, pass a resource that can commit (`poolagg.resources.Resource`): it then holds every partial
    exactly once, whichever process dies, and repeating the call continues a run that stopped.

    >>> from poolagg.reducers import reduced
    >>> seen = []
    >>> reduced(Into(seen.append), "abc")
    >>> seen
    ['a', 'b', 'c']
    """

    def __init__(self, apply: Any, ordered: bool = False) -> None:
        self.resource = apply if _can_commit(apply) else None
        if self.resource is None:
            need_callable("Into(apply)", apply)
        self.apply: Callable[[Any], object] = apply if self.resource is None else self.resource.apply
        self.ordered = bool(ordered)

    def init(self) -> None:
        return None

    def step(self, acc: None, prepared: Any) -> None:
        self.apply(prepared)
        return acc

    def worker_side(self) -> Reducer:
        return Untouched()

    @property
    def known_by(self) -> Any:
        """The values that identify it in another process: of a resource, its class and its own `known_by`."""
        if self.resource is None:
            return self.apply, self.ordered
        return type(self.resource), getattr(self.resource, "known_by", None), self.ordered

    def __repr__(self) -> str:
        return call("Into", self.apply if self.resource is None else self.resource, ordered=self.ordered or None)


def _can_commit(what: Any) -> bool:
    return all(callable(getattr(what, name, None)) for name in ("begin", "apply", "commit", "rollback"))


def _copied(acc: T) -> T:
    try:
        return copy.deepcopy(acc)
    except Exception:  # whatever a class raises that does not copy
        return acc
