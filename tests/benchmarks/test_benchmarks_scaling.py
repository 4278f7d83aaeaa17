"""The benchmarks of scale: every result is right, and what is simulated follows from the constants, item by item."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from paths import ROOT
from test_benchmarks import measured

from benchmarks import scaling, simulation
from benchmarks.harness.measuring import measure
from benchmarks.harness.results import Entrant, Results, Run
from benchmarks.harness.simulated import CONSTANTS, TITLES, Costs, Job, Simulation, in_words, simulated
from benchmarks.simulation import saturation, shown
from poolagg.strategies import Combine, Stream, Tree

pytestmark = [pytest.mark.timeout(120), pytest.mark.orphans]

MICRO = 1e-6

COSTS = Costs(
    pull=3 * MICRO, send=15 * MICRO, receive=20 * MICRO, event_few=10 * MICRO, event_many=900 * MICRO,
    whole=100 * MICRO,
    chunk=70 * MICRO, item=0.3 * MICRO, pack=5 * MICRO, merge=2 * MICRO, pack_partial=0.02 * MICRO, step=0.1 * MICRO,
    pack_table=0.01, receive_table=0.01, merge_table=0.015, nap=0.002,
)  # fmt: skip
"""As they were on two cores once: what follows from them is always the same."""


def drawn(name, results, folder):
    """The names of the pictures. In a process of its own: matplotlib keeps its fonts open."""
    pytest.importorskip("matplotlib", reason="the charts need matplotlib: pip install poolagg[bench]")
    results.save(folder / "results.json")
    done = subprocess.run(
        [sys.executable, "-c", DRAW, name, folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pictures = sorted(folder.glob("*.png"))
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    return [picture.stem for picture in pictures]


DRAW = """
import sys
from pathlib import Path
from benchmarks.simulation import shown
from benchmarks.harness.simulated import SimulatedRun
from benchmarks.harness.results import Results
from benchmarks.harness.suite import load

shown.outcomes = lambda jobs, costs: {job: SimulatedRun(1.0, 0.5, 0.5, 10, (0, 0)) for job in jobs}  # what is asked is
name, folder = sys.argv[1:]                                                                     # whether it is drawn
for chart, data in load(f"benchmarks.{name}").charts(Results.load(Path(folder, "results.json"))).items():
    Path(folder, f"{chart}.png").write_bytes(data)
"""


# -- scaling -----------------------------------------------------------------------------------------------------------


def test_scaling(monkeypatch, tmp_path):
    """At a place of every axis each result is right; and each axis has its chart, and a table of all its places."""
    results = measured("scaling", monkeypatch)[0]
    assert all(run.correct for run in results.runs), results.unsound()
    tables = scaling.suite.tables(results)
    assert [len(table.rows) for table in tables] == [1] * len(scaling.AXES)
    assert all(cell.text != "-" for table in tables for row in table.rows for cell in row)
    assert drawn("scaling", results, tmp_path) == [
        "scaling-bytes-per-partial", "scaling-distinct-keys", "scaling-items", "scaling-workers"
    ]  # fmt: skip


def test_a_wrong_result_is_not_a_point():
    """It checks sums, arrays and counts."""
    case = {case.axis: case for case in scaling.cases("tiny")}
    assert not scaling.check(case[scaling.ITEMS], 1).correct
    assert not scaling.check(case[scaling.BYTES], scaling.Filled(case[scaling.BYTES].x)(1)).correct
    assert not scaling.check(case[scaling.KEYS], {1: 2}).correct


def test_places_are_the_same_at_every_scale():
    """So that charts find a case by its name."""
    names = {name for names in scaling.NAMES.values() for name in names}
    for scale in ("full", "quick", "tiny"):
        assert {case.name for case in scaling.cases(scale)} <= names
    assert {case.name for case in scaling.cases("full")} == names


# -- simulation --------------------------------------------------------------------------------------------------------


def test_simulation(monkeypatch):
    """Each constant is measured, real runs take every item once, and the manual's table of saturation is printed."""
    results = measured("simulation", monkeypatch)[0]
    assert all(run.correct for run in results.runs), results.unsound()
    costs = Costs.found(results)
    assert all(getattr(costs, field.name) > 0 for field in fields(costs))
    assert costs.event_few < costs.merge_table
    states = saturation.costs_of_states(results, costs)
    assert states[10**3] < states[10**8]
    shown_table = saturation.table_by_state(costs, states, longest=0)
    in_manual = manual_table("an item takes")
    assert shown_table.head == in_manual[0]
    assert [row[0].text for row in shown_table.rows] == [row[0] for row in in_manual[2:]]
    assert all(re.fullmatch(r">10,000|~?[\d,]+", cell) for row in in_manual[2:] for cell in row[1:])


