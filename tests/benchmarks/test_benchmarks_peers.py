"""The suites `peers` and `billion` have all do the same job: each result, at a tiny size, is the right one."""

from __future__ import annotations

import pytest
from test_benchmarks import measured, sample, skip_or_fail

from benchmarks import billion, peers
from benchmarks.billion import measurements
from benchmarks.harness import Case, Missing
from benchmarks.harness.jobs import GENERATOR, SLOW, STARTUP, THERE, jobs
from benchmarks.harness.results import Run
from benchmarks.harness.tables import as_markdown, as_text
from benchmarks.peers.shown import compared, ordered, overheads, overview, overviews, ratios
from poolagg import SerialPool, aggregate, blocks

pytestmark = [pytest.mark.timeout(180), pytest.mark.orphans]

FEW = ("word count, 1.6 M distinct", GENERATOR + THERE)
"""The jobs that every peer does here: few large results, and many items of next to nothing in a warm pool. A peer that
starts its workers for each run does these with a start; of the others a start is no other code."""

TINY = {job.name: job for job in jobs("tiny")}


# -- peers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", TINY.values(), ids=TINY)
def test_what_is_right_is_what_a_loop_gives(job, monkeypatch, tmp_path):
    """For every job; poolagg's reducer gives it too; and of fewer items it is not right."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    try:
        items = list(job.source(job.units))
    except Missing as missing:
        skip_or_fail({str(missing)})
    looped = job.fold(map(job.func, items))
    assert job.right(job.units, looped)
    if job.reducer is not None:
        assert job.right(job.units, aggregate(job.func, items, job.reducer(), pool=SerialPool()))
    assert not job.right(job.units + 1, looped)


def test_every_peer_gets_it_right(monkeypatch):
    """Each, in its own idiom, on a job of many small results and on one of few large ones.

    A peer that fails among the others is asked again by itself: some take a busy machine for a dead worker.
    """

    def of_jobs(names, only):
        monkeypatch.setattr(peers.suite, "cases", lambda scale: [job for job in jobs(scale) if job.name in names])
        return measured("peers", monkeypatch, lambda one: not one.name.startswith("Ray") and only(one.name))

    restarts = {name for name, reasons in peers.ABSENT.items() if reasons.get(GENERATOR + THERE) == peers.RESTARTS}
    absent = set()
    for names, only in ((FEW, lambda name: True), ((GENERATOR,), restarts.__contains__)):
        results, missing = of_jobs(names, only)
        absent |= missing
        failed = {run.contestant for run in results.unsound() if run.status == "failed"}
        assert {run.contestant for run in results.unsound()} <= {name for name in failed if "poolagg" not in name}
        for failed_name in failed:
            alone, _ = of_jobs(names, lambda name, failed_name=failed_name: name == failed_name)
            assert not alone.unsound()
        assert {run.case for run in results.runs} == set(names)
    skip_or_fail(absent)


def test_ray_gets_it_right(monkeypatch):
    """Apart from the others, for it takes long to start."""
    monkeypatch.setattr(peers.suite, "cases", lambda scale: [job for job in jobs(scale) if job.name == GENERATOR])
    results, missing = measured("peers", monkeypatch, lambda contestant: contestant.name.startswith("Ray"))
    assert not results.unsound()
    skip_or_fail(missing)


def test_a_slow_reducer_tells_what_waits_for_it(monkeypatch):
    """How much the parent held beyond its start, and how far the input was pulled ahead."""
    monkeypatch.setattr(peers.suite, "cases", lambda scale: [job for job in jobs(scale) if job.name == SLOW])
    results, _ = measured("peers", monkeypatch, lambda contestant: contestant.name in ("poolagg, Into", "serial"))
    assert not results.unsound()
    assert results.of(SLOW, "serial")[0].note.endswith("at most 0 of 6 inputs ahead")
    assert all(run.note.startswith("parent +") for run in results.runs)


def test_the_ratio_is_to_a_loop_by_the_number_of_cores_turn_by_turn():
    """On two cores, half the time of the loop is 1."""
    job = TINY["items of 100 µs"]
    runs = [Run(job.name, "serial", turn, "done", 10, seconds, True) for turn, seconds in enumerate([2, 8, 2])]
    runs += [Run(job.name, "poolagg", turn, "done", 5, seconds, True) for turn, seconds in enumerate([1, 4, 0.75])]
    assert ratios(shaped(runs), job) == {"serial": 2, "poolagg": 2}


def test_what_the_parent_does_alone_is_part_of_the_ideal():
    """No pool makes a reducer faster."""
    job = TINY[SLOW]
    runs = [Run(SLOW, name, 0, "done", 10, seconds, True) for name, seconds in [("serial", 0.3), ("poolagg", 0.4)]]
    assert ratios(shaped(runs), job)["poolagg"] == pytest.approx(0.4 / 10 / job.floor)


def test_the_overview_has_all_jobs_and_the_nearest_first():
    """And in Markdown ours are in bold."""
    job = TINY["items of 100 µs"]
    runs = [Run(job.name, name, 0, "done", 10, seconds, True) for name, seconds in [("serial", 2), ("poolagg", 1.1)]]
    table = overview(shaped(runs), TINY.values())
    assert as_markdown(table).splitlines()[2:] == ["| **poolagg** | 1.10 |", "| serial | 2.00 |"]


def test_the_overhead_counts_all_items_of_the_job():
    """A contestant that ran a tenth of them, in 0.2 s, would have taken 2 s, of which the ideal is 1."""
    job = TINY["items of 100 µs"]
    runs = [Run(job.name, "serial", 0, "done", 100, 2, True), Run(job.name, "poolagg", 0, "done", 10, 0.2, True)]
    assert overheads(shaped(runs), job) == pytest.approx({"serial": 1, "poolagg": 1})


def test_workers_to_be_started_and_workers_that_are_there_have_tables_of_their_own():
    """Each of ratios and of seconds, under the job's plain name."""
    jobs = [TINY["items of 100 µs"], TINY["items of 100 µs" + THERE]]
    runs = [Run(job.name, name, 0, "done", 10, 2, True) for job in jobs for name in ("serial", "poolagg")]
    tables = overviews(shaped(runs), TINY.values())
    assert [table.title.partition(":")[0] for table in tables] == ["Workers to be started"] * 2 + [
        "Workers that are there"
    ] * 2
    assert all(table.head == ["", "items of 100 µs"] for table in tables)
    assert as_markdown(tables[1]).splitlines()[-1].endswith("| +1.00 s |")


