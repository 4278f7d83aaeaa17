"""A checkpoint knows func and reducer again: each difference in any place counts, and nothing else does."""

from __future__ import annotations

import contextlib
import copyreg
import datetime
import gc
import hashlib
import io
import os
import random
import re
import sqlite3
import struct
import subprocess
import sys
import threading
import types
from collections import defaultdict

import numpy as np
import pytest
from checkpointed import Idle
from fingerprints import HASHABLE, HOLDERS, IN_A_SET, PLACES, SAME, VALUES, told, told_elsewhere
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from poolagg import Checkpoint, CheckpointError, CheckpointMismatch, Into, SerialPool, Sum, aggregate
from poolagg._checkpoint.canonical import canonical
from poolagg._checkpoint.checkpoint import FORMAT, HEAD, MAGIC
from poolagg._checkpoint.fingerprint import differences, fingerprint

WRAPPER = """
m = types.ModuleType("m")
exec('''
import functools
K = {}
def deco(f):
    @functools.wraps(f)
    def w(x): return K, f(x)
    return w
''', vars(m))
K = 0
def g(x): return K
f = m.deco(g)
"""

CODE = {
    "a keyword's name": ("def f(x): return dict(seconds=x)\n", "def f(x): return dict(minutes=x)\n"),
    "keywords of a method": ("def f(x): return x.g(1, a=1, b=2)\n", "def f(x): return x.g(1, b=1, a=2)\n"),
    "a keyword in a lambda": (
        "def f(x): return (lambda y: dict(a=y))(x)\n",
        "def f(x): return (lambda y: dict(b=y))(x)\n",
    ),
    "a keyword of a class": (
        "def f(x):\n    class A(metaclass=M, k=1): pass\n",
        "def f(x):\n    class A(metaclass=M, j=1): pass\n",
    ),
    "a constant": ("def f(x): return x + 1\n", "def f(x): return x + 2\n"),
    "a constant's type": ("def f(x): return 1\n", "def f(x): return 1.0\n"),
    "a constant's sign": ("def f(x): return -0.0\n", "def f(x): return 0.0\n"),
    "a constant in a tuple": ("def f(x): return (1, (2, 3))\n", "def f(x): return (1, (2, True))\n"),
    "a constant in a set": ("def f(x): return x in {1, 2}\n", "def f(x): return x in {1, 3}\n"),
    "an operator": ("def f(x): return x + x\n", "def f(x): return x - x\n"),
    "an operator in place": ("def f(x):\n    x += 1\n    return x\n", "def f(x):\n    x -= 1\n    return x\n"),
    "a comparison": ("def f(x): return x < 1\n", "def f(x): return x <= 1\n"),
    "is and is not": ("def f(x): return x is None\n", "def f(x): return x is not None\n"),
    "in and not in": ("def f(x): return x in 'a'\n", "def f(x): return x not in 'a'\n"),
    "and, or": ("def f(x): return x and 1\n", "def f(x): return x or 1\n"),
    "a unary operator": ("def f(x): return -x\n", "def f(x): return ~x\n"),
    "an attribute": ("def f(x): return x.a\n", "def f(x): return x.b\n"),
    "a method": ("def f(x): return x.a()\n", "def f(x): return x.b()\n"),
    "an attribute that is set": ("def f(x): x.a = 1\n", "def f(x): x.b = 1\n"),
    "an attribute that is deleted": ("def f(x): del x.a\n", "def f(x): del x.b\n"),
    "a global's name": ("def f(x): return abs(x)\n", "def f(x): return len(x)\n"),
    "a global that is set": ("def f(x):\n    global a\n    a = x\n", "def f(x):\n    global b\n    b = x\n"),
    "a subscript": ("def f(x): return x[0]\n", "def f(x): return x[1]\n"),
    "a slice": ("def f(x): return x[1:2]\n", "def f(x): return x[1:3]\n"),
    "order of arguments": ("def f(x, y=0): return pow(x, y)\n", "def f(x, y=0): return pow(y, x)\n"),
    "a branch": ("def f(x): return 1 if x else 2\n", "def f(x): return 2 if x else 1\n"),
    "a branch's condition": (
        "def f(x):\n    if x: return 1\n    return 2\n",
        "def f(x):\n    if not x: return 1\n    return 2\n",
    ),
    "a loop's end": (
        "def f(x):\n    for i in x:\n        if i: break\n    else: return 1\n",
        "def f(x):\n    for i in x:\n        if i: continue\n    else: return 1\n",
    ),
    "an exception": (
        "def f(x):\n    try: return x()\n    except ValueError: return 1\n",
        "def f(x):\n    try: return x()\n    except TypeError: return 1\n",
    ),
    "what is tried": (
        "def f(x):\n    try: x(); y()\n    except E: pass\n",
        "def f(x):\n    x()\n    try: y()\n    except E: pass\n",
    ),
    "what a handler returns": (
        "def f(x):\n    try: return x()\n    finally: g(1)\n",
        "def f(x):\n    try: return x()\n    finally: g(2)\n",
    ),
    "an exception group": (
        "def f(x):\n    try: x()\n    except* ValueError: pass\n",
        "def f(x):\n    try: x()\n    except* TypeError: pass\n",
    ),
    "a pattern's value": (
        "def f(x):\n    match x:\n        case 1: return 'a'\n",
        "def f(x):\n    match x:\n        case 2: return 'a'\n",
    ),
    "a pattern's attribute": (
        "def f(x):\n    match x:\n        case P(a=1): return 1\n",
        "def f(x):\n    match x:\n        case P(b=1): return 1\n",
    ),
    "a pattern's key": (
        "def f(x):\n    match x:\n        case {'a': y}: return y\n",
        "def f(x):\n    match x:\n        case {'b': y}: return y\n",
    ),
    "a pattern's length": (
        "def f(x):\n    match x:\n        case [_, _]: return 1\n",
        "def f(x):\n    match x:\n        case [_, *_]: return 1\n",
    ),
    "a comprehension's filter": (
        "def f(x): return [y for y in x if y > 1]\n",
        "def f(x): return [y for y in x if y > 2]\n",
    ),
    "a comprehension's kind": ("def f(x): return [y for y in x]\n", "def f(x): return {y for y in x}\n"),
    "a generator in it": ("def f(x): return sum(y * 2 for y in x)\n", "def f(x): return sum(y * 3 for y in x)\n"),
    "a function in it": (
        "def f(x):\n    def g(): return 1\n    return g\n",
        "def f(x):\n    def g(): return 2\n    return g\n",
    ),
    "a default in it": (
        "def f(x):\n    def g(k=1): return k\n    return g\n",
        "def f(x):\n    def g(k=2): return k\n    return g\n",
    ),
    "a class in it": (
        "def f(x):\n    class A:\n        k = 1\n    return A\n",
        "def f(x):\n    class A:\n        k = 2\n    return A\n",
    ),
    "a format": ("def f(x): return f'{x:.2f}'\n", "def f(x): return f'{x:.3f}'\n"),
    "a conversion": ("def f(x): return f'{x!r}'\n", "def f(x): return f'{x!s}'\n"),
    "text in a format": ("def f(x): return f'a{x}'\n", "def f(x): return f'b{x}'\n"),
    "a star": ("def f(x): return g(*x)\n", "def f(x): return g(x)\n"),
    "two stars": ("def f(x): return g(**x)\n", "def f(x): return g(*x)\n"),
    "an unpacking": ("def f(x):\n    a, *b = x\n    return b\n", "def f(x):\n    *b, a = x\n    return b\n"),
    "a lambda": ("f = lambda x: x\n", "f = lambda x: -x\n"),
    "an argument's name": ("def f(x, a=1): return a\n", "def f(x, b=1): return b\n"),
    "an argument's kind": ("def f(x, a=1): return a\n", "def f(x, *, a=1): return a\n"),
    "a generator or not": ("def f(x): return [1]\n", "def f(x): yield 1\n"),
    "an awaitable": ("async def f(x): return 1\n", "def f(x): return 1\n"),
    "an import": ("def f(x):\n    import a\n    return a\n", "def f(x):\n    import b\n    return b\n"),
    "an import from": (
        "def f(x):\n    from a import b\n    return b\n",
        "def f(x):\n    from a import c as b\n    return b\n",
    ),
    "an assertion": ("def f(x):\n    assert x > 1\n", "def f(x):\n    assert x > 2\n"),
    "a dict's order": ("def f(x): return {'a': x, 'b': 1}\n", "def f(x): return {'b': x, 'a': 1}\n"),
    "super": (
        "class A:\n    def m(self): return super().a()\ndef f(x): return A().m()\n",
        "class A:\n    def m(self): return super().b()\ndef f(x): return A().m()\n",
    ),
    "a walrus": ("def f(x): return (y := x) + y\n", "def f(x): return (y := x) + x\n"),
    "a nonlocal": (
        "def make(v):\n    def f(x):\n        nonlocal v\n        v = x\n        return v\n    return f\nf = make(1)\n",
        "def make(v):\n    def f(x):\n        v = x\n        return v\n    return f\nf = make(1)\n",
    ),
    "a base": ("class A(list): pass\ndef f(x): return A\n", "class A(dict): pass\ndef f(x): return A\n"),
    "a metaclass": (
        "class A(metaclass=abc.ABCMeta): pass\ndef f(x): return A\n",
        "class A: pass\ndef f(x): return A\n",
    ),
    "a method of a class": (
        "class A:\n    def m(self): return 1\ndef f(x): return A\n",
        "class A:\n    def m(self): return 2\ndef f(x): return A\n",
    ),
    "a static method": (
        "class A:\n    @staticmethod\n    def m(x): return 1\ndef f(x): return A\n",
        "class A:\n    @classmethod\n    def m(x): return 1\ndef f(x): return A\n",
    ),
    "a method and a property": (
        "class A:\n    def m(x): return 1\ndef f(x): return A\n",
        "class A:\n    @property\n    def m(x): return 1\ndef f(x): return A\n",
    ),
    "an operator of a class": (
        "class A:\n    def __add__(x, y): return 1\ndef f(x): return A\n",
        "class A:\n    def __sub__(x, y): return 1\ndef f(x): return A\n",
    ),
    "a hash": ("class A:\n    __hash__ = None\ndef f(x): return A\n", "class A: pass\ndef f(x): return A\n"),
    "a slot": (
        "class A:\n    __slots__ = ('a',)\ndef f(x): return A\n",
        "class A:\n    __slots__ = ('b',)\ndef f(x): return A\n",
    ),
    "a field": (
        "@dataclasses.dataclass\nclass A:\n    a: int = 1\ndef f(x): return A\n",
        "@dataclasses.dataclass\nclass A:\n    a: int = 2\ndef f(x): return A\n",
    ),
    "a field's order": (
        "@dataclasses.dataclass(order=True)\nclass A:\n    a: int = 1\ndef f(x): return A\n",
        "@dataclasses.dataclass\nclass A:\n    a: int = 1\ndef f(x): return A\n",
    ),
    "a field's comparison": (
        "@dataclasses.dataclass\nclass A:\n    a: int = dataclasses.field(default=1, compare=False)\n"
        "def f(x): return A\n",
        "@dataclasses.dataclass\nclass A:\n    a: int = 1\ndef f(x): return A\n",
    ),
    "a member's value": (
        "class E(enum.Enum):\n    A = 1\n    B = 2\ndef f(x): return E.A\n",
        "class E(enum.Enum):\n    A = 1\n    B = 3\ndef f(x): return E.A\n",
    ),
    "a member's method": (
        "class E(enum.Enum):\n    A = 1\n    def m(self): return 1\ndef f(x): return E.A\n",
        "class E(enum.Enum):\n    A = 1\n    def m(self): return 2\ndef f(x): return E.A\n",
    ),
    "what an enum misses": (
        "class E(enum.Enum):\n    A = 1\n    @classmethod\n    def _missing_(cls, v): return cls.A\n"
        "def f(x): return E\n",
        "class E(enum.Enum):\n    A = 1\ndef f(x): return E\n",
    ),
    "a member's attribute": (
        "class E(enum.Enum):\n    A = 1\n    def __init__(self, v): self.m = 1\ndef f(x): return E.A\n",
        "class E(enum.Enum):\n    A = 1\n    def __init__(self, v): self.m = 2\ndef f(x): return E.A\n",
    ),
    "a named tuple's default": (
        "class P(typing.NamedTuple):\n    a: int = 1\ndef f(x): return P()\n",
        "class P(typing.NamedTuple):\n    a: int = 2\ndef f(x): return P()\n",
    ),
    "a named tuple's field": (
        "P = collections.namedtuple('P', 'a b')\ndef f(x): return P\n",
        "P = collections.namedtuple('P', 'a c')\ndef f(x): return P\n",
    ),
    "a descriptor": (
        "class D:\n    def __get__(self, o, k): return 1\nclass A:\n    d = D()\ndef f(x): return A\n",
        "class D:\n    def __get__(self, o, k): return 2\nclass A:\n    d = D()\ndef f(x): return A\n",
    ),
    "a slot that is private": (
        "class A:\n    __slots__ = ('__k',)\n    def __init__(self): self.__k = 1\nK = A()\ndef f(x): return K\n",
        "class A:\n    __slots__ = ('__k',)\n    def __init__(self): self.__k = 1; self.__k = 2\nK = A()\n"
        "def f(x): return K\n",
    ),
    "a wrapper of another module, where a global has the same name": (WRAPPER.format(1), WRAPPER.format(2)),
    "a mutual recursion": (
        "def g(x): return f(x) + 1\ndef f(x): return g(x)\n",
        "def g(x): return f(x) + 2\ndef f(x): return g(x)\n",
    ),
    "a function at the end of a cycle of globals": (
        "def g(x): return f, h\ndef h(x): return 1\ndef f(x): return g\n",
        "def g(x): return f, h\ndef h(x): return 2\ndef f(x): return g\n",
    ),
    "far jumps": (
        "def f(x):\n    if x:\n" + "        x = x + 1\n" * 300 + "    return x\n",
        "def f(x):\n    if x:\n" + "        x = x + 1\n" * 299 + "    x = x + 1\n    return x\n",
    ),
}


