"""The results of the suite `clusters`: targets, measurements, simulations with them, and real runs next to these."""

import importlib
import re
from dataclasses import dataclass
from statistics import median

from benchmarks.clusters.engines import DASK, ENGINES, RAY
from benchmarks.clusters.simulated import FEW, MANY, ClusterCosts, ClusterJob, outcomes
from benchmarks.harness import charts, tables
from benchmarks.harness.lines import Axis, Line, lines
from benchmarks.harness.simulated import in_words
from benchmarks.harness.tables import Cell, Table, significant
from poolagg.pools.external.external_pool import LEAVES

CHUNKS = {engine: f"chunks of no work, {engine}" for engine in ENGINES}
WORDS = {engine: f"word count, {engine}" for engine in ENGINES}
EVENT = "telling the scheduler of an event"

LEASES = {engine: f"poolagg on {engine}, 20 chunks a lease" for engine in ENGINES}
PLAIN = {engine: f"{engine}, plain tasks" for engine in ENGINES}
COUNT = {engine: f"poolagg on {engine}, Frequencies" for engine in ENGINES}
NAPS = {engine: f"poolagg on {engine}, naps" for engine in ENGINES}
FREQUENCIES = "dask.bag, frequencies"
SCHEDULERS = {workers: f"poolagg's scheduler, {workers:,} workers" for workers in (FEW, MANY)}

IN_A_LEASE = 20
NAP = 0.005
NAPPERS = {
    DASK: {"full": (2, 4, 8, 16, 32), "quick": (2, 32), "tiny": (2,)},
    RAY: {"full": (2, 4, 8), "quick": (4,), "tiny": ()},
}
"""Workers, by scale: dask's are threads here, Ray's are processes."""


def napping(engine, workers):
    """Return the name of the case."""
    return f"items that sleep, {workers} workers, {engine}"


# -- what a run tells --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """Numbers of tasks, and of states sent to the driver; CPU seconds of a task; items and seconds of the middle."""

    tasks: int
    states: int
    driver: float
    scheduler: float
    items: int
    seconds: float
    item: float
    """Seconds of an item."""

    @property
    def meeting(self):
        """Tasks whose states met on the cluster before one came to the driver."""
        return self.tasks / self.states


def told(run):
    """Describe the tasks of a run in a note."""
    cpu = f"CPU of a task: driver {1e6 * run.driver:.0f} µs, scheduler {1e6 * run.scheduler:.0f} µs"
    each = f"in one {run.items} items, {run.seconds:.6f} s; an item {1e6 * run.item:.2f} µs"
    return f"{run.tasks} tasks, {run.states} states; {cpu}; {each}"


def heard(note):
    """Read such a note; None if it is another.

    >>> heard(told(Told(7, 7, 0.001, 0.002, 20, 0.25, 0.0125))).items, heard("")
    (20, None)
    """
    number = r"([\d.]+)"
    found = re.fullmatch(
        rf"{number} tasks, {number} states; CPU of a task: driver {number} µs, scheduler {number} µs; "
        rf"in one {number} items, {number} s; an item {number} µs",
        note,
    )
    if found is None:
        return None
    tasks, states, driver, scheduler, items, seconds, item = map(float, found.groups())
    return Told(int(tasks), int(states), driver / 1e6, scheduler / 1e6, int(items), seconds, item / 1e6)


def all_told(results, case, contestant):
    """Return the values by turn, of right results."""
    runs = (run for run in results.of(case, contestant) if run.correct)
    return {run.turn: found for run in runs if (found := heard(run.note)) is not None}


def typical(results, case, contestant, field):
    """Return the median over the turns; None if there are none."""
    found = [getattr(one, field) for one in all_told(results, case, contestant).values()]
    return median(found) if found else None


# -- targets -----------------------------------------------------------------------------------------------------------


def times(results, case, contestant):
    """Return seconds per unit, by turn, of right results."""
    return {run.turn: run.seconds / run.units for run in results.of(case, contestant) if run.correct}


