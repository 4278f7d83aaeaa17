"""A checkpoint of another run is refused, and the error names what differs."""

from __future__ import annotations

import functools
import json
import operator
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpointed import SERIAL, Fragile, skipped, tenth

from poolagg import (
    Checkpoint,
    CheckpointMismatch,
    Collect,
    Count,
    Fold,
    Histogram,
    Mean,
    ProcessPool,
    Sum,
    Top,
    aggregate,
    blocks,
    per_worker,
    share,
)
from poolagg._checkpoint.fingerprint import differences, fingerprint
from poolagg._checkpoint.input_digest import ALONE, SHARED
from poolagg._checkpoint.store import look
from poolagg._input.blocks import Block
from poolagg.strategies import Stream


def make(source, name="f"):
    """The function that some source text defines, in a module of its own."""
    names = {"__name__": "__main__"}
    exec(compile(source, f"<{len(source)}>", "exec"), names)
    return names[name]


BASE = "K = {'b': 1}\ndef g(x):\n    return x + 1\ndef f(x, k=3):\n    return g(x) * K['b'] if x in {'p', 'q'} else k\n"


@pytest.mark.parametrize(
    "source",
    [
        "\n\n" + BASE,
        BASE.replace("    return g", "    # a comment\n\n    return g"),
        BASE.replace("def f(x, k=3):", 'def f(x, k=3):\n    "A docstring."'),
        BASE.replace("g(x) * K", "g(\n        x\n    ) * K"),
        BASE.replace("{'p', 'q'}", "{'q', 'p'}"),
        BASE + "def other(): pass\n",
        BASE.replace("def f(x, k=3)", "def f(x, k=3, /)").replace(", /", ""),
    ],
)
def test_what_does_not_change_what_a_function_does_is_no_difference(source):
    """Comments, docstrings, lines, and what it does not refer to."""
    assert differences(fingerprint(make(BASE), Sum()), fingerprint(make(source), Sum())) == []


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("else k", "else k + 1", "func's code"),
        ("k=3", "k=4", "func's defaults"),
        ("'b': 1", "'b': 2", "the global 'K'"),
        ("x + 1", "x + 2", "the global 'g'"),
        ("{'p', 'q'}", "{'p', 'r'}", "func's code"),
    ],
)
def test_what_changes_a_function_is_named(old, new, name):
    """Its code, its defaults, and what it refers to."""
    assert differences(fingerprint(make(BASE), Sum()), fingerprint(make(BASE.replace(old, new)), Sum())) == [name]


def closing_over(value):
    return lambda x: value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (closing_over(1), closing_over(1.0)),
        (closing_over({1: 2}), closing_over({1: 3})),
        (closing_over(np.arange(3)), closing_over(np.arange(3.0))),
        (closing_over(lambda: 1), closing_over(lambda: 2)),
        (functools.partial(pow, 2), functools.partial(pow, 3)),
        (operator.itemgetter(1), operator.itemgetter(2)),
        (Fragile("/a"), Fragile("/b")),
        (Fragile("/a").__call__, Fragile("/b").__call__),
        (str.upper, str.lower),
        (abs, len),
        (per_worker(list, (1,)), per_worker(list, (2,))),
        (share([1]), share([2])),
    ],
)
def test_what_a_function_holds_counts(one, other):
    """Closures, arguments of partials, attributes of callables, types of numbers."""
    assert differences(fingerprint(one, Sum()), fingerprint(other, Sum()))
    assert not differences(fingerprint(one, Sum()), fingerprint(one, Sum()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Top(3), Top(4)),
        (Sum(), Mean()),
        (Sum().of(tenth), Sum().of(len)),
        (Fold(lambda a, b: a + b), Fold(lambda a, b: a - b)),
        ({"a": Sum()}, {"b": Sum()}),
        (Histogram([1, 2]), Histogram([1, 3])),
    ],
)
def test_a_reducer_is_its_class_and_its_parameters(one, other):
    """Whether it is one of ours, or made of functions."""
    assert differences(fingerprint(abs, one), fingerprint(abs, other)) == ["the reducer"]


