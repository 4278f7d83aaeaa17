"""The results of the suite `simulation`: measured constants, simulated runs, and how they compare with real ones."""

from statistics import median

from benchmarks.harness.lines import COLOURS, Axis, Line, lines
from benchmarks.harness.results import standings
from benchmarks.harness.simulated import COMBINE, CONSTANTS, FEW, KEYS, NAP, TITLES, Costs, Job, in_words, outcomes
from benchmarks.harness.tables import Cell, Table, significant
from benchmarks.simulation.saturation import STATES, costs_of_states, state_title, table_by_state
from poolagg._scheduler.chunk_sizing import TARGET
from poolagg.strategies import Stream, Tree

REAL_WORKERS = (1, 2, 4, 8, 16, 32)

REAL = {None: "poolagg, chunks of the scheduler's size", 1: "poolagg, chunks of one item"}


def nap_case(workers):
    return f"naps on {workers} worker{'s' if workers > 1 else ''}"


WORKERS = (1, 3, 10, 30, 100, 300, 1000)
ITEMS = (1e-5, 1e-3, 0.1, 1.0)
SIZES = (10, 30, 100, 300, 1000, 3000)
SIZED_WORKERS = (30, 100, 300)
STRATEGIES = (COMBINE, Stream(), Tree())
TABLE_ITEM, TABLE_ITEMS = 2.0, 10


def endless(workers, item, **options):
    """Simulate the first second of a run without end; three items, if that is longer."""
    return Job(workers, item, horizon=max(1.0, 3 * item), **options)


def by_item():
    return {item: [endless(workers, item) for workers in WORKERS] for item in ITEMS}


def by_size():
    """Simulate items of a millisecond in chunks of a given size, for at least four chunks' time."""
    return {
        workers: [Job(workers, 1e-3, horizon=max(1.0, 4e-3 * size), chunksize=size) for size in SIZES]
        for workers in SIZED_WORKERS
    }


def numbers():
    """Simulate cheap items, each a number; fewer workers, since a few saturate Stream."""
    return {strategy: [endless(workers, 2e-6, strategy=strategy) for workers in WORKERS[:5]] for strategy in STRATEGIES}


def large_states():
    """Simulate heavy items, each with a table of many keys, to the end, so that all states are merged."""
    return {
        strategy: [
            Job(workers, TABLE_ITEM, TABLE_ITEMS * workers, strategy=strategy, table=True) for workers in WORKERS[:6]
        ]
        for strategy in STRATEGIES
    }


def real_jobs(results, costs):
    """Return the real naps by chunksize: the jobs that simulate them, each with its measured seconds."""
    return {chunksize: dict(real_line(results, costs, chunksize)) for chunksize in REAL}


def real_line(results, costs, chunksize):
    for workers in REAL_WORKERS:
        runs = [run for run in results.of(nap_case(workers), REAL[chunksize]) if run.seconds is not None]
        if runs:
            job = Job(workers, costs.nap, runs[0].units, chunksize=chunksize)
            yield job, sorted(run.seconds for run in runs)


def everything(results, costs):
    """Simulate every job that is shown."""
    sweeps = (by_item(), by_size(), numbers(), large_states(), real_jobs(results, costs))
    return outcomes(tuple(job for sweep in sweeps for line in sweep.values() for job in line), costs)


def percent(share):
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def all_tables(results):
    """Return the constants and, if none is missing, the simulations with them."""
    tables = [table_of_constants(results)]
    if costs := Costs.found(results):
        found = everything(results, costs)
        tables += [table_of_saturation(costs), table_by_item(found), table_by_size(found)]
        tables += [table_of_strategies(found), table_of_real_runs(results, costs, found)]
        if states := costs_of_states(results, costs):
            tables.append(table_by_state(costs, states))
    return tables


def number(text):
    return Cell(text, "number")


def table_of_constants(results):
    """Return the constants as measured."""
    shown = {standing.entrant.name: standing for standing in standings(results, CONSTANTS)}
    rows = [
        [
            Cell(one.entrant.name.removeprefix("poolagg's "), "", one.entrant.idiom),
            number(significant(one.median * 1e6)),
            number(f"{significant(one.times[0] * 1e6)} - {significant(one.times[-1] * 1e6)}"),
        ]
        for title in (*TITLES.values(), *map(state_title, STATES))
        if (one := shown.get(title)) and one.times
    ]
    return Table("Measured constants", ["of CPU time (naps: of time)", "median µs", "least - most"], rows)


