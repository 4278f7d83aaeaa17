"""Items as people are told of them: the object where it is at hand, else its pickle, which is opened when asked for.

Opening a pickle runs the code of whoever wrote the item's class, and that may exit, crash or hang. So this process
opens by itself only what is made of plain values: numbers, texts, containers, paths, dates, arrays. What an item looks
like is told by the worker that ran it.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

from poolagg._input.batches import PACKED, Encoded, InputBatch, PackedItem, RetryBuffer, open_batch, open_item, size_of
from poolagg._runtime.exception_text import said, short_repr, works
from poolagg._runtime.plain_values import PLAIN

__all__ = ["KeptItem", "UnreadableItem", "find_item", "item_of", "opened_when_asked", "repr_of", "unopened"]

T = TypeVar("T")


class _Foreign(pickle.UnpicklingError):
    """A pickle names something that is not plain."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in PLAIN.get(module, ()):
            raise _Foreign(f"{module}.{name}")
        return super().find_class(module, name)


class UnreadableItem:
    """Stands for an item that does not unpickle: its repr says which it is, and why."""

    def __init__(self, text: str, why: str) -> None:
        self.text, self.why = text, why

    def __repr__(self) -> str:
        return f"<{self.text.strip('<>')}, which does not unpickle here: {self.why}>"


class KeptItem:
    """An item in the form that it travels in; its repr is what its worker said of it, and opens nothing."""

    __slots__ = ("_data", "_opened", "_text")

    def __init__(self, data: Encoded, text: str) -> None:
        self._data, self._text = data, text
        self._opened: list[Any] = []

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        data = self._data
        if isinstance(data, PackedItem):
            data = PackedItem(bytes(data.pickle), [bytes(buffer) for buffer in data.buffers])
        return KeptItem, (data, self._text)

    def open(self) -> Any:
        """The item, the same each time; an `UnreadableItem` if opening it raises."""
        if not self._opened:
            self._opened.append(self._open())
        return self._opened[0]

    def _open(self) -> Any:
        try:
            return open_item(self._data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or works(open_item, self._data):
                raise
            return UnreadableItem(self._text, said(error))


def opened_when_asked(name: str) -> Callable[[type[T]], type[T]]:
    """Make an attribute of a class open the `KeptItem` that it may hold when it is first asked for.

    `unopened` and `repr_of` look at the attribute without opening it.
    """

    def decorate(cls: type[T]) -> type[T]:
        setattr(cls, name, _Opened(name))
        return cls

    return decorate


class _Opened:
    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return self
        value = unopened(owner, self._name)
        return value.open() if type(value) is KeptItem else value

    def __set__(self, owner: Any, value: Any) -> None:
        owner.__dict__[self._name] = value


def unopened(owner: Any, name: str = "item") -> Any:
    """The value of such an attribute as it is kept."""
    try:
        return owner.__dict__[name]
    except KeyError:
        raise AttributeError(name) from None


def repr_of(owner: Any, name: str = "item") -> str:
    """The repr of such an attribute in a line, for messages; opens nothing."""
    return short_repr(unopened(owner, name))


def find_item(retry_buffer: RetryBuffer, index: int, text: str = "", most: float = math.inf) -> Any:
    """Return item `index` for messages, as `item_of` does; None if its input batch has more than `most` bytes.

    None, too, for an item that is in the result already: it is not kept.
    """
    try:
        input_batch = retry_buffer.find(index)
    except LookupError:
        return None
    return None if input_batch.nbytes > most else item_of(input_batch, index, text)


def item_of(input_batch: InputBatch, index: int, text: str = "") -> Any:
    """Item `index` of an input batch: itself where that runs no code of the user's, else a `KeptItem` with its
    `text`."""
    kind, data, offset = input_batch.cut(index, index + 1)
    if kind != PACKED:
        return open_batch(kind, data, offset, 1)[0][0]
    (encoded,) = data
    try:
        return _open_plain(encoded)
    except Exception as error:
        name = str(error) if isinstance(error, _Foreign) else "item"
        return KeptItem(encoded, text or f"<a {name}, pickled in {size_of(encoded):,} bytes>")


def _open_plain(encoded: Encoded) -> Any:
    if not isinstance(encoded, PackedItem):
        return _Plain(io.BytesIO(encoded)).load()
    buffers = [bytearray(buffer) for buffer in encoded.buffers]
    return _Plain(io.BytesIO(encoded.pickle), buffers=buffers).load()
