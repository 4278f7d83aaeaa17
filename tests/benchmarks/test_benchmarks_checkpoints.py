"""The suite `checkpoints` measures the same job with and without one, and says rightly what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_benchmarks import measured, sample

from benchmarks import checkpoints
from benchmarks.checkpoints import FORCED, NONE, OWN, Measured, heard
from benchmarks.harness.results import Run
from poolagg import SerialPool, aggregate

pytestmark = [pytest.mark.timeout(180), pytest.mark.orphans]

TINY = checkpoints.cases("tiny")


def test_checkpoints(monkeypatch):
    """A job is right with and without a checkpoint; only runs with one commit; the note has the costs."""
    few = [TINY[0], TINY[-1]]
    monkeypatch.setattr(checkpoints.suite, "cases", lambda _: few)
    results, missing = measured("checkpoints", monkeypatch)
    assert not results.unsound()
    assert not missing
    assert all((heard(run.note) is None) == (run.contestant == NONE) for run in results.runs)
    table = checkpoints.suite.tables(results)[0]
    assert [row[0].text for row in table.rows] == [job.name for job in few for _ in (OWN, FORCED)]
    assert all(row[2].text != "-" for row in table.rows)


@pytest.mark.parametrize("job", TINY, ids=lambda job: job.name)
def test_a_wrong_result_is_seen(job):
    """A right result for some items is wrong for one more."""
    result = aggregate(job.func, job.source(job.units), job.reducer(), pool=SerialPool())
    assert checkpoints.check(job, Measured(result, 1, 10, 0.1)).correct
    assert not checkpoints.check(replace(job, units=job.units + 1), Measured(result, 1, 10, 0.1)).correct


def rows(*runs):
    results = sample([run for some in runs for run in some])
    return [[cell.text for cell in row] for row in checkpoints.costs(results).rows]


def runs_of(name, seconds, note="", **more):
    return [Run("one", name, turn, "done", 1, s, True, note=note, **more) for turn, s in enumerate(seconds)]


def test_what_it_costs_is_taken_turn_by_turn():
    """A machine that was slow for one turn was slow for both."""
    note = checkpoints.told(Measured(0, 3, 8_000_123, 0.0125))
    bare, kept = runs_of(NONE, [1, 10, 2]), runs_of(OWN, [1.01, 10.4, 2.03], note)
    assert rows(bare, kept) == [
        ["one", "at its own pace", "1.5 %", "1.0 % - 4.0 %", "3", "8,000,123", "1.2 %", "at most 2.0 %", "yes"]
    ]


def test_what_is_forced_has_no_target():
    """A commit each second is the user's choice."""
    (row,) = rows(runs_of(NONE, [1]), runs_of(FORCED, [2], checkpoints.told(Measured(0, 3, 1000, 0.4))))
    assert row[2:3] + row[-2:] == ["100.0 %", "-", "-"]


def test_a_wrong_result_holds_no_target():
    """However little it costs."""
    bad = [Run("one", OWN, 1, "hung", note="still running after 9 s")]
    (row,) = rows(runs_of(NONE, [1, 1]), runs_of(OWN, [1], checkpoints.told(Measured(0, 1, 10, 0.0))), bad)
    assert row[2] == "0.0 %"
    assert row[-1] == "no: hung in 1 of 2 turns"