def test_a_fingerprint_is_the_same_in_every_process(tmp_path):
    """Whatever its hashes, addresses and paths are."""
    (tmp_path / "script.py").write_text(
        "import json, operator\n"
        "from poolagg import *\n"
        "from poolagg._checkpoint.fingerprint import fingerprint\n"
        "K = {'a', 'b', 'c'}\n"
        "class Own(Reducer):\n"
        "    def init(self): return set()\n"
        "    def step(self, acc, x): return acc | {x, 'u', 'v'}\n"
        "pw, sh = per_worker(dict), share([1, 2])\n"
        "def f(x):\n"
        "    return [y in {'p', 'q', 'r'} for y in K], pw, sh.value, f, Own\n"
        "print(json.dumps(fingerprint(f, {'own': Own(), 's': Sum().of(lambda x: x).by(operator.itemgetter(1))})))\n"
    )
    told = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        told.add(ran.stdout)
    assert len(told) == 1, ran.stderr
    assert len(json.loads(told.pop())) >= 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"func": abs}, "func"),
        ({"reducer": Mean()}, "the reducer was Sum() and is Mean()"),
        ({"strategy": Stream()}, "the strategy was Combine() and is Stream()"),
        ({"reproducible": True}, "the strategy was Combine() and is Tree()"),
        ({"items": ["b", "a", "c"]}, "item 0 is not what it was"),
        ({"items": ["a", "x", "b", "c"]}, "item 1 is not what it was"),
        ({"items": ["a", "B", "c"]}, "item 1 is not what it was"),
        ({"items": ["a", "b"]}, "has 2 items now"),
        ({"items": ["a", b"b", "c"]}, "item 1 is not what it was"),
        ({"items": range(3)}, "was items and is a range"),
        ({"key": "k"}, "the key was not there and is k"),
    ],
)
def test_another_run_is_refused_and_what_differs_is_named(change, said, path):
    """And the file stays as it is."""
    given = {"func": len, "items": ["a", "b", "c"], "reducer": Sum(), "pool": SERIAL}
    run(path, **given)
    before = Path(path).read_bytes()
    with pytest.raises(CheckpointMismatch) as caught:
        run(path, **{**given, **change})
    assert said in str(caught.value)
    assert repr(path) in str(caught.value)
    assert Path(path).read_bytes() == before


def run(path, func, items, reducer, key=None, **options):
    return aggregate(func, items, reducer, checkpoint=Checkpoint(path, key=key), **options)


def test_a_key_stands_for_func_and_reducer(path):
    """Whoever gives one says what counts as the same; another key is another run."""
    given = {"items": range(3), "reducer": Sum(), "pool": SERIAL}
    assert run(path, abs, key="one", **given) == 3
    assert run(path, float, key="one", **given) == 3
    with pytest.raises(CheckpointMismatch, match="the key was one and is two"):
        run(path, abs, key="two", **given)


def test_what_contains_itself_is_known_again(path):
    """As anything else is."""

    def looped(*values):
        loop: list = [*values]
        loop.append(loop)
        return closing_over(loop)

    assert aggregate(looped(1), range(3), Count(), pool=SERIAL, checkpoint=path) == 3
    assert aggregate(looped(1), range(3), Count(), pool=SERIAL, checkpoint=path) == 3
    with pytest.raises(CheckpointMismatch, match="func's variable 'value' differs"):
        aggregate(looped(2), range(3), Count(), pool=SERIAL, checkpoint=path)


def test_nothing_of_another_input_is_committed(tmp_path, path):
    """Though some of it was run before the difference was seen."""
    gaps = range(ALONE + 3, ALONE + 40, 2)
    func = Fragile(tmp_path, bad=gaps)
    items = list(range(ALONE + 2 * SHARED))
    call = functools.partial(aggregate, func, reducer=Count(), pool=SERIAL, chunksize=1)
    skipped(call, iterable=items, checkpoint=path)
    before = look(path)
    func.mend()
    other = [*items]
    other[ALONE + 50] = -1
    with pytest.raises(CheckpointMismatch, match=f"one of items {ALONE} to {ALONE + SHARED - 1} is not"):
        call(iterable=other, checkpoint=Checkpoint(path, every=1e-6, retry_failed=True))
    assert look(path) == before
    assert call(iterable=items, checkpoint=path) == len(items)


def test_items_that_change_after_they_were_pulled_are_known_as_they_were(path):
    """A generator may reuse its buffer."""

    def items():
        buffer = bytearray(1)
        for i in range(100):
            buffer[0] = i
            yield buffer

    call = functools.partial(aggregate, sum, reducer=Sum(), checkpoint=path)
    with ProcessPool(1) as pool:
        assert call(items(), pool=pool) == sum(range(100))
        assert call((bytearray([i]) for i in range(101)), pool=pool) == sum(range(101))


def test_a_file_that_changed_is_another_input(tmp_path, path):
    """Its blocks have its size and time."""
    text = tmp_path / "text.txt"
    text.write_text("a\nb\n")
    call = functools.partial(aggregate, Block.read, reducer=Collect(), pool=SERIAL, checkpoint=path)
    assert call(iterable=blocks(str(text))) == ["a\nb\n"]
    assert call(iterable=blocks(str(text))) == ["a\nb\n"]
    os.utime(text, ns=(1, 1))
    with pytest.raises(CheckpointMismatch, match="item 0 is not"):
        call(iterable=blocks(str(text)))
