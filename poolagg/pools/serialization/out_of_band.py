"""Large buffers beside a payload: what engines of other people move, and keep, without a copy.

A payload is pickled without its large buffers (pickle protocol 5), as it is for an arena; but here each stays where it
lies, and an engine's own serializer hands it to a socket or to a store as it is. So a `OutOfBandBuffers` is asked for
what an arena is asked for by who packs, and for what a loan is by who unpacks.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from poolagg.pools.process.arena import LEAST_BUFFER, Extent, Region
from poolagg.pools.process.channel import Bytes

__all__ = ["OutOfBandBuffers"]


class OutOfBandBuffers:
    """The buffers of one payload, by where each would lie if they lay side by side."""

    least = LEAST_BUFFER

    def __init__(self) -> None:
        self._buffers: dict[Extent, memoryview] = {}
        self.nbytes = 0
        self._only_here = False

    def put(self, buffers: Sequence[Bytes]) -> tuple[Region, list[Extent]]:
        """Take buffers in, as they lie: who packs has made what it packs for this."""
        spans = []
        for buffer in buffers:
            span = self.nbytes, self.nbytes + len(buffer)
            self._buffers[span] = memoryview(buffer)
            spans.append(span)
            self.nbytes += len(buffer)
        return Region(0, 0, self.nbytes), spans

    def only_here(self) -> OutOfBandBuffers:
        """The same, where nobody else will open it: then what can be written to need not be copied first."""
        self._only_here = True
        return self

    def view(self, span: Extent) -> memoryview:
        """One buffer, where it lies: it may be one that cannot be written to."""
        return self._buffers[span]

    def copy(self, span: Extent) -> memoryview | bytearray:
        """One buffer, to keep, and to write to."""
        view = self.view(span)
        return view if self._only_here and not view.readonly else bytearray(view)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _out_of_band_buffers, (
            list(map(pickle.PickleBuffer if protocol >= 5 else bytes, self._buffers.values())),
        )


def _out_of_band_buffers(buffers: Sequence[Any]) -> OutOfBandBuffers:
    """What arrives: the same buffers, as whatever the engine holds them in."""
    beside = OutOfBandBuffers()
    beside.put([memoryview(buffer).cast("B") for buffer in buffers])
    return beside
