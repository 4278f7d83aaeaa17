"""Tests that are left out with the portable primitives, by name, with the reason. All others hold as on Linux."""

from __future__ import annotations

import pytest

LEFT_OUT = {
    "test_more_descriptors_than_select_can_count": "select() takes descriptors up to 1,023",
    "test_kill_9_of_the_parent_ends_all_its_processes": "C code that holds the GIL delays the thread that watches",
}
"""The last of these tests has a case, `sleep`, whose C code releases the GIL: it is not left out."""


def leave_out(item: pytest.Item) -> None:
    """Skip the test if it is listed and its pool is portable."""
    name, _, case = item.name.partition("[")
    if name in LEFT_OUT and "portable" in case and "sleep" not in case:
        pytest.skip(LEFT_OUT[name])
