"""Items in errors and events: the object itself if the parent has it, else its pickle, unpickled on first access.

Unpickling runs the code of the item's class, which may exit, crash or hang. So the parent unpickles by itself only
plain values: numbers, texts, containers, paths, dates, arrays. For all others the worker that ran the item sends its
repr.
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
from poolagg._runtime.signals import raised_by_handler

__all__ = ["KeptItem", "UnreadableItem", "find_item", "item_of", "opened_when_asked", "repr_of", "unopened"]

T = TypeVar("T")


class _NotPlain(pickle.UnpicklingError):
    """The pickle names a class or function that is not plain."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in PLAIN.get(module, ()):
            raise _NotPlain(f"{module}.{name}")
        return super().find_class(module, name)


class UnreadableItem:
    """A stand-in for an item that does not unpickle; its repr names the item and the reason."""

    def __init__(self, text: str, why: str) -> None:
        self.text, self.why = text, why

    def __repr__(self) -> str:
        return f"<{self.text.strip('<>')}, which does not unpickle here: {self.why}>"


class KeptItem:
    """A pickled item; its repr is the text that its worker sent, and unpickles nothing."""

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
        """Return the item, the same object each time; an `UnreadableItem` if unpickling raises."""
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
    """Make an attribute of a class unpickle its `KeptItem`, if it holds one, on first access.

    `unopened` and `repr_of` read the attribute without unpickling it.
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
    """Return the value of such an attribute as stored."""
    try:
        return owner.__dict__[name]
    except KeyError:
        raise AttributeError(name) from None


def repr_of(owner: Any, name: str = "item") -> str:
    """Return the repr of such an attribute in a line, for messages, without unpickling it."""
    return short_repr(unopened(owner, name))


def find_item(retry_buffer: RetryBuffer, index: int, text: str = "", most: float = math.inf) -> Any:
    """Return item `index` for messages, as `item_of` does.

    Return None if its batch has more than `most` bytes, or if the result covers the item already.
    """
    try:
        batch = retry_buffer.find(index)
    except LookupError:
        return None
    return None if batch.nbytes > most else item_of(batch, index, text)


def item_of(batch: InputBatch, index: int, text: str = "") -> Any:
    """Return item `index` of a batch: the object if that runs no code of the user's, else a `KeptItem` with `text`."""
    kind, data, offset = batch.cut(index, index + 1)
    if kind != PACKED:
        return open_batch(kind, data, offset, 1)[0][0]
    (encoded,) = data
    try:
        return _open_plain(encoded)
    except Exception as error:
        if raised_by_handler(error):
            raise
        name = str(error) if isinstance(error, _NotPlain) else "item"
        return KeptItem(encoded, text or f"<a {name}, pickled in {size_of(encoded):,} bytes>")


def _open_plain(encoded: Encoded) -> Any:
    if not isinstance(encoded, PackedItem):
        return _PlainUnpickler(io.BytesIO(encoded)).load()
    buffers = [bytearray(buffer) for buffer in encoded.buffers]
    return _PlainUnpickler(io.BytesIO(encoded.pickle), buffers=buffers).load()
