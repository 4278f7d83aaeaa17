"""The slots of arenas that a test sees opened."""

from __future__ import annotations

import pytest

from poolagg.pools.process.arena import BorrowedSegments, Region


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Region]:
    """The slots that the parent has been lent."""
    places: list[Region] = []
    lent = BorrowedSegments.open
    monkeypatch.setattr(
        BorrowedSegments,
        "open",
        lambda borrowed_segments, region: places.append(region) or lent(borrowed_segments, region),
    )
    return places
