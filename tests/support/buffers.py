"""Functions that fill one buffer again and again, and what a plain loop makes of them.

Each thread has buffers of its own. (Threads that share one overwrite each other's values, with or without a pool.)
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from poolagg._input.worker_state import rng


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.array = np.zeros(3)
        self.ring = [np.zeros(3) for _ in range(3)]
        self.list: list[Any] = []
        self.pair: tuple[list[Any], list[Any]] = ([], [])
        self.bytes = bytearray(8)
        self.state = State()


class State:
    """An object of the user's own, with state."""

    def __init__(self) -> None:
        self.values: list[int] = []


buffers = _Buffers()


def out(x: int) -> Any:
    """numpy's `out=`."""
    return np.multiply(np.arange(3.0), x, out=buffers.array)


def cleared(x: int) -> Any:
    buffers.list.clear()
    buffers.list.extend((x, x + 1))
    return buffers.list


def alternating(x: int) -> Any:
    """Several buffers in turns."""
    return np.multiply(np.arange(3.0), x, out=buffers.ring[x % 3])


def sometimes(x: int) -> Any:
    """Mostly a fresh list."""
    return [x] if x % 7 else cleared(x)


def sometimes_nothing(x: int) -> Any:
    return cleared(x) if x % 7 == 0 else None


def in_tuple(x: int) -> Any:
    return x, out(x)


def in_dict(x: int) -> Any:
    return {"key": {"values": out(x)}}


def in_object(x: int) -> Any:
    state = State()
    state.values = cleared(x)
    return state


def view(x: int) -> Any:
    """A fresh array each time, on the same memory."""
    return out(x)[1:]


def window(x: int) -> Any:
    buffers.bytes[:] = x.to_bytes(8, "big")
    return memoryview(buffers.bytes)[4:]


def in_constant_tuple(x: int) -> Any:
    """One tuple, whose lists nothing else refers to."""
    buffers.pair[0][:] = [x, x]
    buffers.pair[1][:] = [-x]
    return buffers.pair


def own_object(x: int) -> Any:
    buffers.state.values = [x, x]
    return buffers.state


def yields_one(x: int) -> Any:
    """An iterator that yields one buffer again and again."""
    for k in range(3):
        yield out(x + k)


def yields_once(x: int) -> Any:
    yield cleared(x)


def lazily(x: int) -> Any:
    """An iterator over a buffer that is filled again before anyone draws from it."""
    return iter(cleared(x))


def drawn_at_random(x: int) -> Any:
    """Draws from the item's own generator, and fills a buffer only from item 20 on."""
    value = float(rng(7).random())
    return [value] if x < 20 or x % 3 else cleared(value)  # type: ignore[arg-type]


FUNCTIONS = [
    *(out, cleared, alternating, sometimes, sometimes_nothing, in_tuple, in_dict, in_object, view, window),
    *(in_constant_tuple, own_object, yields_one, yields_once, lazily),
]


def total(partial: Any) -> float:
    """One number for each partial, whatever it is."""
    if isinstance(partial, State):
        return total(partial.values)
    if isinstance(partial, dict):
        return total(list(partial.values()))
    if isinstance(partial, (list, tuple)) or hasattr(partial, "__next__"):
        return sum(map(total, partial))
    return 0.5 if partial is None else float(np.sum(np.asarray(partial, float)))


def add(acc: float, partial: Any) -> float:
    return acc + total(partial)


def totals(partials: list[Any]) -> list[float]:
    return list(map(total, partials))
