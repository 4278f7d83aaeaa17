"""Programs that are their own interpreter: a worker is never the whole program once more.

One is made by PyInstaller. The others are scripts that run a script, say that they are frozen, and hook
`freeze_support` as PyInstaller does; each is limited in its processes and counts how often it was run.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import extras
import psutil
import pytest
from paths import ROOT

BOOT = """
import sys
sys.frozen, sys.executable = {frozen}, {executable!r}
sys.path.insert(0, {folder!r})
import hook
with open({runs!r}, "a") as file:
    file.write("x")
with open({program!r}) as file:
    exec(compile(file.read(), {program!r}, "exec"))
"""

PROGRAM = """
import multiprocessing
from poolagg import *

STEP = 3
def add(x): return x + STEP

def main():
    print(aggregate(add, range(100), Sum(), pool=ProcessPool(2, start_method={method!r})), flush=True)
    with ProcessPool(2, start_method={method!r}) as pool:
        print(aggregate(lambda x: x + STEP, range(100), Sum(), pool=pool), flush=True)
        parents = aggregate(lambda x: multiprocessing.parent_process().pid, range(4), Unique(), pool=pool)
        import os
        assert parents == {{os.getpid()}}

if __name__ == "__main__":
    {first}
    main()
    {last}
"""


def run(folder, program, frozen=True):
    """Run it; what it printed, how it ended, and how often it was run in all."""
    executable, boot, runs = folder / "program", folder / "boot.py", folder / "runs"
    names = {"executable": str(executable), "program": str(folder / "program.py"), "runs": str(runs)}
    hook = "import multiprocessing.spawn as spawn, multiprocessing as m; m.freeze_support = spawn.freeze_support"
    (folder / "hook.py").write_text(hook)
    names["folder"] = str(folder)
    boot.write_text(BOOT.format(frozen=frozen, **names))
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} {boot} "$@"\n')
    executable.chmod(0o755)
    (folder / "program.py").write_text(textwrap.dedent(program))
    used = len(psutil.pids())
    limit = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (used + 300, used + 300))
    ran = subprocess.run([executable], capture_output=True, text=True, timeout=50, preexec_fn=limit)
    return ran, len(runs.read_text())


FREEZE_SUPPORT = "multiprocessing.freeze_support()"


def test_a_frozen_program_that_supports_it_has_workers(method, tmp_path):
    "They start by the command line of multiprocessing; the program itself runs once, and its boot code per process."
    ran, runs = run(tmp_path, PROGRAM.format(method=method, first=FREEZE_SUPPORT, last=""))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "5250\n5250\n", "")
    assert runs == {"forkserver": 2, "portable": 5, "fork": 1}[method]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_one_that_does_not_is_refused_before_anything_starts(method, tmp_path):
    "In one sentence that says what to do."
    ran, runs = run(tmp_path, PROGRAM.format(method=method, first="", last=""))
    assert (ran.stdout, runs) == ("", 1)
    assert "RuntimeError: this frozen program" in ran.stderr
    assert "multiprocessing.freeze_support()" in ran.stderr


def test_one_that_does_not_may_fork(tmp_path):
    ran, runs = run(tmp_path, PROGRAM.format(method="fork", first="", last=""))
    assert (ran.stdout, ran.stderr, runs) == ("5250\n5250\n", "", 1)


@pytest.mark.parametrize(
    ("method", "frozen"),
    [("forkserver", True), ("spawn", True), ("forkserver", False)],
    ids=["frozen-forkserver", "frozen-spawn", "embedded"],
)
def test_a_program_that_runs_again_starts_no_workers_in_its_turn(method, frozen, tmp_path):
    "It calls freeze_support too late; or is no frozen program, but has Python embedded, and no such thing."
    ran, runs = run(tmp_path, PROGRAM.format(method=method, first="", last=FREEZE_SUPPORT), frozen)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "runs the program again" in ran.stderr
    assert runs <= 1 + 2 * 7  # a pool gives up after so many workers that only died


def test_the_mark_of_a_started_process_does_not_go_on(method, tmp_path):
    "What workers start are programs like any others, and may have pools."
    inner = "from poolagg import *; print(aggregate(abs, range(5), Sum(), pool=ProcessPool(1)))"
    program = f"""
        import subprocess, sys
        from poolagg import *
        def program(x):
            return subprocess.run([sys.executable, "-c", {inner!r}], capture_output=True, text=True).stdout
        print(aggregate(program, range(2), Collect(), pool=ProcessPool(1, start_method={method!r})))
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=50)
    assert (ran.stdout, ran.stderr) == ("['10\\n', '10\\n']\n", "")


# -- a real one --------------------------------------------------------------------------------------------------------

LEFT_OUT = "IPython dask datasketches distributed matplotlib numpy pandas psutil psycopg ray ssl tkinter tqdm".split()
"""What the program does not use, and PyInstaller would look for and copy, which takes minutes."""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, with the start method as its argument, frozen by PyInstaller into a folder."""
    if importlib.util.find_spec("PyInstaller") is None:
        extras.missing("pyinstaller")
    folder = tmp_path_factory.mktemp("frozen")
    program = PROGRAM.replace("{method!r}", "__import__('sys').argv[1]")
    (folder / "program.py").write_text(program.format(first=FREEZE_SUPPORT, last=""))
    options = ["--noconfirm", "--log-level=ERROR", "--onedir", f"--paths={ROOT}"]
    options += [f"--exclude-module={name}" for name in LEFT_OUT]
    environ = {**os.environ, "PYINSTALLER_CONFIG_DIR": str(folder / "config")}
    command = [sys.executable, "-m", "PyInstaller", *options, "program.py"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=folder, env=environ)
    assert made.returncode == 0, made.stderr
    return folder / "dist" / "program" / "program"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_program_frozen_by_pyinstaller_has_workers(method, frozen):
    "It calls freeze_support first; no Python is needed beside it."
    nowhere = {"PATH": "/nowhere"}
    ran = subprocess.run([frozen, method], capture_output=True, text=True, timeout=50, env=nowhere)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "5250\n5250\n", "")
