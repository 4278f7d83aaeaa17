"""The claims of README that a machine can check: programs and their output, commands, links, promises."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
from pages import SECONDS, fenced, programs, run_program
from paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def section(title):
    """The text of a section of the second level."""
    return re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


BLOCKS = fenced(README)


@pytest.mark.parametrize("block", programs(BLOCKS), ids=str)
def test_a_program_prints_what_is_shown(block, tmp_path):
    """It is complete as it stands, says what is shown, and warns of nothing."""
    run_program(block, tmp_path)


SETTING_UP = [block.text.splitlines() for block in fenced(section("Set-up")) if block.language == "sh"]


def test_setting_up_takes_two_blocks_of_commands():
    """The first installs and runs the main example, the second runs all tests, after the extra they need."""
    assert len(SETTING_UP) == 2
    assert SETTING_UP[0][1:] == [
        ".venv/bin/python -m pip install -q -e .",
        ".venv/bin/python examples/word_count.py",
    ]
    assert SETTING_UP[1][1:] == [
        ".venv/bin/python -m pip install -q -e '.[test]'",
        ".venv/bin/python -m pytest -n 2 --dist loadfile",
    ]


@pytest.mark.parametrize("order", [(1,), (0, 1)], ids=["the second", "both"])
def test_each_block_stands_alone(order, tmp_path):
    """In a fresh clone, and after the other: the environment is made by whichever comes first, and used by the next.

    The commands that install into it, and run, are left to .ci/run."""
    made = []
    for number in order:
        subprocess.run(["/bin/sh", "-euc", SETTING_UP[number][0]], cwd=tmp_path, check=True, timeout=SECONDS)
        made.append((tmp_path / ".venv/bin/python").stat().st_mtime_ns)
        command = [".venv/bin/python", "-c", "import sys, pip; print(sys.prefix, sys.version_info >= (3, 11))"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
        assert ran.stdout == f"{tmp_path / '.venv'} True\n"
    assert len(set(made)) == 1


def test_every_promise_has_a_test():
    """Each of the seven names at least one, and each test that is linked is where the link says."""
    promises = re.split(r"^\d\. ", section("Promises"), flags=re.M)[1:]
    assert len(promises) == 7
    for promise in promises:
        assert re.search(r"\[`test_\w+`\]\(tests/", promise), promise
    for name, path in re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", README):
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (name, path)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    """Files exist, and anchors are headings."""
    text = (ROOT / document).read_text("utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (ROOT / target).exists(), target


def test_the_front_page_is_short():
    """A visitor reads 8 kB at most; the manual has the rest."""
    assert len(README.encode()) <= 8_000
    assert README.count("\n") <= 150
