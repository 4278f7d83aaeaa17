"""Walk over values that refer to each other, and give each object a digest, also in a cycle.

Rule: object identity does not count, except in a cycle. There an object is represented by its distance from the one
that refers to it, in order of the first visit. So the order matters, and unordered objects (members of a set, keys)
are visited one by one, each as if there were no others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import chain
from typing import Any, NoReturn

from poolagg._checkpoint.canonical import ATOMS, dump
from poolagg._checkpoint.fingerprint.origin import name_of_type
from poolagg.errors import short_repr

__all__ = ["Form", "Walk"]

TRIES = 100_000
"""Most visits, in all, of objects in cycles through sets: the walk begins again with each member of a set."""

SMALL = 16
"""Members up to which a tuple or list of atoms is included in full, because a digest would take longer."""

Form = Any
"""A value's parts, as nested tuples of atoms. An object in it is its digest, or a reference to an earlier visit."""


class Walk(ABC):
    """One walk over the objects that func and reducer refer to; `referred` are the globals on the way, by name."""

    def __init__(self) -> None:
        self.referred: dict[str, Any] = {}
        self._referrers: dict[str, str] = {}
        self._alive: list[Any] = []  # keeps ids unique
        self._part, self._steps = "func", list[Any]()
        self.refused = False
        self._begin()

    def digest(self, value: Any, part: str) -> str:
        """Return the digest of a part of func or reducer, in hexadecimal."""
        self._part, self._steps = part, []
        self._begin()
        return blake2b(dump(self.form(value, "")), digest_size=16).hexdigest()

    @property
    def path(self) -> str:
        """The path from func or the reducer to the value that is being described."""
        parts = [self._part]
        while (before := self._referrers.get(parts[-1], parts[-1])) not in parts:
            parts.append(before)
        return " -> ".join(reversed(parts)) + "".join(map(_step, self._steps))

    @abstractmethod
    def described(self, value: Any) -> Form:
        """Return an object's parts; `form` returns the objects in it."""

    # -- repeated objects and cycles -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._known: dict[int, Form] = {}  # objects that refer only to themselves and to known ones
        self._inside: dict[int, Form] = {}  # members of a known cycle, by their positions in it
        self._open: dict[int, int] = {}  # objects being described, and members of cycles with them, by number
        self._count = self._current = self._lowest = 0
        self._alone = self._used = self._tries = 0

    def form(self, value: Any, step: Any) -> Form:
        """Return an atom itself, or an object's digest; `step` leads to it from the object being described."""
        kind = type(value)
        if kind in ATOMS:
            return value
        if (kind is tuple or kind is list) and len(value) <= SMALL and ATOMS.issuperset(map(type, value)):
            return kind.__name__, *value
        key = id(value)
        if (known := self._known.get(key)) is not None:
            return known
        if (member := self._inside.get(key)) is not None:
            self._used += 1
            return member
        if (number := self._open.get(key)) is not None:
            self._lowest = min(self._lowest, number)
            return "again", self._current - number
        self._steps.append(step)
        form = self._visit(key, value)
        self._steps.pop()
        return form

    def _visit(self, key: int, value: Any) -> Form:
        """Describe an object by Tarjan's algorithm, which finds a cycle as soon as all its members are visited."""
        self._alive.append(value)
        number = self._count = self._open[key] = self._count + 1
        current, lowest, used = self._current, self._lowest, self._used
        self._current = self._lowest = number
        digest = blake2b(dump(self.described(value)), digest_size=16).digest()
        form = (digest,)
        if self._lowest == number:
            self._close(key, number, form, memorable=not self._alone or self._used == used)
        elif self._alone:
            self._try(value)
        self._current, self._lowest = current, min(lowest, self._lowest)
        return form

    def _close(self, key: int, number: int, form: Form, memorable: bool) -> None:
        """Close a cycle: no object visited since `key` refers to one before it."""
        while (last := self._open.popitem())[0] != key:
            self._inside[last[0]] = "inside", form[0], last[1] - number
        self._count = number - 1
        if memorable:
            self._known[key] = form

    def _try(self, value: Any) -> None:
        self._tries += 1
        if self._tries > TRIES:
            self.refuse(value, "many objects refer to each other through sets, so that there is no order in them")

    def _by_itself(self, value: Any, step: Any) -> bytes:
        """Describe a member of a set, or a key, as if it were visited first: their order differs between processes."""
        if type(value) not in ATOMS:
            opened, inside, count = len(self._open), len(self._inside), self._count
            self._alone += 1
            form = self.form(value, step)
            self._alone -= 1
            while len(self._open) > opened:
                self._open.popitem()
            while len(self._inside) > inside:
                self._inside.popitem()
            self._count = count
            return dump(form)
        return dump(value)

    def _unordered(self, parts: Iterable[Any]) -> list[bytes]:
        parts = list(parts)
        if ATOMS.issuperset(map(type, parts)):
            return sorted(map(dump, parts))
        return sorted(self._by_itself(part, " (one of)") for part in parts)

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
        """Describe a dict: keys and values in turn, in the order of the keys' bytes."""
        pairs = list(pairs)
        if ATOMS.issuperset(map(type, chain.from_iterable(pairs))):
            atoms = sorted([(dump(key), part) for key, part in pairs], key=lambda pair: pair[0])
            return list(chain.from_iterable(atoms))
        found = [(self._by_itself(_without_id(key, part), " (a key)"), key, part) for key, part in pairs]
        found.sort(key=lambda pair: pair[0])
        return [form for said, key, part in found for form in (said, self.form(part, ("[]", key)))]

    def _names(self, names: Mapping[str, Any]) -> list[Any]:
        """Describe a namespace in the order of its names."""
        return [(name, self.form(names[name], f".{name}")) for name in sorted(names, key=str)]

    def refuse(self, value: Any, why: str) -> NoReturn:
        """Raise ValueError with the value, its path, and the reason."""
        self.refused = True
        module, name = name_of_type(type(value))
        kind = name if module == "builtins" else f"{module}.{name}"
        raise ValueError(
            f"a checkpoint cannot tell whether {short_repr(value)} is the same in another run: {why}. This {kind} is "
            f"at {self.path}. Create it inside func, or in each worker with per_worker(...); or pass "
            "Checkpoint(path, key=...): runs with the same key count as the same"
        )


def _step(step: Any) -> str:
    """Write a step of a path as Python code.

    >>> _step(3), _step(".name"), _step(("[]", "key"))
    ('[3]', '.name', "['key']")
    """
    if isinstance(step, tuple):
        return f"[{short_repr(step[1])}]"
    return f"[{step}]" if isinstance(step, int) else str(step)


def _without_id(key: Any, value: Any) -> Any:
    """Return a key, or None if it is the id of its value."""
    return None if type(key) is int and key == id(value) else key
