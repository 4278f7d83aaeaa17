"""Both sides of an arena, in one process: a view never changes, and no slot is lent twice."""

from __future__ import annotations

import contextlib
import gc
import itertools
import mmap
import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolagg.pools.process import arena as arena_module
from poolagg.pools.process.arena import MOST, Arena, BorrowedSegments, Region
from poolagg.pools.process.progress_cell import CELL_SIZE, SEGMENTS, ProgressCell
from poolagg.pools.process.systems.linux import LINUX
from poolagg.pools.process.systems.portable import PORTABLE
from poolagg.pools.process.systems.posix import Posix

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no anonymous memory here")

MB = 1 << 20


class Both:
    """A worker's side and a parent's side of one arena."""

    def __init__(self, system: Posix = LINUX) -> None:
        self.cell = ProgressCell(mmap.mmap(-1, CELL_SIZE))
        self.file = system.file("poolagg-arena")
        self.arena = Arena(system.memory(self.file.fd), self.cell.lent_to_parent, 1)
        self.borrowed_segments = BorrowedSegments(system.memory(self.file.fd), self.cell.lent_to_parent)

    def send(self, *buffers: bytes) -> tuple[Region, list[memoryview]] | None:
        """Put the buffers into a slot and open it; None if there is none to be had."""
        self.borrowed_segments.take_back()
        put = self.arena.put(buffers)
        if put is None:
            return None
        borrowed = self.borrowed_segments.open(put[0])
        return put[0], [borrowed.view(span) for span in put[1]]

    def lent(self) -> list[int]:
        """The slots that are lent."""
        self.borrowed_segments.take_back()
        return [segment for segment in range(SEGMENTS) if segment in self.cell.lent_to_parent]

    def held(self) -> int:
        """Bytes of memory behind the arena."""
        return os.fstat(self.file.fd).st_blocks * 512

    def close(self) -> None:
        """As at the end of a worker and of its handle."""
        del self.arena
        self.borrowed_segments.close()
        self.cell.close()
        self.file.close()


@pytest.fixture(params=[LINUX, PORTABLE], ids=["memory", "file"])
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    both = Both(request.param)
    yield both
    both.close()


PUT = st.tuples(st.just("put"), st.lists(st.integers(1, 600_000), min_size=1, max_size=3))
DROP = st.tuples(st.just("drop"), st.integers(0, 100))
SHRINK = st.tuples(st.just("shrink"), st.integers(0, 2 * MB))


@settings(max_examples=150)
@given(steps=st.lists(st.one_of(PUT, PUT, DROP, SHRINK), max_size=50))
def test_no_view_changes_no_slot_is_lent_twice_and_memory_is_bounded(steps: list[tuple[str, Any]]) -> None:
    """Whatever is put, kept, dropped and shrunk, in any order. The limit here is 1 MiB."""
    both, seen, largest = Both(), [], 0
    with mock.patch.object(arena_module, "MOST", MB), contextlib.closing(both):
        for number, (step, value) in enumerate(steps):
            if step == "put":
                buffers = [bytes([number + 1]) * size for size in value]
                idle = not both.lent()
                sent = both.send(*buffers)
                assert sent is not None or not idle, "when nothing is lent there is always room"
                if sent is not None:
                    largest = max(largest, sum(value))
                    # One view may outlive the others: it keeps the slot all the same.
                    seen.append((sent[0], list(zip(sent[1], buffers, strict=True))))
                del sent
            elif step == "drop" and seen:
                _, views = seen[value % len(seen)]
                views.pop(value % len(views))
                seen = [one for one in seen if one[1]]
                del views
            elif step == "shrink":
                both.borrowed_segments.take_back()
                both.arena.shrink(value)
                assert both.held() <= max(value, sum(region.size for region, _ in seen))
            assert both.lent() == sorted(region.segment for region, _ in seen)
            places = sorted(region[1:] for region, _ in seen)
            assert all(start + size <= after for (start, size), (after, _) in itertools.pairwise(places))
            assert all(view == buffer for _, views in seen for view, buffer in views)
            assert both.held() <= max(MB, 2 * (largest * 9 // 8 + 8192)), "two of the largest, with some room to spare"
        seen.clear()
        assert both.lent() == []
        both.arena.shrink(0)
        assert both.held() == 0


def test_a_slot_is_free_when_the_last_view_of_it_is_gone(both: Both) -> None:
    sent = both.send(b"a" * 5000, b"b" * 5000)
    assert sent is not None
    region, (first, second) = sent
    del sent
    part = np.frombuffer(second)[3:]
    del second
    first.release()
    assert both.lent() == [region.segment]
    del first, part
    assert both.lent() == []


def test_buffers_begin_at_cache_lines(both: Both) -> None:
    sent = both.send(b"a", b"b" * 1000, b"c")
    assert sent is not None
    assert [np.frombuffer(view, "u1").ctypes.data % 64 for view in sent[1]] == [0, 0, 0]


def test_views_outlive_the_arena() -> None:
    """What is lent lives as long as it is looked at, and needs nobody to take it back."""
    both = Both()
    sent = both.send(b"a" * 5000)
    both.close()
    del both
    assert sent is not None
    assert sent[1] == [b"a" * 5000]


def test_a_forked_child_gives_nothing_back(both: Both) -> None:
    sent = both.send(b"a" * 5000)
    assert sent is not None
    pid = os.fork()
    if pid == 0:
        del sent
        gc.collect()
        os._exit(sum(segment in both.cell.lent_to_parent for segment in range(SEGMENTS)))
    assert os.waitpid(pid, 0)[1] == 1 << 8, "it sees one slot that is lent, having dropped its view"
    assert len(both.lent()) == 1
    other = both.send(b"b" * 5000)
    assert other is not None
    assert sent[1] == [b"a" * 5000]


def test_an_arena_that_is_full_lends_nothing_more(both: Both) -> None:
    """So that its worker sends through the pipe, until something is given back."""
    sent = [both.send(b"a" * MB) for _ in range(70)]
    lent = [one for one in sent if one is not None]
    assert 40 <= len(lent) < 64
    assert sent[len(lent) :] == [None] * (70 - len(lent))
    assert both.held() <= MOST
    lent.pop()
    sent.clear()
    assert both.send(b"b" * MB) is not None


def test_small_slots_make_way_for_larger_ones(both: Both) -> None:
    """Also when there are as many as there can be, and together they are far from the limit."""
    lent = [both.send(bytes(1000)) for _ in range(SEGMENTS)]
    assert None not in lent
    lent.clear()
    assert both.send(bytes(MB)) is not None


def test_a_slot_is_given_back_without_a_bytecode_that_can_be_interrupted(both: Both) -> None:
    """Ctrl-C and alarms strike between bytecodes; one that strikes in the callback of a weakref is lost."""
    sent = both.send(b"a" * 5000)
    assert sent is not None
    called: list[str] = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        del sent
    finally:
        sys.setprofile(None)
    assert called == []


def test_a_view_that_del_saves_does_not_change(both: Both) -> None:
    """An object in a cycle that holds a view, and is brought back to life by its `__del__`."""

    class Lazarus:
        def __init__(self, view: Any) -> None:
            self.view, self.me = view, self

        def __del__(self) -> None:
            saved.append(self.view)

    saved: list[memoryview] = []
    sent = both.send(b"a" * 5000)
    assert sent is not None
    Lazarus(sent[1][0])
    del sent
    gc.collect()
    both.send(b"b" * 5000)
    unchanged = saved == [b"a" * 5000]
    saved.clear()
    assert unchanged
