"""The results of the suite `peers`: ratios to the ideal in a table and a chart, and the usual times."""

import io
import re
import textwrap
from math import log10, nan
from statistics import median

from benchmarks.harness import charts, tables
from benchmarks.harness.jobs import THERE
from benchmarks.harness.results import standings
from benchmarks.harness.tables import Cell, Table, significant

# -- the ratio ---------------------------------------------------------------------------------------------------------


def ratios(results, job):
    """Return, by contestant, the median over the turns of its time divided by the ideal; None if there is no ideal."""
    ideal = _ideal(results, job)
    return {entrant.name: _ratio(results.of(job.name, entrant.name), ideal) for entrant in results.entrants}


def _ideal(results, job):
    """Return seconds per item, by turn: the loop's divided by the number of cores, but at least the parent's own."""
    cores = int(re.search(r"(\d+) usable", results.machine["cores"])[1])
    loop = [run for run in results.of(job.name, "serial") if run.seconds and job.ideal]
    return {run.turn: max(run.seconds / run.units / cores, job.floor) for run in loop}


def _ratio(runs, ideal):
    found = [run.seconds / run.units / ideal[run.turn] for run in runs if run.seconds and run.turn in ideal]
    return median(found) if found else None


def overheads(results, job):
    """Return, by contestant, the median over the turns of the seconds beyond the ideal, for all items of the job.

    A contestant that runs a part of the items has its seconds per item counted for all of them.
    """
    ideal = _ideal(results, job)
    units = max((run.units for run in results.of(job.name, "serial")), default=0)
    return {entrant.name: _beyond(results.of(job.name, entrant.name), ideal, units) for entrant in results.entrants}


def _beyond(runs, ideal, units):
    found = [(run.seconds / run.units - ideal[run.turn]) * units for run in runs if run.seconds and run.turn in ideal]
    return median(found) if found else None


# -- the tables --------------------------------------------------------------------------------------------------------


PANELS = {False: "Workers to be started", True: "Workers that are there"}
"""The title of each half of the jobs, by `Job.warm`."""

RATIO, SECONDS = "times the ideal (one core's time / cores)", "seconds beyond the ideal, for the whole job"


def overviews(results, jobs):
    """Return the ratios and the seconds beyond the ideal, for workers to be started and for those that are there."""
    halves = [(title, [job for job in jobs if job.warm == warm]) for warm, title in PANELS.items()]
    tables = [table(results, half, title) for title, half in halves for table in (overview, overview_of_seconds)]
    return [table for table in tables if table.head[1:]]


def overview(results, jobs, title=PANELS[False]):
    """Return one table of the ratios to the ideal: a row for each contestant, a column for each job."""
    return _overview(results, jobs, f"{title}: {RATIO}; 1 is perfect", ratios, _number)


def overview_of_seconds(results, jobs, title=PANELS[False]):
    """Return the same table of the seconds beyond the ideal."""
    return _overview(results, jobs, f"{title}: {SECONDS}", overheads, lambda one: Cell(_signed(one), "number"))


def _overview(results, jobs, title, measure, shown):
    jobs = _present(results, jobs)
    columns = [measure(results, job) for job in jobs]
    ours = {entrant.name: "ours" if entrant.ours else "" for entrant in results.entrants}
    names = ordered(results, jobs)
    rows = [[Cell(name, ours[name]), *(shown(column[name]) for column in columns)] for name in names]
    return Table(title, ["", *(_plain(job) for job in jobs)], rows)


def _present(results, jobs):
    return [job for job in jobs if job.name in results.cases and any(ratios(results, job).values())]


def _plain(job):
    return job.name.removesuffix(THERE)


def ordered(results, jobs):
    """Return the contestants that took part, by their median ratio over the jobs; who cannot do half of them, last."""
    columns = [ratios(results, job) for job in jobs]
    found = {entrant.name: [c[entrant.name] for c in columns if c[entrant.name]] for entrant in results.entrants}
    return sorted(
        (name for name, own in found.items() if own),
        key=lambda name: (len(found[name]) < len(jobs) / 2, median(found[name])),
    )


def _signed(seconds):
    if seconds is None:
        return "-"
    return f"{seconds:+.2f} s" if abs(seconds) < 9.95 else f"{seconds:+,.0f} s"


def compared(results, jobs, absent):
    """Return the usual tables of times, with the ratio to the ideal, and a row with the reason for each job not run."""
    by_name = {job.name: job for job in jobs}
    shown = zip(results.cases, tables.times(results), strict=True)
    return [_compared(results, by_name[case], table, absent) for case, table in shown]


