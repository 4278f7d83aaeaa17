"""Numbers between processes: marshal writes them in pieces of some thousands, so that few are objects at a time.

A long list of numbers takes fresh memory that no cache holds. Half a million at once take a third longer to pull and
write than a few thousand at a time, and twice as long to read.
"""

from __future__ import annotations

import marshal
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, islice
from typing import Any, overload

__all__ = [
    "HEAD",
    "PIECE",
    "TYPES",
    "VALUES",
    "NumberBatch",
    "Puller",
    "cut_pieces",
    "join_pieces",
    "read_piece",
    "write_piece",
]

TYPES = frozenset({int, float, bool, complex, type(None)})
"""Immutable types that marshal writes exactly."""

PIECE = 8192
"""Numbers in a piece: about 300 kB as objects."""

VALUES = 2
"""The version of marshal's format that writes values and no references. Apart from their heads, the bytes of two lists
in a row are those of the joined list."""

HEAD = 5
"""Bytes of a list's head: a letter and the length."""


class Puller:
    """Pull the numbers that an iterator begins with, and nothing behind the first item that is not a number.

    While all have one type no Python code runs for each: `groupby` finds where another type begins, and keeps that
    item for the next group. This takes two thirds of a loop's time; where types change, a loop is quicker.

    >>> numbers, puller = [], Puller(iter([1, 2, 2.5, True, 3, [4], 5]))
    >>> puller.pull(numbers, 2), puller.pull(numbers, 2), puller.pull(numbers, 9), numbers
    ((), (), ([4],), [1, 2, 2.5, True, 3])
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self.begin()

    def begin(self) -> None:
        """Expect numbers of one type, any type, from here on."""
        self._runs, self._run = groupby(self._iterator, type), iter(())
        self._types = 0

    def pull(self, numbers: list[Any], count: int) -> tuple[Any, ...]:
        """Append up to `count` numbers; return the first item that is not a number, in a tuple, if one came."""
        end = len(numbers) + count
        while self._types < 2:
            numbers.extend(islice(self._run, end - len(numbers)))
            if len(numbers) == end:
                return ()
            kind, self._run = next(self._runs, (None, self._run))
            if kind is None:
                return ()
            self._types += 1
            if kind not in TYPES:
                return (next(self._run),)
            numbers.append(next(self._run))
        integer, types = int, TYPES  # local names save 5 ns for each number
        for item in islice(self._iterator, end - len(numbers)):
            if type(item) is integer or type(item) in types:
                numbers.append(item)
            else:
                return (item,)
        return ()


def write_piece(numbers: list[Any]) -> bytes:
    """Write numbers as a piece."""
    return marshal.dumps(numbers, VALUES)


def read_piece(piece: bytes) -> list[Any]:
    """Return the numbers of a piece.

    >>> read_piece(write_piece([1, True, 2.5, None]))
    [1, True, 2.5, None]
    """
    numbers: list[Any] = marshal.loads(piece)
    return numbers


def _length(piece: bytes) -> int:
    """Return how many numbers a piece has."""
    return int.from_bytes(piece[1:HEAD], "little")


def cut_pieces(pieces: list[bytes], count: int) -> tuple[list[bytes], list[bytes]]:
    """Split pieces after their first `count` numbers.

    >>> [list(map(read_piece, part)) for part in cut_pieces([write_piece([1, 2]), write_piece([3, 4])], 3)]
    [[[1, 2], [3]], [[4]]]
    """
    for number, piece in enumerate(pieces):
        before, after = pieces[:number], pieces[number + 1 :]
        if not count:
            return before, [piece, *after]
        if count < _length(piece):
            numbers = read_piece(piece)
            return [*before, write_piece(numbers[:count])], [write_piece(numbers[count:]), *after]
        count -= _length(piece)
    return pieces, []


def join_pieces(pieces: list[bytes]) -> bytes:
    """Join pieces into the data of a `NumberBatch`."""
    return marshal.dumps(pieces, VALUES)


class NumberBatch(Sequence[Any]):
    """A sequence of `count` numbers from `start` on, which reads one piece at a time.

    >>> numbers = NumberBatch(join_pieces([write_piece([1, 2]), write_piece([3, 4])]), 1, 3)
    >>> numbers[:2], list(numbers), numbers[-1], len(numbers)
    ([2, 3], [2, 3, 4], 4, 3)
    """

    def __init__(self, data: Any, start: int, count: int) -> None:
        self._pieces: list[bytes] = marshal.loads(data)
        self._ends = list(accumulate(map(_length, self._pieces), initial=0))
        self._places = range(start, start + count)
        self._last: tuple[int, list[Any]] = -1, []

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        places = self._places[index]
        if isinstance(places, int):
            return self._between(places, places + 1)[0]
        return self._between(places.start, places.stop)

    def _between(self, start: int, stop: int) -> list[Any]:
        found: list[Any] = []
        while start < stop:
            number = bisect_right(self._ends, start) - 1
            begin, end = self._ends[number : number + 2]
            found += self._read(number)[start - begin : stop - begin]
            start = end
        return found

    def _read(self, number: int) -> list[Any]:
        if self._last[0] != number:
            self._last = number, read_piece(self._pieces[number])
        return self._last[1]
