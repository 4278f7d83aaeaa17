"""Fenced blocks of a page in Markdown, and how a test runs them.

`python` is a program, run as a user would run it, and the block without a language right after it is what it prints;
with `>>>` it is a doctest. `console` is a terminal; what `$ cat FILE` shows there is written to that file. `py` is an
excerpt that does not run by itself.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

SECONDS = 50


class Block(NamedTuple):
    """A fenced block: its page, the line it starts at, its language, its text, and that of the plain block after it."""

    page: str
    line: int
    language: str
    text: str
    shown: str

    def __str__(self):
        return f"{self.page}, line {self.line}"


def fenced(text, page="README.md"):
    """Return all fenced blocks of a text in Markdown."""
    found = list(re.finditer(r"^```([\w{}-]*)[^\n]*\n(.*?)^```$", text, re.M | re.S))
    blocks = []
    for block, after in zip_longest(found, found[1:]):
        follows = after is not None and not after[1] and not text[block.end() : after.start()].strip()
        line = text.count("\n", 0, block.start()) + 1
        blocks.append(Block(page, line, block[1], block[2], after[2] if follows else ""))
    return blocks


def programs(blocks):
    """Return the complete programs among the blocks."""
    return [block for block in blocks if block.language == "python" and ">>>" not in block.text]


def sessions(blocks):
    """Return the interpreter sessions among the blocks."""
    return [block for block in blocks if block.language == "python" and ">>>" in block.text]


def consoles(blocks):
    """Return the terminal sessions among the blocks."""
    return [block for block in blocks if block.language == "console"]


def run_program(block, folder):
    """Run a program as a user would run it: it prints what the page shows, and warns of nothing."""
    program = folder / "program.py"
    program.write_text(block.text, "utf-8")
    command = [sys.executable, "-W", "error", program.name]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert ran.stderr == ""
    assert ran.stdout == block.shown


def run_session(block):
    """Run an interpreter session as doctest does."""
    session = doctest.DocTestParser().get_doctest(block.text, {}, str(block), block.page, block.line)
    assert doctest.DocTestRunner().run(session).failed == 0


def run_console(block, folder):
    """Run each command of a terminal session: it prints what the page shows under it."""
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.M):
        if command.startswith("cat "):
            (folder / command.removeprefix("cat ")).write_text(shown, "utf-8")
            continue
        ran = subprocess.run(
            command, cwd=folder, env=environ, shell=True, capture_output=True, text=True, timeout=SECONDS
        )
        assert (ran.stdout, ran.stderr, ran.returncode) == (shown, "", 0), command
