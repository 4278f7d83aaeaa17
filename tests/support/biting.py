"""Objects that bite the process that pickles or opens them: a stranger's item may do anything to its process."""

from __future__ import annotations

import builtins
import os
import sys
from typing import Any

from tasks import fail

BITES = ["raise", "SystemExit", "KeyboardInterrupt", "MemoryError", "recurse", "exit", "SIGSEGV", "hang"]
"""How: an exception of each sort, and three ways in which nothing is left to be raised."""

DEADLY = {"exit", "SIGSEGV"}


def bite(how: str) -> Any:
    """Do it."""
    if how in ("SystemExit", "KeyboardInterrupt", "MemoryError"):
        raise getattr(builtins, how)("as told")
    if how == "recurse":
        return bite(how)
    if how == "fine":
        return how
    return fail(how)


class WhenOpened:
    """Bites the process that unpickles it, and has the given looks."""

    def __init__(self, how: str, name: str = "") -> None:
        self.how, self.name = how, name

    def __reduce__(self) -> Any:
        return bite, (self.how,)

    def __repr__(self) -> str:
        return f"WhenOpened({self.how!r})"


class WhenPickled:
    """Bites the process that pickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        if self.how == "recurse":
            sys.setrecursionlimit(300)
        bite(self.how)
        return WhenPickled, (self.how,)


class ListThatBites(list[Any]):
    """An accumulator that bites the process that unpickles it, once it holds the bad item."""

    def __reduce__(self) -> Any:
        bites = next((one for one in self if type(one) is WhenOpened), None)
        return (ListThatBites, (list(self),)) if bites is None else (bite, (bites.how,))


class KeyThatBites:
    """A key that bites the process that unpickles it, unless it is told not to."""

    def __init__(self, x: int, how: str = "fine") -> None:
        self.x, self.how = x, how

    def __eq__(self, other: object) -> bool:
        return type(other) is KeyThatBites and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)

    def __reduce__(self) -> Any:
        return key_or_bite, (self.x, self.how)


def key_or_bite(x: int, how: str) -> KeyThatBites:
    """Made anew, or not."""
    bite(how)
    return KeyThatBites(x, how)


class ReprThatBites(str):
    """The text of an item's repr, which bites the process that unpickles it."""

    def __reduce__(self) -> Any:
        return bite, ("exit",)


class DescribedByText:
    """An item whose repr is no plain str."""

    def __repr__(self) -> str:
        return ReprThatBites("described")


class ErrorWhenPickled(Exception):
    """An exception that bites the process that pickles it."""

    def __reduce__(self) -> Any:
        bite(self.args[0])
        return ErrorWhenPickled, self.args


class ErrorWhenOpened(Exception):
    """An exception that bites the process that unpickles it."""

    def __reduce__(self) -> Any:
        return bite, self.args


class ErrorInWords(Exception):
    """An exception that bites the process that asks for its text."""

    def __str__(self) -> str:
        bite(self.args[0])
        return "nothing"

    __repr__ = __str__


class LooksBad:
    """An item whose repr bites."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __repr__(self) -> str:
        bite(self.how)
        return "nothing"


class InTheParent:
    """Opens anywhere but in the process that made it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return open_elsewhere, (self.pid,)


def open_elsewhere(pid: int) -> InTheParent:
    """Made anew, or raises."""
    if os.getpid() == pid:
        raise LookupError("not here")
    return InTheParent(pid)
