"""A file as a resource: partials are appended as lines, and a ledger file next to it holds the committed length.

    apply     buffer a line in memory, up to a mebibyte, then write
    commit    write the buffer, fsync; write the ledger under another name, fsync, rename, fsync the folder
    begin     truncate the file to the length in the ledger

The rename is the atomic step. Rule: only the ledger in the folder decides what counts, also after a failed commit,
whose rename may have happened.
"""

from __future__ import annotations

import contextlib
import json
import os
from hashlib import blake2b
from typing import Any, NamedTuple

from poolagg._runtime.files import OpenFile, errors_of_the_disk, read, replace, within, write_all
from poolagg._runtime.interrupts import interrupts_held_back
from poolagg._runtime.system import this
from poolagg._runtime.system.ownership import Exposed, open_own
from poolagg.errors import ResourceError, short_repr
from poolagg.reducers import Into

__all__ = ["IntoFile"]

BUFFER = 1 << 20
"""Bytes of lines that are buffered before they are written."""

TAIL = 1 << 12
"""Bytes before the committed end whose digest identifies the file."""

PATIENCE = 2.0
"""Seconds to wait for another run: forked workers of a killed run may hold the file for a moment."""

FORMAT = 1


class IntoFile(Into):
    """Append each partial to a file as a line, exactly once, whatever dies; the result is None.

    A partial is a text without a line end (LF or CR), written as UTF-8; for others write
    `IntoFile("rows.jsonl").of(json.dumps)`. The ledger is in `PATH.ledger`. `ordered=True` keeps the input order. Lines
    that are in the file before the first run stay. While the ledger exists, the file belongs to the run, which cuts off
    lines that others append when it continues.

    The same call continues the run; for another run take another path. Raises `ResourceError` if the file or its ledger
    cannot be written or read, is in use by another run, or differs from the committed one.

    >>> import json, pathlib, tempfile
    >>> from poolagg import SerialPool, aggregate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "squares.jsonl")
    ...     for _ in range(2):  # the second time there is nothing left to do
    ...         aggregate(lambda x: [x, x * x], range(3), IntoFile(path).of(json.dumps), pool=SerialPool())
    ...     print(path.read_text(), end="")
    [0, 0]
    [1, 1]
    [2, 4]
    """

    def __init__(self, path: str | os.PathLike[str], *, ordered: bool = False) -> None:
        super().__init__(File(path), ordered)

    def __repr__(self) -> str:
        text = repr(self.resource)
        return f"{text[:-1]}, ordered=True)" if self.ordered else text


class Side(NamedTuple):
    """The content of the ledger file: how many bytes count, the digest of the last of them, and the ledger if any."""

    length: int
    tail: str
    ledger: bytes | None


