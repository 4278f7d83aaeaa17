"""The goals of the suite `limit` and their results: one table and one chart of all goals, and the times.

A goal holds if the median over the turns is at most its limit, and if every turn gave the right result.
"""

import io
import re
from dataclasses import dataclass
from statistics import median

from benchmarks.harness import Case, charts, tables
from benchmarks.harness.tables import Cell, Table, significant

OURS, SERIAL, POOL, APART = "poolagg", "serial", "multiprocessing.Pool", "loops side by side"
"""The contestants."""

BY_IDEAL, BY_POOL, MEBIBYTES, MILLISECONDS = "x ideal", "x Pool", "MiB", "ms"
"""The measures: poolagg's time divided by the loop's over the cores, or by Pool's; memory; time."""


@dataclass(frozen=True, kw_only=True)
class Goal(Case):
    """A case, and poolagg's limit for it."""

    most: float
    measure: str


# -- what was measured -------------------------------------------------------------------------------------------------


def grown(growth):
    """Note the parent's peak memory above the start, in bytes."""
    return "" if growth is None else f"parent +{growth / 2**20:.1f} MiB"


def mebibytes(note):
    """Read the number in such a note; None if it has none.

    >>> mebibytes(grown(3 << 19)), mebibytes("")
    (1.5, None)
    """
    found = re.match(r"parent \+([\d.]+) MiB", note)
    return float(found[1]) if found else None


def measured(results, goal):
    """Return one number for each turn, in the goal's measure, least first."""
    if goal.measure == MEBIBYTES:
        notes = (mebibytes(run.note) for run in results.of(goal.name, OURS) if run.correct)
        return sorted(found for found in notes if found is not None)
    if goal.measure == MILLISECONDS:
        return sorted(1e3 * seconds for seconds in times(results, goal, OURS).values())
    return by_ideal(results, goal, OURS) if goal.measure == BY_IDEAL else ratios(results, goal, OURS, POOL)


def by_ideal(results, goal, contestant):
    """Return a contestant's times divided by the loop's over the cores, least first."""
    return [cores_of(results) * ratio for ratio in ratios(results, goal, contestant, SERIAL)]


def ratios(results, goal, contestant, other):
    """Return ratios turn by turn, least first."""
    found, others = times(results, goal, contestant), times(results, goal, other)
    return sorted(seconds / others[turn] for turn, seconds in found.items() if turn in others)


def times(results, goal, contestant):
    """Return seconds per unit, by turn, of right results."""
    return {run.turn: run.seconds / run.units for run in results.of(goal.name, contestant) if run.correct}


def cores_of(results):
    """Return the cores that the measuring process could use, as the results say."""
    return int(re.search(r"(\d+) usable", results.machine["cores"])[1])


def wrong(results, goal):
    """Return poolagg's runs that did not give the right result."""
    return [run for run in results.of(goal.name, OURS) if not run.correct]


def holds(results, goal):
    """Tell whether the goal holds; None without results."""
    if wrong(results, goal):
        return False
    found = measured(results, goal)
    return median(found) <= goal.most if found else None


def _number(goal, value):
    """Format a ratio with three digits; milliseconds and MiB with one decimal."""
    return significant(value) if goal.measure in (BY_IDEAL, BY_POOL) else f"{value:,.1f}"


# -- the tables --------------------------------------------------------------------------------------------------------

HEAD = ["work", "measured", "least - most", "target", "holds", "side by side"]
"""Return a row; its last cell is for loops on all cores that share only the machine's memory, and merge nothing."""


def reached(results, goals):
    """Return one table of all goals, then the usual ones without the lines of user code."""
    goals = [goal for goal in goals if goal.name in results.cases]
    kept = sum(holds(results, goal) is True for goal in goals)
    title = f"{results.question} {kept} of {len(goals)} targets hold ({cores_of(results)} cores)"
    return [Table(title, HEAD, [_row(results, goal) for goal in goals]), *map(_without_lines, tables.times(results))]


def _row(results, goal):
    found, side_by_side = measured(results, goal), by_ideal(results, goal, APART)
    return [
        Cell(goal.name),
        Cell(f"{_number(goal, median(found))} {goal.measure}" if found else "-", "number"),
        Cell(f"{_number(goal, found[0])} - {_number(goal, found[-1])}" if found else "-", "number"),
        Cell(f"at most {goal.most:g} {goal.measure}", "number"),
        _verdict(results, goal),
        Cell(f"{_number(goal, median(side_by_side))} {goal.measure}" if side_by_side else "", "number"),
    ]


def _verdict(results, goal):
    if bad := wrong(results, goal):
        what = {"done": "wrong result", "hung": "hangs", "failed": "fails"}.get(bad[0].status, bad[0].status)
        return Cell(f"no: {what} in {len(bad)} of {len(results.of(goal.name, OURS))} turns", "bad", bad[0].note)
    text, kind = {True: ("yes", "good"), False: ("no", "bad"), None: ("-", "none")}[holds(results, goal)]
    return Cell(text, kind)


def _without_lines(table):
    place = table.head.index("lines")
    head, *rows = [row[:place] + row[place + 1 :] for row in (table.head, *table.rows)]
    return Table(table.title, head, rows)


# -- the picture -------------------------------------------------------------------------------------------------------

LONGEST = 2.5
"""Multiples of the target: a longer bar is cut, and has its number."""


def picture(results, goals):
    """Draw a bar for each goal, relative to its target: up to the line it holds."""
    found = [(goal, numbers) for goal in goals if goal.name in results.cases and (numbers := measured(results, goal))]
    return {results.suite: _bars(results, found)} if found else {}


def _bars(results, found):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.7 + 0.34 * len(found)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for place, (goal, numbers) in enumerate(found):
        least, middle, most = (min(n / goal.most, LONGEST) for n in (numbers[0], median(numbers), numbers[-1]))
        axes.barh(place, middle, color=charts.OURS if holds(results, goal) else charts.WRONG, height=0.72,
                  xerr=[[middle - least], [most - middle]], ecolor=charts.INK,
                  error_kw={"elinewidth": 0.9, "capsize": 2.5})  # fmt: skip
        axes.annotate(_label(goal, numbers), (max(most, 1), place), (7, 0), textcoords="offset points", va="center",
                      fontsize=8.5, color=charts.INK)  # fmt: skip
    axes.axvline(1, color=charts.INK, linewidth=1.4)
    _dress(axes, results, [goal.name for goal, _ in found])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _label(goal, numbers):
    return f"{_number(goal, median(numbers))} of {goal.most:g} {goal.measure}"


def _dress(axes, results, names):
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, LONGEST + 0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"measured / target: at most 1 holds (green). Bars end at {LONGEST:g}. ideal: a loop's time, divided by "
        f"{cores_of(results)} cores",
        color=charts.FAINT,
    )
    axes.set_title(results.question, loc="left", fontsize=12, color=charts.INK)
