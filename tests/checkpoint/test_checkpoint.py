"""A run that stopped, however it stopped, is continued by the same call, and its result is that of one that did not."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import operator
import os
import pickle
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolagg import (
    ArraySum,
    Bottom,
    Checkpoint,
    CheckpointError,
    CheckpointMismatch,
    Collect,
    Count,
    First,
    Fold,
    Frequencies,
    GroupBy,
    Histogram,
    Into,
    Last,
    Max,
    Mean,
    MergeCounts,
    Min,
    ProcessPool,
    Reduce,
    Reducer,
    Sample,
    SerialPool,
    SkippedItems,
    Std,
    Sum,
    TaskError,
    ThreadPool,
    Top,
    Unique,
    Variance,
    aggregate,
    blocks,
    events,
    per_worker,
    share,
    snapshots,
)
from poolagg.__main__ import main
from poolagg._checkpoint.checkpoint import FORMAT, HEAD, CheckpointData, FailedItem
from poolagg._checkpoint.fingerprint import differences, fingerprint
from poolagg._checkpoint.input_digest import ALONE, SHARED, SIZE, InputDigest, page_of
from poolagg._checkpoint.schedule import COMMIT_SHARE, DEAR, SHORTEST_PAUSE, CheckpointSchedule
from poolagg._checkpoint.store import FileStore, look
from poolagg._input.batches import open_batch
from poolagg._input.blocks import Block
from poolagg._input.source import Source
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree

ITEMS = 300
BAD = 170

SERIAL = SerialPool()
SERIAL.__enter__()


class Fragile:
    """Gives back `made(item)`; fails on `bad` items until it is mended, which is no difference to a checkpoint."""

    def __init__(self, folder, made=None, bad=(BAD,)):
        self.folder, self.made, self.bad = str(folder), made, bad

    def __call__(self, item):
        if item in self.bad and not os.path.exists(os.path.join(self.folder, "mended")):
            raise ValueError(f"no {item}")
        with open(os.path.join(self.folder, "ran"), "a") as file:
            file.write(f"{item}\n")
        return item if self.made is None else self.made(item)

    def mend(self):
        Path(self.folder, "mended").touch()

    def ran(self):
        """The items that were run since it was last asked."""
        path = Path(self.folder, "ran")
        items = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(map(int, items))


class Started:
    """A watcher that keeps what it is told, by kind."""

    def __init__(self):
        self.told = []

    def __call__(self, event):
        self.told.append(event)

    def of(self, kind):
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.ckpt")


@pytest.fixture
def fragile(tmp_path):
    return Fragile(tmp_path)


def tenth(x):
    return x / 10


def parity(x):
    return x % 2, x


def counts(x):
    return {x % 7: 1}


def array(x):
    return np.full(3, float(x))


def as_list(x):
    return [x]


def same(a, b):
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


# -- continued runs ----------------------------------------------------------------------------------------------------

FAMILIES = {
    "count": (Count(), None),
    "sum": (Sum(), tenth),
    "mean": (Mean(), tenth),
    "variance": (Variance(), tenth),
    "std": (Std(), tenth),
    "min": (Min(), None),
    "max": (Max(key=str), None),
    "top": (Top(3, key=lambda x: x % 50), None),
    "bottom": (Bottom(3), None),
    "last": (Last(), None),
    "frequencies": (Frequencies().of(lambda x: x % 5), None),
    "merge counts": (MergeCounts(), counts),
    "group by": (GroupBy(Mean()), parity),
    "by": (Sum().by(lambda x: x % 3).where(bool), None),
    "flat": (Frequencies().flat(), str),
    "then": (Collect().then(len), None),
    "collect": (Collect(), None),
    "unique": (Unique(), None),
    "histogram": (Histogram([0, 50, 100, 300]), None),
    "array sum": (ArraySum(), array),
    "sample": (Sample(5, seed=3), None),
    "fold": (Fold(operator.iadd, init=list), as_list),
    "fold with merge": (Fold(operator.iadd, init=list, merge=operator.iadd).then(sorted), as_list),
    "reduce": (Reduce(operator.xor), None),
    "function": (operator.sub, None),
    "tee": ({"n": Count(), "both": (Sum(), Max())}, None),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_that_an_exception_ended_is_continued(name, tmp_path, path):
    """Whatever the reducer: the result is that of a run that was never interrupted, and what is in it is not run."""
    reducer, made = FAMILIES[name]
    func = Fragile(tmp_path, made)
    checkpoint = Checkpoint(path, every=0.0001)
    with pytest.raises(TaskError):
        aggregate(func, range(ITEMS), reducer, pool=SERIAL, chunksize=10, checkpoint=checkpoint)
    func.ran()
    func.mend()
    started = Started()
    result = aggregate(func, range(ITEMS), reducer, pool=SERIAL, chunksize=10, checkpoint=checkpoint, watch=started)
    (begun,) = started.of(events.RunStarted)
    assert 0 < begun.done <= BAD
    assert len(func.ran()) == ITEMS - begun.done
    assert same(result, aggregate(made or int, range(ITEMS), reducer, pool=SERIAL, chunksize=10))


@pytest.mark.parametrize(
    "pool", [SerialPool, lambda: ThreadPool(2), lambda: ProcessPool(2)], ids=["serial", "threads", "process"]
)
@pytest.mark.parametrize("strategy", [Stream(), Ordered(), Combine(), Partition(4), Tree()], ids=repr)
def test_every_strategy_in_every_pool(strategy, pool, fragile, path):
    """Keeps what was committed, and runs the rest."""
    call = functools.partial(
        aggregate, fragile, range(ITEMS), Frequencies().of(lambda x: x % 7), strategy=strategy, chunksize=5
    )
    with pytest.raises(TaskError):
        call(pool=pool(), checkpoint=Checkpoint(path, every=0.001))
    before = sum(stop - start for start, stop in look(path).facts["covered"])
    fragile.ran()
    fragile.mend()
    result = call(pool=pool(), checkpoint=path)
    assert fragile.ran()
    assert before + len(look(path).facts["covered"]) > 0
    assert result == {k: len(range(k, ITEMS, 7)) for k in range(7)}
    assert look(path).facts["covered"] == [[0, ITEMS]]


def test_states_sent_in_parts_are_kept_unopened(path):
    """And merge after a restart, when the hashes of keys are others."""
    parent_fold = Partition(4).parent_fold(Frequencies())
    for start in (0, 50):
        data = {f"k{i}": 1 for i in range(start, start + 100)}
        parent_fold.commit(Partition(4).packed(Frequencies(), data))
    again = Partition(4).parent_fold(Frequencies())
    again.restore(pickle.loads(pickle.dumps(parent_fold.state())))
    assert again.value() == parent_fold.value()
    assert again.value()["k60"] == 2


@pytest.mark.parametrize("strategy", [Combine(), Partition(4)], ids=repr)
def test_a_state_holds_each_key_once_however_often_it_was_flushed(strategy):
    """A commit merges states that came in parts: else each would write all that workers ever flushed."""
    counts, parent_fold = Counter(map(str, range(30_000))), strategy.parent_fold(Frequencies())
    sizes = []
    for _ in range(5):
        parent_fold.commit(strategy.packed(Frequencies(), counts))
        sizes.append(len(pickle.dumps(parent_fold.state())))
    assert max(sizes) < 1.1 * sizes[0]
    assert parent_fold.value() == dict.fromkeys(counts, 5)


def test_gaps_are_run_and_nothing_else(tmp_path, path):
    """Items out of order are covered out of order: what lies between runs again."""
    func = Fragile(tmp_path, bad=(0, 20))
    started = Started()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aggregate(func, range(50), Sum(), pool=SERIAL, on_error="skip", checkpoint=path)
    assert look(path).facts["covered"] == [[0, 50]]
    func.ran()
    func.mend()
    again = Checkpoint(path, retry_failed=True)
    items = [*range(50), 50, 51]
    with pytest.raises(CheckpointMismatch, match="was a range from 0 by 1 and is items"):
        aggregate(func, items, Sum(), pool=SERIAL, checkpoint=again)
    result = aggregate(func, range(52), Sum(), pool=SERIAL, checkpoint=again, watch=started)
    assert result == sum(range(52))
    assert func.ran() == [0, 20, 50, 51]
    assert started.of(events.RunStarted)[0].done == 48


def test_ctrl_c_commits_what_is_there(path):
    """And the next call goes on from it."""

    def items():
        yield from range(200)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aggregate(tenth, items(), Sum(), pool=SERIAL, strategy=Stream(), chunksize=10, checkpoint=path)
    covered = look(path).facts["covered"]
    assert covered[0][0] == 0
    assert covered[0][1] >= 150
    result = aggregate(tenth, iter(range(300)), Sum(), pool=SERIAL, strategy=Stream(), chunksize=10, checkpoint=path)
    assert result == aggregate(tenth, range(300), Sum(), pool=SERIAL)


class Interrupted(Exception):
    pass


def interrupted_at(items, at):
    """The items, as an input that breaks off before the one at `at`."""
    yield from items[:at]
    if at < len(items):
        raise Interrupted


STRATEGIES = [Stream(), Ordered(), Combine(), Partition(3), Tree()]


@settings(max_examples=60)
@given(st.data())
def test_any_number_of_interruptions_anywhere(tmp_path_factory, data):
    """For any strategy, chunks and failing items: never more than once, never less, and the same bits."""
    path = str(tmp_path_factory.mktemp("any") / "run.ckpt")
    count = data.draw(st.integers(0, 50))
    strategy = data.draw(st.sampled_from(STRATEGIES))
    bad = data.draw(st.frozensets(st.integers(0, 50), max_size=4))
    options = {"strategy": strategy, "chunksize": data.draw(st.sampled_from([None, 1, 3, 10])), "pool": SERIAL}

    def func(x):
        if x in bad:
            raise ValueError(x)
        return x

    reducer = {"n": Frequencies(), "all": Frequencies().of(lambda x: x % 7)}
    reducer = reducer if strategy != Partition(3) else reducer["n"]
    run = functools.partial(aggregate, func, reducer=reducer, on_error=str, **options)
    items = list(range(count))
    for at in data.draw(st.lists(st.integers(0, 50), max_size=4)):
        every = data.draw(st.sampled_from([None, 1e-6]))
        needed = look(path).facts.get("input", {}).get("needed", 0) if os.path.exists(path) else 0
        try:
            run(interrupted_at(items, max(at, needed)), checkpoint=Checkpoint(path, every=every))
        except Interrupted:
            pass
    assert run(iter(items), checkpoint=path) == run(items)
    left = run(iter(items), checkpoint=path)
    assert (left if strategy == Partition(3) else left["n"]) == {i: 1 for i in items if i not in bad}


def test_leaving_snapshots_early_commits(path):
    """A run continues from the snapshot that was shown."""
    with snapshots(tenth, range(100_000), Sum(), every=0.001, pool=SERIAL, checkpoint=path) as looks:
        for snapshot in looks:
            if snapshot.done:
                break
    assert sum(stop - start for start, stop in look(path).facts["covered"]) >= snapshot.done
    assert aggregate(tenth, range(100_000), Sum(), pool=SERIAL, checkpoint=path) == pytest.approx(499995000.0)


class Tearing(Reducer):
    """Sums; step breaks in the middle of item 50, when part of it is in the accumulator."""

    def init(self):
        return [0]

    def step(self, acc, x):
        acc[0] += x
        if x == 50 and "BROKEN" in os.environ:
            raise RuntimeError("in the middle")
        return acc

    def finish(self, acc):
        return acc[0]


def test_nothing_is_committed_after_a_fold_that_broke_midway(path, monkeypatch):
    """The last commit stands, and is whole."""
    call = functools.partial(
        aggregate, int, range(100), Tearing(), pool=SERIAL, chunksize=10, checkpoint=Checkpoint(path, every=1e-6)
    )
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(RuntimeError):
        call()
    before = look(path)
    assert pickle.loads(before.state)[0] == sum(range(before.facts["covered"][0][1]))
    monkeypatch.delenv("BROKEN")
    assert call() == sum(range(100))


SCRIPT = """
import random, sys, time
from poolagg import *
kind = sys.argv[2]
def work(x):
    time.sleep(0.001)
    return x % 13 if kind != "collect" else x / 7