def measures(results):
    """Yield each target: a name, the numbers of all turns, the target, and whether more is better."""
    for engine, most in ((DASK, 200), (RAY, 60)):
        found = sorted(1e6 * seconds for seconds in times(results, CHUNKS[engine], LEASES[engine]).values())
        yield f"a chunk on {engine}, 20 in a lease: µs", found, most, False
    ours, theirs = (times(results, WORDS[DASK], name) for name in (COUNT[DASK], FREQUENCIES))
    ratios = sorted(seconds / ours[turn] for turn, seconds in theirs.items() if turn in ours)
    yield "word count on dask: dask.bag's frequencies by poolagg, turn by turn", ratios, 3, True


def table_of_targets(results):
    """Return the targets, and whether they hold."""
    rows = []
    for name, found, target, more in measures(results):
        holds = found and (median(found) >= target if more else median(found) <= target)
        rows.append([
            Cell(name),
            number(significant(median(found)) if found else "-"),
            number(f"{significant(found[0])} - {significant(found[-1])}" if found else "-"),
            number(f"at {'least' if more else 'most'} {target}"),
            Cell("yes", "good") if holds else Cell("no", "bad") if found else Cell("-", "none"),
        ])  # fmt: skip
    head = ["what", "median", "least - most", "target", "holds"]
    return Table(f"Targets, with {load_of(results)}", head, rows)


def load_of(results):
    """Describe the load of the machine when the suite began."""
    return f"a load of {results.machine.get('load before', '?')} before, on {results.machine.get('cores', '?')} cores"


def number(text):
    return Cell(text, "number")


# -- the model ---------------------------------------------------------------------------------------------------------

WORKERS = (2, 8, 32, 100, 300, 1000, 3000, 10_000)
MILLION, MANY_WORKERS = 10**6, 1000
WORK = (0.001, 0.01, 0.1)
HORIZON = 60.0
"""Simulated seconds at most."""

FAN_INS = (1, 4, 16, 64)


def costs_of(results, engine):
    """Return the measured costs of an engine; None if some are missing."""
    found = [typical(results, CHUNKS[engine], LEASES[engine], field) for field in ("driver", "scheduler")]
    scheduler = [
        median(seconds.values()) if (seconds := times(results, EVENT, SCHEDULERS[workers])) else None
        for workers in SCHEDULERS
    ]
    return None if None in (*found, *scheduler) else ClusterCosts(*found, *scheduler)


def backend_of(engine):
    """Return the engine's backend in poolagg; None where the engine is not installed."""
    try:
        module = importlib.import_module(f"poolagg.pools.external.{engine.lower()}")
    except ImportError:
        return None
    return getattr(module, f"_{engine.capitalize()}Backend")


def asked(engine, workers):
    """Return the least seconds of work in a task that the pool asks for, for `workers` workers."""
    backend = backend_of(engine)
    return max(backend.task_seconds, 2 * workers / backend.task_rate)


def slots_of(engine, workers):
    """Return the number of tasks in flight."""
    return backend_of(engine).slots * workers


def fan_in(engine):
    """Return how many states meet on the cluster at most, before one comes to the driver."""
    return LEAVES if backend_of(engine).keeps_states else 1


def job_of(engine, workers, item, items, **more):
    """Return the job with the pool's own settings."""
    return ClusterJob(slots_of(engine, workers), item, items, lease=asked(engine, workers), workers=workers, **more)


def modelled(results):
    """Return the engines with known costs, and these."""
    found = {engine: costs_of(results, engine) for engine in ENGINES if backend_of(engine)}
    return {engine: costs for engine, costs in found.items() if costs is not None}


