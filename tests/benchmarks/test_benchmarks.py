"""The benchmarks measure what they say they measure: at a tiny size, every contestant's result is checked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from forked_runs import forked_runs
from paths import SUPPORT

from benchmarks import __main__ as command_line
from benchmarks.harness import Case, Diagnosis, Missing, Suite, Timed, measuring, tables
from benchmarks.harness.measuring import measure
from benchmarks.harness.page import page
from benchmarks.harness.results import Entrant, Results, Run, standings
from benchmarks.harness.suite import lines_of_code, load

pytestmark = [pytest.mark.timeout(180), pytest.mark.orphans]

OPTIONAL = {"ray"}
"""Packages that no extra installs: they are large."""


def measured(name, monkeypatch, only=lambda _: True, scale="tiny"):
    """The suite's results, and the reasons for those who could not take part.

    Nobody asks here how long it takes: four run at once, forked. The tests of the command line start interpreters.
    """
    suite = load(f"benchmarks.{name}")
    monkeypatch.setattr(suite, "at_once", 4)
    with forked_runs(suite.module) as processes, monkeypatch.context() as patched:
        patched.setattr(measuring, "subprocess", processes)
        results = measure(suite, scale, 1, only)
    missing = {f"{run.contestant}: {run.note}" for run in results.runs if run.status == "missing"}
    return results, missing


def skip_or_fail(missing):
    """Say what was left out; where CI installs everything, nothing may be."""
    unexpected = {reason for reason in missing if not any(package in reason for package in OPTIONAL)}
    if os.environ.get("POOLAGG_CI") and unexpected:
        pytest.fail(f"could not take part: {sorted(unexpected)}")
    if missing:
        pytest.skip(f"everybody else was right; could not take part: {sorted(missing)}")


# -- the suites --------------------------------------------------------------------------------------------------------


def test_every_suite_is_listed_and_has_a_test():
    """`python -m benchmarks` finds each suite by its file; none is forgotten here."""
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_benchmarks*.py"))
    assert {"proxies", "faults"} <= set(command_line.suites())
    for name in command_line.suites():
        assert f'measured("{name}"' in tests
        assert load(f"benchmarks.{name}").name == name


def test_every_contestant_states_its_idiom():
    """Each has a docstring and lines to count; names are unique; on each case there is a reference."""
    for name in command_line.suites():
        suite = load(f"benchmarks.{name}")
        entrants = [contestant.entrant() for contestant in suite.contestants]
        assert all(entrant.idiom and entrant.lines > 0 for entrant in entrants)
        assert len({entrant.name for entrant in entrants}) == len(entrants)
        for case in suite.cases("full"):
            taking_part = [contestant.name for contestant in suite.contestants if contestant.takes_part(case)]
            assert any(one.startswith(suite.reference) for one in taking_part)


def test_proxies(monkeypatch):
    """Every update arrives, by every approach that is sound; those that are not are run and reported."""
    results, missing = measured("proxies", monkeypatch)
    assert not results.unsound()
    outcome = {run.contestant: run for run in results.runs}
    assert outcome["nested object: car.get_engine()"].lost == outcome["nested object: car.get_engine()"].units
    assert "has no attribute 'engine'" in outcome["nested object: car.engine"].note
    assert all(run.status in ("done", "failed", "missing", "hung") for run in results.runs)
    skip_or_fail(missing)


def test_faults_of_peers(monkeypatch):
    """Every peer does its job when nothing goes wrong, and something that has a name when something does."""
    results, missing = measured("faults", monkeypatch, lambda contestant: contestant.name != "Ray")
    for run in results.runs:
        assert run.status != "failed", run
        assert run.case != "nothing wrong" or run.status == "missing" or run.correct, run
    assert results.of("worker killed mid-item", "poolagg")[0].note == "complete"
    skip_or_fail(missing)


def test_faults_of_poolagg(tmp_path):
    """Under every fault: complete, or an error that names the item; no process stays; the input stays bounded."""
    results, picture = run_command_line(tmp_path, "faults", "poolagg")
    assert {run.case: run.grade for run in results.runs} == dict.fromkeys(results.cases, "good")
    assert picture == ["faults.png"]


def test_one_contestant_from_the_command_line(tmp_path):
    """`--only` one, `--quick`: table, JSON, a picture a case, and a page that embeds them and fetches nothing."""
    results, pictures = run_command_line(tmp_path, "proxies", "poolagg, combined in the workers")
    assert all(run.correct for run in results.runs)
    assert pictures == ["proxies-2-processes.png", "proxies-4-processes.png"]
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page


def run_command_line(folder, name, only):
    """The results, and the names of the pictures. In a process of its own: matplotlib keeps its fonts open."""
    pytest.importorskip("matplotlib", reason="the charts need matplotlib: pip install poolagg[bench]")
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--repeat", "1", "--only", only, "--out", folder]
    done = subprocess.run(command, cwd=command_line.HERE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert only in done.stdout
    pictures = sorted(folder.glob("*.png"))
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    return Results.load(folder / f"{name}.json"), [picture.name for picture in pictures]


# -- the harness -------------------------------------------------------------------------------------------------------


def sample(runs, reference="poolagg"):
    entrants = [Entrant(name, "as its manual has it", 3) for name in dict.fromkeys(run.contestant for run in runs)]
    return Results(
        "sums", "How fast are sums?", "", "s", 1.0, reference, "make", 3, {"cores": "2"}, ["one"], entrants, runs
    )


def test_ratios_are_taken_turn_by_turn():
    """A machine that was slow for one turn was slow for both."""
    runs = [Run("one", "poolagg", turn, "done", seconds=s, correct=True) for turn, s in enumerate([1, 10, 2])]
    runs += [Run("one", "other", turn, "done", seconds=s, correct=True) for turn, s in enumerate([3, 20, 6])]
    ours, other = standings(sample(runs), "one")
    assert (ours.median, ours.ratio) == (2, 1)
    assert (other.median, other.ratio) == (6, 3)


def test_lost_updates_are_told_in_the_table():
    """How many, and in how many turns."""
    runs = [Run("one", "poolagg", 0, "done", seconds=1, correct=True)]
    runs += [Run("one", "racy", turn, "done", 100, 1, lost == 0, lost) for turn, lost in enumerate([0, 20, 40])]
    text = tables.as_text(tables.times(sample(runs))[0])
    assert "loses 30 % in 2 of 3 turns" in text


def test_no_contestant_is_dropped():
    """One that hangs and one that is missing have their rows, in the table and on the page."""
    runs = [
        Run("one", "poolagg", 0, "done", seconds=1, correct=True),
        Run("one", "stuck", 0, "hung", note="still running after 9 s"),
        Run("one", "absent", 0, "missing", note="not installed: pip install absent"),
    ]
    shown = tables.times(sample(runs))
    text = tables.as_text(shown[0])
    assert "hangs: still running after 9 s" in text
    assert "missing: not installed: pip install absent" in text
    assert "still running after 9 s" in page([(sample(runs), shown, {})])


def test_results_survive_json(tmp_path):
    """The saved results are the measured ones."""
    results = sample([Run("one", "poolagg", 0, "done", seconds=1.5, correct=True)])
    results.save(tmp_path / "sums.json")
    assert Results.load(tmp_path / "sums.json") == results


def test_lines_of_user_code_count_what_is_called_and_nothing_else():
    """Helpers count; docstrings, comments, blank lines and what is given do not."""
    assert lines_of_code(uses_a_helper) == 4
    assert lines_of_code(uses_a_helper, given=[helper]) == 2


def uses_a_helper(case):
    """Not counted."""

    # Nor is this.
    return helper(case)


def helper(case):
    return case


def test_an_unknown_suite_is_an_error_that_lists_the_known(capsys, monkeypatch):
    """And so is a number of turns that is too few to be shown."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "nonsense"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert "there are: billion, checkpoints, clusters, faults, " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["benchmarks", "proxies", "--repeat", "2"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert "at least 5 turns" in capsys.readouterr().err


