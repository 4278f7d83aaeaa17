"""The manual: Sphinx builds it without a warning, and every example on every page does what the page shows."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pages import consoles, fenced, programs, run_console, run_program, run_session, sessions
from paths import ROOT

MANUAL = ROOT / "docs"
BLOCKS = [
    block
    for page in sorted(MANUAL.rglob("*.md"))
    for block in fenced(page.read_text("utf-8"), str(page.relative_to(ROOT)))
]


@pytest.mark.parametrize("block", programs(BLOCKS), ids=str)
def test_a_program_prints_what_the_page_shows(block, tmp_path):
    """It is complete as it stands, and warns of nothing."""
    run_program(block, tmp_path)


@pytest.mark.parametrize("block", sessions(BLOCKS), ids=str)
def test_a_session_goes_as_the_page_shows(block):
    """As doctest compares."""
    run_session(block)


@pytest.mark.parametrize("block", consoles(BLOCKS), ids=str)
def test_a_terminal_goes_as_the_page_shows(block, tmp_path):
    """Each command prints what the page shows under it."""
    run_console(block, tmp_path)


def test_the_manual_builds_without_a_warning(tmp_path):
    """Each internal link and each anchor leads somewhere, and each docstring is valid."""
    pytest.importorskip("furo", reason="pip install 'poolagg[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", MANUAL, tmp_path]
    built = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert built.stderr == ""
    assert (tmp_path / "searchindex.js").exists()
