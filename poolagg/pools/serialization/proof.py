"""Pickle for the parent, and prove in the worker that the pickle opens.

Opening a pickle runs the code of the classes that it names, which may exit, crash or hang. So the worker opens it
first, while the progress cell names the items that it comes from: a pickle that does harm is their failure. A pickle of
plain values runs no such code, and needs no proof.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from poolagg._input.batches import PackedItem, open_watched
from poolagg._runtime.exception_text import works
from poolagg._runtime.plain_values import pickled
from poolagg.pools.process.arena import ArenaBuffers
from poolagg.pools.serialization.pickling import dumps_by_value, main_namespace

__all__ = ["dumps_proved"]


def dumps_proved(
    value: object, out_of_band: ArenaBuffers | None = None, alive: Callable[[], None] | None = None
) -> bytes:
    """Pickle as `dumps` does, and open the pickle once unless all its values are plain.

    Raise what opening raises. Call `alive` for each 64 kB that is pickled or opened.
    """
    try:
        data, plain = pickled(value, out_of_band, alive)
    except Exception:
        if works(pickled, value):
            raise
        if out_of_band is not None:
            out_of_band.clear()
        data = dumps_by_value(value)
        with _main_namespace_kept():
            _open(data, (), alive)
        return data
    if not plain:
        _prove(data, out_of_band or ArenaBuffers(0), alive)
    return data


def _prove(data: bytes, out_of_band: ArenaBuffers, alive: Callable[[], None] | None) -> None:
    """Open a pickle on its own buffers, read-only since the value owns them; on copies if that fails."""
    try:
        _open(data, [buffer.raw().toreadonly() for buffer in out_of_band], alive)
    except Exception:  # opening it may have to write to them
        if not out_of_band:
            raise
        _open(data, [bytearray(buffer.raw()) for buffer in out_of_band], alive)


def _open(data: bytes, buffers: Sequence[Any], alive: Callable[[], None] | None) -> None:
    open_watched(PackedItem(data, buffers), alive or _unwatched)


def _unwatched() -> None:
    pass


@contextlib.contextmanager
def _main_namespace_kept() -> Iterator[None]:
    """Undo assignments in `__main__`: an opened function brings its globals, which this process already has."""
    namespace = main_namespace()
    before = dict(namespace)
    try:
        yield
    finally:
        for name in namespace.keys() - before.keys():
            del namespace[name]
        namespace.update(before)
