"""Every option that is a time takes any time there is, and refuses what is none at the call."""

from __future__ import annotations

import math
import time

import pytest
import tasks

from poolagg import Checkpoint, Collect, ProcessPool, Sum, aggregate, snapshots
from poolagg._runtime.durations import LONGEST, bounded
from poolagg.pools import ThreadPool
from poolagg.resources import IntoDatabase

ENDLESS = [math.inf, 1e300, 10**400, 2**31 / 1000, 25 * 86_400, 300 * 366 * 86_400]
"""The first that is too long for poll(), for select(), for a lock, for a float."""

NO_TIME = [math.nan, -1, -math.inf, True, False, "1", b"1", [1], 1j, -(10**400)]


def item_timeout(seconds, folder):
    aggregate(tasks.square, range(20), Sum(), workers=2, item_timeout=seconds)


def timeout_of_an_item_that_is_waited_for(seconds, folder):
    assert aggregate(nap, [0.3], Sum(), workers=1, item_timeout=seconds) == 0.3


def snapshots_every(seconds, folder):
    assert [s.value for s in snapshots(nap, [0.2, 0.2], Collect(), every=seconds, workers=1)] == [[0.2, 0.2]]


def snapshots_of_threads(seconds, folder):
    assert [s.final for s in snapshots(nap, [0.2], Collect(), every=seconds, pool=ThreadPool(1))] == [True]


def checkpoint_every(seconds, folder):
    kept = Checkpoint(folder / "run.ckpt", every=seconds)
    assert aggregate(nap, [0.1, 0.1], Collect(), workers=1, checkpoint=kept) == [0.1, 0.1]


def patience(seconds, folder):
    into = IntoDatabase(
        str(folder / "found.db"),
        lambda connection, partial: connection.execute("CREATE TABLE IF NOT EXISTS t (x)"),
        run="all",
        patience=seconds,
    )
    aggregate(tasks.square, range(3), into, workers=1)


def nap(seconds):
    time.sleep(seconds)
    return seconds


OPTIONS = [
    item_timeout,
    timeout_of_an_item_that_is_waited_for,
    snapshots_every,
    snapshots_of_threads,
    checkpoint_every,
    patience,
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.__name__)
@pytest.mark.parametrize("seconds", ENDLESS, ids=["inf", "1e300", "1e400", "poll", "25 days", "300 years"])
def test_a_time_may_be_as_long_as_anyone_likes(option, seconds, tmp_path):
    option(seconds, tmp_path)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.__name__)
@pytest.mark.parametrize("seconds", NO_TIME, ids=str)
def test_a_value_that_is_not_a_time_is_refused_at_the_call(option, seconds, tmp_path):
    "With the name of the option and the value."
    with pytest.raises(ValueError, match="in seconds and must be") as raised:
        option(seconds, tmp_path)
    assert repr(seconds) in str(raised.value)


@pytest.mark.parametrize("option", [one for one in OPTIONS if one is not patience], ids=lambda option: option.__name__)
def test_only_patience_may_be_0(option, tmp_path):
    with pytest.raises(ValueError, match="in seconds and must be above 0, not 0"):
        option(0, tmp_path)
    patience(0, tmp_path)


def test_one_wait_is_never_too_long_for_the_system():
    "Whatever is left of a time."
    for seconds in (*ENDLESS, -1.0, 0.0):
        assert 0 <= bounded(seconds) <= LONGEST < 2**31 / 1000


def test_a_short_time_still_ends_an_item():
    with ProcessPool(1) as pool, pytest.raises(Exception, match=r"item_timeout=0\.2") as raised:
        aggregate(nap, [30], Sum(), pool=pool, item_timeout=0.2)
    assert isinstance(raised.value.__cause__, TimeoutError)
