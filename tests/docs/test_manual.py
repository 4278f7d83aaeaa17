"""The manual: every example on every page does what the page shows, and the reference is complete."""

from __future__ import annotations

import inspect
import re

import pytest
from pages import consoles, fenced, notebooks, programs, run_console, run_notebook, run_program
from paths import ROOT

import poolagg

MANUAL = ROOT / "docs"
BLOCKS = [
    block
    for page in sorted(MANUAL.rglob("*.md"))
    for block in fenced(page.read_text("utf-8"), str(page.relative_to(ROOT)))
]


def of_other_pools(block):
    """Tell whether the page shows a pool or a cluster of others, whose processes may outlive it for a moment."""
    return re.search(r"^from (multiprocessing|distributed) import", block.text, re.M)


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=[pytest.mark.orphans] * bool(of_other_pools(block))) for block in programs(BLOCKS)],
    ids=str,
)
def test_a_program_prints_what_the_page_shows(block, tmp_path):
    """It is complete as it stands, and warns of nothing."""
    run_program(block, tmp_path)


@pytest.mark.orphans
@pytest.mark.parametrize("cells", notebooks(BLOCKS), ids=lambda cells: cells[0].page)
def test_cells_of_a_notebook_print_what_the_page_shows(cells):
    """In a real kernel, one cell after the other."""
    run_notebook(cells)


@pytest.mark.parametrize("block", consoles(BLOCKS), ids=str)
def test_a_terminal_goes_as_the_page_shows(block, tmp_path):
    """Each command prints what the page shows under it."""
    run_console(block, tmp_path)


def test_every_block_is_of_a_kind_that_runs_or_is_shown_by_one_that_does():
    """A page has no code that nothing tries: directives aside, which Sphinx tries."""
    kinds = {"python", "python cell", "console", "text", ""}
    assert [str(block) for block in BLOCKS if block.language not in kinds and block.language[0] != "{"] == []
    outputs = sum(bool(block.shown) + bool(block.drawn) for block in BLOCKS if block.language.startswith("python"))
    assert outputs == sum(block.language in ("", "text") for block in BLOCKS if block.page != "docs/gallery.md")


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
