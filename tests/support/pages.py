"""Fenced blocks of a page in Markdown, and how a test runs them.

`python` is a program, run as a user would run it. The block without a language right after it is what it prints, and a
`text` after that is the bar that it leaves on stderr, where a number stands for any. `python cell` is a cell: those of
a page run in one notebook. `console` is a terminal; what `$ cat FILE` shows there is written to that file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import extras
import gallery
import notebook

SECONDS = 50


class Block(NamedTuple):
    """A fenced block: its page, the line it starts at, its language, its text, what it prints and what bar it draws."""

    page: str
    line: int
    language: str
    text: str
    shown: str
    drawn: str

    def __str__(self):
        return f"{self.page}, line {self.line}"


def fenced(text, page="README.md"):
    """Return all fenced blocks of a text in Markdown."""
    found = list(re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S))
    blocks = []
    for place, block in enumerate(found):
        outputs = {"": "", "text": ""}
        end = block.end()
        for after in found[place + 1 :]:
            if after[1] not in outputs or text[end : after.start()].strip():
                break
            outputs[after[1]] = after[2]
            end = after.end()
        line = text.count("\n", 0, block.start()) + 1
        blocks.append(Block(page, line, block[1], block[2], outputs[""], outputs["text"]))
    return blocks


def programs(blocks):
    """Return the complete programs among the blocks."""
    return [block for block in blocks if block.language == "python"]


def notebooks(blocks):
    """Return the cells of each page that has some."""
    cells = [block for block in blocks if block.language == "python cell"]
    return [[cell for cell in cells if cell.page == page] for page in dict.fromkeys(cell.page for cell in cells)]


def consoles(blocks):
    """Return the terminal sessions among the blocks."""
    return [block for block in blocks if block.language == "console"]


def run_program(block, folder):
    """Run a program as a user would run it: it prints what the page shows, and warns of nothing."""
    program = folder / "program.py"
    program.write_text(block.text, "utf-8")
    servers = [name for name in ("distributed", "fastapi") if f"from {name} import" in block.text]
    for name in servers:
        if find_spec(name) is None:
            extras.missing(name)
    strict = [] if servers else ["-W", "error"]  # theirs may warn of deprecations, which Python hides from users
    command = [sys.executable, *strict, program.name]
    environ = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "error"}  # on a busy machine, dask warns that it waits
    ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=SECONDS)
    assert re.fullmatch(gallery.pattern(block.drawn), "".join(ran.stderr.splitlines(True)[-1:])), ran.stderr
    assert block.drawn or not ran.stderr
    assert ran.stdout == block.shown


def run_notebook(cells):
    """Run the cells of a page in one notebook: they print what the page shows."""
    assert notebook.shown(*(cell.text for cell in cells)) == "".join(cell.shown for cell in cells)


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