kinds = {
    "counts": (Frequencies(), {}),
    "collect": (Collect(), {"reproducible": True}),
    "fold": (lambda a, b: (a * 31 + b) % 1_000_003, {}),
}
reducer, options = kinds[kind]
kept = Checkpoint(sys.argv[1], every=0.02)
result = aggregate(work, iter(range(1200)), reducer, workers=2, checkpoint=kept, **options)
print(repr(sorted(result.items()) if kind == "counts" else result))
"""


@pytest.mark.orphans
@pytest.mark.parametrize("kind", ["counts", "collect", "fold"])
def test_kill_9_of_all_processes_at_any_moment(kind, path, tmp_path):
    """Again and again; the result is that of a run that was never killed, to the bit."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    moments = random.Random(kind)
    command = [sys.executable, str(script), path, kind]
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        try:
            process.communicate(timeout=moments.uniform(0.25, 0.7))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    values = [x / 7 if kind == "collect" else x % 13 for x in range(1200)]
    expected = {
        "counts": lambda: [(k, values.count(k)) for k in range(13)],
        "collect": lambda: values,
        "fold": lambda: functools.reduce(lambda a, b: (a * 31 + b) % 1_000_003, values),
    }[kind]()
    assert ended.stdout.strip() == repr(expected), ended.stderr
    assert look(path).facts["covered"] == [[0, 1200]]