def table_of_costs(results, costs):
    """Return the measured constants."""
    rows = []
    for engine, found in costs.items():
        plain = [typical(results, CHUNKS[engine], PLAIN[engine], field) for field in ("driver", "scheduler")]
        rows += [
            [Cell(f"a lease on {engine}"), micro(found.driver), micro(found.scheduler)],
            [Cell(f"a plain task on {engine}"), *map(micro, plain)],
        ]
    found = next(iter(costs.values()))
    rows += [
        [Cell(f"telling the scheduler of an event, {workers:,} workers"), micro(seconds), Cell("-")]
        for workers, seconds in ((FEW, found.event_few), (MANY, found.event_many))
    ]
    return Table("Measured constants", ["µs of CPU time", "driver", "scheduler"], rows)


def micro(seconds):
    return number("-" if seconds is None else significant(1e6 * seconds))


def busy(engine, costs, workers):
    """Return the seconds of a task, and the shares of busy time of driver and scheduler with all workers at work."""
    lease = asked(engine, workers)
    return lease, workers / lease * costs.lease(slots_of(engine, workers)), workers / lease * costs.scheduler


def table_of_saturation(costs):
    """Compute saturation from the constants, with poolagg's tasks and with plain ones."""
    rows = [
        [
            number(f"{workers:,}"),
            *(cell for engine, one in costs.items() for cell in saturation(engine, one, workers)),
        ]
        for workers in WORKERS
    ]
    columns = ("lease", "driver busy", "scheduler busy", "saturated by leases below")
    head = ["workers", *(f"{engine}: {column}" for engine in costs for column in columns)]
    return Table(
        "All workers at work: the lease that the pool asks for, and the load of driver and scheduler", head, rows
    )


def saturation(engine, costs, workers):
    lease, *shares = busy(engine, costs, workers)
    least = workers * max(costs.lease(slots_of(engine, workers)), costs.scheduler)
    return [number(in_words(lease)), *(number(percent(share)) for share in shares), number(in_words(least))]


def percent(share):
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def million(engine):
    """Return the jobs of a million chunks, by the work in each, up to the horizon."""
    return [job_of(engine, MANY_WORKERS, work, MILLION, horizon=HORIZON) for work in WORK]


def everything(results, costs):
    """Simulate everything, by engine and job."""
    return {
        engine: outcomes((*million(engine), *(pick.job for pick in picked(results, engine))), one)
        for engine, one in costs.items()
    }


def table_of_million(found):
    """Return a thousand workers and a million chunks, with the real scheduler."""
    rows = [
        [Cell(engine), number(in_words(job.item)), *outcome_cells(job, by_job[job])]
        for engine, by_job in found.items()
        for job in million(engine)
    ]
    head = ["engine", "a chunk", "chunks in a lease", "work in a lease", "leases", "driver busy", "scheduler busy",
            "seconds", "chunks done", "share of the workers' time in func"]  # fmt: skip
    title = f"Simulated: {MILLION:,} chunks on {MANY_WORKERS:,} workers, the first {HORIZON:.0f} s from a cold start"
    return Table(title, head, rows)


def outcome_cells(job, found):
    texts = (
        f"{found.items:,}", in_words(found.items * job.item), f"{found.leases:,}", percent(found.driver),
        percent(found.scheduler), significant(found.seconds), f"{found.result[0]:,}", percent(found.efficiency),
    )  # fmt: skip
    return map(number, texts)


def table_of_fan_in(results, costs):
    """Compute the driver's load from the states of the word count."""
    rows = []
    for engine, one in costs.items():
        state = typical(results, WORDS[engine], COUNT[engine], "driver")
        if state is None:
            continue
        merging = max(0.0, state - one.driver)
        lease = asked(engine, MANY_WORKERS)
        shares = (MANY_WORKERS / lease * (one.lease(slots_of(engine, MANY_WORKERS)) + merging / fan) for fan in FAN_INS)
        really = typical(results, WORDS[engine], COUNT[engine], "meeting")
        rows.append([Cell(engine), micro(merging), *(number(percent(share)) for share in shares),
                     number(f"{fan_in(engine)}"), number(f"{really:.3g}")])  # fmt: skip
    head = ["engine", "a state: µs of the driver", *(f"driver busy, fan-in {fan}" for fan in FAN_INS),
            "the pool's fan-in", "in the word count here"]  # fmt: skip
    title = f"States like the word count's on {MANY_WORKERS:,} workers, by how many the cluster merges into one"
    return Table(f"{title} for the driver", head, rows)


