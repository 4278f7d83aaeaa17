"""Pickles for the parent, each of which a worker has proved to open.

To open a pickle runs the code of the classes that it names, which may exit, crash or hang. So the worker opens the
pickle first, while the progress cell names the items that it comes from: a pickle that bites is their failure. A pickle
of plain values runs no such code, and is not opened here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from poolagg._parcels import Packed, open_watched
from poolagg._plain import pickled
from poolagg._texts import works
from poolagg.pools._arena import Apart
from poolagg.pools._travel import dumps_by_value, main_namespace

__all__ = ["dumps_proved"]


def dumps_proved(value: object, apart: Apart | None = None, alive: Callable[[], None] | None = None) -> bytes:
    """Pickle as `dumps` does, and open the pickle once unless all that it holds is plain.

    Raise what opening raises. `alive` is called for each 64 kB that is pickled or opened.
    """
    try:
        data, plain = pickled(value, apart, alive)
    except Exception:
        if works(pickled, value):
            raise
        if apart is not None:
            apart.clear()
        data = dumps_by_value(value)
        with _main_namespace_kept():
            _open(data, (), alive)
        return data
    if not plain:
        _prove(data, apart or Apart(0), alive)
    return data


def _prove(data: bytes, apart: Apart, alive: Callable[[], None] | None) -> None:
    """Open a pickle upon its very buffers, which belong to the value and may not be written to."""
    try:
        _open(data, [buffer.raw().toreadonly() for buffer in apart], alive)
    except Exception:  # what opens it may have to write to them
        if not apart:
            raise
        _open(data, [bytearray(buffer.raw()) for buffer in apart], alive)


def _open(data: bytes, buffers: Sequence[Any], alive: Callable[[], None] | None) -> None:
    open_watched(Packed(data, buffers), alive or _unwatched)


def _unwatched() -> None:
    pass


@contextlib.contextmanager
def _main_namespace_kept() -> Iterator[None]:
    """Undo what is assigned in `__main__`: a function that is opened brings its globals, which are there already."""
    namespace = main_namespace()
    before = dict(namespace)
    try:
        yield
    finally:
        for name in namespace.keys() - before.keys():
            del namespace[name]
        namespace.update(before)
