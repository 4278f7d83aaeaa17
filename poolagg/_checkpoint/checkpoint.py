"""A checkpoint as a value: the options that a caller gives, what a checkpoint holds, and the bytes that it is kept in.

The same bytes are a checkpoint's file and a resource's ledger:

    a line with the format | digests of the input's pages | the state | facts and failed items, as JSON | the end

The end has the lengths of the three parts, and a checksum over them. The part that only grows comes first, so that a
resource which keeps a ledger in pieces writes only its end anew.

Rule: the checksum is compared before anything is unpickled. It finds damage and is not a seal: a user who
can write the bytes can run code in the process that continues them.
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
FORMAT = 5
"""Counted up when the bytes, how states are kept, or how func and input are known again, change."""

HEAD = MAGIC + b"%d\n" % FORMAT

END = struct.Struct("<QQQ16s")
"""The lengths of pages, state and JSON, and the checksum of all before it and of these."""

LONGEST_HEAD = 100
"""Bytes from the start of a file that tell whether it is a checkpoint, also one of an older format."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run keeps its state, for `aggregate(..., checkpoint=...)`; a path alone is `Checkpoint(path)`.

    A run into a resource that can commit (`poolagg.resources`) keeps it there: then give the options alone.

    every          seconds between two commits at most; by default as seldom as costs 1 % of the run
    retry_failed   run again what an earlier run skipped as failed, and nothing that is in the result already
    key            stands for func and reducer: the checkpoint is that of any run with the same key

    >>> Checkpoint("run.ckpt", every=60)
    Checkpoint('run.ckpt', every=60)
    """

    path: str | os.PathLike[str] | None = None
    every: float | None = None
    retry_failed: bool = False
    key: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            _check_name(self.path)
        if self.every is not None:
            object.__setattr__(self, "every", checked_seconds("Checkpoint(every=...)", self.every))
        if self.key is not None and not isinstance(self.key, str):
            raise TypeError(f"Checkpoint(key=...) takes a text, such as 'v1', not {self.key!r}")

    def __repr__(self) -> str:
        given = {"every": self.every, "retry_failed": self.retry_failed, "key": self.key}
        options = [f"{name}={value!r}" for name, value in given.items() if value not in (None, False)]
        return f"Checkpoint({', '.join([*([] if self.path is None else [repr(os.fspath(self.path))]), *options])})"


def _check_name(path: Any) -> None:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"checkpoint takes a path or a Checkpoint, not {path!r}")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"{path!r} names no file for a checkpoint")


class FailedItem(NamedTuple):
    """An item that was skipped as failed, as text: it is shown, and never unpickled."""

    number: int
    item: str
    attempts: int
    kind: str
    trace: str


@dataclass
class CheckpointData:
    """The content: `facts` are small values for people and comparisons, `pages` digests of the input."""

    facts: dict[str, Any] = field(default_factory=dict)
    state: bytes | None = None
    pages: bytes = b""
    failed: dict[int, FailedItem] = field(default_factory=dict)

    @property
    def unlisted(self) -> RangeSet:
        """The items that failed after those that are listed in `failed`: their indices alone."""
        return RangeSet((start, stop) for start, stop in self.facts.get("unlisted", ()))

    @property
    def all_failed(self) -> RangeSet:
        """All items that failed."""
        failed = RangeSet((index, index + 1) for index in sorted(self.failed))
        failed.update(self.unlisted)
        return failed

    def encoded(self) -> list[bytes]:
        """Return it as bytes, in parts that are put together."""
        text = json.dumps({"facts": self.facts, "failed": [*self.failed.values()]}).encode()
        parts = self.pages, self.state or b"", text
        lengths = [len(part) for part in parts]
        return [HEAD, *parts, END.pack(*lengths, _checksum(*parts))]

    @classmethod
    def decoded(cls, content: bytes, refuse: Callable[[str], NoReturn]) -> CheckpointData:
        """Open the bytes, if all of them are as they were written; `refuse(why)` must raise."""
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
        told = json.loads(text)
        return cls(told["facts"], state or None, pages, {item[0]: FailedItem(*item) for item in told["failed"]})


def _checksum(pages: bytes, state: bytes, text: bytes) -> bytes:
    """Of a state, which may have many megabytes, a CRC is enough to find what a disk does to it."""
    lengths = f"{len(pages)} {len(state)} {len(text)} {crc32(state)} "
    told = blake2b(lengths.encode(), digest_size=16)
    told.update(pages)
    told.update(text)
    return told.digest()


def check_format(content: bytes, refuse: Callable[[str], NoReturn]) -> None:
    """Refuse what is not a checkpoint of this format; the head of a file is enough to tell."""
    version = _format_of(content)
    if version is None:
        refuse("holds no checkpoint of poolagg, or a damaged one")
    formats = f"(format {version}, and this one reads {FORMAT})"
    if version > FORMAT:
        refuse(f"was written by a newer poolagg {formats}: update poolagg")
    if version < FORMAT:
        refuse(f"was written by an older poolagg {formats}: finish it with the older poolagg that wrote it")


def _format_of(content: bytes) -> int | None:
    """Return the format of a checkpoint. Up to format 4 a file was a SQLite database, and a ledger had other ends."""
    if content.startswith(MAGIC):
        number = content[len(MAGIC) : LONGEST_HEAD].partition(b"\n")[0]
        return int(number) if number.isdigit() and number[:1] != b"0" else None
    if content.startswith(b"SQLite format 3\0") and content[68:72] == b"pagg":
        return int.from_bytes(content[60:64], "big")
    return content[-41] if content[-45:-41] == b"pagl" else None


NOTHING = pickle.dumps(None, 5)
"""The state of what keeps none."""


def packed(state: Any) -> bytes:
    """Pickle a state, plainly if possible."""
    try:
        return pickle.dumps(state, 5)
    except Exception:
        import cloudpickle

        return cloudpickle.dumps(state, 5)  # type: ignore[no-any-return]


def unpacked(name: str, data: bytes) -> Any:
    """Open a state whose checksum was right; `name` is what holds it."""
    if data == NOTHING:
        return None
    try:
        return pickle.loads(data)
    except Exception as error:
        raise CheckpointError(
            f"the state in {name} does not unpickle here: {type(error).__name__}: {error}. Make what it names "
            "importable again, or begin anew elsewhere"
        ) from error
