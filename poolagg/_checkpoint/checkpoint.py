"""A checkpoint as a value: the caller's options, the content, and its encoding as bytes.

A checkpoint's file and a resource's ledger hold the same bytes:

    a line with the format | digests of the input's pages | the state | facts and failed items, as JSON | the end

The end has the lengths of the three parts and a checksum over them. The part that only grows comes first, so that a
resource that stores its ledger in rows rewrites only the last ones.

Rule: the checksum is compared before anything is unpickled. It detects damage, not forgery: a user who can write the
bytes can run code in the process that continues the run.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, NoReturn
from zlib import crc32

from poolagg._runtime.durations import checked_seconds
from poolagg._scheduler.ranges import RangeSet
from poolagg.errors import CheckpointError

__all__ = ["HEAD", "NOTHING", "Checkpoint", "CheckpointData", "FailedItem", "check_format", "packed", "unpacked"]

MAGIC = b"poolagg checkpoint "
FORMAT = 6
"""Incremented when the bytes, the form of states, or the fingerprints of func and input change."""

HEAD = MAGIC + b"%d\n" % FORMAT

END = struct.Struct("<QQQ16s")
"""The lengths of pages, state and JSON, and the checksum of the three and their lengths."""

LONGEST_HEAD = 100
"""Bytes at the start of a file that suffice to recognize a checkpoint, also one of an older format."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The file in which a run stores its state, for `aggregate(..., checkpoint=...)`; a path means `Checkpoint(path)`.

    A run into a resource that can commit (`poolagg.resources`) stores its state there: then pass the options alone.

    every           most seconds between two commits; by default commits take 1 % of the run's time
    retry_failed    run items again that an earlier run skipped as failed, and no item that is in the result already
    key             identifies func and reducer: any run with the same key continues the checkpoint
    accept_changes  continue with another func than before, after a warning (`poolagg.errors.AcceptedChanges`). The
                    partials of the old func stay in the result; the checkpoint now belongs to the new func

    >>> Checkpoint("run.ckpt", every=60)
    Checkpoint('run.ckpt', every=60)
    """

    path: str | os.PathLike[str] | None = None
    every: float | None = None
    retry_failed: bool = False
    key: str | None = None
    accept_changes: bool = False

    def __post_init__(self) -> None:
        if self.path is not None:
            _check_name(self.path)
        if self.every is not None:
            object.__setattr__(self, "every", checked_seconds("Checkpoint(every=...)", self.every))
        if self.key is not None and not isinstance(self.key, str):
            raise TypeError(f"Checkpoint(key=...) takes a text, such as 'v1', not {self.key!r}")
        if self.key is not None and self.accept_changes:
            raise ValueError(
                f"Checkpoint(key={self.key!r}, accept_changes=True): runs with the same key count as the same "
                "whatever changes in func, so there is no change to accept. Leave one of the two out"
            )

    def __repr__(self) -> str:
        names = "every", "retry_failed", "key", "accept_changes"
        given = [(name, getattr(self, name)) for name in names]
        options = [f"{name}={value!r}" for name, value in given if value not in (None, False)]
        return f"Checkpoint({', '.join([*([] if self.path is None else [repr(os.fspath(self.path))]), *options])})"


def _check_name(path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"checkpoint takes a path or a Checkpoint, not {path!r}")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"{path!r} names no file for a checkpoint")


class FailedItem(NamedTuple):
    """An item that was skipped as failed, as text, so that showing it unpickles nothing."""

    number: int
    item: str
    attempts: int
    kind: str
    trace: str


@dataclass
class CheckpointData:
    """The content of a checkpoint: `facts` are small values to show and compare, `pages` digests of the input."""

    facts: dict[str, Any] = field(default_factory=dict)
    state: bytes | None = None
    pages: bytes = b""
    failed: dict[int, FailedItem] = field(default_factory=dict)

    @property
    def unlisted(self) -> RangeSet:
        """The indices of failed items that `failed` does not list, because it is full."""
        return RangeSet((start, stop) for start, stop in self.facts.get("unlisted", ()))

    @property
    def all_failed(self) -> RangeSet:
        """All items that failed."""
        failed = RangeSet((index, index + 1) for index in sorted(self.failed))
        failed.update(self.unlisted)
        return failed

    def encoded(self) -> list[bytes]:
        """Return the content as bytes, in parts to be concatenated."""
        text = json.dumps({"facts": self.facts, "failed": [*self.failed.values()]}).encode()
        parts = self.pages, self.state or b"", text
        lengths = [len(part) for part in parts]
        return [HEAD, *parts, END.pack(*lengths, _checksum(*parts))]

    @classmethod
    def decoded(cls, content: bytes, refuse: Callable[[str], NoReturn]) -> CheckpointData:
        """Decode the bytes after verifying their checksum; `refuse(why)` must raise."""
        check_format(content, refuse)
        if len(content) < len(HEAD) + END.size:
            refuse("is damaged: it is cut off")
        *lengths, checksum = END.unpack(content[-END.size :])
        if sum(lengths) + len(HEAD) + END.size != len(content):
            refuse("is damaged: its lengths are wrong")
        first = len(HEAD) + lengths[0]
        second = first + lengths[1]
        pages, state, text = content[len(HEAD) : first], content[first:second], content[second : -END.size]
        if _checksum(pages, state, text) != checksum:
            refuse("is damaged: its checksum is wrong")
        loaded = json.loads(text)
        return cls(loaded["facts"], state or None, pages, {item[0]: FailedItem(*item) for item in loaded["failed"]})


def _checksum(pages: bytes, state: bytes, text: bytes) -> bytes:
    """Return the checksum. For the state, which may have many megabytes, a CRC is enough to detect disk errors."""
    lengths = f"{len(pages)} {len(state)} {len(text)} {crc32(state)} "
    digest = blake2b(lengths.encode(), digest_size=16)
    digest.update(pages)
    digest.update(text)
    return digest.digest()


def check_format(content: bytes, refuse: Callable[[str], NoReturn]) -> None:
    """Refuse bytes that are not a checkpoint of this format; the head of a file is enough."""
    version = _format_of(content)
    if version is None:
        refuse("holds no checkpoint of poolagg, or a damaged one")
    formats = f"(format {version}, and this one reads {FORMAT})"
    if version > FORMAT:
        refuse(f"was written by a newer poolagg {formats}: update poolagg")
    if version < FORMAT:
        refuse(f"was written by an older poolagg {formats}: finish it with the older poolagg that wrote it")


def _format_of(content: bytes) -> int | None:
    """Return the format of a checkpoint, or None. Up to format 4 a file was a SQLite database, and a ledger ended
    otherwise."""
    if content.startswith(MAGIC):
        number = content[len(MAGIC) : LONGEST_HEAD].partition(b"\n")[0]
        return int(number) if number.isdigit() and number[:1] != b"0" else None
    if content.startswith(b"SQLite format 3\0") and content[68:72] == b"pagg":
        return int.from_bytes(content[60:64], "big")
    return content[-41] if content[-45:-41] == b"pagl" else None


NOTHING = pickle.dumps(None, 5)
"""The state of a reducer that keeps none."""


def packed(state: Any) -> bytes:
    """Pickle a state, by cloudpickle only if pickle fails."""
    try:
        return pickle.dumps(state, 5)
    except Exception:
        import cloudpickle

        return cloudpickle.dumps(state, 5)  # type: ignore[no-any-return]


def unpacked(name: str, data: bytes) -> Any:
    """Unpickle a state whose checksum was verified; `name` is the store's name, for the error."""
    if data == NOTHING:
        return None
    try:
        return pickle.loads(data)
    except Exception as error:
        raise CheckpointError(
            f"the state in {name} does not unpickle here: {type(error).__name__}: {error}. Make the names in it "
            "importable again, or begin anew elsewhere"
        ) from error
