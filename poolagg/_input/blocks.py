"""`blocks` cuts files into ranges of lines, which the workers read.

Rule: the parent never reads what a worker could read. A block is a path and a range of bytes; the worker finds the
lines of the block, those that start in the range. So the blocks of a terabyte cost one `stat` a file, and each line is
in exactly one block, however long it is.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, BinaryIO, NoReturn, overload

from poolagg._runtime.sizes import parse_size

__all__ = ["Block", "Blocks", "blocks"]

# Bytes of a long line to read at once in search of its end: quick, and bounded in memory.
_SCAN = 1 << 18


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of a file that start in the bytes from `start` to `stop`; only `read` and iteration read the file.

    `size` and `mtime_ns` are those of the file when the block was made. Reading a block of a file that has changed
    since is an error: its lines may be in no block by now, or in two.
    """

    __module__ = "poolagg"  # checkpoints keep this name

    path: str
    start: int
    stop: int
    encoding: str | None
    size: int
    mtime_ns: int

    def read(self) -> Any:
        """Return the lines as one text, decoded as `open` does; as bytes if `encoding` is None."""
        try:
            return self._open().read()
        except UnicodeDecodeError as error:
            self._refuse(error)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the lines, each with its end, as iterating over a file does."""
        try:
            yield from self._open()
        except UnicodeDecodeError as error:
            self._refuse(error)

    def _open(self) -> io.BytesIO | io.TextIOWrapper:
        with open(self.path, "rb") as file:
            first = _line_start(file, self.start, self.stop)
            last = _line_start(file, self.stop, self.size) if first < self.stop else first
            file.seek(first)
            owned = io.BytesIO(file.read(last - first))
            self._check_unchanged(os.fstat(file.fileno()))
        return owned if self.encoding is None else io.TextIOWrapper(owned, _decoding(self.encoding, first))

    def _check_unchanged(self, now: os.stat_result) -> None:
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
            raise ValueError(
                f"{self.path!r} changed since blocks() was called: {self.size} bytes then, "
                f"{now.st_size} now, modification time {(now.st_mtime_ns - self.mtime_ns) / 1e9:+.6f} s. "
                "Call blocks() again when nothing writes to it"
            )

    def _refuse(self, error: UnicodeDecodeError) -> NoReturn:
        error.add_note(
            f"in {self.path!r}, in the lines that start in bytes {self.start} to {self.stop}: "
            "pass the file's encoding, as in blocks(path, encoding='latin-1'), or encoding=None for bytes"
        )
        raise error


def _line_start(file: BinaryIO, at: int, limit: int) -> int:
    """Return the start of the first line that starts at or after `at`; `limit` if there is none before `limit`."""
    if at == 0:
        return 0
    file.seek(at - 1)
    while file.tell() < limit:
        part = file.readline(_SCAN)
        if not part or part.endswith(b"\n"):
            return min(file.tell(), limit)
    return limit


def _decoding(encoding: str, first: int) -> str:
    """Return the encoding to decode with: only at the file's start are three such bytes a byte order mark."""
    return "utf-8" if first and codecs.lookup(encoding).name == "utf-8-sig" else encoding


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    mtime_ns: int