# -- what the pool picks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pick:
    """Real naps: the notes of their runs, their seconds, and the job that simulates them."""

    told: list[Told]
    seconds: float
    job: ClusterJob


def picked(results, engine):
    """Return the real naps by the number of workers."""
    found = []
    for workers in NAPPERS[engine]["full"]:
        case = napping(engine, workers)
        if runs := [run for run in results.of(case, NAPS[engine]) if run.correct]:
            said = [heard(run.note) for run in runs]
            item = median(one.item for one in said)
            job = job_of(engine, workers, item, runs[0].units, sized=False)
            found.append(Pick(said, median(run.seconds for run in runs), job))
    return found


def table_of_picks(results, found):
    """Compare the model with real runs."""
    rows = []
    for engine, by_job in found.items():
        for pick in picked(results, engine):
            outcome = by_job[pick.job]
            texts = (
                f"{pick.job.workers}", in_words(pick.job.lease), in_words(median(one.seconds for one in pick.told)),
                f"{median(one.items for one in pick.told):g}", f"{outcome.items}",
                f"{median(one.tasks for one in pick.told):g}", f"{outcome.leases}", significant(pick.seconds),
                significant(outcome.seconds),
            )  # fmt: skip
            rows.append([Cell(engine), *map(number, texts)])
    head = ["engine", "workers", "lease asked for", "real lease", "items in it", "simulated", "leases", "simulated",
            "seconds", "simulated"]  # fmt: skip
    title = f"Items that sleep {in_words(NAP)}: the leases of the real pool, and those of the model"
    return Table(f"{title} (a lease: the one that the middle item was in)", head, rows)


# -- all of it ---------------------------------------------------------------------------------------------------------


def all_tables(results):
    """Return the targets, the measurements and, for engines with known costs, the model."""
    found = [table_of_targets(results)]
    if costs := modelled(results):
        simulated = everything(results, costs)
        found += [table_of_costs(results, costs), table_of_saturation(costs), table_of_million(simulated)]
        found += [table_of_fan_in(results, costs), table_of_picks(results, simulated)]
    return [*found, *map(without_lines, tables.times(results))]


def without_lines(table):
    """Drop the lines of user code from a table."""
    place = table.head.index("lines")
    head, *rows = [row[:place] + row[place + 1 :] for row in (table.head, *table.rows)]
    return Table(table.title, head, rows)


def all_charts(results):
    """Draw bars for the comparisons, and the load of the driver by the number of workers."""
    bars = charts.bars(results)
    names = [f"{results.suite}-{charts.slug(case)}" for case in (*CHUNKS.values(), *WORDS.values())]
    shown = {name: bars[name] for name in names if name in bars}
    if costs := modelled(results):
        shown["clusters-driver"] = chart_of_driver(costs)
    return shown


def chart_of_driver(costs):
    """Draw the load with the tasks that the pool asks for and, as dots, with a task for each 10 ms of work."""
    drawn = [Line("no time left", [(WORKERS[0], 1), (WORKERS[-1], 1)], "ideal")]
    for engine, one in costs.items():
        drawn.append(Line(f"{engine}: driver", [(count, busy(engine, one, count)[1]) for count in WORKERS]))
        drawn.append(Line(f"{engine}: scheduler", [(count, busy(engine, one, count)[2]) for count in WORKERS]))
        plain = [(count, count / 0.01 * one.driver) for count in WORKERS if count * one.driver <= 0.02]
        drawn.append(Line(f"{engine}: driver, a task for each 10 ms of work", plain, "dots"))
    x = Axis("workers", True, {count: f"{count:,}" for count in WORKERS})
    y = Axis("share of its time in which it is busy", limits=(0, 1.6))
    note = "Computed from the measured constants: all workers at work, and leases as long as the pool asks for."
    return lines("Where would the driver saturate?", x, y, drawn, note)
