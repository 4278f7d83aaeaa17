"""The claims of README that a machine can check: programs and their output, commands, links, promises.

Two kinds of fenced blocks are run. `python` is a program, run as a user would run it, and the block without a
language right after it is what it prints; with `>>>` it is a doctest. `console` is a terminal; what `$ cat FILE`
shows there is written to that file.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from paths import ROOT

import poolagg

README = (ROOT / "README.md").read_text("utf-8")
SECONDS = 50


class Block(NamedTuple):
    """A fenced block: the line it starts at, its language, its text, and that of the plain block right after it."""

    line: int
    language: str
    text: str
    shown: str


def fenced(text):
    """All fenced blocks of a text in Markdown."""
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S))
    blocks = []
    for block, after in zip(found, [*found[1:], None], strict=True):
        follows = after is not None and not after[1] and not text[block.end() : after.start()].strip()
        line = text.count("\n", 0, block.start()) + 1
        blocks.append(Block(line, block[1], block[2], after[2] if follows else ""))
    return blocks


def section(title):
    """The text of a section of the second level."""
    return re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


BLOCKS = fenced(README)
PROGRAMS = [block for block in BLOCKS if block.language == "python" and ">>>" not in block.text]
SESSIONS = [block for block in BLOCKS if block.language == "python" and ">>>" in block.text]
CONSOLES = [block for block in BLOCKS if block.language == "console"]


def line(block):
    """How a block is called in the list of tests."""
    return f"line {block.line}"


@pytest.mark.parametrize("block", PROGRAMS, ids=line)
def test_a_program_prints_what_is_shown(block, tmp_path):
    """It is complete as it stands, says what is shown, and warns of nothing."""
    program = tmp_path / "program.py"
    program.write_text(block.text, "utf-8")
    command = [sys.executable, "-W", "error", program.name]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert ran.stderr == ""
    assert ran.stdout == block.shown


@pytest.mark.parametrize("block", SESSIONS, ids=line)
def test_a_session_goes_as_shown(block):
    """As doctest compares."""
    session = doctest.DocTestParser().get_doctest(block.text, {}, line(block), "README.md", block.line)
    assert doctest.DocTestRunner().run(session).failed == 0


@pytest.mark.parametrize("block", CONSOLES, ids=line)
def test_a_terminal_goes_as_shown(block, tmp_path):
    """Each command prints what is shown under it."""
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.M):
        if command.startswith("cat "):
            (tmp_path / command.removeprefix("cat ")).write_text(shown, "utf-8")
            continue
        shell = {"cwd": tmp_path, "env": environ, "shell": True}
        ran = subprocess.run(command, **shell, capture_output=True, text=True, timeout=SECONDS)
        assert (ran.stdout, ran.stderr, ran.returncode) == (shown, "", 0), command


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
    """Each of the five names at least one, and each test that is linked is where the link says."""
    promises = re.split(r"^\d\. ", section("Promises"), flags=re.M)[1:]
    assert len(promises) == 5
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


def test_every_option_is_in_the_table():
    """The table of options is the signature of `aggregate`, in its order."""
    options = re.findall(r"^\| `(\w+)` \|", section("The interface"), re.M)
    assert options == list(aggregate_options())


def aggregate_options():
    """The names of the keywords of `aggregate`."""
    parameters = inspect.signature(poolagg.aggregate).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


def test_every_reducer_is_in_the_table():
    """Each reducer that is exported, once."""
    listed = re.findall(r"`(\w+)\(", "".join(re.findall(r"^\| (`.*?) \|", section("Reducers"), re.M)))
    exported = [name for name in poolagg.__all__ if _is_reducer(getattr(poolagg, name))]
    assert sorted(set(listed)) == sorted(set(exported) - {"Reducer", "Tee"})
    assert len(listed) == len(set(listed))


def _is_reducer(thing):
    return isinstance(thing, type) and issubclass(thing, poolagg.Reducer)


def test_every_strategy_and_event_is_named():
    """By the name it is imported by."""
    for name in set(poolagg.strategies.__all__) - {"ParentFold", "WorkerFold"}:
        assert f"`{name}(" in section("Merge strategies") or f".{name}`" in section("Merge strategies"), name
    for name in set(poolagg.events.__all__) - {"RunEvent"}:
        assert f"`{name}`" in section("Watching a run"), name
