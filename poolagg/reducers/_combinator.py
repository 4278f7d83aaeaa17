"""A reducer made of reducers. What holds of it follows from its parts, so it is said once, here.

Rule of the room: a combinator folds through `steps_at` alone, which every reducer has, placed or not. The other three
ways to fold are written in terms of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from poolagg.reducers._reducer import Place, R, Reducer

__all__ = ["Combinator"]

ANYWHERE: Place = (0,)
"""The place given to reducers that do not look at it."""


class Combinator(Reducer[R]):
    """A reducer made of `parts`: mergeable if all are; ordered, placed or preparing if any is."""

    def __init__(self, *parts: Reducer) -> None:
        self.parts = parts
        self.ordered = any(part.ordered for part in parts)
        self.keeps = any(part.keeps for part in parts)

    @property
    def inner(self) -> Reducer:
        """The one part, of those that have one."""
        return self.parts[0]

    def step(self, acc: Any, prepared: Any) -> Any:
        return self.steps(acc, (prepared,))

    def steps(self, acc: Any, prepareds: Sequence[Any]) -> Any:
        if self.placed:
            raise TypeError(f"{self!r} depends on where a partial stood: call step_at or steps_at")
        return self.steps_at(acc, ANYWHERE, prepareds)

    def step_at(self, acc: Any, place: Place, prepared: Any) -> Any:
        return self.steps_at(acc, place, (prepared,))

    def steps_at(self, acc: Any, place: Place, prepareds: Sequence[Any]) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define steps_at(self, acc, place, prepareds)")

    @property
    def mergeable(self) -> bool:
        return all(part.mergeable for part in self.parts)

    @property
    def placed(self) -> bool:
        return any(part.placed for part in self.parts)

    @property
    def prepares(self) -> bool:
        return any(part.prepares for part in self.parts)

    def for_lanes(self) -> Reducer:
        twin = copy.copy(self)
        twin.parts = tuple(part.for_lanes() for part in self.parts)
        twin.keeps = any(part.keeps for part in twin.parts)
        return twin
