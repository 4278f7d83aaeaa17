"""Results as PNG charts, drawn by matplotlib, which is imported on first use.

A suite's `charts` is a function of its `Results`: `bars` (one chart a case) or `grid` (cells in colour).
"""

from __future__ import annotations

import io
import re
import textwrap
from typing import Any

from benchmarks.harness.results import Results, Standing, standings
from benchmarks.harness.tables import MEANINGS, significant
from benchmarks.harness.tables import grid as grid_table

OURS, OTHERS, WRONG = "#0b6e4f", "#9aa5b1", "#c8553d"
"""The colours of poolagg, of the others, and of wrong results."""

GRADES = {"good": "#cfe8d8", "fair": "#f3ecc2", "poor": "#f6d5b4", "bad": "#efb8ae", "none": "#eeeeee"}

INK, FAINT = "#22272e", "#6b7480"


def bars(results: Results) -> dict[str, bytes]:
    """Draw a bar chart for each case, fastest first: median, least and most, and the ratio to the reference."""
    found = {case: standings(results, case) for case in results.cases}
    return {
        f"{results.suite}-{slug(case)}": _bars(results, case, found[case])
        for case in results.cases
        if any(standing.times for standing in found[case])
    }


def slug(text: str) -> str:
    """Turn a text into a file name.

    >>> slug("10x10 matrix, 100 processes")
    '10x10-matrix-100-processes'
    """
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _bars(results: Results, case: str, found: list[Standing]) -> bytes:
    figure, axes = _figure(11, 1.5 + 0.32 * len(found))
    unit = results.unit_seconds
    timed = [(standing, standing.median / unit) for standing in found if standing.times]
    least, most = timed[0][1], timed[-1][1]
    log = most > 20 * least
    spread = [
        [middle - standing.times[0] / unit for standing, middle in timed],
        [standing.times[-1] / unit - middle for standing, middle in timed],
    ]
    middles, colours = [middle for _, middle in timed], [_colour(standing) for standing, _ in timed]
    axes.barh(range(len(timed)), middles, color=colours, height=0.72, log=log, xerr=spread, ecolor=INK,
              error_kw={"elinewidth": 0.9, "capsize": 2.5})  # fmt: skip
    start = least / 1.6 if log else 0
    axes.set_xlim(start, most * (25 if log else 1.4))
    for place, standing in enumerate(found):
        end = standing.times[-1] / unit if standing.times else start
        axes.annotate(_label(standing, unit), (end, place), (6, 0), textcoords="offset points", va="center",
                      fontsize=8.5, color=INK)  # fmt: skip
    _name_rows(axes, found)
    axes.set_xlabel(
        f"{results.unit}{' (log scale)' if log else ''}: {_turns(found)}; x: multiple of {results.reference}"
    )
    axes.set_title(f"{results.question}\n{case}", loc="left", fontsize=12, color=INK)
    _legend(axes, found)
    return _png(figure)


def _colour(standing: Standing) -> str:
    return WRONG if not standing.correct else OURS if standing.entrant.ours else OTHERS


def _label(standing: Standing, unit: float) -> str:
    if not standing.times:
        return textwrap.shorten(standing.outcome, 90)
    ratio = f"   x {significant(standing.ratio)}" if standing.ratio is not None else ""
    wrong = f"   {standing.outcome.partition(' (')[0].partition(':')[0]}" if not standing.correct else ""
    return significant(standing.median / unit) + ratio + wrong


def _turns(found: list[Standing]) -> str:
    turns = max(len(standing.times) for standing in found)
    return f"median of {turns} turns, with the least and the most" if turns > 1 else "one turn"


def _name_rows(axes: Any, found: list[Standing]) -> None:
    axes.set_yticks(range(len(found)), [standing.entrant.name for standing in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    for label, standing in zip(axes.get_yticklabels(), found, strict=True):
        label.set_color(OURS if standing.entrant.ours else INK)
        label.set_fontweight("bold" if standing.entrant.ours else "normal")


def _legend(axes: Any, found: list[Standing]) -> None:
    from matplotlib.patches import Patch

    meanings = {OURS: "poolagg", OTHERS: "right result", WRONG: "updates lost, or wrong result"}
    used = set(map(_colour, found))
    handles = [Patch(color=colour, label=text) for colour, text in meanings.items() if colour in used]
    axes.legend(handles=handles, loc="upper right", frameon=False, fontsize=9)


# -- the grid ----------------------------------------------------------------------------------------------------------


def grid(results: Results) -> dict[str, bytes]:
    """Draw the cells of the grid table, coloured by their grades."""
    table = grid_table(results)[0]
    columns, rows = len(table.head) - 1, len(table.rows)
    figure, axes = _figure(2.2 + 1.55 * columns, 1.4 + 0.72 * rows)
    for x, text in enumerate(table.head[1:]):
        axes.text(x + 0.5, -0.12, _filled(text, 18), ha="center", va="bottom", fontsize=9, color=INK)
    for y, (name, *cells) in enumerate(table.rows):
        ours = name.kind == "ours"
        axes.text(-0.08, y + 0.5, name.text, ha="right", va="center", fontsize=10, color=OURS if ours else INK,
                  fontweight="bold" if ours else "normal")  # fmt: skip
        for x, cell in enumerate(cells):
            axes.add_patch(_tile(x, y, GRADES.get(cell.kind, "white")))
            axes.text(x + 0.5, y + 0.5, _filled(cell.text, 23), ha="center", va="center", fontsize=7.4, color=INK)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, -0.9)
    axes.axis("off")
    _grade_legend(axes, {cell.kind for _, *cells in table.rows for cell in cells})
    axes.set_title(results.question, loc="left", fontsize=12, color=INK)
    return {results.suite: _png(figure)}


def _filled(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _grade_legend(axes: Any, used: set[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=GRADES[grade], label=text) for grade, text in MEANINGS.items() if grade in used]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), ncols=5, frameon=False, fontsize=9)


def _tile(x: float, y: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x + 0.02, y + 0.03), 0.96, 0.94, color=colour, linewidth=0)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=FAINT)
    axes.xaxis.label.set_color(FAINT)
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