# -- what is one -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nothing_kept():
    """Free a program's shared values with its namespace, which refers to itself."""
    yield
    gc.collect()


def check(name, one, other):
    """The first is itself on other lines, and the second is another."""
    found = told(one)
    assert isinstance(found, dict), (name, found)
    assert told("\n# moved\n\n" + one, "another file") == found, name
    assert differences(found, told(other)), name


@pytest.mark.parametrize("place", PLACES)
def test_a_value_counts_wherever_it_is(place):
    """Each kind of value, in each place that a function can refer to."""
    for name, values in VALUES.items():
        check(name, *map(PLACES[place].format, values))


IN_HOLDERS = {
    f"{name}, {holder}": [PLACES["a global"].format(HOLDERS[holder].format(value)) for value in VALUES[name]]
    for name in ("an int", "a set", "an object", "a ring", "a partial", "numbers", "a tzinfo without a repr")
    for holder in HOLDERS
}

IN_SETS = {
    f"{name}, {holder}": [PLACES["a global"].format(IN_A_SET[holder].format(value)) for value in values]
    for name, values in HASHABLE.items()
    for holder in IN_A_SET
}


@pytest.mark.parametrize("programs", [IN_HOLDERS, IN_SETS, CODE], ids=["holders", "sets", "code"])
def test_each_difference_counts(programs):
    """In whatever holds a value, in sets and keys, in the code of functions and the definitions of classes."""
    for name, pair in programs.items():
        check(name, *pair)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_value_counts_however_deep_it_is(data):
    """Drawn: a value, in up to four that hold it, in a place."""
    name = data.draw(st.sampled_from(sorted(VALUES)))
    holders = data.draw(st.lists(st.sampled_from(sorted(HOLDERS)), max_size=4))
    forkserver = PLACES[data.draw(st.sampled_from(sorted(PLACES)))]
    one, other = VALUES[name]
    for holder in holders:
        one, other = (HOLDERS[holder].format(value) for value in (one, other))
    check(name, forkserver.format(one), forkserver.format(other))
    if "share(" in one:
        gc.collect()  # some hold themselves, and so the memory of what is shared


