"""Crash, mend the function, continue: `accept_changes` takes another func, after a warning, and nothing else."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from checkpointed import SERIAL, Idle

from poolagg import Checkpoint, CheckpointMismatch, Collect, Fold, Mean, Reducer, Sum, TaskError, aggregate
from poolagg._checkpoint.store import look
from poolagg.errors import AcceptedChanges
from poolagg.strategies import Stream

LINES = ["1", "2", "4o", "3"]


def parse(line):
    return int(line)


def mended(line):
    return int(line.replace("o", "0"))


def made(source):
    """The names that some source text defines, as a script does."""
    names = {"__name__": "__main__"}
    exec(source, names)
    return names


@pytest.fixture
def crashed(path):
    """A checkpoint of a run that failed on its third item, with the first two in it."""
    with pytest.raises(TaskError):
        aggregate(parse, LINES, Collect(), pool=SERIAL, chunksize=1, checkpoint=Checkpoint(path, every=1e-6))
    assert look(path).facts["covered"] == [[0, 2]]
    return path


def run(path, func=mended, items=LINES, reducer=None, accept_changes=False, **options):
    kept = Checkpoint(path, accept_changes=accept_changes)
    return aggregate(func, items, reducer or Collect(), checkpoint=kept, **{"pool": SERIAL, **options})


def test_a_mended_function_is_refused_and_the_error_names_the_option_and_its_cost(crashed):
    """The file stays as it is."""
    before = Path(crashed).read_bytes()
    with pytest.raises(CheckpointMismatch) as caught:
        run(crashed)
    assert "func's code differs" in str(caught.value)
    assert "pass Checkpoint(..., accept_changes=True)" in str(caught.value)
    assert "the result mixes what both functions returned" in str(caught.value)
    assert Path(crashed).read_bytes() == before


def test_a_mended_function_continues_after_one_warning_that_says_what_differs(crashed):
    """The warning names the file, the difference, how many items keep their results, and this line as its place."""
    with pytest.warns(AcceptedChanges) as told:
        assert run(crashed, accept_changes=True) == [1, 2, 40, 3]
    (warning,) = told
    assert warning.filename == __file__
    assert repr(crashed) in str(warning.message)
    assert "func's code differs" in str(warning.message)
    assert "The 2 items in it keep the results of the earlier func" in str(warning.message)


def test_only_items_that_are_not_in_the_result_run(path):
    """What the earlier function gave stays."""
    aggregate(parse, LINES[:2], Collect(), pool=SERIAL, checkpoint=path)
    with pytest.warns(AcceptedChanges):
        assert run(path, lambda line: f"new {line}", accept_changes=True) == [1, 2, "new 4o", "new 3"]


def test_the_checkpoint_belongs_to_the_new_function_from_then_on(crashed):
    """It continues without the option and without a warning, and the earlier function is the other one now."""
    with pytest.warns(AcceptedChanges):
        run(crashed, accept_changes=True)
    assert run(crashed, pool=Idle()) == run(crashed, pool=Idle(), accept_changes=True) == [1, 2, 40, 3]
    assert look(crashed).facts["func"].endswith("mended")
    with pytest.raises(CheckpointMismatch, match="func's code differs"):
        run(crashed, parse)


def test_a_finished_run_takes_the_new_function_too(path):
    """It answers at once, with the earlier function's results, and may grow by those of the new one."""
    aggregate(parse, LINES[:2], Collect(), pool=SERIAL, checkpoint=path)
    with pytest.warns(AcceptedChanges):
        assert run(path, items=LINES[:2], pool=Idle(), accept_changes=True) == [1, 2]
    assert run(path, items=LINES[:2], pool=Idle()) == [1, 2]
    assert run(path) == [1, 2, 40, 3]


def test_items_that_were_skipped_run_again_with_the_mended_function(path):
    """The usual way on: skip, look at the failures, mend, and run those again."""
    failed = []
    call = functools.partial(aggregate, iterable=LINES, reducer=Sum(), pool=SERIAL)
    assert call(parse, on_error=failed.append, checkpoint=path) == 6
    again = Checkpoint(path, retry_failed=True, accept_changes=True)
    with pytest.warns(AcceptedChanges, match="The 3 items in it"):
        assert call(mended, checkpoint=again) == 46


def test_a_warning_that_is_an_error_stops_the_run_before_an_item_runs(crashed):
    """And the file stays as it is."""
    before = Path(crashed).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AcceptedChanges):
            run(crashed, accept_changes=True, pool=Idle())
    assert Path(crashed).read_bytes() == before


def test_the_same_function_gives_no_warning(crashed):
    """The option may stay in the script: any warning would be an error here."""
    with pytest.raises(TaskError):
        run(crashed, parse, accept_changes=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reducer": Mean()}, "the reducer was Collect() and is Mean()"),
        ({"strategy": Stream()}, "the strategy was"),
        ({"reproducible": True, "chunksize": 1}, "the strategy was"),
        ({"items": ["1", "3", "4o", "3"]}, "item 1 is not what it was"),
        ({"items": ["1"]}, "has 1 item"),
    ],
)
@pytest.mark.filterwarnings("ignore::poolagg.errors.AcceptedChanges")
def test_another_input_reducer_or_strategy_stays_refused(change, said, crashed):
    """With the function changed as well, and the error does not name an option that would not help."""
    before = Path(crashed).read_bytes()
    with pytest.raises(CheckpointMismatch) as caught:
        run(crashed, accept_changes=True, **change)
    assert said in str(caught.value)
    assert "accept_changes" not in str(caught.value)
    assert Path(crashed).read_bytes() == before


