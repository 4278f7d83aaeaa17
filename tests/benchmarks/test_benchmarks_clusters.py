"""The suite `clusters`: every contestant is right, and the model follows from what was measured, item by item."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from test_benchmarks import measured, sample, skip_or_fail
from test_benchmarks_scaling import drawn

from benchmarks import clusters
from benchmarks.clusters import shown
from benchmarks.clusters.engines import DASK, RAY
from benchmarks.clusters.shown import (
    CHUNKS,
    COUNT,
    EVENT,
    FREQUENCIES,
    LEASES,
    NAPS,
    PLAIN,
    SCHEDULERS,
    WORDS,
    Told,
    heard,
    napping,
    told,
)
from benchmarks.clusters.simulated import ClusterCosts, ClusterJob, ClusterSimulation, middle, simulated
from benchmarks.harness.results import Run
from benchmarks.harness.tables import as_text

pytestmark = [pytest.mark.timeout(180), pytest.mark.orphans]

COSTS = ClusterCosts(driver=1e-3, scheduler=2e-3, event_few=20e-6, event_many=20e-6)


# -- what is measured --------------------------------------------------------------------------------------------------


def test_everybody_on_dask_is_right(monkeypatch):
    """Tasks, leases and bags; and each run of poolagg reports the number of its leases, and their cost."""
    twins = "poolagg on dask, leases as it picks them"
    results, missing = measured("clusters", monkeypatch, lambda one: "Ray" not in one.name and one.name != twins)
    assert not results.unsound()
    assert shown.all_told(results, CHUNKS[DASK], LEASES[DASK])[0].tasks == 400 // clusters.IN_A_LEASE
    assert shown.all_told(results, napping(DASK, 2), NAPS[DASK])[0].item >= shown.NAP
    if sys.platform == "linux":
        assert shown.typical(results, CHUNKS[DASK], PLAIN[DASK], "driver") > 0
    skip_or_fail(missing)


def test_ray_is_right(monkeypatch):
    """Fewer of them, for Ray takes long to start."""
    few = (LEASES[RAY], "Ray, map and reduce tasks")
    results, missing = measured("clusters", monkeypatch, lambda one: one.name in few)
    assert not results.unsound()
    skip_or_fail(missing)


@pytest.mark.parametrize("job", clusters.cases("tiny"), ids=lambda job: job.name)
def test_a_wrong_result_is_seen(job, monkeypatch, tmp_path):
    """Nothing at all is right of no job."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert not clusters.check(job, ({} if job.name in WORDS.values() else -1, "")).correct


