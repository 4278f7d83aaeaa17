"""Test the laws of a resource: `check_resource` tries them on a real one, and really kills a process.

Each law is a function from a trial to pairs of expected and found values. The resource may contain partials already:
only those that a trial adds count.
"""

from __future__ import annotations

import contextlib
import os
import reprlib
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from poolagg._engine.api import aggregate
from poolagg.errors import WorkerLost
from poolagg.reducers import Into
from poolagg.testing.laws import LawBroken, fewest

__all__ = ["check_resource"]

LEDGERS = (b"a ledger", b"", bytes(range(256)), os.urandom(100_000), b"a shorter one")
"""Bytes of any kind and length, because a resource must treat them as opaque."""


def check_resource(make: Callable[[], Any], partials: Iterable[Any], read: Callable[[], Iterable[Any]]) -> None:
    """Raise LawBroken if the resource that `make()` returns breaks a law of `poolagg.resources.Resource`.

    `make` returns a new object for the same place, or an `Into` of it, at each of many calls, also in a worker process.
    `read` returns the partials that are in that place now, in any order, and may return others. Use a place that you
    can throw away: the partials are written there several times.

    >>> import pathlib, tempfile
    >>> from poolagg.resources import IntoFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "lines")
    ...     check_resource(lambda: IntoFile(path), ["to", "be"], lambda: path.read_text().splitlines())

    >>> class Forgetful:  # it keeps everything, but only in this process
    ...     kept, ledger = [], None
    ...     def begin(self): self.new = []; return self.ledger
    ...     def apply(self, partial): self.new.append(partial)
    ...     def commit(self, ledger): self.kept += self.new; self.new.clear(); Forgetful.ledger = ledger
    ...     def rollback(self): self.new.clear()
    >>> check_resource(Forgetful, ["to", "be"], lambda: Forgetful.kept)
    Traceback (most recent call last):
    poolagg.testing.LawBroken: Forgetful breaks the law: what a process committed is there when it has been killed
      the ledger: b'by another process' expected, and b'2' found
      partials: ['be']
    """
    trial = Trial(make, [*partials], read)
    if not trial.partials:
        raise ValueError("check_resource needs partials to try the laws on, got none: pass some partials")
    for name, law in LAWS.items():
        if _problem(law, trial) is not None:
            _report(name, law, trial)


class Trial(NamedTuple):
    """How to create a resource, the partials to write, and how to read them."""

    make: Callable[[], Any]
    partials: list[Any]
    read: Callable[[], Iterable[Any]]

    def new(self) -> Any:
        made = self.make()
        return made.resource if isinstance(made, Into) else made

    @contextlib.contextmanager
    def begun(self) -> Iterator[tuple[Any, Any]]:
        """Begin a resource; yield it with its ledger, and roll it back at the end."""
        resource = self.new()
        ledger = resource.begin()
        try:
            yield resource, ledger
        finally:
            resource.rollback()

    def ledger(self) -> Any:
        """Return the current ledger."""
        with self.begun() as (_, ledger):
            return ledger

    def halves(self) -> tuple[list[Any], list[Any]]:
        middle = (len(self.partials) + 1) // 2
        return self.partials[:middle], self.partials[middle:] or self.partials[:1]


Pairs: TypeAlias = Iterator[tuple[str, Any, Any]]
"""A description of the comparison, the expected value, and the found one."""


def _problem(law: Callable[[Trial], Pairs], trial: Trial) -> tuple[str, BaseException | None] | None:
    """Describe how a law is broken, with the exception, if any; return None if the law holds."""
    try:
        for what, expected, found in law(trial):
            if expected != found:
                return f"{what}: {reprlib.repr(expected)} expected, and {reprlib.repr(found)} found", None
    except Exception as error:
        return f"{type(error).__name__}: {error}", error
    return None


