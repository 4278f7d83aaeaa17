"""The suite `limit` measures each target with the right result, and says rightly whether it holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from paths import ROOT
from test_benchmarks import measured, sample

from benchmarks import limit
from benchmarks.harness.results import Run
from benchmarks.harness.tables import as_text
from benchmarks.limit import shown
from benchmarks.limit.shown import APART, BY_IDEAL, BY_POOL, MEBIBYTES, MILLISECONDS, OURS, POOL, SERIAL, holds
from poolagg import SerialPool

pytestmark = [pytest.mark.timeout(180), pytest.mark.orphans]

TINY = {goal.name: goal for goal in limit.goals("tiny")}
WORK = {name: goal for name, goal in TINY.items() if isinstance(goal, limit.Work)}
FIRST = {
    measure: next(goal for goal in TINY.values() if goal.measure == measure)
    for measure in (BY_IDEAL, BY_POOL, MEBIBYTES, MILLISECONDS)
}
FEW = (
    *(goal.name for goal in FIRST.values()),
    "8 MB arrays, each applied in the parent",
    "8 MB arrays, ArraySum",
    "first result of a new pool, fork",
    "second aggregate without a pool",
)
"""Goals of each measure, and of each way to run: those that are measured here in processes of their own."""


# -- the work ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("goal", WORK.values(), ids=WORK)
def test_what_is_right_is_what_a_loop_gives(goal, monkeypatch, tmp_path):
    """For every goal; poolagg's reducer gives it too; and of fewer items it is not right."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    items = list(goal.source(goal.units))
    looped = goal.fold(map(goal.func, items))
    ours = limit.aggregated(goal, SerialPool(), items)
    for result in (looped, ours):
        assert limit.check(goal, limit.Measured(result, 1.0, 0)).correct
    assert not limit.check(replace(goal, units=goal.units + 1), limit.Measured(looped, 1.0, 0)).correct


def test_every_contestant_gets_it_right(monkeypatch):
    """In a pool that is warm, and in fresh interpreters; and each goal of them has a number."""
    monkeypatch.setattr(limit.suite, "cases", lambda scale: [goal for goal in limit.goals(scale) if goal.name in FEW])
    results, missing = measured("limit", monkeypatch)
    assert not results.unsound()
    assert not missing
    assert {run.contestant for run in results.runs} == {OURS, SERIAL, POOL, APART}
    unmeasured = [name for name in FEW if not shown.measured(results, TINY[name])]
    assert sys.platform != "linux" or not unmeasured


def test_a_program_says_when_something_is_wrong(monkeypatch, tmp_path):
    """The output of a separate interpreter is checked like any other result."""
    monkeypatch.setattr(limit, "byte_code", lambda: str(tmp_path))
    goal = FIRST[MILLISECONDS]
    wrong, right = (f"import json; print(json.dumps([0.5, {text}, 0.75]))" for text in (False, True))
    timed = limit.in_fresh_interpreters(goal, right)
    assert timed.seconds == 0.5
    assert limit.check(goal, timed.result).note == f"{limit.IMPORTED}: 750.0 ms"
    assert not limit.check(goal, limit.in_fresh_interpreters(goal, wrong).result).correct


def test_the_note_has_the_bytes_per_second_and_those_of_a_copy():
    """Of one goal; 4 times 8 MB in two seconds."""
    goal = TINY["8 MB arrays, each applied in the parent"]
    result = goal.fold(map(goal.func, goal.source(goal.units)))
    assert limit.check(goal, limit.Measured(result, 2.0)).note.startswith("0.02 GB/s; np.copyto: ")


# -- what is shown -----------------------------------------------------------------------------------------------------


def runs_of(goal, contestant, seconds, units=1, **more):
    return [Run(goal.name, contestant, turn, "done", units, s, True, **more) for turn, s in enumerate(seconds)]


def shaped(*runs):
    """As if measured on two cores."""
    results = sample([run for some in runs for run in some])
    results.machine["cores"] = "4 (2 usable)"
    results.cases[:] = dict.fromkeys(run.case for run in results.runs)
    return results


def rows(results):
    return [[cell.text for cell in row] for row in limit.suite.tables(results)[0].rows]


def test_the_ideal_is_the_loop_of_the_same_turn_by_the_number_of_cores():
    """On two cores, half the time of the loop is 1; a machine that was slow for one turn was slow for both."""
    goal = FIRST[BY_IDEAL]
    results = shaped(runs_of(goal, SERIAL, [2, 20, 4], 10), runs_of(goal, OURS, [0.5, 6, 1.5], 5))
    assert shown.measured(results, goal) == pytest.approx([1, 1.2, 1.5])
    assert rows(results) == [[goal.name, "1.20 x ideal", "1.00 - 1.50", "at most 1.25 x ideal", "yes", ""]]