def test_a_fingerprint_is_the_same_in_every_process():
    """Under other hash seeds, and after other imports: of each value, each place, and of values drawn in others."""
    draw = random.Random(7)
    programs = [PLACES["a global"].format(one) for one, _ in VALUES.values()]
    programs += [place.format("[{'a', 'b', 'c'}, Own({'d', 'e'})]") for place in PLACES.values()]
    programs += [one for pairs in (IN_HOLDERS, IN_SETS, CODE) for one, _ in pairs.values()]
    for _ in range(300):
        text = draw.choice([*VALUES.values()])[0]
        for _ in range(draw.randrange(4)):
            text = draw.choice([*HOLDERS.values()]).format(text)
        programs.append(draw.choice([*PLACES.values()]).format(text))
    here = list(map(told, programs))
    for program, found, *elsewhere in zip(programs, here, *told_elsewhere(programs), strict=True):
        assert elsewhere == [found, found], program


# -- what is none ------------------------------------------------------------------------------------------------------


def test_nothing_else_counts():
    """Neither for functions here nor in other processes."""
    ones, others = zip(*SAME.values(), strict=True)
    found = list(map(told, ones))
    for name, one, other, *elsewhere in zip(SAME, found, map(told, others), *told_elsewhere(others), strict=True):
        assert isinstance(one, dict), one
        assert differences(one, other) == [], name
        assert elsewhere == [one, one], name


