"""Where the checkout has its parts."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).parent
PROGRAMS = SUPPORT / "programs"
TESTS = SUPPORT.parent
ROOT = TESTS.parent
EXAMPLES = ROOT / "examples"