class File:
    """The resource behind `IntoFile`."""

    known_by = None  # a file that was moved together with its ledger is the same
    private = True  # a ledger that others may write is refused

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise TypeError(f"IntoFile takes a path, not {path!r}")
        self._path = os.fspath(path)
        if not self._path or "\0" in self._path:
            raise ValueError(f"{self._path!r} names no file")
        self._file = OpenFile()
        self._lines = bytearray()

    def __repr__(self) -> str:
        return f"IntoFile({self._path!r})"

    # -- the protocol --------------------------------------------------------------------------------------------------

    def begin(self) -> bytes | None:
        """Open and lock the file, and cut off uncommitted lines."""
        self.rollback()
        try:
            with self._named():
                self._file.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                if not within(PATIENCE, self._file.lock):
                    raise ResourceError(f"{self!r} is in use by another run: wait for its end, or take another path")
                self._real = os.path.realpath(self._path)
                return self._cut().ledger
        except BaseException:
            self._file.close()
            raise

    def apply(self, partial: Any) -> None:
        """Append a line."""
        if not isinstance(partial, str):
            raise TypeError(
                f"{self!r} takes texts, one for each line, not {short_repr(partial)}: write one with .of(str), or "
                ".of(json.dumps)"
            )
        if "\n" in partial or "\r" in partial:
            raise ValueError(
                f"{self!r} takes texts of one line each, without its end, not {short_repr(partial)}: strip it, or make "
                "several with .of(str.splitlines) and .flat(), or keep line ends escaped with .of(json.dumps)"
            )
        self._lines += partial.encode()
        self._lines += b"\n"
        if len(self._lines) >= BUFFER:
            with self._named():
                self._write_lines()

    def commit(self, ledger: bytes) -> None:
        """Write the lines to disk, and then the ledger."""
        with self._named():
            self._write_lines()
            os.fsync(self._file.fileno())
            self._write_side(Side(self._size(), self._tail(self._size()), ledger))

    def rollback(self) -> None:
        """Cut off uncommitted lines, and close the file."""
        with interrupts_held_back():
            self._lines = bytearray()
            if not self._file.is_open:
                return
            try:
                # If this fails, the next `begin` does it, or reports the error.
                with contextlib.suppress(OSError, ResourceError):
                    self._cut()
            finally:
                self._file.close()

    # -- the committed part of the file --------------------------------------------------------------------------------

    def _cut(self) -> Side:
        """Truncate the file to its committed length, after verifying that it is the committed file."""
        size = self._size()
        side = self._read_side()
        if side is None:  # in the first run, all that the file contains counts
            if size and this.read_at(self._file.fileno(), 1, size - 1) != b"\n":
                raise ResourceError(f"{self!r}: the file does not end with a line end: append one")
            side = Side(size, self._tail(size), None)
            self._write_side(side)
        if size < side.length:
            self._refuse(f"has {size} bytes, and {side.length} were committed")
        if self._tail(side.length) != side.tail:
            self._refuse(f"is not the one that was committed: it differs before byte {side.length}")
        if size > side.length:
            os.ftruncate(self._file.fileno(), side.length)
        return side

    def _refuse(self, what: str) -> None:
        raise ResourceError(
            f"{self!r}: the file {what}. It was left as it is: restore the committed file; or, to begin anew, delete "
            f"it and {self._path}.ledger"
        )

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _tail(self, length: int) -> str:
        """Return the digest of the last bytes before `length`."""
        start = max(0, length - TAIL)
        return blake2b(this.read_at(self._file.fileno(), length - start, start), digest_size=16).hexdigest()

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, bytearray()
        write_all(self._file, lines)

    # -- the ledger file -----------------------------------------------------------------------------------------------

    def _read_side(self) -> Side | None:
        name = f"{self._real}.ledger"
        file = OpenFile()
        try:
            open_own(file, name)
            content = read(file)
        except FileNotFoundError:
            return None
        except Exposed as exposed:
            raise ResourceError(f"{self!r}: its ledger {exposed}") from None
        finally:
            file.close()
        head, _, ledger = content.partition(b"\n")
        try:
            facts = json.loads(head)
            side = Side(facts["length"], facts["tail"], ledger if facts["begun"] else None)
            whole = facts["format"] == FORMAT and facts["sum"] == _sum(side)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise ResourceError(
                f"{self!r}: its ledger {name!r} is damaged, or of another version of poolagg. It was left as it is: "
                "restore a copy of both files; or, to begin anew, delete both"
            )
        return side

    def _write_side(self, side: Side) -> None:
        head = {
            "format": FORMAT, "length": side.length, "tail": side.tail, "begun": side.ledger is not None,
            "sum": _sum(side),
        }  # fmt: skip
        replace(f"{self._real}.ledger", [json.dumps(head).encode() + b"\n", side.ledger or b""])

    def _named(self) -> contextlib.AbstractContextManager[None]:
        """Add the name of the file to errors of the disk."""
        hint = ". All committed lines count, and the same call again goes on from there"
        return errors_of_the_disk(ResourceError, repr(self), hint)


def _sum(side: Side) -> str:
    digest = blake2b(f"{side.length} {side.tail} {side.ledger is None} ".encode(), digest_size=16)
    digest.update(side.ledger or b"")
    return digest.hexdigest()