DYING = """
import os, signal, sys
from poolagg import *
write, writes = os.write, []
def dying(descriptor, data):
    if len(data) < 1_000_000:
        return write(descriptor, data)
    writes.append(1)
    if len(writes) == 1:
        return write(descriptor, data)
    write(descriptor, data[:1_000_000])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = dying
kept = Checkpoint(sys.argv[1], every=1e-6)
aggregate(lambda x: bytes([x]) * 8_000_000, [1, 2, 3], Collect(), pool=SerialPool(), chunksize=1, checkpoint=kept)
"""


def test_kill_9_in_the_middle_of_a_commit(path):
    """When the file is half written: it has not its name yet, and the next run removes it."""
    died = subprocess.run([sys.executable, "-c", DYING, path], capture_output=True)
    assert died.returncode == -signal.SIGKILL
    assert os.path.getsize(f"{path}.new") > 1_000_000
    assert look(path).facts["covered"] == [[0, 1]]
    store = FileStore(path)
    store.open()
    store.close()
    assert not os.path.exists(f"{path}.new")
    assert look(path).facts["covered"] == [[0, 1]]


# -- finished runs -----------------------------------------------------------------------------------------------------


class Idle(SerialPool):
    """A pool that must not be used."""

    def _begin(self, job, slots):
        raise AssertionError("a finished run needs no workers")


@pytest.mark.parametrize("items", [range(5000), list(range(5000)), np.arange(5000)], ids=["range", "list", "array"])
def test_a_finished_run_returns_at_once(items, path):
    """No worker is started, nothing is written."""
    call = functools.partial(aggregate, tenth, items, Mean(), checkpoint=path)
    result = call(pool=SERIAL)
    before = Path(path).read_bytes()
    assert call(pool=Idle()) == result
    assert Path(path).read_bytes() == before


def test_a_run_that_ended_early_returns_at_once(path):
    """`First` needs no more than the first item, the second time too."""
    for pool in (SerialPool(), Idle()):
        assert aggregate(tenth, iter(range(20, 10**9)), First(), pool=pool, checkpoint=path) == 2.0


class Any50(Reducer):
    """Tells whether an item was 50, and is done as soon as there is one."""

    def init(self):
        return False

    def step(self, acc, x):
        return acc or x == 50

    def merge(self, acc, other):
        return acc or other

    def done(self, acc):
        return acc


