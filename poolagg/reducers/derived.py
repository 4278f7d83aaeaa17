"""The derived forms of any reducer: `of`, `where`, `flat`, `then` (`by` is in `grouping.py`).

Each sees the raw partial before those to its left, so `Sum().of(size).where(ok).flat()` reads like SQL: each element
of the partial, if it is ok, its size, summed. Their functions run in `prepare`, in the map phase.

    of(f)        prepare = inner.prepare . f
    where(pred)  prepare = inner.prepare, or DROPPED, which the fold skips
    flat()       prepare = map inner.prepare; the position of an element is the partial's position and its index
    then(f)      finish  = f . inner.finish
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import Any, TypeVar

from poolagg._input.reused_buffers import listed
from poolagg._runtime.arguments import need_callable, shown
from poolagg.reducers.keys import DROPPED
from poolagg.reducers.reducer import Combinator, Groups, Positions, R, Reducer, Rejection

__all__ = ["Derived", "Flat", "Of", "Then", "Where"]

S = TypeVar("S")

LARGE = 256
"""From this many elements on, a separate call costs almost nothing, while a copy is expensive."""


class Derived(Combinator[R]):
    """A reducer that delegates to `inner` what a subclass does not override; the accumulator is `inner`'s."""

    def __init__(self, inner: Reducer) -> None:
        super().__init__(inner)
        self.keyed = inner.keyed

    def prepare(self, partial: Any) -> Any:
        return self.inner.prepare(partial)

    def init(self) -> Any:
        return self.inner.init()

    def _steps_among(self, acc: Any, places: Positions, prepareds: Sequence[Any]) -> Any:
        return self.inner._steps_among(acc, places, prepareds)

    def _steps_by_key(self, states: Mapping[Any, Any], groups: Groups) -> dict[Any, Any]:
        return self.inner._steps_by_key(states, groups)

    def validate(self, prepareds: Sequence[Any]) -> None:
        self.inner.validate(prepareds)

    def merge(self, acc: Any, other: Any) -> Any:
        return self.inner.merge(acc, other)

    def finish(self, acc: Any) -> R:
        result: R = self.inner.finish(acc)
        return result

    @property
    def ends_early(self) -> bool:
        return self.inner.ends_early

    def done(self, acc: Any, settled: int) -> bool:
        return self.inner.done(acc, settled)

    def _checked(self, before: Any, after: Any, method: str) -> Any:
        return self.inner._checked(before, after, method)


class Of(Derived[R]):
    """Reduces `f(partial)` with `inner`."""

    def __init__(self, inner: Reducer[R], f: Callable[[Any], Any]) -> None:
        need_callable(f"{inner!r}.of(f)", f)
        super().__init__(inner)
        self.f = f

    @property
    def has_prepare(self) -> bool:
        return True

    def prepare(self, partial: Any) -> Any:
        return self.inner.prepare(self.f(partial))

    def __repr__(self) -> str:
        return f"{self.inner!r}.of({shown(self.f)})"


class Where(Derived[R]):
    """Reduces with `inner` the partials for which `pred` is true."""

    def __init__(self, inner: Reducer[R], pred: Callable[[Any], Any]) -> None:
        need_callable(f"{inner!r}.where(pred)", pred)
        super().__init__(inner)
        self.pred = pred

    @property
    def has_prepare(self) -> bool:
        return True

    def prepare(self, partial: Any) -> Any:
        return self.inner.prepare(partial) if self.pred(partial) else DROPPED

    def _steps_among(self, acc: Any, places: Positions, prepareds: Sequence[Any]) -> Any:
        kept = [prepared for prepared in prepareds if prepared is not DROPPED]
        if self.positional and len(kept) < len(prepareds):
            places = places.chosen([k for k, prepared in enumerate(prepareds) if prepared is not DROPPED])
        return self.inner._steps_among(acc, places, kept) if kept else acc

    def validate(self, prepareds: Sequence[Any]) -> None:
        self.inner.validate([x for x in prepareds if x is not DROPPED])

    def __repr__(self) -> str:
        return f"{self.inner!r}.where({shown(self.pred)})"


class Flat(Derived[R]):
    """Reduces the elements of each partial with `inner`."""

    @property
    def has_prepare(self) -> bool:
        return True

    def prepare(self, partial: Any) -> Any:
        return self.inner._prepare_all(_sequence(partial))

    def _steps_among(self, acc: Any, places: Positions, prepareds: Sequence[Any]) -> Any:
        if not self.positional:
            stretches = list(_stretches(prepareds))
            if len(stretches) > 1 and self.rejection is Rejection.ATOMIC:
                self.validate(prepareds)  # it restores the accumulator of one stretch, but not of those before
            for stretch in stretches:
                acc = self.inner._steps_among(acc, places, stretch)
            return acc
        elements = list(chain.from_iterable(prepareds))
        return self.inner._steps_among(acc, places.inside(map(len, prepareds)), elements) if elements else acc

    def validate(self, prepareds: Sequence[Any]) -> None:
        for stretch in _stretches(prepareds):
            self.inner.validate(stretch)

    def __repr__(self) -> str:
        return f"{self.inner!r}.flat()"


class Then(Derived[S]):
    """Applies `f` to the result of `inner`."""

    def __init__(self, inner: Reducer[R], f: Callable[[R], S]) -> None:
        need_callable(f"{inner!r}.then(f)", f)
        super().__init__(inner)
        self.f = f

    def finish(self, acc: Any) -> S:
        return self.f(self.inner.finish(acc))

    def worker_side(self) -> Reducer:
        return self.inner.worker_side()

    def __repr__(self) -> str:
        return f"{self.inner!r}.then({shown(self.f)})"


def _sequence(partial: Any) -> Sequence[Any]:
    """Return a sequence or an array as it is; make a list of any other iterable."""
    if isinstance(partial, (list, tuple, str, Sequence)):  # the first three at no cost
        return partial
    if type(partial).__name__ == "ndarray":
        return partial  # type: ignore[no-any-return]
    if not isinstance(partial, Iterable):
        raise TypeError(
            f"flat() requires partials that are iterables, got {partial!r}: return a list, or leave flat() out"
        )
    return listed(lambda: partial)


def _stretches(prepareds: Sequence[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """Yield large partials as they are, and join small ones, so that one bulk call folds many."""
    for large, group in groupby(prepareds, lambda elements: len(elements) >= LARGE):
        stretches = list(group)
        yield from stretches if large else [list(chain.from_iterable(stretches))]