def manual_table(first):
    """Return the cells of the table in the manual whose first column has that title."""
    manual = (ROOT / "docs" / "explanation" / "benchmarks.md").read_text("utf-8")
    table = manual[manual.index(f"| {first} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize("chunksize", [None, 1])
def test_two_real_workers_take_the_time_that_two_simulated_ones_do(chunksize):
    """Within a factor of two; others may need the cores as well, so it has a few chances."""
    for _ in range(5):
        costs = replace(COSTS, nap=simulation.nap(40))
        real = simulation.real_run(simulation.Naps("", 100, workers=2), chunksize).seconds
        ratio = simulated(Job(2, costs.nap, 100, chunksize=chunksize), costs).seconds / real
        if 0.5 < ratio < 2:
            return
    pytest.fail(f"simulated / real: {ratio}")


def test_what_was_measured_is_shown(tmp_path):
    """The charts, as pictures: of all that is simulated, and of how it compares with what is real."""
    runs = [Run(CONSTANTS, TITLES[name], 0, "done", 1, seconds, True) for name, seconds in vars(COSTS).items()]
    real = [
        Run(shown.nap_case(workers), name, 0, "done", 100, 0.2, True)
        for workers in (1, 2)
        for name in shown.REAL.values()
    ]
    entrants = [Entrant(name, "measured", 1) for name in dict.fromkeys(run.contestant for run in [*runs, *real])]
    cases = list(dict.fromkeys(run.case for run in [*runs, *real]))
    results = Results(
        "simulation", "?", "", "µs", 1e-6, "poolagg", "make", 1, {"cores": "2"}, cases, entrants, [*runs, *real]
    )
    assert Costs.found(results) == COSTS
    assert drawn("simulation", results, tmp_path) == [
        f"simulation-{what}" for what in ("chunks", "efficiency", "numbers", "parent", "real", "tables")
    ]


@pytest.mark.parametrize("strategy", [Combine(), Stream(), Tree()], ids=repr)
@pytest.mark.parametrize("workers", [1, 2, 37])
@pytest.mark.parametrize("chunksize", [None, 10])
def test_every_item_is_in_the_simulated_result_once(strategy, workers, chunksize):
    """The number of items and their sum; and the scheduler's own invariant holds at the end."""
    simulation = Simulation(Job(workers, 1e-3, 5000, strategy=strategy, chunksize=chunksize), COSTS).run()
    assert simulation.outcome().result == (5000, 5000 * 4999 // 2)
    assert not simulation.ends
    simulation.scheduler.check()


def test_the_same_constants_give_the_same_outcome():
    """There is no other clock, and no chance."""
    job = Job(50, 1e-4, horizon=0.5)
    assert simulated(job, COSTS) == simulated(job, COSTS)


def test_no_time_is_made_up():
    """Workers work as long as the items take, and not beyond the horizon; no run is faster than the ideal."""
    whole = simulated(Job(4, 1e-3, 4000), COSTS)
    assert whole.seconds * whole.efficiency * 4 == pytest.approx(4.0)
    assert whole.seconds > 1.0
    assert simulated(Job(4, 0.3, horizon=1.0), COSTS).efficiency <= 1


def test_free_parents_feed_any_number_of_workers():
    """With nothing to pay but for the items, efficiency is near one."""
    free = Costs(*[0.0] * 16)
    assert simulated(Job(100, 0.1, 1000), free).efficiency == pytest.approx(1.0)


def test_a_parent_saturates_and_longer_chunks_help():
    """More workers make it busier; when it has no time left, workers wait; and with longer chunks they don't."""
    few, many = (simulated(Job(workers, 1e-3, horizon=0.5, chunksize=10), COSTS) for workers in (10, 100))
    assert few.parent < 0.3 < 0.95 < many.parent
    assert few.efficiency > 0.95 > 0.5 > many.efficiency
    assert simulated(Job(100, 1e-3, horizon=0.5, chunksize=100), COSTS).efficiency > 0.9


def test_saturation_by_arithmetic_is_where_the_simulation_has_it():
    """With half of the workers the parent has time left, with twice as many it has none."""
    workers = shown.saturation(COSTS, 0.01)
    for share, saturated in ((0.5, False), (2, True)):
        job = Job(int(share * workers), 1e-3, horizon=0.3, chunksize=10)
        assert (simulated(job, COSTS).parent > 0.99) is saturated


@pytest.mark.parametrize("item", [1e-3, 1e-2, 0.1], ids=in_words)
def test_the_table_of_saturation_names_the_workers_at_which_the_simulated_parent_is_busy(item):
    """With fewer it has time left, with more it has none; and the arithmetic for large states has the same number."""
    place = saturation.Place(COSTS, item, state=30 * MICRO)
    workers = place.simulated()
    assert place.busy(round(0.8 * workers)) < saturation.SATURATED <= place.busy(round(1.2 * workers))
    assert workers == pytest.approx(place.expected(), rel=0.15)


def test_larger_states_and_shorter_items_saturate_a_parent_earlier():
    """By arithmetic; a number beyond the table's largest is said to be that."""
    by_state = [saturation.Place(COSTS, 1.0, state).expected() for state in (1e-2, 1e-1, 1.0)]
    assert by_state == sorted(by_state, reverse=True)
    assert saturation.Place(COSTS, 0.1, 0.1).expected() < by_state[1]
    free = replace(COSTS, **dict.fromkeys(vars(COSTS), 0.0))
    assert saturation.in_workers(saturation.Place(free, 1.0, 0.0).expected(), False).text == ">10,000"


def test_partials_sent_keep_the_parent_busier_than_states():
    """Stream pays for each partial, Combine for each state."""
    stream, combine = (
        simulated(Job(10, 1e-5, horizon=0.5, strategy=strategy), COSTS) for strategy in (Stream(), Combine())
    )
    assert stream.parent > 1.5 * combine.parent


def test_constants_that_are_missing_are_not_made_up(monkeypatch):
    """With `--only`, say: the table of those that are there, and nothing else."""
    suite = simulation.suite
    results = measure(suite, "tiny", 1, only=lambda contestant: contestant.name == TITLES["pull"])
    assert Costs.found(results) is None
    assert [table.title for table in suite.tables(results)] == ["Measured constants"]
    assert suite.charts(results) == {}


def test_times_are_read_as_people_say_them():
    """Without powers of ten."""
    assert list(map(in_words, (2e-6, 1e-3, 0.3, 10.0))) == ["2 µs", "1 ms", "300 ms", "10 s"]
    assert list(map(scaling.in_bytes, (8, 4 << 10, 64 << 20))) == ["8 B", "4 KiB", "64 MiB"]
