"""Odd places to run in: programs without standard streams, with odd import paths, and what their workers inherit.

Each program runs in a process of its own, and leaves its result in a file.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

import poolagg

CLOSED = ["".join(map(str, some)) for n in range(1, 4) for some in itertools.combinations((0, 1, 2), n)]
"""Every way of having some of the standard descriptors closed."""


def run(program, folder, before="", **names):
    """Run a program; `before` is done by the shell that becomes it. Returns what it writes to RESULT."""
    path = folder / "program.py"
    head = f"RESULT = {str(folder / 'result')!r}\n" + "".join(f"{k.upper()} = {v!r}\n" for k, v in names.items())
    path.write_text(head + textwrap.dedent(program))
    command = f"{before}exec {sys.executable} -W error {path}"
    ran = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=50, cwd=folder)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    return (folder / "result").read_text()


@pytest.mark.parametrize("closed", CLOSED)
def test_a_program_without_standard_streams(method, closed, tmp_path):
    """A daemon has closed some of descriptors 0 to 2. What workers, and programs they run, print there goes nowhere,
    and never into a pipe of the pool; the parent's own numbers stay closed."""
    program = """
        import os, subprocess
        from poolagg import *

        X = share(list(range(10)))

        def shouts(x):
            print("python", flush=True)
            for fd in {1, 2} & set(CLOSED):
                os.write(fd, b"C code" * 20)
            subprocess.run(["echo", "a program"], check=True)
            assert os.read(0, 1) == b"" or 0 not in CLOSED
            return x + X.value[1]

        def is_open(fd):
            try:
                os.fstat(fd)
            except OSError:
                return False
            return True

        before = [is_open(fd) for fd in range(3)]
        assert before == [fd not in CLOSED for fd in range(3)]
        with ProcessPool(2, start_method=METHOD) as pool:
            total = aggregate(shouts, range(40), Sum(), pool=pool)
            total += aggregate(lambda x: bytes(3_000_000)[x], range(20), Sum(), pool=pool)
            assert [is_open(fd) for fd in range(3)] == before
        with open(RESULT, "w") as file:
            file.write(str(total))
    """
    before = "".join(f"exec {fd}{'<' if fd == 0 else '>'}&-; " for fd in map(int, closed))
    assert run(program, tmp_path, before, method=method, closed=list(map(int, closed))) == "820"


@pytest.mark.orphans  # the program leaves by `os._exit`, and its forkserver ends after it
@pytest.mark.parametrize(
    "do", ["sys.stdout = None", "sys.stdout.close()", "sys.stderr = open('x', 'w'); os.close(sys.stderr.fileno())"]
)
def test_a_program_that_has_closed_its_streams(method, do, tmp_path):
    "Python's own streams, whatever is left of their descriptors."
    program = """
        import os, sys
        from poolagg import *
        exec(DO)
        total = aggregate(lambda x: x, range(10), Sum(), pool=ProcessPool(2, start_method=METHOD))
        with open(RESULT, "w") as file:
            file.write(str(total))
        os._exit(0)
    """
    assert run(program, tmp_path, method=method, do=do) == "45"


def test_a_path_object_in_the_import_path(method, tmp_path):
    "Python passes over it, and so do workers; they import from everywhere else that the parent does."
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "found_there.py").write_text("ONE = 1\ndef one(x): return ONE\n")
    program = """
        import pathlib, sys
        sys.path.insert(0, pathlib.Path("/nowhere"))
        sys.path[:0] = [b"/bytes", None, LIB]
        import found_there
        from poolagg import *
        total = aggregate(found_there.one, range(10), Sum(), pool=ProcessPool(2, start_method=METHOD))
        with open(RESULT, "w") as file:
            file.write(str(total))
    """
    assert run(program, tmp_path, method=method, lib=str(tmp_path / "lib")) == "10"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up being root")
def test_a_program_that_may_no_longer_read_the_package(tmp_path):
    "A server gives up being root once it has started. Its forked workers have all that they need, and can be heard."
    shutil.copytree(pathlib.Path(poolagg.__file__).parent, tmp_path / "lib" / "poolagg")
    (tmp_path / "lib").chmod(0o700)
    program = """
        import sys
        sys.path.insert(0, LIB)
        import os
        import numpy as np
        from poolagg import *

        def pool():
            return ProcessPool(2, start_method="fork")

        def works(i):
            return i

        def busy(i):
            import logging
            logging.getLogger("there").error("logged")
            print("printed")
            if i == 5:
                raise ValueError("an error")
            advance(1)
            return {"sum": 1}, np.ones(100_000), X.value[i]

        with open(RESULT, "w") as file:
            aggregate(works, range(9), Sum(), pool=pool())
            os.setuid(65534)
            X = share(list(range(10)))
            sys.stderr = sys.stdout  # which is not looked at
            with pool() as kept:
                print(aggregate(works, range(9), Sum(), pool=kept), file=file)
                print(aggregate(busy, range(5), Count(), pool=kept), file=file)
                try:
                    aggregate(busy, range(9), Count(), pool=kept)
                except TaskError as error:
                    print(repr(error.__cause__), file=file)
    """
    assert run(program, tmp_path, lib=str(tmp_path / "lib")) == "36\n5\nValueError('an error')\n"
