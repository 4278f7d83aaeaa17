"""Numbers on their way: pieces of some thousand, each written by marshal, so that few are objects at a time.

Numbers in a list take memory that is fresh, if they are many, and that no cache holds: to pull half a million and write
them takes a third longer than a few thousand at a time, and to read them twice as long.
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
"""Types whose values cannot change, and that marshal writes as they are."""

PIECE = 8192
"""Numbers of a piece: about 300 kB as objects."""

VALUES = 2
"""The version of marshal's format that writes values, and no references: the bytes of two lists one after another, but
for their heads, are those of one."""

HEAD = 5
"""Bytes that a list begins with: a letter, and how long it is."""


class Puller:
    """Pulls the numbers that an iterator begins with, and nothing after the first item that is none.

    As long as they have one type no code of ours runs for each: `groupby` finds where another begins, and keeps that
    item until it is asked for. That takes two thirds of the time of a loop; where types change a loop is quicker.

    >>> numbers, puller = [], Puller(iter([1, 2, 2.5, True, 3, [4], 5]))
    >>> puller.pull(numbers, 2), puller.pull(numbers, 2), puller.pull(numbers, 9), numbers
    ((), (), ([4],), [1, 2, 2.5, True, 3])
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self.begin()

    def begin(self) -> None:
        """Numbers of one type are expected, whichever it is."""
        self._runs, self._run = groupby(self._iterator, type), iter(())
        self._types = 0

    def pull(self, numbers: list[Any], count: int) -> tuple[Any, ...]:
        """Append `count` of them; fewer if there are no more, or if an item is none: that one is what it returns."""
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
        integer, types = int, TYPES  # local names, and a method called as one: 5 ns less for each
        for item in islice(self._iterator, end - len(numbers)):
            if type(item) is integer or type(item) in types:
                numbers.append(item)
            else:
                return (item,)
        return ()


def write_piece(numbers: list[Any]) -> bytes:
    """A piece."""
    return marshal.dumps(numbers, VALUES)


def read_piece(piece: bytes) -> list[Any]:
    """What it was written from.

    >>> read_piece(write_piece([1, True, 2.5, None]))
    [1, True, 2.5, None]
    """
    numbers: list[Any] = marshal.loads(piece)
    return numbers


def _length(piece: bytes) -> int:
    """How many numbers are in a piece."""
    return int.from_bytes(piece[1:HEAD], "little")


def cut_pieces(pieces: list[bytes], count: int) -> tuple[list[bytes], list[bytes]]:
    """The first `count` numbers of some pieces, and the rest.

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
    """Pieces as one; `NumberBatch` reads it."""
    return marshal.dumps(pieces, VALUES)


class NumberBatch(Sequence[Any]):
    """`count` numbers from `start` on, read a piece at a time.

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