def test_no_value_is_changed():
    """An iterator is where it was, a dict has no more keys, and no flag was set."""
    numbers, missing = iter([1, 2, 3]), defaultdict(list)
    next(numbers)
    held = types.SimpleNamespace(n=numbers, m=missing, b=io.BytesIO(b"abc"))
    held.b.read(1)
    before = repr(vars(held))
    fingerprint(lambda x: held, Sum())
    assert (next(numbers), missing, held.b.read(1), repr(vars(held))) == (2, {}, b"b", before)


def test_many_paths_to_one_object_take_no_longer():
    """A value is described once, though 2 ** 60 paths lead to it; cells that know their neighbours, in a cycle, too."""
    value = []
    for _ in range(60):
        value = [value, value, {}]
    cells = [types.SimpleNamespace(number=i) for i in range(60)]
    for cell in cells:
        cell.others = cells
    by_name = {f"cell {i}": cell for i, cell in enumerate(cells)}
    assert fingerprint(lambda x: (value, cells, by_name), Sum())


# -- what cannot be known again ----------------------------------------------------------------------------------------


class Handle:
    """An object of Python that holds one of C."""

    def __init__(self, handle):
        self.inner = {"first": [1, handle]}


UNKNOWN = {
    "generator": lambda: (i for i in ()),
    "sqlite3.Connection": lambda: sqlite3.connect(":memory:"),
    "numpy.ufunc": lambda: np.frompyfunc(lambda x: x, 1, 1),
    "re.Match": lambda: re.match("a", "a"),
    "_hashlib.HASH": hashlib.sha256,
    "frame": sys._getframe,
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_cannot_be_described_is_refused(kind, tmp_path):
    """Before any worker starts; the error says what it is, where it was found, and what to do."""
    held = UNKNOWN[kind]()
    handle = Handle(held)

    def inner(x):
        return x, handle

    def func(x):
        return inner(x)[0]

    with pytest.raises(ValueError) as caught:
        aggregate(func, [1], Sum(), pool=Idle(), checkpoint=tmp_path / "run.ckpt")
    assert f"This {kind} is at func's variable 'inner'" in str(caught.value)
    assert "(its variable 'handle').inner['first'][1]" in str(caught.value)
    assert "Checkpoint(path, key=...)" in str(caught.value)
    with contextlib.closing(held) if hasattr(held, "close") else contextlib.nullcontext():
        kept = Checkpoint(tmp_path / "run.ckpt", key="mine")
        assert aggregate(func, [1], Sum(), pool=SerialPool(), checkpoint=kept) == 1


def test_the_path_leads_through_globals():
    """From func, by the functions that refer to it."""
    said = told("K = argparse.Namespace(a=[(i for i in ())])\ndef g(): return K\ndef f(x): return g()\n")
    assert "at func -> the global 'g' -> the global 'K' (its state)['a'][0]" in said or ".a[0]" in said


def test_what_is_nested_too_deep_is_refused():
    """In words, with the way out."""
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match=r"nested too deep, at .* Checkpoint\(path, key=...\)"):
        fingerprint(lambda x: value, Sum())
    while value:  # or the interpreter would take its stack apart at once
        value = value[0]