def table_of_saturation(costs):
    """Compute the saturation from the constants."""
    rows = [
        [
            number(in_words(seconds)),
            number(f"{saturation(costs, seconds):,.0f}"),
            number(f"{seconds / costs.parent(FEW):,.0f}"),
        ]
        for seconds in (0.01, TARGET, 0.1, 0.3, 1.0, 10.0)
    ]
    head = ["work in a chunk", "workers that keep the parent busy", f"if the scheduler took as long as with {FEW}"]
    title = f"Workers that one parent can feed, by the work in a chunk (the scheduler aims at {in_words(TARGET)})"
    return Table(title, head, rows)


def saturation(costs, seconds):
    """Return how many workers, with chunks of `seconds`, leave the parent no time, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * costs.parent(middle) < seconds else (low, middle)
    return low


def table_by_item(found):
    """Return efficiency, the parent's share of busy time, and the scheduler's chunks."""
    rows = [
        [
            number(f"{workers:,}"),
            *(number(shown_outcome(found[jobs[place]])) for jobs in by_item().values()),
        ]
        for place, workers in enumerate(WORKERS)
    ]
    head = ["workers", *(f"items of {in_words(item)}" for item in ITEMS)]
    return Table("Share of the workers' time in func / parent busy / items in a chunk", head, rows)


def shown_outcome(outcome):
    return f"{percent(outcome.efficiency)} / {percent(outcome.parent)} / {outcome.chunk:,}"


def table_by_size(found):
    """Return the efficiency for chunks of a given size."""
    rows = [
        [
            number(in_words(size / 1000)),
            *(number(f"{percent(found[jobs[place]].efficiency)}") for jobs in by_size().values()),
        ]
        for place, size in enumerate(SIZES)
    ]
    head = ["work in a chunk", *(f"{workers} workers" for workers in SIZED_WORKERS)]
    return Table("Share of the workers' time in func, if chunksize is given (items of 1 ms)", head, rows)


def table_of_strategies(found):
    """Return the speed-up on tables of many keys."""
    rows = [
        [
            number(f"{workers:,}"),
            *(number(significant(speed_up(jobs[place], found))) for jobs in large_states().values()),
        ]
        for place, workers in enumerate(WORKERS[:6])
    ]
    title = f"Speed-up, where the partial of every item ({in_words(TABLE_ITEM)}) is a table of {KEYS:,} keys"
    return Table(title, ["workers", *(f"{strategy!r}" for strategy in STRATEGIES)], rows)


def table_of_real_runs(results, costs, found):
    """Compare the simulation with real runs."""
    rows = [
        [
            number(f"{job.slots}"),
            Cell(REAL[chunksize].removeprefix("poolagg, ")),
            number(significant(median(seconds))),
            number(significant(found[job].seconds)),
            number(significant(found[job].seconds / median(seconds))),
        ]
        for chunksize, jobs in real_jobs(results, costs).items()
        for job, seconds in jobs.items()
    ]
    head = ["workers", "chunks", "real s", "simulated s", "simulated / real"]
    return Table(f"Items that sleep {in_words(NAP)} on a real pool, and simulated", head, rows)


def speed_up(job, found):
    return found[job].efficiency * job.slots


def all_charts(results):
    """Draw the same, if no constant is missing."""
    costs = Costs.found(results)
    if costs is None:
        return {}
    found = everything(results, costs)
    return {
        "simulation-efficiency": chart_of_efficiency(found),
        "simulation-parent": chart_of_parent(found),
        "simulation-chunks": chart_of_chunks(found),
        "simulation-numbers": chart_of_strategies(
            f"How many workers can one parent feed? Cheap items ({in_words(2e-6)}), each of which gives a number",
            numbers(),
            found,
        ),
        "simulation-tables": chart_of_strategies(table_of_strategies(found).title, large_states(), found),
        "simulation-real": chart_of_real_runs(results, costs, found),
    }


SHARE = {share / 5: f"{20 * share} %" for share in range(6)}
WORKERS_AXIS = Axis("workers", log=True, ticks={workers: f"{workers:,}" for workers in WORKERS})
CHUNK_COLOURS = COLOURS[:3]
FIRST = (
    "Simulated: the first second (of items of 1 s: the first three) of a run without end, from a cold start; "
    "with almost no work done, chunks still have one item when it ends."
)


def item_lines(found, value):
    return [
        Line(f"items of {in_words(item)}", [(job.slots, value(found[job])) for job in jobs])
        for item, jobs in by_item().items()
    ]


def chart_of_efficiency(found):
    drawn = item_lines(found, lambda outcome: outcome.efficiency)
    ideal = Line("ideal", [(1, 1), (1000, 1)], "ideal")
    y = Axis("share of the workers' time spent in func", ticks=SHARE, limits=(0, 1.05))
    return lines(
        "How many workers can one parent feed? Efficiency against workers", WORKERS_AXIS, y, [ideal, *drawn], FIRST
    )


def chart_of_parent(found):
    drawn = item_lines(found, lambda outcome: outcome.parent)
    limit = Line("no time left", [(1, 1), (1000, 1)], "ideal")
    y = Axis("share of its time in which the parent is busy", ticks=SHARE, limits=(0, 1.05))
    return lines(
        "How many workers can one parent feed? The load of the parent", WORKERS_AXIS, y, [limit, *drawn], FIRST
    )


def chart_of_chunks(found):
    """Draw efficiency by the given size and, as dots, the scheduler's choice."""
    drawn = [Line("ideal", [(0.01, 1), (3, 1)], "ideal")]
    for colour, (workers, jobs) in zip(CHUNK_COLOURS, by_size().items(), strict=True):
        points = [(size / 1000, found[job].efficiency) for size, job in zip(SIZES, jobs, strict=True)]
        picked = found[endless(workers, 1e-3)]
        drawn.append(Line(f"{workers} workers, chunksize given", points, colour=colour))
        drawn.append(
            Line(
                f"{workers} workers, left to the scheduler",
                [(picked.chunk / 1000, picked.efficiency)],
                "dots",
                colour=colour,
            )
        )
    x = Axis("work in a chunk", log=True, ticks={size / 1000: in_words(size / 1000) for size in SIZES})
    y = Axis("share of the workers' time spent in func", ticks=SHARE, limits=(0, 1.05))
    note = "Simulated: items of 1 ms; the first second, or the time of four chunks, of a run without end."
    return lines("How many workers can one parent feed? The effect of a larger chunksize", x, y, drawn, note)