def test_words_are_counted_in_disjoint_parts(tmp_path):
    """Of map and reduce tasks: each word is in one part, and all its counts are."""
    for name, text in (("a", "x y x"), ("b", "y z")):
        (tmp_path / name).write_text(text)
    parts = [clusters.map_documents([tmp_path / name]) for name in "ab"]
    reduced = [clusters.reduce_parts(*part) for part in zip(*parts, strict=True)]
    assert sum(map(len, reduced)) == 3
    assert sum(reduced, clusters.Counter()) == {"x": 2, "y": 2, "z": 1}


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3, 40])
@pytest.mark.parametrize("chunksize", [None, 20])
@pytest.mark.parametrize("sized", [True, False])
def test_every_item_is_in_the_simulated_result_once(workers, chunksize, sized):
    """The number of items and their sum; no worker is left at work, and the scheduler's own invariant holds."""
    job = ClusterJob(4 * workers, 1e-3, 5000, chunksize=chunksize, lease=0.25, workers=workers, sized=sized)
    run = ClusterSimulation(job, COSTS).run()
    assert run.outcome().result == (5000, 5000 * 4999 // 2)
    assert run.idle == workers
    assert not run.queue
    run.scheduler.check()


def test_no_time_is_made_up():
    """Workers work as long as the items take; driver and scheduler are busy for as long as leases take them."""
    found = simulated(ClusterJob(16, 1e-3, 20_000, lease=0.25, workers=4), COSTS)
    assert found.seconds * found.efficiency * 4 == pytest.approx(20.0)
    assert found.seconds * found.driver == pytest.approx(found.leases * COSTS.driver)
    assert found.seconds * found.scheduler == pytest.approx(found.leases * COSTS.scheduler)


def test_a_lease_holds_what_the_pool_asks_for():
    """Where the input has no end that is known; and so it does in the middle of one that has."""
    assert simulated(ClusterJob(8, 5e-3, 4000, lease=0.25, workers=2, sized=False), COSTS).items == 50


def test_the_scheduler_is_the_limit_where_leases_are_short():
    """Ten times as many workers do not help; longer leases do."""
    few, many, long = (
        simulated(ClusterJob(4 * workers, 1e-3, 40_000, chunksize=size, workers=workers, horizon=2.0), COSTS)
        for workers, size in ((10, 10), (100, 10), (10, 100))
    )
    assert few.scheduler > 0.95
    assert many.seconds > 0.9 * few.seconds
    assert long.scheduler < 0.5


def test_the_middle_item_says_what_a_lease_is():
    """However many tiny leases there were at the start."""
    assert middle([1] * 10 + [8] * 10 + [50] * 10) == 50


# -- what is shown -----------------------------------------------------------------------------------------------------


def runs_of(case, contestant, seconds, note="", units=1):
    return [Run(case, contestant, turn, "done", units, s, True, note=note) for turn, s in enumerate(seconds)]


def all_results():
    """As if both engines had been measured."""
    runs = []
    for engine, driver in ((DASK, 1e-3), (RAY, 0.7e-3)):
        runs += runs_of(
            CHUNKS[engine], LEASES[engine], [1.5e-4, 1.9e-4, 9e-4], told(Told(10, 10, driver, 2e-3, 20, 0, 0))
        )
        runs += runs_of(WORDS[engine], COUNT[engine], [1, 1, 2], told(Told(10, 10, driver + 0.01, 2e-3, 1, 0.1, 0.1)))
    runs += runs_of(WORDS[DASK], FREQUENCIES, [4, 2, 7])
    runs += [run for name in SCHEDULERS.values() for run in runs_of(EVENT, name, [20e-6])]
    runs += runs_of(napping(DASK, 2), NAPS[DASK], [3], told(Told(30, 30, 1e-3, 0, 50, 0.25, 5e-3)), units=1000)
    results = replace(sample(runs), suite="clusters")
    results.cases[:] = dict.fromkeys(run.case for run in runs)
    return results


def test_targets_are_held_against_medians_and_ratios_turn_by_turn():
    """At most 200 µs, at most 60, and at least three times as fast."""
    table = shown.table_of_targets(all_results())
    assert [[cell.text for cell in row[1:]] for row in table.rows] == [
        ["190", "150 - 900", "at most 200", "yes"],
        ["190", "150 - 900", "at most 60", "no"],
        ["3.50", "2.00 - 4.00", "at least 3", "yes"],
    ]


def test_what_a_run_tells_of_its_leases_can_be_read_again():
    """And other notes say nothing of them."""
    one = Told(7, 3, 0.0015, 0.002, 20, 0.25, 0.0125)
    assert heard(told(one)) == one
    assert heard("not what a loop gives") is None


def test_costs_that_were_not_measured_are_not_made_up():
    """With `--only`, say: the targets, and the usual tables."""
    results = all_results()
    results.runs[:] = [run for run in results.runs if run.case != EVENT]
    assert shown.modelled(results) == {}
    assert len(shown.all_tables(results)) == 1 + len(results.cases)


def test_the_model_is_shown(monkeypatch, tmp_path):
    """With its constants, its saturation, and next to real runs; and as pictures."""
    for package in ("distributed", "ray"):
        pytest.importorskip(package, reason=f"pip install {package}")
    monkeypatch.setattr(shown, "HORIZON", 0.5)
    monkeypatch.setattr(shown, "outcomes", lambda jobs, costs: {job: simulated(job, costs) for job in jobs})
    results = all_results()
    text = "\n".join(map(as_text, shown.all_tables(results)))
    assert "Simulated: 1,000,000 chunks on 1,000 workers" in text
    picks = shown.table_of_picks(results, shown.everything(results, shown.modelled(results))).rows
    assert [cell.text for cell in picks[0][:6]] == [DASK, "2", "250 ms", "250 ms", "50", "50"]
    assert drawn("clusters", results, tmp_path) == [
        "clusters-chunks-of-no-work-dask", "clusters-chunks-of-no-work-ray", "clusters-driver",
        "clusters-word-count-dask", "clusters-word-count-ray",
    ]  # fmt: skip