def test_a_run_that_ended_early_may_have_left_gaps(tmp_path, path):
    """It still returns at once, unless the input is another."""
    func = Fragile(tmp_path, bad=(1,))
    again = Checkpoint(path, retry_failed=True)
    call = functools.partial(aggregate, func, reducer=Any50(), on_error=str)
    items = list(range(1000))
    assert call(iterable=items, pool=SERIAL, checkpoint=path) is True
    assert call(iterable=items, pool=Idle(), checkpoint=again) is True
    with pytest.raises(CheckpointMismatch, match="item 1 is not"):
        call(iterable=[0, 2, *items[2:]], pool=Idle(), checkpoint=again)


@pytest.mark.parametrize("items", [[], range(0), iter(())])
def test_a_run_of_nothing(items, path):
    """Has a result, and may grow."""
    assert aggregate(abs, items, Sum(), pool=SERIAL, checkpoint=path) == 0
    if not isinstance(items, type(iter(()))):
        assert aggregate(abs, type(items)([3]) if items == [] else range(4), Sum(), pool=SERIAL, checkpoint=path) > 0


def test_an_input_that_has_grown_at_its_end_is_continued(path, fragile):
    """Only what is new is run."""
    fragile.mend()
    items = [f"item {i}" for i in range(ALONE + 2 * SHARED)]
    call = functools.partial(aggregate, len, reducer=Sum(), checkpoint=path)
    call(items[: ALONE + SHARED + 70], pool=SERIAL)
    assert call(items, pool=SERIAL) == sum(map(len, items))


def test_with_leaves_an_input_may_grow_only_by_leaves(path):
    """A last leaf that was folded cannot be opened again."""
    call = functools.partial(
        aggregate, tenth, reducer=Sum(), reproducible=True, chunksize=10, pool=SERIAL, checkpoint=path
    )
    call(range(20))
    assert call(range(25)) == sum(range(25)) / 10
    assert call(range(25)) == sum(range(25)) / 10
    with pytest.raises(CheckpointMismatch, match="has grown: it ended with item 24"):
        call(range(26))


# -- what is no difference, and what is one ----------------------------------------------------------------------------


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
def test_edits_that_do_not_change_a_functions_behaviour_are_not_differences(source):
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
    """For a built-in reducer, and for one made of functions."""
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
    """A user's key says which runs are the same; another key is another run."""
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


# -- pages -------------------------------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.binary(max_size=5),
    st.tuples(st.integers(), st.text(max_size=3)), st.lists(st.booleans(), max_size=3), st.just(Path("a")),
    st.frozensets(st.text(max_size=2), max_size=3), st.just(object), st.builds(np.float32, st.integers(0, 9)),
)  # fmt: skip


STEPS = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 3000), st.integers(20, 5000)), min_size=1, max_size=4)


def pulled(pages, items, draw=None):
    """`items`, as a source hands them on that has them seen by `pages`, in input batches of any sizes."""
    source = Source(iter(items), pickle.dumps, pages)
    steps = itertools.cycle([(5000, 9000, 5000)] if draw is None else draw(STEPS))
    while not source.ended or source.in_hand:
        looks, (many, most, sealed) = itertools.count(), next(steps)
        if not source.ended:
            source.pull(source.in_hand + many, 1 << 20, lambda looks=looks: next(looks), most)
        if source.in_hand:
            input_batch = source.seal(min(sealed, source.in_hand))
            opened, unpack = open_batch(
                *input_batch.cut(input_batch.start, input_batch.stop), input_batch.stop - input_batch.start
            )
            yield from opened if unpack is None else map(unpack, opened)


@settings(deadline=None, max_examples=60)
@given(st.lists(ANYTHING, max_size=30), st.data())
def test_pages_know_an_input_again(items, data):
    """However it was cut: what was covered must be there again; what comes after may be anything."""
    stop = data.draw(st.integers(0, len(items)))
    needed = data.draw(st.integers(0, stop))
    first = InputDigest(items)
    known = None
    for _ in range(data.draw(st.integers(1, 3))):
        for item in items[first.position : data.draw(st.integers(first.position, stop))]:
            first.see(item)
        known = first.known(min(needed, first.position))
    again = InputDigest(items)
    again.expect(known, _differs)
    assert [*pulled(again, items)] == items


class Differ(Exception):
    pass


def _differs(what):
    raise Differ(what)


def known_of(items, draw=None):
    pages = InputDigest(items)
    for _ in pulled(pages, items, draw):
        pass
    return pages.known(len(items))


NUMBERS = st.one_of(
    st.just(0), st.integers(-3, 3), st.integers(-(2**31), 2**31 - 1), st.integers(), st.floats(), st.booleans(),
    st.sampled_from([0.0, -0.0, 1.0, float("nan"), 2**31, -(2**31) - 1, None, 1j]),
)  # fmt: skip
LENGTHS = st.one_of(st.integers(1, ALONE + 3 * SHARED), st.integers(ALONE - 70, ALONE + 70))


@settings(deadline=None, max_examples=15)
@given(st.lists(NUMBERS, min_size=1, max_size=8), st.sampled_from(["numbers", "texts", "lists"]), LENGTHS, st.data())
def test_what_is_known_of_an_input_does_not_tell_how_it_was_pulled(some, kind, count, data):
    """One by one, many at once, in input batches of any size, of numbers that are alike or not: it is the same."""
    made = {"numbers": lambda item: item, "texts": str, "lists": lambda item: [item]}[kind]
    items = [made(item) for item in itertools.islice(itertools.cycle(some), count)]
    one_by_one = InputDigest(items)
    for item in items:
        one_by_one.see(item)
    assert known_of(items, data.draw) == known_of(items) == one_by_one.known(count)


