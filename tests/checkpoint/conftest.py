"""A path for a checkpoint, and a function that fails until it is mended."""

from __future__ import annotations

import pytest
from checkpointed import Fragile


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.ckpt")


@pytest.fixture
def fragile(tmp_path):
    return Fragile(tmp_path)