def test_another_chunksize_of_a_reproducible_run_stays_refused(path):
    """The result's bits depend on it."""
    run(path, items=LINES[:2], reproducible=True, chunksize=1)
    with pytest.raises(CheckpointMismatch, match="the chunksize was 1 and is 2"):
        run(path, parse, accept_changes=True, reproducible=True, chunksize=2)


SCRIPT = """
FACTOR = 2
LIMIT = 3
def scaled(x):
    return x * FACTOR
def func(x):
    return scaled(x) % LIMIT
def capped(a, b):
    return min(a + b, LIMIT)
"""


def test_globals_that_func_refers_to_belong_to_it(path):
    """A constant of a function that func calls, too."""
    names, changed = made(SCRIPT), made(SCRIPT.replace("FACTOR = 2", "FACTOR = 5"))
    run(path, names["func"], [1, 2], Sum())
    with pytest.warns(AcceptedChanges, match=r"another func: the global 'FACTOR' differs\. The"):
        assert run(path, changed["func"], [1, 2, 4], Sum(), accept_changes=True) == 2 + 1 + 2


@pytest.mark.parametrize("change", ["LIMIT = 3", "min(a + b"])
def test_a_global_that_the_reducer_refers_to_is_the_reducers(change, path):
    """Also one that func refers to as well: the state depends on it."""
    names, changed = made(SCRIPT), made(SCRIPT.replace(change, change.replace("3", "4").replace("min", "max")))
    run(path, names["func"], [1, 2], Fold(names["capped"]))
    with pytest.raises(CheckpointMismatch) as caught:
        run(path, changed["func"], [1, 2, 4], Fold(changed["capped"]), accept_changes=True)
    expected = {"LIMIT = 3": "the global 'LIMIT' differs, and the reducer refers to it", "min(a + b": "the reducer"}
    assert expected[change] in str(caught.value)


class Limited(Reducer):
    """A reducer that refers to a function of this module."""

    def init(self):
        return 0

    def step(self, acc, partial):
        return acc + parse(partial)


def test_a_function_that_func_and_the_reducer_call_is_the_reducers(path, monkeypatch):
    """It is named with the reason."""
    run(path, lambda line: str(parse(line)), LINES[:2], Limited())
    monkeypatch.setitem(globals(), "parse", mended)
    with pytest.raises(CheckpointMismatch, match=r"parse' differs, and the reducer refers to it"):
        run(path, lambda line: str(parse(line)), LINES, Limited(), accept_changes=True)


def test_a_key_and_the_option_exclude_each_other(path):
    """With a key no change of func is seen; a key that changed may mean another reducer, and is refused."""
    with pytest.raises(ValueError, match=r"no change to accept\. Leave one of the two out"):
        Checkpoint(path, key="v1", accept_changes=True)
    aggregate(parse, LINES[:2], Collect(), pool=SERIAL, checkpoint=Checkpoint(path, key="v1"))
    with pytest.raises(CheckpointMismatch, match="the key was v1 and is not there"):
        run(path, accept_changes=True)


def test_the_option_is_shown():
    """As the others are."""
    assert repr(Checkpoint("a", accept_changes=True)) == "Checkpoint('a', accept_changes=True)"


KILLED = """
import os, signal, sys
from poolagg import *
from poolagg.events import Checkpointed
def func(x):
    {body}
commits = []
def kill(event):
    commits.extend([event] * isinstance(event, Checkpointed))
    if len(commits) == {commits}:
        os.kill(os.getpid(), signal.SIGKILL)
kept = Checkpoint(sys.argv[1], every=1e-6, accept_changes={accept})
print(aggregate(func, range(40), Collect(), pool=SerialPool(), chunksize=1, watch=kill, checkpoint=kept))
"""


def test_crash_mend_and_kill_9_in_between(path):
    """The mended script is killed before its first commit, which asks for the option again; then after some, and the
    option is needed no more."""

    def ran(body, commits=-1, accept=False):
        script = KILLED.format(body=body, commits=commits, accept=accept)
        return subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=50)

    assert "ZeroDivisionError" in ran("return 1 // (x - 10) * 0 + x").stderr
    covered = [10]
    for commits, accept in ((0, True), (5, True), (5, False)):
        killed = ran("return -x", commits, accept)
        assert killed.returncode == -signal.SIGKILL
        assert ("AcceptedChanges" in killed.stderr) is accept
        if not commits:
            assert "accept_changes=True" in ran("return -x").stderr
        else:
            covered.append(look(path).facts["covered"][0][1])
    ended = ran("return -x")
    assert ended.stdout.strip() == str([*range(10), *(-x for x in range(10, 40))])
    assert ended.stderr == ""
    assert covered == sorted(set(covered))
