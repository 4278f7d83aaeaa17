"""A run's ledger, entrusted to the resource that its partials go into: both are committed in one step, or neither.

What a checkpoint holds in tables is here one string of bytes, which the resource keeps beside what it was given:

    digests of the input's pages | the state | facts and failed items, as JSON | the lengths of these, a checksum

Rule of the room: what only grows comes first and never changes, so that a resource which keeps a ledger in pieces
writes only its end anew. A state is a pickle: a resource that others may write must not hold one, and a run that
keeps no state opens none.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any
from weakref import WeakValueDictionary

from poolagg._checkpoint import NOTHING, FailedItem, Held
from poolagg._interrupts import interrupts_held_back
from poolagg.errors import CheckpointError, ResourceError
from poolagg.resources import Resource

__all__ = ["Entrusted", "is_private"]

END = struct.Struct("<4sBQQQ16s")
"""What it is, its format, the lengths of the three parts, and the checksum of all before it and of these."""

MAGIC = b"pagl"
FORMAT = 4


class Entrusted:
    """A resource in a checkpoint's place: `open` begins it for one run, `held` is what it held then.

    Making one begins nothing, so that its owner has it, and closes it, whatever interrupts `open`.
    """

    anew = "take another resource: another path, another `run`"

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self.name = f"the ledger in {resource!r}"
        self._begun = False

    def open(self) -> Held:
        """Begin the resource, and read its ledger."""
        self._claim()
        try:
            ledger = self._resource.begin()
        except Exception:  # it has refused, and holds nothing; an interruption may have come when it had begun
            self._begun = False
            raise
        self.held = Held() if ledger is None else self._opened(bytes(ledger))
        self._pages = bytearray(self.held.pages)
        self._sum = blake2b(self._pages, digest_size=16)
        return self.held

    def _claim(self) -> None:
        """Keep other runs of this process away from the resource."""
        with interrupts_held_back(), _claiming:
            if id(self._resource) in _in_use:
                raise ResourceError(f"{self._resource!r} is in use by another run of this process: wait for its end")
            self._begun, _in_use[id(self._resource)] = True, self

    @property
    def full(self) -> bool:
        """Whether the resource wants a commit before its time."""
        return getattr(self._resource, "full", False)

    def commit(self, facts: dict[str, Any], state: bytes, pages: bytes, failed: Iterable[FailedItem]) -> None:
        """One step: what was applied, new facts and state, more pages, and these failed items and no others."""
        text = json.dumps({"facts": facts, "failed": [*failed]}).encode()
        self._pages += pages
        self._sum.update(pages)
        lengths = len(self._pages), len(state), len(text)
        end = END.pack(MAGIC, FORMAT, *lengths, self._checksum(state, text, lengths))
        self._resource.commit(b"".join([self._pages, state, text, end]))

    def close(self) -> None:
        """Let go of the resource. A call that was interrupted may be made again."""
        try:
            if self._begun:
                self._resource.rollback()
        except Exception:
            self._let_go()
            raise
        self._let_go()

    def _let_go(self) -> None:
        with interrupts_held_back():
            self._begun = False
            if _in_use.get(id(self._resource)) is self:
                del _in_use[id(self._resource)]

    def _checksum(self, state: bytes, text: bytes, lengths: tuple[int, ...]) -> bytes:
        rest = self._sum.copy()
        for part in (state, text, repr(lengths).encode()):
            rest.update(part)
        return rest.digest()

    def _opened(self, ledger: bytes) -> Held:
        """All that is in it, if all of it is as it was written."""
        if len(ledger) < END.size or ledger[-END.size :][:4] != MAGIC:
            self._refuse("is not one of poolagg, or a damaged one")
        _, version, *lengths, checksum = END.unpack(ledger[-END.size :])
        if version != FORMAT:
            mend = "update poolagg" if version > FORMAT else "finish it with the older poolagg that wrote it"
            self._refuse(f"has format {version}, and this poolagg reads {FORMAT}: {mend}")
        if sum(lengths) + END.size != len(ledger):
            self._refuse("is damaged: its lengths are wrong")
        first, second = lengths[0], lengths[0] + lengths[1]
        pages, state, text = ledger[:first], ledger[first:second], ledger[second : -END.size]
        self._sum = blake2b(pages, digest_size=16)
        if self._checksum(state, text, tuple(lengths)) != checksum:
            self._refuse("is damaged: its checksum is wrong")
        if state != NOTHING and not is_private(self._resource):
            self._refuse("holds a state, which is a pickle, and others may have written it")
        told = json.loads(text)
        return Held(told["facts"], state, pages, {item[0]: FailedItem(*item) for item in told["failed"]})

    def _refuse(self, why: str) -> None:
        raise CheckpointError(f"{self.name} {why}. It was left as it is; to begin anew, {self.anew}")


_in_use: WeakValueDictionary[int, Entrusted] = WeakValueDictionary()
"""The resources that runs of this process have begun, by their ids. A run that is gone uses none."""

_claiming = threading.Lock()


def is_private(resource: Resource) -> bool:
    """Whether the resource says that nobody but this user can write its ledger."""
    return bool(getattr(resource, "private", False))