def test_the_table_has_the_time_of_loops_side_by_side():
    """By the same ideal: what no pool can do much better."""
    goal = FIRST[BY_IDEAL]
    results = shaped(*(runs_of(goal, name, [s]) for name, s in [(OURS, 1.4), (SERIAL, 2), (APART, 1.3)]))
    assert rows(results) == [[goal.name, "1.40 x ideal", "1.40 - 1.40", "at most 1.25 x ideal", "no", "1.30 x ideal"]]


def test_what_is_compared_with_a_pool_is_not_divided():
    """Nor does the loop matter, which is in the tables of times."""
    goal = FIRST[BY_POOL]
    results = shaped(*(runs_of(goal, name, [s]) for name, s in [(OURS, 3), (POOL, 4), (SERIAL, 1)]))
    assert rows(results) == [[goal.name, "0.750 x Pool", "0.750 - 0.750", "at most 0.5 x Pool", "no", ""]]


def test_memory_is_what_the_note_says():
    """Not the time, which is that of the run, and not the whole of the parent."""
    goal = FIRST[MEBIBYTES]
    notes = [limit.check(replace(goal, units=1), limit.Measured(np.zeros(1), 1.0, n << 20)).note for n in (30, 64, 90)]
    runs = [runs_of(goal, OURS, [9, 9, 9], note=note)[turn] for turn, note in enumerate(notes)]
    assert rows(shaped(runs)) == [[goal.name, "64.0 MiB", "30.0 - 90.0", "at most 64 MiB", "yes", ""]]


def test_where_memory_can_not_be_read_nothing_is_said():
    """It is not none."""
    goal = FIRST[MEBIBYTES]
    results = shaped(runs_of(goal, OURS, [1], note=shown.grown(None)))
    assert holds(results, goal) is None
    assert rows(results) == [[goal.name, "-", "-", "at most 64 MiB", "-", ""]]


def test_an_import_is_in_milliseconds():
    """Its seconds are those that were measured."""
    goal = FIRST[MILLISECONDS]
    results = shaped(runs_of(goal, OURS, [0.030, 0.050, 0.041]))
    assert rows(results) == [[goal.name, "41.0 ms", "30.0 - 50.0", "at most 40 ms", "no", ""]]


def test_a_wrong_result_holds_no_target():
    """However fast it was; and turns that hang count."""
    goal = FIRST[BY_IDEAL]
    bad = [Run(goal.name, OURS, 2, "done", 1, 0.1), Run(goal.name, OURS, 3, "hung")]
    results = shaped(runs_of(goal, SERIAL, [2, 2, 2, 2]), runs_of(goal, OURS, [1, 1]), bad)
    assert shown.measured(results, goal) == [1, 1]
    assert rows(results)[0][-2] == "no: wrong result in 2 of 4 turns"


def test_a_turn_without_the_other_is_not_compared():
    """Of a contestant that hangs there is no time."""
    goal = FIRST[BY_POOL]
    hung = [Run(goal.name, POOL, 0, "hung")]
    assert shown.measured(shaped(runs_of(goal, OURS, [1]), hung), goal) == []
    later = [Run(goal.name, POOL, 1, "done", 1, 4.0, True)]
    assert shown.measured(shaped(runs_of(goal, OURS, [1, 1]), hung, later), goal) == [0.25]


def test_the_times_are_below_and_say_nothing_of_lines():
    """How many a user writes is not the question here, and all share theirs."""
    goal = FIRST[BY_IDEAL]
    results = shaped(runs_of(goal, SERIAL, [2]), runs_of(goal, OURS, [1]))
    table, times = limit.suite.tables(results)
    assert as_text(table).startswith(f"{results.question} 1 of 1 targets hold (2 cores)\n")
    assert times.title == goal.name
    assert "lines" not in times.head
    assert all(len(row) == len(times.head) for row in times.rows)


def test_all_targets_are_in_one_picture(tmp_path):
    """In a process of its own: matplotlib keeps its fonts open."""
    pytest.importorskip("matplotlib", reason="the charts need matplotlib: pip install poolagg[bench]")
    goal, other = FIRST[BY_IDEAL], FIRST[MILLISECONDS]
    results = shaped(runs_of(goal, SERIAL, [2]), runs_of(goal, OURS, [100]), runs_of(other, OURS, [0.001]))
    results.save(tmp_path / "results.json")
    command = [sys.executable, "-c", DRAW, str(tmp_path / "results.json"), str(tmp_path / "limit.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "limit.png").read_bytes().startswith(b"\x89PNG")


DRAW = """
import sys
from pathlib import Path
from benchmarks import limit
from benchmarks.harness.results import Results
(picture,) = limit.suite.charts(Results.load(Path(sys.argv[1]))).values()
Path(sys.argv[2]).write_bytes(picture)
"""
