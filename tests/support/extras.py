"""Optional packages of tests: without one, a test is skipped on a desk, and fails in CI."""

from __future__ import annotations

import os
from importlib import metadata

import pytest
from packaging.requirements import Requirement


def demanded(distribution: str) -> bool:
    """Tell whether some extra asks for it on this Python; some packages have no release for the newest yet."""
    asked = [Requirement(text) for text in metadata.requires("poolagg") or ()]
    extras = metadata.metadata("poolagg").get_all("Provides-Extra") or ()
    return any(
        one.name == distribution and (one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras))
        for one in asked
    )


def missing(distribution: str, whole_module: bool = False) -> None:
    """Skip, and say what to install; fail in CI, if an extra has it for this Python."""
    why = f"{distribution} is not installed: pip install 'poolagg[test]'"
    if os.environ.get("POOLAGG_CI") and demanded(distribution):
        pytest.fail(why)
    pytest.skip(why, allow_module_level=whole_module)
