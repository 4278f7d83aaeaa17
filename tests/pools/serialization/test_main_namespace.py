"""Everything of `__main__` goes both ways: from a script without a main guard, `python -c`, standard input, a notebook.

Each program runs in a process of its own, as a user would run it, with every start method.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from notebook import shown

PROGRAM = '''
import collections, dataclasses, enum, sys, functools
from poolagg import *

METHOD = {method!r}
print("the script runs", flush=True)

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    def moved(self): return Point(self.x + STEP, self.y)

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

Pair = collections.namedtuple("Pair", "a b")

class Broken(Exception):
    def __init__(self, item, why):
        super().__init__(item, why)

class Total:
    """An accumulator of a class of the script's."""
    def __init__(self): self.n = 0

class Totals(Reducer):
    def init(self): return Total()
    def step(self, acc, x): acc.n += x; return acc
    def merge(self, acc, other): acc.n += other.n; return acc
    def finish(self, acc): return acc.n

STEP = 10
model = None

def load():
    global model
    model = "loaded"

def move(point): return point.moved()
def helper(x): return x + STEP
def calls_helper(x): return helper(x)
def colour_of(x): return Colour.RED if x % 2 else Colour.BLUE
def pair(x): return Pair(x, x)
def use_model(x): return model
def breaks(x): raise Broken(x, "why")
def call(f): return f(1)

def pool(**more): return ProcessPool(2, start_method=METHOD, **more)

assert aggregate(move, [Point(i) for i in range(50)], Collect(), pool=pool()) == [Point(i + 10) for i in range(50)]
assert aggregate(move, (Point(i) for i in range(50)), Unique(), pool=pool()) == {{Point(i + 10) for i in range(50)}}
assert aggregate(calls_helper, range(5), Sum(), pool=pool()) == 60
assert aggregate(lambda x: x + STEP, range(5), Sum(), pool=pool()) == 60
assert aggregate(colour_of, range(5), Frequencies(), pool=pool()) == {{Colour.RED: 2, Colour.BLUE: 3}}
assert aggregate(lambda c: c.name, list(Colour), Collect(), pool=pool()) == ["RED", "BLUE"]
assert aggregate(pair, range(3), Collect(), pool=pool()) == [Pair(i, i) for i in range(3)]
assert aggregate(abs, range(100), Totals(), pool=pool()) == 4950
assert aggregate(use_model, range(3), Unique(), pool=pool(initializer=load)) == {{"loaded"}}
assert model is None
assert aggregate(call, [helper, lambda x: x], Sum(), pool=pool()) == 12
try:
    aggregate(breaks, [Point(7)], Sum(), pool=pool())
except TaskError as error:
    assert type(error.__cause__) is Broken and error.item == Point(7), repr(error.__cause__)
else:
    raise AssertionError
with pool() as kept:
    assert aggregate(calls_helper, range(5), Sum(), pool=kept) == 60
    STEP = 100
    assert aggregate(calls_helper, range(5), Sum(), pool=kept) == 510
    class Late:
        def __init__(self, x): self.x = x
        def __eq__(self, other): return type(other) is Late and other.x == self.x
        def __reduce__(self): return Late, (self.x,)
    assert aggregate(lambda late: Late(late.x + 1), [Late(1), Late(2)], Collect(), pool=kept) == [Late(2), Late(3)]
print("done")
'''


def _run(command: list[str], program: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=program, capture_output=True, text=True, timeout=50, env=os.environ)


def _assert_ran_once(ran: subprocess.CompletedProcess[str]) -> None:
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "the script runs\ndone\n"


def test_a_script_without_a_main_guard(method, tmp_path):
    "Functions and classes of a script work as items, partials, states and errors; the script runs just once."
    script = tmp_path / "script.py"
    script.write_text(PROGRAM.format(method=method))
    _assert_ran_once(_run([sys.executable, str(script)]))


def test_python_c():
    "The same by `python -c`."
    _assert_ran_once(_run([sys.executable, "-c", PROGRAM.format(method="forkserver")]))


def test_standard_input():
    "The same when the program comes in on standard input, which workers leave alone."
    _assert_ran_once(_run([sys.executable, "-"], PROGRAM.format(method="forkserver")))


def test_python_m(tmp_path):
    "The same by `python -m`, from within a package."
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "program.py").write_text(PROGRAM.format(method="spawn"))
    ran = subprocess.run(
        [sys.executable, "-m", "package.program"], capture_output=True, text=True, timeout=50, cwd=tmp_path
    )
    _assert_ran_once(ran)


def test_fork_shares_memory():
    "With start_method='fork' what the script's globals hold is inherited, and not pickled."
    program = """
        from poolagg import *
        class Huge:
            def __reduce__(self): raise AssertionError("pickled")
            def __len__(self): return 7
        HUGE = Huge()
        def use(x): return len(HUGE)
        print(aggregate(use, range(3), Sum(), pool=ProcessPool(2, start_method="fork")))
        with ProcessPool(2, start_method="fork") as pool:
            print(aggregate(use, range(3), Sum(), pool=pool))
    """
    ran = _run([sys.executable, "-c", textwrap.dedent(program)])
    assert (ran.stdout, ran.stderr) == ("21\n21\n", "")


def test_values_that_cannot_pickle_are_named():
    "A func that refers to what does not pickle is refused at the call, and the error says what to do."
    program = """
        import sqlite3
        from poolagg import *
        connection = sqlite3.connect(":memory:")
        def use(x):
            with connection: return x
        try:
            aggregate(use, range(3), Sum())
        except TypeError as error:
            print(error)
    """
    ran = _run([sys.executable, "-c", textwrap.dedent(program)])
    assert ran.stderr == ""
    assert "func" in ran.stdout
    assert "per_worker" in ran.stdout


FIRST_CELL = """
from poolagg import *
import dataclasses
@dataclasses.dataclass
class Point:
    x: int
def move(p): return Point(p.x + 1)
pool = ProcessPool(2).__enter__()
print(aggregate(move, [Point(1), Point(2)], Collect(), pool=pool))
"""

SECOND_CELL = """
@dataclasses.dataclass
class Point:
    x: int
    y: int = 5
def move(p): return Point(p.x + 2)
print(aggregate(move, [Point(1), Point(2)], Collect(), pool=pool))
pool.close()
"""


@pytest.mark.orphans  # the kernel is killed, and its forkserver ends after it
def test_a_notebook_kernel():
    "Cells of a notebook: functions and classes defined in cells, redefined between runs, with a kept pool."
    pytest.importorskip("jupyter_client", reason="pip install jupyter-client ipykernel")
    pytest.importorskip("ipykernel", reason="pip install jupyter-client ipykernel")
    printed = shown(FIRST_CELL, SECOND_CELL)
    assert printed == "[Point(x=2), Point(x=3)]\n[Point(x=3, y=5), Point(x=4, y=5)]\n"