def _report(name: str, law: Callable[[Trial], Pairs], trial: Trial) -> None:
    """Raise LawBroken, also for a law that is broken only sometimes and holds at this attempt."""
    few = fewest(trial.partials, lambda fewer: _problem(law, trial._replace(partials=fewer)) is not None)
    problem, cause = _problem(law, trial._replace(partials=few)) or (
        "broken at the first try, and not at the next",
        None,
    )
    kind = type(trial.new()).__name__
    raise LawBroken(f"{kind} breaks the law: {name}\n  {problem}\n  partials: {few!r}", name, few) from cause


class Added:
    """Finds the partials added to a resource since this object was created."""

    def __init__(self, trial: Trial) -> None:
        self._trial, self._before = trial, [*trial.read()]

    def since(self) -> Any:
        """Return the added partials, or a text if one that was there before is gone."""
        now = [*self._trial.read()]
        left = [*now]
        for partial in self._before:
            if partial not in left:
                return f"{partial!r} is gone: {now!r}"
            left.remove(partial)
        return left


def _sorted(partials: Iterable[Any]) -> list[Any]:
    return sorted(partials, key=repr)


def _apply(resource: Any, partials: Iterable[Any]) -> None:
    for partial in partials:
        resource.apply(partial)


def _ledger(trial: Trial) -> Pairs:
    found = trial.ledger()
    yield "the ledger it begins with", found if isinstance(found, bytes | None) else "bytes or None", found
    for ledger in LEDGERS:
        with trial.begun() as (resource, _):
            resource.commit(ledger)
        yield "the ledger", ledger, trial.ledger()


def _once(trial: Trial) -> Pairs:
    added = Added(trial)
    with trial.begun() as (resource, _):
        _apply(resource, trial.partials)
        resource.commit(b"once")
    yield "what was added", _sorted(trial.partials), _sorted(added.since())
    yield "the ledger", b"once", trial.ledger()
    yield "what was added, after another begin()", _sorted(trial.partials), _sorted(added.since())


def _each(trial: Trial) -> Pairs:
    added = Added(trial)
    with trial.begun() as (resource, _):
        for number, partial in enumerate(trial.partials):
            resource.apply(partial)
            resource.commit(b"%d" % number)
    yield "what was added", _sorted(trial.partials), _sorted(added.since())
    yield "the ledger", b"%d" % (len(trial.partials) - 1), trial.ledger()


def _forgotten(trial: Trial) -> Pairs:
    first, second = trial.halves()
    added = Added(trial)
    with trial.begun() as (resource, _):
        _apply(resource, first)
        resource.commit(b"first")
        _apply(resource, second)
    yield "what was added", _sorted(first), _sorted(added.since())
    with trial.begun() as (resource, ledger):
        yield "the ledger", b"first", ledger
        resource.commit(b"nothing")
    yield "what was added, after a commit of nothing", _sorted(first), _sorted(added.since())


def _again(trial: Trial) -> Pairs:
    added = Added(trial)
    resource = trial.new()
    for number in (b"1", b"2"):
        resource.begin()
        try:
            _apply(resource, trial.partials)
            resource.commit(number)
        finally:
            resource.rollback()
    yield "what was added", _sorted(trial.partials * 2), _sorted(added.since())


def _killed(trial: Trial) -> Pairs:
    first, second = trial.halves()
    added = Added(trial)
    make = trial.make

    def die(_: int) -> None:
        resource = Trial(make, [], list).new()
        resource.begin()
        _apply(resource, first)
        resource.commit(b"by another process")
        _apply(resource, second)
        os.kill(os.getpid(), signal.SIGKILL)

    with contextlib.suppress(WorkerLost):
        aggregate(die, [0], Into(_nothing), workers=1, retries=0)
    yield "the ledger", b"by another process", trial.ledger()
    yield "what was added", _sorted(first), _sorted(added.since())


def _nothing(partial: Any) -> None:
    del partial


# Each law builds on those before it; only the last one starts a process.
LAWS: dict[str, Callable[[Trial], Pairs]] = {
    "begin() returns the ledger that commit was given, whatever bytes these are": _ledger,
    "what was applied before a commit is there once": _once,
    "each commit keeps what was applied since the last": _each,
    "what was applied since the last commit is gone after rollback()": _forgotten,
    "after rollback() it can begin again": _again,
    "what a process committed is there when it has been killed": _killed,
}
