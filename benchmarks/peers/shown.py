"""The results of the suite `peers`: ratios to the ideal in a table and a chart, and the usual times."""

import io
import re
import textwrap
from math import log10, nan
from statistics import median

from benchmarks.harness import charts, tables
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


# -- the tables --------------------------------------------------------------------------------------------------------


def overview(results, jobs):
    """Return one table of the ratios to the ideal: a row for each contestant, a column for each job."""
    jobs = [job for job in jobs if job.name in results.cases and any(ratios(results, job).values())]
    columns = [ratios(results, job) for job in jobs]
    ours = {entrant.name: "ours" if entrant.ours else "" for entrant in results.entrants}
    names = sorted(ours, key=lambda name: _typical(name, columns))
    rows = [[Cell(name, ours[name]), *(_number(column[name]) for column in columns)] for name in names]
    return Table("Time by the ideal (one core's time / cores): 1 is perfect", ["", *(job.name for job in jobs)], rows)


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


def pictures(results, jobs):
    """Draw a map of all ratios to the ideal, and the usual bars for each job."""
    compared = [job for job in jobs if job.name in results.cases and any(ratios(results, job).values())]
    overview = {results.suite: overview_of(results, compared)} if compared else {}
    return {**overview, **charts.bars(results)}


def overview_of(results, jobs):
    """Draw a row for each contestant, a column for each job; green is at the ideal, red is ten times and more."""
    from matplotlib.figure import Figure

    columns = [ratios(results, job) for job in jobs]
    names = sorted((entrant.name for entrant in results.entrants), key=lambda name: _typical(name, columns))
    figure = Figure(figsize=(2.6 + 1.05 * len(jobs), 1.9 + 0.38 * len(names)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.pcolormesh([[_shade(column[name]) for column in columns] for name in names], cmap="RdYlGn_r", vmin=-0.35,
                    vmax=1.35, edgecolors="white", linewidth=2, alpha=0.75)  # fmt: skip
    for y, name in enumerate(names):
        for x, column in enumerate(columns):
            axes.text(x + 0.5, y + 0.5, _number(column[name]).text, ha="center", va="center", fontsize=9)
    _name(axes, names, jobs)
    title = f"{results.question}\nTime by the ideal (one core's time / cores): 1 is perfect"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _typical(name, columns):
    found = [column[name] for column in columns if column[name] is not None]
    return median(found) if found else float("inf")


def _shade(ratio):
    """Return the logarithm, up to ten times."""
    return nan if ratio is None else min(1, max(0, log10(ratio)))


def _name(axes, names, jobs):
    axes.set_yticks([y + 0.5 for y in range(len(names))], names)
    axes.set_xticks([x + 0.5 for x in range(len(jobs))], [textwrap.fill(job.name, 16) for job in jobs], fontsize=8.5)
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for label in axes.get_yticklabels():
        ours = label.get_text().startswith("poolagg")
        label.set(color=charts.OURS if ours else charts.INK, fontweight="bold" if ours else "normal")
