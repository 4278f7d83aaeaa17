"""Ways to start a program: `python -m package.module`, with `-I` or `-O`, from a zip. Workers are of the same program.

Each program runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path

import pytest
from paths import ROOT


def printed(folder: Path, *words: object, **environ: str) -> str:
    """Run Python with these words; return what it printed, which must be nothing on stderr."""
    environ = {**os.environ, **environ}
    command = [sys.executable, *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=folder, env=environ, check=False)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return ran.stdout


def write(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))


MODULE = """
    import multiprocessing
    import os
    import sys

    from poolagg import *
    from . import sibling  # of the parent

    def uses_its_sibling(x):
        from . import sibling
        from .sibling import add
        return add(x) + sibling.STEP

    def seen(x):
        return sys.argv, __file__, __package__, __name__

    with ProcessPool(2, start_method=sys.argv[1]) as pool:
        print(aggregate(uses_its_sibling, range(10), Sum(), pool=pool))
        print(aggregate(lambda x: sibling.add(x), range(10), Sum(), pool=pool))
        for told in aggregate(seen, range(10), Collect(), pool=pool):
            assert told == seen(0), told
"""

SIBLING = "STEP = 1\ndef add(x): return x + STEP\n"


@pytest.mark.parametrize("name", ["package.module", "package"])
def test_a_module_of_a_package(method: str, name: str, tmp_path: Path) -> None:
    """Relative imports inside `func` work; `sys.argv` and the file of `__main__` are the program's."""
    write(
        tmp_path / "package",
        __init__="",
        sibling=SIBLING,
        **{name.removeprefix("package.").replace("package", "__main__"): MODULE},
    )
    assert printed(tmp_path, "-W", "error", "-m", name, method, "more") == "65\n55\n"


def test_a_script_sees_its_arguments_and_its_file(method: str, tmp_path: Path) -> None:
    """Also in a worker that has taken the place of one that was killed, and in the initializer."""
    program = """
        import os, sys
        from poolagg import *

        def note(): os.environ["NOTED"] = repr((sys.argv, __file__))
        def seen(x): return eval(os.environ["NOTED"]), (sys.argv, __file__), (__package__, __name__)

        pool = ProcessPool(2, start_method=sys.argv[1], initializer=note, max_items_per_worker=2)
        for told in aggregate(seen, range(10), Collect(), pool=pool):
            assert told == ((sys.argv, __file__), (sys.argv, __file__), (None, "__main__")), told
    """
    write(tmp_path / "folder", program=program)
    assert printed(tmp_path, "folder/program.py", method, "--flag", "") == ""


GUARDED = """
    import sys
    from poolagg import *

    def add(x):
        assert x >= 0, "flags are the program's"
        return x + STEP

    STEP = 3
    if __name__ == "__main__":
        flags = lambda x: (sys.flags.isolated, sys.flags.optimize, __debug__)
        with ProcessPool(2, start_method=sys.argv[1]) as pool:
            print(aggregate(add, range(100), Sum(), pool=pool))
            assert aggregate(flags, range(4), Unique(), pool=pool) == {flags(0)}
"""


@pytest.mark.parametrize("flag", ["-I", "-O", "-OO"])
def test_flags_of_the_interpreter(method: str, flag: str, tmp_path: Path) -> None:
    """Workers have them, too."""
    write(tmp_path / "folder", program=GUARDED)
    assert printed(tmp_path, flag, "folder/program.py", method) == "5250\n"


def test_a_zip_that_holds_the_program_and_poolagg(method: str, tmp_path: Path) -> None:
    """Workers import both from it."""
    body = "\n    print(__import__('poolagg').__file__)\n"
    write(tmp_path / "app", __main__=GUARDED + body.replace("\n    ", "\n        "))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "poolagg", tmp_path / "app" / "poolagg", ignore=ignored)
    zipapp.create_archive(tmp_path / "app", tmp_path / "app.pyz")
    shutil.rmtree(tmp_path / "app")
    where = tmp_path / "app.pyz" / "poolagg" / "__init__.py"
    assert printed(tmp_path, tmp_path / "app.pyz", method) == f"5250\n{where}\n"


@pytest.mark.orphans  # the tracker of multiprocessing outlives the worker by a moment
def test_a_child_of_multiprocessing_in_a_worker_does_not_run_the_script(tmp_path: Path) -> None:
    """The script has no main guard: poolagg does not ask for one, and neither does what `func` starts."""
    program = """
        import multiprocessing, os
        from poolagg import *

        with open("runs", "a") as file:
            file.write("x")

        def starts_a_process(x):
            process = multiprocessing.get_context("spawn").Process(target=os.getpid)
            process.start()
            process.join()
            return process.exitcode

        print(aggregate(starts_a_process, [1], Collect(), workers=1))
    """
    write(tmp_path / "folder", program=program)
    assert printed(tmp_path, "folder/program.py") == "[0]\n"
    assert (tmp_path / "runs").read_text() == "x"