SAME = [0, 0.0, -0.0, False, None, "", b"", 0j, (), [], "0", b"0", 1, 1.0, True, -1, -2, 2**31, 2**61 - 1]


@pytest.mark.parametrize("at", [7, ALONE + 7])
def test_equal_numbers_of_different_types_are_distinguished(at):
    """1, 1.0, True and '1' are other items, and so are 0.0 and -0.0."""
    others = [[*range(at), item, *range(90)] for item in SAME]
    assert len({known_of(items) for items in others}) == len(SAME)
    assert known_of([math.nan] * 5000) == known_of([float("nan")] * 5000) != known_of([math.inf] * 5000)


@pytest.mark.parametrize("count", [10, 100_000])
def test_arrays_are_distinguished_by_one_cell(count):
    """Large ones too, which are not kept until they are looked at, but a digest of theirs."""

    def known(at, value):
        array = np.zeros(count)
        array[at] = value
        return known_of([(0, array)])

    assert known(3, 1) == known(3, 1)
    assert len({known(3, 1), known(4, 1), known(3, 2), known_of([(0, np.zeros(count, "i8"))])}) == 4


def test_digests_are_those_of_every_machine_and_python():
    """A checkpoint of today is one of tomorrow: if these change, its format must be counted up."""
    known = known_of([*range(ALONE), *range(3000)])
    assert hashlib.sha256(known.pages + known.partial).hexdigest()[:16] == "3a38b93b09221bff"
    items = [i / 7 for i in range(6000)] + [2**70, None, "é", b"b", ("a", 1), {"b", "a"}, Path("a")] * 100
    known = known_of(items)
    assert hashlib.sha256(known.pages + known.partial).hexdigest()[:16] == "b2b7289901735a84"


@settings(deadline=None, max_examples=15)
@given(LENGTHS, st.sampled_from([int, float, str]), st.integers(0, 1500), st.data())
def test_pages_find_the_item_that_differs(count, kind, more, data):
    """Exactly among the first few thousand, before it is handed on; later on at the end of its page, to within that."""
    at = data.draw(st.integers(0, count - 1))
    items = [kind(number) for number in range(count)]
    known = known_of(items, data.draw)
    grown = InputDigest(items)
    grown.expect(known, _differs)
    assert [*pulled(grown, items + [kind(0)] * more, data.draw)] == items + [kind(0)] * more
    items[at] = kind(-1)
    again = InputDigest(items)
    again.expect(known, _differs)
    with pytest.raises(Differ) as caught:
        for item in pulled(again, items + [kind(0)] * more, data.draw):
            assert item != kind(-1) or at >= ALONE  # where an input batch may end within a page
    _, start, stop = page_of(at)
    last = min(stop, count) - 1
    assert f"item {start} is" in str(caught.value) or f"items {start} to {last} is" in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [np.arange(7000.0), np.arange(14000).reshape(-1, 2), np.ones((7000, 100))[:, ::2]],
    ids=["numbers", "rows", "pieces"],
)
def test_arrays_are_known_by_slices(rows):
    """As exactly as lists."""
    pages = InputDigest(rows)
    known = pages.known(6200)
    assert len(known.pages) == SIZE * page_of(6199)[0] + SIZE * (known.items == page_of(6199)[2])
    InputDigest(rows.copy()).expect(known, _differs)
    other = rows.copy()
    other[77] = -1
    with pytest.raises(Differ, match="item 77 is"):
        InputDigest(other).expect(known, _differs)
    with pytest.raises(Differ, match="items now"):
        InputDigest(rows[:4000]).expect(known, _differs)
    with pytest.raises(Differ, match="was an array of"):
        InputDigest(rows.astype("f4")).expect(known, _differs)


# -- when to commit ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 5.0), min_size=1, max_size=50))
def test_commits_cost_one_percent_at_most(costs):
    """Of any stretch of the run from the end of one commit to the end of the next of the same cost."""
    assert COMMIT_SHARE == 0.01
    schedule, now, spent = CheckpointSchedule(None, 0.0), 0.0, 0.0
    for cost in costs:
        assert schedule.next - now >= SHORTEST_PAUSE - 1e-9  # which is what a clock of floats takes from it
        began = schedule.next
        schedule.wrote(cost, began + cost)
        now = began + cost
        spent += cost
        assert spent <= COMMIT_SHARE * schedule.next + 1e-9


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=9))
def test_the_first_commit_waits_until_it_is_cheap(sizes):
    """By the size of the largest state that came; once a commit has shown what it costs, that counts alone."""
    schedule = CheckpointSchedule(None, 0.0)
    for nbytes in sizes:
        schedule.expect(nbytes)
    cost = max(sizes) * DEAR
    assert schedule.next >= SHORTEST_PAUSE
    assert cost <= COMMIT_SHARE * (schedule.next + cost) + 1e-9
    began = schedule.next
    schedule.wrote(0.001, began)
    schedule.expect(10**10)
    assert schedule.next == began + SHORTEST_PAUSE


def test_every_forces_the_first_commit_too():
    """However large the states are."""
    schedule = CheckpointSchedule(5.0, 0.0)
    schedule.expect(10**10)
    assert schedule.next == 5.0


