"""A run's ledger, entrusted to the resource that its partials go into: both are committed in one step, or neither.

What a checkpoint holds in tables is here one string of bytes, which the resource keeps beside what it was given:

    digests of the input's pages | the state | facts and failed items, as JSON | the lengths of these, a checksum

Rule of the room: what only grows comes first and never changes, so that a resource which keeps a ledger in pieces
writes only its end anew. And a state is a pickle: a resource that others may write must not hold one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from poolagg._checkpoint import NOTHING, FailedItem, Held
from poolagg.errors import CheckpointError
from poolagg.resources import Resource

__all__ = ["Entrusted", "is_private"]

END = struct.Struct("<4sBQQQ16s")
"""What it is, its format, the lengths of the three parts, and the checksum of all before it and of these."""

MAGIC = b"pagl"
FORMAT = 4


class Entrusted:
    """A resource, begun for one run, in a checkpoint's place: `held` is what it held, `commit` replaces that."""

    anew = "take another resource: another path, another `run`"

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self.name = f"the ledger in {resource!r}"
        ledger = resource.begin()
        try:
            self.held = Held() if ledger is None else self._opened(bytes(ledger))
        except BaseException:
            resource.rollback()
            raise
        self._pages = bytearray(self.held.pages)
        self._sum = blake2b(self._pages, digest_size=16)

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
        """Let go of the resource."""
        self._resource.rollback()

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


def is_private(resource: Resource) -> bool:
    """Whether the resource says that nobody but this user can write its ledger."""
    return bool(getattr(resource, "private", False))
