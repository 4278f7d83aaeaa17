"""Tests of pools run with the portable primitives, too, but for what these do not promise."""

from __future__ import annotations

import portable
import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what the portable primitives do not promise."""
    portable.leave_out(item)