def test_a_contestant_that_cannot_do_half_of_the_jobs_comes_last():
    """However near to the ideal it is where it takes part."""
    jobs = [TINY[name] for name in ("items of 100 µs", "8 MB arrays", "histograms, numpy")]
    runs = [Run(job.name, name, 0, "done", 10, 2, True) for job in jobs for name in ("serial", "poolagg")]
    runs += [Run(jobs[0].name, "dask.bag", 0, "done", 10, 1, True)]
    assert ordered(shaped(runs), jobs)[-1] == "dask.bag"


def test_a_peer_that_starts_workers_for_each_run_has_no_warm_run():
    """The table says so instead."""
    assert peers.ABSENT["dask.bag"][GENERATOR + THERE] == peers.RESTARTS
    assert GENERATOR not in peers.ABSENT["dask.bag"]


def test_nothing_is_the_ideal_of_a_start():
    """A loop has none."""
    runs = [Run(STARTUP, name, 0, "done", 1, 1, True) for name in ("serial", "poolagg")]
    assert ratios(shaped(runs), TINY[STARTUP]) == {"serial": None, "poolagg": None}


def test_who_is_not_run_is_in_the_table_with_the_reason():
    """Not every peer can do every job."""
    runs = [Run(SLOW, "serial", 0, "done", 10, 1, True), Run(SLOW, "poolagg, Into", 0, "done", 10, 1, True)]
    runs += [Run(GENERATOR, "dask.bag", 0, "done", 10, 1, True)]
    tables = compared(shaped(runs), TINY.values(), peers.ABSENT)
    assert "not run: its reduction runs in the workers" in as_text(tables[0])


def test_who_is_slow_is_given_fewer_of_the_tiny_items_only():
    """A part of a job whose items take long would be too little to compare."""
    slow = peers.suite.named("ProcessPoolExecutor, as_completed, forkserver")
    assert slow.share(TINY[GENERATOR]).units == 40
    assert slow.share(TINY["items of 100 µs"]) == TINY["items of 100 µs"]


def shaped(runs):
    """As if measured on two cores."""
    results = sample(runs)
    results.machine["cores"] = "4 (2 usable)"
    results.cases[:] = dict.fromkeys(run.case for run in runs)
    return results


# -- the one billion row challenge -------------------------------------------------------------------------------------


def test_all_give_the_same_answer(monkeypatch):
    """To the letter, from the same file."""
    results, missing = measured("billion", monkeypatch)
    assert not results.unsound()
    skip_or_fail(missing)


def test_the_file_is_made_by_the_recipe(tmp_path):
    """Names, a semicolon, a temperature with one decimal; and what is counted meanwhile is what can be read."""
    path = tmp_path / "measurements.txt"
    measurements.write(path, 60_000)
    lines = path.read_bytes().splitlines()
    stats = billion.stats_of_lines(lines)
    assert len(lines) == 60_000
    assert len(stats) == measurements.STATIONS
    assert all(-100 < float(line.rpartition(b";")[2]) < 100 and line[-2:-1] == b"." for line in lines)
    expected = path.with_suffix(".expected").read_text("utf-8")
    assert measurements.answer({name.decode(): found for name, found in stats.items()}) == expected


def test_numpy_reads_what_python_reads(tmp_path):
    """Names of any length, one and two digits, and zero below zero."""
    path = tmp_path / "measurements.txt"
    path.write_bytes(
        b"a;-0.1\nabcdefgh;10.0\nabcdefghi;-10.0\na;99.9\nabcdefghijklmnopqrstuvwxyz;0.0\nB;1.2\nabcdefgh;-99.9\n"
    )
    block = blocks(path, encoding=None)[0]
    assert billion.stats_by_numpy(block) == billion.stats_of_block(block)


def test_the_answer_is_checked_to_the_letter():
    """A tenth makes it wrong."""
    case = Case("any")
    assert billion.check(case, ("{A=1.0/1.0/1.0}", "{A=1.0/1.0/1.0}")).correct
    assert not billion.check(case, ("{A=1.0/1.1/1.0}", "{A=1.0/1.0/1.0}")).correct


def test_patterns(monkeypatch):
    """Both programs of a page print what the page shows."""
    results, missing = measured("patterns", monkeypatch)
    assert not missing
    assert {run.status for run in results.runs} == {"done"}
    assert not results.unsound()