# -- a run -------------------------------------------------------------------------------------------------------------
#
# A suite like any other, which the processes of the harness find in this file.


@contextmanager
def no_server():
    raise Missing("no such server: install it")
    yield


suite = Suite(
    __name__,
    "?",
    memory=True,
    cases=lambda _: [Case("one", 1000, limit=4)],
    check=lambda _, result: Diagnosis(result == 1),
)


@suite.contestant("poolagg")
def right(case):
    """Right."""
    return Timed(1, 0.25)


@suite.contestant("part", part=1 / 10)
def gets_a_part(case):
    """Right, if it was given a tenth."""
    return case.units / 100


@suite.contestant("hangs", sound=False)
def never_ends(case):
    """With a child of a session of its own."""
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    time.sleep(1000)


@suite.contestant("absent", needs=["no_such_module"])
def is_absent(case):
    """Not there."""


@suite.contestant("serverless", server=no_server)
def has_no_server(case):
    """Not there either."""


@suite.contestant("crashes")
def crashes(case):
    """Without a word."""
    os._exit(7)


def test_what_happens_to_a_run_is_reported(monkeypatch):
    """Done, hung and ended with all below it, missing, crashed: each is a result, and the others go on."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{SUPPORT}")
    monkeypatch.setattr(suite, "at_once", 6)
    runs = {run.contestant: run for run in measure(suite, "tiny", 1).runs}
    assert (runs["poolagg"].status, runs["poolagg"].correct, runs["poolagg"].seconds) == ("done", True, 0.25)
    assert sys.platform != "linux" or runs["poolagg"].parent_memory > 5_000_000
    assert (runs["part"].units, runs["part"].correct) == (100, True)
    assert (runs["hangs"].status, runs["hangs"].note) == ("hung", "still running after 4 s")
    assert runs["absent"].note.startswith("not installed: pip install no_such_module")
    assert (runs["serverless"].status, runs["serverless"].note) == ("missing", "no such server: install it")
    assert (runs["crashes"].status, runs["crashes"].note) == ("failed", "the process ended with exit code 7")