def chart_of_strategies(title, sweep, found):
    most = max(job.slots for jobs in sweep.values() for job in jobs)
    ideal = Line("ideal", [(1, 1), (most, most)], "ideal")
    drawn = [
        Line(repr(strategy), [(job.slots, speed_up(job, found)) for job in jobs]) for strategy, jobs in sweep.items()
    ]
    ticks = {workers: f"{workers:,}" for workers in WORKERS if workers <= most}
    note = "Simulated: " + (
        f"whole runs of {TABLE_ITEMS} items a worker."
        if sweep == large_states()
        else "the first second of a run without end."
    )
    return lines(title, Axis("workers", True, ticks), Axis("speed-up", True, ticks), [ideal, *drawn], note)


def chart_of_real_runs(results, costs, found):
    by_chunks = real_jobs(results, costs)
    jobs = list(by_chunks[None] or by_chunks[1])
    ideal = Line("ideal", [(job.slots, job.items * job.item / job.slots) for job in jobs], "ideal")
    drawn = [
        line for place, one in enumerate(by_chunks.items()) for line in real_and_simulated(*one, COLOURS[place], found)
    ]
    x = Axis("workers", True, {job.slots: str(job.slots) for job in jobs})
    y = Axis("seconds", reads=lambda value: f"{value:g}", limits=(0, None))
    title = f"Does the simulation match real runs? Items that sleep {in_words(NAP)}, equally many for every worker"
    note = f"The real workers share {results.machine.get('cores', '?')} cores; the simulated have one each."
    return lines(title, x, y, [ideal, *drawn], note)


def real_and_simulated(chunksize, jobs, colour, found):
    name = REAL[chunksize].removeprefix("poolagg, ")
    yield Line(f"simulated, {name}", [(job.slots, found[job].seconds) for job in jobs], colour=colour)
    dots = [(job.slots, median(seconds)) for job, seconds in jobs.items()]
    spread = [(seconds[0], seconds[-1]) for seconds in jobs.values()]
    yield Line(f"real pool, {name}", dots, "dots", spread, colour)
