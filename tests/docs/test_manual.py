"""The manual: Sphinx builds it without a warning, and every example on every page does what the page shows."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys

import pytest
from pages import consoles, fenced, programs, run_console, run_program, run_session, sessions
from paths import ROOT

import poolagg

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


def test_the_reference_shows_every_option_of_aggregate():
    """The page spells the signature out, since the overloads hide the options."""
    page = (MANUAL / "reference/aggregate.md").read_text("utf-8")
    shown = re.search(r"autofunction:: aggregate\((.*)\)", page)[1]
    assert re.findall(r"(\w+)=", shown) == [
        one.name for one in inspect.signature(poolagg.aggregate).parameters.values() if one.kind is one.KEYWORD_ONLY
    ]


def test_the_reference_has_every_public_name():
    """Each name that poolagg exports, or a public module of it, has an entry."""
    pages = "".join(page.read_text("utf-8") for page in (MANUAL / "reference").glob("*.md"))
    documented = set(re.findall(r"auto\w+:: (?:poolagg\.)?([\w.]+)", pages)) | set(
        re.findall(r"\w+", " ".join(re.findall(r":members: (.*)", pages)))
    )
    modules = {"errors", "events", "pools", "resources", "strategies", "testing"}
    assert set(poolagg.__all__) - modules <= documented
    assert set(poolagg.strategies.__all__) - {"ParentFold", "WorkerFold"} <= documented
    assert set(poolagg.resources.__all__) <= documented


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "py"], ids=str)
def test_an_excerpt_is_valid_and_names_options_that_there_are(block):
    """It does not run by itself, since it names what is the reader's."""
    tree = ast.parse(block.text)
    options = inspect.signature(poolagg.aggregate).parameters
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "aggregate":
            assert {keyword.arg for keyword in node.keywords} <= set(options)
