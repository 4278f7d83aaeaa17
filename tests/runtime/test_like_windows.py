"""What works without all that Windows does not have: everything but the process pool.

`like_windows.py` takes it away from a process on Linux; the real Windows calls are tried under Wine.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import PROGRAMS, ROOT


def ended(*words: object) -> tuple[int, str]:
    """Run a function of the program; return its exit code, and all that it printed."""
    command = [sys.executable, PROGRAMS / "like_windows.py", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, timeout=50)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["imports", "pools", "progress"])
def test_it_works_where_only_that_is_there_which_windows_has(what):
    """Every module imports; runs in the serial pool and in threads give their results; a bar is drawn."""
    code, printed = ended(what)
    assert code == 0, printed


@pytest.mark.parametrize("what", ["checkpoint", "resources"])
def test_a_killed_run_is_continued_where_open_files_cannot_be_replaced(what, tmp_path):
    """From a checkpoint, into a database and into a file: each partial is there once."""
    code, printed = ended(what, tmp_path, "dies")
    assert code == 9, printed
    code, printed = ended(what, tmp_path, "")
    assert code == 0, printed


def test_the_command_line_works_where_only_that_is_there_which_windows_has(tmp_path):
    """With `--pool serial`; and `show` reads its checkpoint."""
    code, printed = ended("command_line", tmp_path)
    assert code == 0, printed
    assert printed.split()[:4] == ["be", "2", "to", "2"], printed
