"""Reducers that show what was done with partials: which, in what order, and how states met."""

from __future__ import annotations

from collections import Counter

from poolagg.reducers import Reducer


class Listing(Reducer):
    """All partials, in input order: a wrong order and a double count both show."""

    ordered = True

    def init(self):
        return []

    def step(self, acc, prepared):
        acc.append(prepared)
        return acc

    def merge(self, acc, other):
        acc.extend(other)
        return acc

    def finish(self, acc):
        return list(acc)


class Bag(Reducer):
    """How often each partial was met."""

    def init(self):
        return Counter()

    def step(self, acc, prepared):
        acc[prepared] += 1
        return acc

    def merge(self, acc, other):
        acc.update(other)
        return acc

    def finish(self, acc):
        return Counter(acc)


class Shape(Reducer):
    """The expression tree itself: which leaves there were, and what met what."""

    ordered = True

    def init(self):
        return ()

    def steps(self, acc, prepareds):
        assert acc == (), f"a second `steps` for one leaf: {prepareds} onto {acc}"
        return "leaf", *prepareds

    def merge(self, acc, other):
        return (acc, other) if acc and other else acc or other


class Unpackable:
    """A partial that folds but does not pickle."""

    def __init__(self, index):
        self.index = index

    def __eq__(self, other):
        return isinstance(other, Unpackable) and self.index == other.index

    def __hash__(self):
        return hash(self.index)

    def __reduce__(self):
        raise TypeError(f"item {self.index}'s partial does not pickle")


class Hit(Reducer):
    """The index of the first item whose index is a hit."""

    def __init__(self, is_hit):
        self.is_hit = is_hit

    def init(self):
        return None

    def step_at(self, acc, place, prepared):
        return self.merge(acc, place[0] if self.is_hit(place[0]) else None)

    def merge(self, acc, other):
        return other if acc is None else acc if other is None else min(acc, other)

    def done(self, acc, settled):
        return acc is not None and acc <= settled
