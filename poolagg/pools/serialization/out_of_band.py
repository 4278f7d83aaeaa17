"""Out-of-band buffers of a pickle, which an external engine moves and keeps without a copy.

A state is pickled without its large buffers (pickle protocol 5), as for an arena. Here each buffer stays in place, and
the engine's own serializer passes it to a socket or a store. So `OutOfBandBuffers` has the interface of an `Arena` for
packing, and of a `Borrowed` for unpacking.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from poolagg.pools.process.arena import LEAST_BUFFER, Extent, Region
from poolagg.pools.process.channel import Bytes

__all__ = ["OutOfBandBuffers"]


class OutOfBandBuffers:
    """The buffers of one pickle; each has the extent that it would have if they were concatenated."""

    least = LEAST_BUFFER

    def __init__(self) -> None:
        self._buffers: dict[Extent, memoryview] = {}
        self.nbytes = 0
        self._only_here = False

    def put(self, buffers: Sequence[Bytes]) -> tuple[Region, list[Extent]]:
        """Add buffers without a copy; the packer made them for this purpose."""
        spans = []
        for buffer in buffers:
            span = self.nbytes, self.nbytes + len(buffer)
            self._buffers[span] = memoryview(buffer)
            spans.append(span)
            self.nbytes += len(buffer)
        return Region(0, 0, self.nbytes), spans

    def only_here(self) -> OutOfBandBuffers:
        """Declare that only this process opens the buffers, so that writable ones need no copy; return self."""
        self._only_here = True
        return self

    def view(self, span: Extent) -> memoryview:
        """Return one buffer, in place; it may be read-only."""
        return self._buffers[span]

    def copy(self, span: Extent) -> memoryview | bytearray:
        """Return one buffer to keep and to write to, copied if need be."""
        view = self.view(span)
        return view if self._only_here and not view.readonly else bytearray(view)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _out_of_band_buffers, (
            list(map(pickle.PickleBuffer if protocol >= 5 else bytes, self._buffers.values())),
        )


def _out_of_band_buffers(buffers: Sequence[Any]) -> OutOfBandBuffers:
    """Rebuild from the buffers that the engine delivers, of whatever type."""
    out_of_band = OutOfBandBuffers()
    out_of_band.put([memoryview(buffer).cast("B") for buffer in buffers])
    return out_of_band