class Blocks(Sequence[Block]):
    """The sequence that `blocks` returns: it makes each block on access; its slices are such sequences, too."""

    def __init__(self, files: Sequence[_File], size: int, encoding: str | None) -> None:
        self._files = files
        self._size = size
        self._encoding = encoding
        self._ends = list(accumulate(-(-file.size // size) for file in files))
        self._numbers = range(self._ends[-1])

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> Blocks: ...
    def __getitem__(self, index: int | slice) -> Block | Blocks:
        if isinstance(index, slice):
            return self._sliced(index)
        number = self._numbers[index]
        where = bisect_right(self._ends, number)
        file = self._files[where]
        start = (number - (self._ends[where - 1] if where else 0)) * self._size
        stop = min(start + self._size, file.size)
        return Block(file.path, start, stop, self._encoding, file.size, file.mtime_ns)

    def _sliced(self, index: slice) -> Blocks:
        part = Blocks(self._files, self._size, self._encoding)
        part._numbers = self._numbers[index]
        return part

    def __repr__(self) -> str:
        return f"<{len(self)} blocks of up to {self._size} bytes, of {len(self._files)} files>"


def blocks(*paths: str | os.PathLike[str], size: int | str = "16MiB", encoding: str | None = "utf-8") -> Blocks:
    r"""Cut files into blocks of whole lines, for workers to read: a sequence of small, picklable blocks.

    `block.read()` returns the block's text, iterating over a block gives its lines with their ends. The lines of all
    blocks, in order, are the lines of the files as `open(path, encoding=encoding)` iterates over them (CRLF becomes LF,
    a byte order mark stays unless `encoding="utf-8-sig"`), or `open(path, "rb")` if `encoding` is None. `size` is a
    number of bytes, or a text such as "64kB" or "16MiB". The call reads nothing but the files' sizes.

    A line longer than `size` is whole in the block that it starts in; the further blocks that it covers are empty. An
    empty file has no blocks. Compressed files cannot be cut: pass their paths as items instead.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = pathlib.Path(folder.name, "three.txt")
    >>> _ = file.write_text("one\ntwo\nthree\n")
    >>> [block.read() for block in blocks(file, size=5)]
    ['one\ntwo\n', 'three\n', '']
    >>> [line for block in blocks(file, size="1kB") for line in block]
    ['one\n', 'two\n', 'three\n']
    >>> folder.cleanup()
    """
    if not paths:
        raise ValueError("blocks() was given no path: write blocks('corpus.txt'), or blocks(*paths) for several")
    _check_encoding(encoding)
    return Blocks([_seen(path) for path in paths], _bytes(size), encoding)


def _seen(path: str | os.PathLike[str]) -> _File:
    """Return the file as it is now, with an absolute path, since a worker may have another working directory."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"blocks() takes paths, not {path!r}: write blocks(*paths) to pass a list of them")
    if os.fspath(path) == "-":
        raise ValueError("blocks() cannot cut '-' (standard input), only files: iterate over sys.stdin for its lines")
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, _missing(path), os.fspath(path)) from None
    _check_regular(path, status.st_mode)
    return _File(os.path.abspath(path), status.st_size, status.st_mtime_ns)


def _missing(path: str | os.PathLike[str]) -> str:
    if set("*?[") & set(os.fspath(path)):
        return "No such file; blocks() expands no patterns: write blocks(*sorted(glob.glob(pattern))) for"
    return f"No such file, seen from {os.getcwd()!r}"


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(
            f"blocks() cuts files, and {os.fspath(path)!r} is a directory: "
            "write blocks(*sorted(p for p in pathlib.Path(directory).rglob('*.txt')))"
        )
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"blocks() cuts regular files, and {os.fspath(path)!r} is not one: iterate over its lines instead"
        )


def _check_encoding(encoding: str | None) -> None:
    """Refuse an encoding in which the byte 10 is not a newline: blocks finds lines before it decodes them."""
    if encoding is None:
        return
    try:
        cuttable = b"\n".decode(encoding) == "\n"
    except UnicodeDecodeError:
        cuttable = False
    if not cuttable:
        raise ValueError(
            f"blocks() cannot cut {encoding!r} at newlines, which are not the single byte 10 there: "
            "convert the files to UTF-8, or pass their paths as items"
        )


def _bytes(size: int | str) -> int:
    """Return the number of bytes that `size` means."""
    number = parse_size(size)
    if number is None:
        raise ValueError(
            f"blocks() got size={size!r}: "
            "write a whole number of bytes, at least 1, or a text such as '64kB' or '16MiB'"
        )
    return number