def test_a_large_state_is_committed_once_by_a_short_run(path, monkeypatch):
    """States from workers tell the size; a commit of 40 MB is not due at once, however often one may be made."""
    monkeypatch.setattr("poolagg._checkpoint.schedule.SHORTEST_PAUSE", 0.0)
    for size, few in ((40_000_000, True), (10, False)):
        seen = Started()
        with ProcessPool(1) as pool:
            call = functools.partial(aggregate, lambda _: bytes(size), reducer=Max(key=len), strategy=Stream())
            call(iterable=range(2), pool=pool, checkpoint=f"{path}-{size}", watch=seen, chunksize=1)
        assert (len(seen.of(events.Checkpointed)) == 1) == few


def test_every_forces_more():
    """But never fewer commits than are cheap."""
    schedule = CheckpointSchedule(5.0, 0.0)
    assert schedule.next == SHORTEST_PAUSE
    schedule.wrote(3.0, 10.0)
    assert schedule.next == 15.0
    assert CheckpointSchedule(0.1, 0.0).next == 0.1


def test_every_makes_workers_flush(path):
    """A worker's state is in the file soon, though a flush is not yet due."""
    seen = []

    def watch(event):
        if isinstance(event, events.Checkpointed):
            seen.append(event)

    def nap(x):
        time.sleep(0.01)
        return x

    aggregate(nap, range(100), Sum(), workers=2, checkpoint=Checkpoint(path, every=0.1), watch=watch)
    assert len(seen) >= 2
    assert all(event.nbytes > 0 and event.seconds > 0 for event in seen)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_is_one_persons(path):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(os.path.dirname(path)) == ["run.ckpt"]


def test_two_runs_at_once_are_refused(path):
    """The second, at once, in this process and in another; by another name too. When the first has ended it is free."""
    other = str(Path(path).with_name("link"))
    os.symlink(path, other)
    program = f"from poolagg import *; aggregate(abs, [1], Sum(), pool=SerialPool(), checkpoint={path!r})"

    def call():
        return aggregate(abs, iter([1, 2]), Sum(), pool=SerialPool(), checkpoint=path)

    def items():
        yield 1
        with pytest.raises(CheckpointError, match="in use by another run of this process"):
            call()
        for _ in range(2):
            ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
            assert "CheckpointError" in ran.stderr
            assert "in use by another run: wait" in ran.stderr
        yield 2

    assert aggregate(abs, items(), Sum(), pool=SerialPool(), checkpoint=other) == 3
    assert call() == 3


HOLDING = """
import os, sys
from poolagg._checkpoint.store import FileStore
store = FileStore(sys.argv[1])
store.open()
if os.fork() == 0:
    os.write(1, b"forked")
    os.read(0, 1)
    os._exit(0)
os.read(0, 1)
"""


@pytest.mark.orphans
def test_a_lock_ends_with_its_process(path):
    """A child that was forked meanwhile, and lives on, does not hold it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holding:
        assert holding.stdout.read(6) == b"forked"
        store = FileStore(path)
        with pytest.raises(CheckpointError, match="in use by another run: wait"):
            store.open()
        store.close()
        holding.kill()
        holding.wait()
        store.open()
        store.close()
        holding.stdin.close()  # which ends the child
        assert holding.stdout.read() == b""


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_is_replaced_during_a_run_stays(gone, path):
    """It is somebody's; one that was deleted is made again."""

    def items():
        yield 1
        os.unlink(path)
        if not gone:
            Path(path).write_text("mine")
        yield 2

    call = functools.partial(aggregate, abs, reducer=Sum(), pool=SERIAL, checkpoint=path)
    if gone:
        assert call(items()) == 3
        assert call(iter([1, 2])) == 3
    else:
        with pytest.raises(CheckpointError, match="was replaced by another file while a run used it"):
            call(items())
        assert Path(path).read_text() == "mine"


def test_what_a_run_keeps_is_shown_to_itself(path):
    """Without a lock, in the same process, whole at any moment."""
    shown = []

    def items():
        for i in range(40):
            if i > 20:
                shown.append(look(path).facts.get("covered"))
            yield i

    kept = Checkpoint(path, every=1e-9)
    run = functools.partial(aggregate, abs, reducer=Sum(), pool=SERIAL, strategy=Stream())
    assert run(items(), checkpoint=kept, chunksize=2) == 780
    assert len(shown) == 19
    assert shown[-1]
    assert run(iter(range(40)), checkpoint=path) == 780