def test_a_hook_that_raises_is_an_error_in_words():
    """It tells where, and the way out."""

    class Position:
        def begin(self): ...
        def apply(self, partial): ...
        def commit(self, ledger): ...
        def rollback(self): ...

        @property
        def known_by(self):
            raise KeyError("none")

    place = Position()
    with pytest.raises(ValueError, match=r"KeyError: 'none', at func's variable 'place'.*Checkpoint\(path, key=...\)"):
        fingerprint(lambda x: place, Sum())


def test_objects_that_refer_to_each_other_in_sets_are_refused_in_time():
    """There is no order in which they could be told apart in another process."""

    class ProgressCell:
        pass

    cells = [ProgressCell() for _ in range(12)]
    for cell in cells:
        cell.others = set(cells)
    with pytest.raises(ValueError, match="through sets"):
        fingerprint(lambda x: cells, Sum())


# -- a run -------------------------------------------------------------------------------------------------------------

SCRIPT = """
import argparse, sys
from poolagg import Checkpoint, SerialPool, Sum, aggregate

parser = argparse.ArgumentParser()
parser.add_argument("--threshold", type=int, default=3)
args = parser.parse_args()

def above(x):
    return x if x > args.threshold else 0

print(aggregate(above, range(10), Sum(), pool=SerialPool(), checkpoint="run.ckpt"))
"""


