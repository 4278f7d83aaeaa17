"""Every partial is in the resource once, whatever dies, and at whichever call."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter

import places
import pytest
from places import outcome
from runs_into import Countdown, arguments, in_a_fork, into, kept, kill, made, pair, pairs, raised_by
from workers import kill_at_any_moment

from poolagg.resources import session as sessions

pytestmark = pytest.mark.usefixtures("postgresql", "pool")

SCRIPT = """
import sys, time; sys.path.insert(0, sys.argv[1])
from places import place
from poolagg import Checkpoint, aggregate
def work(item):
    time.sleep(0.001)
    return item, str(item)
aggregate(work, iter(range(500)), place(*sys.argv[2:]).into(), workers=2, checkpoint=Checkpoint(every=0.01))
"""


@pytest.mark.orphans
def test_kill_9_of_all_processes_at_any_moment(where, tmp_path):
    """Again and again; every partial is there once, as in a run that was never killed."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    moments = random.Random(type(where).__name__)
    command = [sys.executable, str(script), *arguments(where)]
    for _ in kill_at_any_moment(command, 3, 0.6, moments):
        assert max(Counter(outcome(where)).values(), default=1) == 1
    ended = subprocess.run(command, capture_output=True, text=True)
    assert outcome(where) == pairs(range(500)), ended.stderr


CALLS = {
    "file": [(os, ("write", "fsync", "replace", "ftruncate", "unlink"))],
    "sqlite": [(sessions.Session, ("execute", "commit", "close")), (sessions._SQLite, ("start",)), (os, ("unlink",))],
    "postgres": [(sessions.Session, ("execute", "commit", "close"))],
    "own": [(os, ("replace",))],
}


def full():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", places.NAMES)
def test_a_process_that_dies_before_any_call_loses_and_doubles_nothing(name, tmp_path, request):
    """Any one of those that change something outside."""
    survived = False
    number = 0
    while not survived:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        where = made(name, folder, request)

        def run(where=where, number=number):
            countdown = Countdown(number, kill, after=False)
            for owner, names in CALLS[name]:
                countdown.wrap(owner, *names)
            into(pair, iter(range(2)), where, chunksize=1, checkpoint=kept(every=1e-9))

        code = in_a_fork(run)
        assert code in (0, -signal.SIGKILL)
        survived = code == 0
        into(pair, iter(range(3)), where, chunksize=1)
        assert outcome(where) == pairs(range(3)), number
    assert number > (10 if name != "own" else 2)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_file_system_that_fails_at_any_call_loses_and_doubles_nothing(after, tmp_path, monkeypatch):
    """The error names the file, and the same call again goes on."""
    calls = ("write", "fsync", "replace", "ftruncate", "unlink")
    told, reached = [], True
    while reached:
        folder = tmp_path / str(len(told))
        folder.mkdir()
        where = places.place("file", folder)
        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(os, name, getattr(os, name))
            countdown = Countdown(len(told) + 1, full, after).wrap(os, *calls)
            told.append(raised_by(lambda: into(pair, iter(range(2)), where, chunksize=1, checkpoint=kept(every=1e-9))))
            reached = countdown.left <= 0
        into(pair, iter(range(3)), where, chunksize=1)
        assert outcome(where) == pairs(range(3)), told
    errors = [str(error) for error in told if error is not None]
    assert len(errors) > 10
    assert all("found.jsonl" in error and "No space left" in error for error in errors)
