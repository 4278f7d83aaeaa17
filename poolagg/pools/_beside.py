"""Large buffers beside a payload: what engines of other people move, and keep, without a copy.

A payload is pickled without its large buffers (pickle protocol 5), as it is for an arena; but here each stays where it
lies, and an engine's own serializer hands it to a socket or to a store as it is. So a `Beside` is asked for what an
arena is asked for by who packs, and for what a loan is by who unpacks.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from poolagg.pools._arena import LEAST, Place, Span
from poolagg.pools._channel import Bytes

__all__ = ["Beside"]


class Beside:
    """The buffers of one payload, by where each would lie if they lay side by side."""

    least = LEAST

    def __init__(self) -> None:
        self._buffers: dict[Span, memoryview] = {}
        self.nbytes = 0
        self._only_here = False

    def put(self, buffers: Sequence[Bytes]) -> tuple[Place, list[Span]]:
        """Take buffers in, as they lie: who packs has made what it packs for this."""
        spans = []
        for buffer in buffers:
            span = self.nbytes, self.nbytes + len(buffer)
            self._buffers[span] = memoryview(buffer)
            spans.append(span)
            self.nbytes += len(buffer)
        return Place(0, 0, self.nbytes), spans

    def only_here(self) -> Beside:
        """The same, where nobody else will open it: then what can be written to need not be copied first."""
        self._only_here = True
        return self

    def view(self, span: Span) -> memoryview:
        """One buffer, where it lies: it may be one that cannot be written to."""
        return self._buffers[span]

    def copy(self, span: Span) -> memoryview | bytearray:
        """One buffer, to keep, and to write to."""
        view = self.view(span)
        return view if self._only_here and not view.readonly else bytearray(view)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _beside, (list(map(pickle.PickleBuffer if protocol >= 5 else bytes, self._buffers.values())),)


def _beside(buffers: Sequence[Any]) -> Beside:
    """What arrives: the same buffers, as whatever the engine holds them in."""
    beside = Beside()
    beside.put([memoryview(buffer).cast("B") for buffer in buffers])
    return beside