def _compared(results, job, table, absent):
    place, found = table.head.index("x poolagg"), ratios(results, job)
    head = _inserted(table.head, place, "x ideal")
    names = [standing.entrant.name for standing in standings(results, job.name)]
    rows = [_inserted(row, place, _number(found[name])) for name, row in zip(names, table.rows, strict=True)]
    others = [entrant for entrant in results.entrants if entrant.name not in names]
    return Table(table.title, head, rows + [_absent(entrant, job, head, absent) for entrant in others])


def _inserted(row, place, cell):
    return [*row[:place], cell, *row[place:]]


def _number(ratio):
    return Cell("-" if ratio is None else significant(ratio), "number")


def _absent(entrant, job, head, absent):
    cells = {
        "contestant": Cell(entrant.name, "ours" if entrant.ours else "", entrant.idiom),
        "result": Cell(f"not run: {absent[entrant.name].get(job.name, '')}", "none"),
    }
    return [cells.get(column, Cell("-", "number")) for column in head]


# -- the pictures ------------------------------------------------------------------------------------------------------


IN_CHART = ("tiny items, from a range", "items of 100 µs", "skewed items, random order", "8 MB arrays",
            "word count, 1.6 M distinct", "histograms, numpy")  # fmt: skip
"""The jobs in the chart, one of each kind; the tables have all."""

ORDER = "Rows: by the median of all their ratios here, least first; those that cannot do half of the jobs come last."


def pictures(results, jobs):
    """Draw a map of the ratios to the ideal, and the usual bars for each job."""
    drawn = [job for job in _present(results, jobs) if _plain(job) in IN_CHART]
    overview = {results.suite: overview_of(results, drawn)} if drawn else {}
    return {**overview, **charts.bars(results)}


def overview_of(results, jobs):
    """Draw a row for each contestant and two panels of jobs; green is at the ideal, red is ten times and more."""
    from matplotlib.figure import Figure

    names = ordered(results, jobs)
    panels = [(title, half) for warm, title in PANELS.items() if (half := [job for job in jobs if job.warm == warm])]
    widths = [len(half) for _, half in panels]
    size = 4.2 + 1.05 * sum(widths), 2.6 + 0.46 * len(names)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for place, (axes, (title, half)) in enumerate(zip(grid, panels, strict=True)):
        _panel(axes, results, names, half)
        _name(axes, [] if place else names, len(names), half)
        axes.set_title(title, fontsize=12, fontweight="bold", color=charts.INK, pad=12)
    version = results.machine.get("python", "")
    text = f"Upper number: {RATIO}; 1 is perfect. Lower: {SECONDS}.\n{ORDER}"
    title = f"How near to the ideal do pools bring the same job?{f' ({version})' if version else ''}"
    figure.suptitle(f"{title}\n{text}", x=0.01, ha="left", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _panel(axes, results, names, jobs):
    columns = [(ratios(results, job), overheads(results, job)) for job in jobs]
    axes.pcolormesh([[_shade(ratio[name]) for ratio, _ in columns] for name in names], cmap="RdYlGn_r", vmin=-0.35,
                    vmax=1.35, edgecolors="white", linewidth=2, alpha=0.75)  # fmt: skip
    for y, name in enumerate(names):
        for x, (ratio, seconds) in enumerate(columns):
            there = ratio[name] is not None
            axes.text(x + 0.5, y + (0.34 if there else 0.5), _number(ratio[name]).text, ha="center", va="center",
                      fontsize=9, color=charts.INK)  # fmt: skip
            if there:
                axes.text(x + 0.5, y + 0.72, _signed(seconds[name]), ha="center", va="center", fontsize=7.5,
                          color=charts.INK)  # fmt: skip


def _shade(ratio):
    """Return the logarithm, up to ten times."""
    return nan if ratio is None else min(1, max(0, log10(ratio)))


def _name(axes, names, rows, jobs):
    axes.set_yticks([y + 0.5 for y in range(len(names))], names)
    axes.set_xticks([x + 0.5 for x in range(len(jobs))], [textwrap.fill(_plain(job), 13) for job in jobs], fontsize=8.5)
    axes.xaxis.tick_top()
    axes.set_ylim(rows, 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for label in axes.get_yticklabels():
        ours = label.get_text().startswith("poolagg")
        label.set(color=charts.OURS if ours else charts.INK, fontweight="bold" if ours else "normal")
