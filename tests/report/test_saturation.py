"""A report says how many workers the parent can feed when a run comes near that number, and is silent otherwise."""

from __future__ import annotations

import re
import time

from poolagg import Into, ProcessPool, Report, aggregate
from poolagg._report.bottleneck import Shares, diagnose


def nap(number: int) -> int:
    time.sleep(0.01)
    return number


def heavy(_: int) -> None:
    time.sleep(0.0075)


def light(_: int) -> None:
    pass


def report_of(apply) -> str:
    """Run a busy worker, whose parent applies each result."""
    report = Report()
    with ProcessPool(1) as pool:
        aggregate(nap, range(1), Into(apply), pool=pool)
        aggregate(nap, range(60), Into(apply), pool=pool, chunksize=1, watch=report)
    assert report.bottleneck == "map"
    return report.diagnosis


def test_a_parent_that_is_nearly_as_busy_as_its_worker_is_reported():
    """With the share of its time, the number of workers, and what to do about the kind of work that fills it."""
    text = report_of(heavy)
    share = int(re.search(r"the parent was busy (\d+) % of the time", text)[1])
    assert 50 <= share <= 100
    assert re.search(r"from about [12] workers on, more won't help", text)
    assert text.endswith("give the reducer a merge, or merge in the workers, as strategy=Tree() does.")


def test_a_parent_that_has_time_left_is_not_reported():
    """The same run, in which the parent has next to nothing to do."""
    text = report_of(light)
    assert "parent" not in text
    assert "won't help" not in text


def test_the_number_of_workers_follows_from_the_shares_of_both():
    """Eight workers that work all the time fill 80 % of the parent's: ten fill all of it."""
    diagnosis = diagnose(Shares(10.0, workers=8, mapping=1.0, scheduling=0.5, merging=0.3))
    assert "the parent was busy 80 % of the time: from about 10 workers on" in diagnosis.text
    assert diagnosis.text.endswith("leave chunksize out, so that chunks are long enough.")
    assert "workers on" not in diagnose(Shares(10.0, workers=8, mapping=1.0, scheduling=0.4)).text