def test_a_script_with_other_options_does_not_continue_its_checkpoint(tmp_path):
    """With the same options it does, under any hash seed."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(*options, seed="1"):
        return subprocess.run(
            [sys.executable, "script.py", *options], cwd=tmp_path, capture_output=True, text=True, timeout=50,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    assert run("--threshold", "3").stdout == "39\n"
    assert run("--threshold", "3", seed="2").stdout == "39\n"
    other = run("--threshold", "8")
    assert other.returncode == 1
    assert "CheckpointMismatch" in other.stderr
    assert "the global 'args' differs" in other.stderr
    assert run(seed="3").stdout == "39\n"


def test_a_checkpoint_of_an_older_format_is_refused_in_words(tmp_path):
    """Its marks of functions mean something else: they are not compared."""
    path = tmp_path / "run.ckpt"

    def call():
        return aggregate(abs, range(3), Sum(), pool=SerialPool(), checkpoint=path)

    call()
    for older in (OLDER + path.read_bytes()[len(HEAD) :], database_of_format(4, tmp_path)):
        path.write_bytes(older)
        with pytest.raises(CheckpointError, match=r"written by an older poolagg .*: finish it .* name another path"):
            call()
        assert path.read_bytes() == older


OLDER = MAGIC + b"%d\n" % (FORMAT - 1)


def database_of_format(number, folder):
    """A checkpoint as SQLite kept it up to format 4."""
    with contextlib.closing(sqlite3.connect(folder / "older.db")) as connection:
        connection.executescript(
            f"PRAGMA application_id={int.from_bytes(b'pagg', 'big')}; PRAGMA user_version={number}; "
            "CREATE TABLE head (id INTEGER PRIMARY KEY, text TEXT NOT NULL, checksum BLOB NOT NULL)"
        )
    return (folder / "older.db").read_bytes()


class Kept:
    """A resource in memory."""

    def __init__(self):
        self.ledger, self.lock = None, threading.Lock()

    def begin(self):
        return self.ledger

    def apply(self, partial):
        pass

    def commit(self, ledger):
        self.ledger = ledger

    def rollback(self):
        pass


def test_a_ledger_of_an_older_format_is_refused_in_words():
    """As a checkpoint is; another function is refused as well."""
    kept, options = Kept(), types.SimpleNamespace(threshold=1)

    def call():
        aggregate(lambda x: x > options.threshold, range(3), Into(kept), pool=SerialPool())

    call()
    call()
    options.threshold = 2
    with pytest.raises(CheckpointMismatch, match="func's variable 'options' differs"):
        call()
    for older in (OLDER + kept.ledger[len(HEAD) :], kept.ledger[len(HEAD) :] + END_OF_FORMAT_4):
        kept.ledger = older
        with pytest.raises(CheckpointError, match="finish it with the older poolagg that wrote it"):
            call()


END_OF_FORMAT_4 = struct.pack("<4sBQQQ16s", b"pagl", 4, 0, 0, 0, bytes(16))


class Zone(datetime.tzinfo):
    """A time zone without a repr."""

    def __init__(self, hours):
        self.hours = hours

    def utcoffset(self, when):
        return datetime.timedelta(hours=self.hours)

    dst = tzname = lambda self, when: None


def test_items_with_a_time_zone_without_a_repr_are_known_again():
    """By the time that they are, not by where the zone lies in memory."""
    times = [datetime.datetime(2020, 1, 1, tzinfo=Zone(hours)) for hours in (1, 1, 2)]
    assert canonical(times[0]) == canonical(times[1]) != canonical(times[2])
    assert "0x" not in repr(list(map(canonical, times)))


def test_how_a_library_pickles_exceptions_is_not_a_difference(monkeypatch):
    """Some have all exceptions of the program pickle with their tracebacks, from when they are imported."""
    error = ValueError("no number", 1)
    before = told("K = ValueError('no number', 1)\ndef f(x): return K")
    monkeypatch.setitem(copyreg.dispatch_table, ValueError, lambda error: (ValueError, error.args, {"trace": 1}))
    assert copyreg.dispatch_table[ValueError](error)[2]
    assert told("K = ValueError('no number', 1)\ndef f(x): return K") == before
    assert differences(before, told("K = ValueError('no number', 2)\ndef f(x): return K"))