def test_what_a_run_keeps_is_shown_while_it_goes_on(path):
    """From another process; the run goes on undisturbed."""
    shown = []

    def items():
        for i in range(40):
            if i % 10 == 9:
                time.sleep(0.002)
            if i == 35:
                show = [sys.executable, "-m", "poolagg", "show", path]
                shown.append(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
            yield i

    kept = Checkpoint(path, every=0.001)
    assert aggregate(abs, items(), Sum(), pool=SerialPool(), strategy=Stream(), checkpoint=kept) == 780
    assert ["finished", "no"] in [line.split() for line in shown[0].splitlines()]
    assert aggregate(abs, iter(range(40)), Sum(), pool=SerialPool(), strategy=Stream(), checkpoint=path) == 780


def test_damage_is_never_a_wrong_result(tmp_path, path):
    """Any bit, any length: the right result, or an error that names the file and leaves it as it is."""
    func = Fragile(tmp_path, bad=(3, BAD))
    call = functools.partial(aggregate, func, [*range(ITEMS)], Frequencies().of(str), pool=SERIAL, chunksize=10)
    with pytest.raises(ZeroDivisionError):
        call(checkpoint=path, on_error=lambda failed: failed.index == 3 or 1 / 0)
    whole = Path(path).read_bytes()
    expected = {str(i): 1 for i in range(ITEMS) if i not in (3, BAD)}
    chance = random.Random(1)
    outcomes = []
    for number in range(160):
        damaged = bytearray(whole)
        if number % 4:
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        Path(path).write_bytes(damaged)
        try:
            result = call(checkpoint=path, on_error=str)
        except CheckpointError as error:
            outcomes.append((str(error), Path(path).read_bytes() == damaged))
        else:
            assert result == expected
    assert all("run.ckpt" in said and untouched for said, untouched in outcomes)
    assert len(outcomes) == 160


def test_a_file_that_is_not_a_checkpoint_is_left_alone(path):
    """Text, nothing at all, somebody's database, a folder."""
    database = str(Path(path).with_name("mine.db"))
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    for content in (b"", b"hello\n" * 100, Path(database).read_bytes()):
        Path(path).write_bytes(content)
        os.chmod(path, 0o600)
        with pytest.raises(CheckpointError, match="no checkpoint"):
            aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
        assert Path(path).read_bytes() == content
    with pytest.raises(CheckpointError, match="is not a regular file"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=os.path.dirname(path))
    with pytest.raises(CheckpointError, match="cannot be read or written"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path + "/deeper/still")


def test_a_file_of_a_newer_format_is_left_alone(path):
    """The error says to update."""
    aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    content = Path(path).read_bytes()
    Path(path).write_bytes(HEAD.replace(b"%d" % FORMAT, b"99") + content[len(HEAD) :])
    with pytest.raises(CheckpointError, match=r"newer poolagg \(format 99"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)


def test_a_file_that_others_may_write_is_not_opened(path):
    """The error names it."""
    aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    os.chmod(path, 0o602)
    with pytest.raises(CheckpointError, match="others may write"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_of_another_user_is_not_opened(path):
    """Not even by root."""
    aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    os.chown(path, 12345, -1)
    with pytest.raises(CheckpointError, match="belongs to another user"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)


@pytest.mark.skipif(os.geteuid() != 0, reason="a test as another user takes root")
def test_a_folder_that_is_not_ones_own_to_write(path):
    """A file cannot be made there, nor one that is there be changed: the error names it."""
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "run.ckpt")
        call = functools.partial(aggregate, abs, range(3), Sum(), pool=SERIAL)
        call(checkpoint=made)
        before = Path(made).read_bytes()
        os.chown(made, 65534, -1)
        os.chmod(made, 0o400)
        os.chmod(folder, 0o555)
        os.seteuid(65534)
        try:
            for path in (made, made + "2"):
                with pytest.raises(CheckpointError, match=f"'{path}' cannot be read or written"):
                    call(checkpoint=path)
        finally:
            os.seteuid(0)
        assert Path(made).read_bytes() == before
        assert os.listdir(folder) == ["run.ckpt"]


def test_a_full_disk_ends_the_run_and_the_last_commit_stands(path):
    """A limit on file sizes is a disk that is full."""
    small, large = (functools.partial(aggregate, str, range(n), Collect(), pool=SERIAL) for n in (100, 60_000))
    small(checkpoint=path)
    before = look(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"run\.ckpt"):
            large(checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert look(path) == before
    assert os.listdir(os.path.dirname(path)) == ["run.ckpt"]
    assert large(checkpoint=path) == [str(i) for i in range(60_000)]


def test_what_is_committed_is_there(path, monkeypatch):
    """Also where the system writes and reads a few bytes at a time."""
    monkeypatch.setattr(os, "write", lambda descriptor, data, write=os.write: write(descriptor, data[:1000]))
    monkeypatch.setattr(os, "pread", lambda file, count, at, pread=os.pread: pread(file, min(count, 1000), at))
    aggregate(str, range(2000), Collect(), pool=SERIAL, checkpoint=path)
    store = FileStore(path)
    store.open()
    state = store.held.state
    failed = {1: FailedItem(1, "'x'", 1, "ValueError", "ValueError: x")}
    store.commit(CheckpointData(store.held.facts, state * 3, b"12345678", failed))
    store.close()
    held = look(path)
    assert held.state == state * 3
    assert held.failed[1].item == "'x'"
    assert held.pages == b"12345678"


# -- what is refused at the call ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reducer", [Into(print), {"a": Sum(), "b": Into(print)}, Into(print).where(bool)])
def test_into_is_refused(reducer, path):
    """What lies outside cannot be committed together with what was covered."""
    with pytest.raises(ValueError, match="outside of the checkpoint"):
        aggregate(abs, range(3), reducer, checkpoint=path)
    assert not os.path.exists(path)


class Ungainly(Reducer):
    def init(self):
        return (x for x in ())

    def step(self, acc, prepared):
        return acc


def test_a_state_that_does_not_pickle_is_refused_before_the_run(path):
    """And no file is made."""
    with pytest.raises(TypeError, match=r"accumulator of Ungainly\(\), which does not pickle"):
        aggregate(abs, range(3), Ungainly(), pool=Idle(), checkpoint=path)
    assert not os.path.exists(path)


def test_a_state_that_ceases_to_pickle_ends_the_run(path):
    """With the reducer's name; the last commit stands."""
    call = functools.partial(aggregate, reducer=Collect(), strategy=Stream(), chunksize=1, checkpoint=path)
    with pytest.raises(TypeError, match=r"accumulator of Collect\(\), which does not pickle"):
        call(lambda x: sys._getframe() if x > 5 else x, range(10), pool=ThreadPool(1))
    assert look(path).facts == {}


@pytest.mark.parametrize("wrong", [3, b"path", ["a"]])
def test_an_object_that_is_not_a_path_is_refused(wrong):
    with pytest.raises(TypeError, match="takes a path or a Checkpoint"):
        aggregate(abs, range(3), Sum(), checkpoint=wrong)


@pytest.mark.parametrize("options", [{"every": 0}, {"every": "1s"}, {"key": 3}])
def test_options_are_checked(options):
    with pytest.raises((TypeError, ValueError), match="Checkpoint"):
        Checkpoint("a", **options)


# -- partial failure ---------------------------------------------------------------------------------------------------


def skipped(call, **options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SkippedItems)
        result = call(on_error="skip", **options)
    return result, [str(warning.message) for warning in told if warning.category is SkippedItems]


def test_failed_items_are_remembered_and_run_again_when_asked(tmp_path, path, capsys):
    """Their partials join the result, and nothing else is run."""
    func = Fragile(tmp_path, bad=(3, 77))
    call = functools.partial(aggregate, func, range(100), Sum(), pool=SERIAL)
    once = skipped(call, checkpoint=path)
    assert once == (sum(range(100)) - 80, [once[1][0]])
    assert skipped(call, checkpoint=path) == once, "the same result, and the same warning"
    assert main(["show", path]) == 0
    shown = capsys.readouterr().out
    assert "failed item 3  3  ValueError: no 3" in shown
    assert "items failed" in shown
    func.ran()
    again = Checkpoint(path, retry_failed=True)
    assert skipped(call, checkpoint=again)[0] == once[0], "they failed once more"
    assert func.ran() == []
    func.mend()
    assert skipped(call, checkpoint=again) == (sum(range(100)), [])
    assert func.ran() == [3, 77]
    assert call(checkpoint=path) == sum(range(100))


def test_without_skip_nothing_stays_left_out(tmp_path, path):
    """Items that an earlier run skipped run again."""
    func = Fragile(tmp_path, bad=(3,))
    call = functools.partial(aggregate, func, range(10), Sum(), pool=SERIAL, checkpoint=path)
    skipped(call)
    with pytest.raises(TaskError, match="no 3"):
        call()
    func.mend()
    assert call() == 45


@pytest.mark.parametrize("options", [{"reproducible": True}, {"strategy": Ordered()}], ids=repr)
def test_where_order_counts_nothing_comes_in_late(options, tmp_path, path):
    """It is refused, and with skip the run goes on as it was."""
    func = Fragile(tmp_path, bad=(3, 40))
    call = functools.partial(aggregate, func, range(100), Collect(), pool=SERIAL, **options)
    once = skipped(call, checkpoint=path)
    func.mend()
    with pytest.raises(CheckpointMismatch, match="such as item 3, and they cannot come in later"):
        skipped(call, checkpoint=Checkpoint(path, retry_failed=True))
    assert skipped(call, checkpoint=path) == once


def test_a_leaf_with_a_failed_item_is_continued(tmp_path, path):
    """Items that failed in an earlier run do not run again, though their leaf does."""
    func = Fragile(tmp_path, bad=(203, 250))
    call = functools.partial(aggregate, func, range(ITEMS), Collect(), pool=SERIAL, reproducible=True, chunksize=100)

    def on_error(failed):
        if failed.index == 250:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(on_error=on_error, checkpoint=path)
    assert look(path).failed.keys() == {203, 250}
    func.ran()
    result, (warning,) = skipped(call, checkpoint=path)
    assert result == [i for i in range(ITEMS) if i not in (203, 250)]
    assert warning.startswith("2 of 300")
    assert func.ran() == [i for i in range(200, ITEMS) if i not in (203, 250)]


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_continues_and_shows(tmp_path, monkeypatch, capsys):
    """`--checkpoint`, `--retry-failed` and `show`; nothing is unpickled to be shown."""
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("a b\nc\n")
    words = ["run", "builtins:len", "lines.txt", "--lines", "--reduce", "Sum()", "--pool", "serial"]
    for _ in range(2):
        assert main([*words, "--checkpoint", "c.ckpt"]) == 0
        assert capsys.readouterr().out == "4\n"
    monkeypatch.setattr("pickle.loads", _differs)
    assert main(["show", "c.ckpt"]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (shown["function"], shown["reducer"], shown["finished"], shown["covered"]) == ("len", "Sum()", "yes", "0-1")
    assert main([*words, "--retry-failed"]) == 2
    assert "--checkpoint" in capsys.readouterr().err
    assert main(["show", "lines.txt"]) == 1
    assert "no checkpoint" in capsys.readouterr().err


def test_a_checkpoint_that_only_began_is_shown(path, capsys):
    """Nothing was committed yet."""
    store = FileStore(path)
    store.open()
    store.close()
    assert main(["show", path]) == 0
    assert "has committed nothing yet" in capsys.readouterr().out
