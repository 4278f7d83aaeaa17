"""Results as tables, for the terminal and for the page.

A suite's `tables` is a function of its `Results`: `times` (one table for each case, fastest first) or `grid` (one row
for each contestant, one column for each case, each cell in words).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from benchmarks.harness.results import Results, Run, Standing, standings

MEANINGS = {
    "good": "as one would wish",
    "fair": "second best",
    "poor": "leaves the rest to you",
    "bad": "hangs, or goes wrong",
    "none": "not there",
}
"""The meanings of the grades of an outcome."""


@dataclass(frozen=True)
class Cell:
    """A text and its class on the page: ours, number, good, fair, poor, bad, none."""

    text: str
    kind: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A title, a head, and rows of cells."""

    title: str
    head: list[str]
    rows: list[list[Cell]]

    @property
    def wordy(self) -> bool:
        """Whether it has no numbers."""
        return not any(cell.kind == "number" for row in self.rows for cell in row)


def times(results: Results) -> list[Table]:
    """Return a table for each case: median, ratio to the reference, result, lines of user code."""
    return [_times(results, case) for case in results.cases]


def _times(results: Results, case: str) -> Table:
    found = standings(results, case)
    columns = [column for column in _columns(results) if column.show is None or any(map(column.show, found))]
    rows = [[column.cell(standing) for column in columns] for standing in found]
    return Table(case, [column.head for column in columns], rows)


@dataclass(frozen=True)
class _Column:
    head: str
    cell: Callable[[Standing], Cell]
    show: Callable[[Standing], object] | None = None
    """The column appears if this is true of any contestant."""


def _columns(results: Results) -> list[_Column]:
    return [
        _Column("contestant", _name),
        _Column(f"median {results.unit}", lambda s: _time(s.median, results, bool(s.times))),
        _Column("least - most", lambda s: _range(s, results)),
        _Column("x poolagg", lambda s: Cell(significant(s.ratio) if s.ratio else "-", "number")),
        _Column("result", _outcome),
        _Column("lines", lambda s: Cell(str(s.entrant.lines), "number")),
        _Column("units", lambda s: Cell(f"{s.runs[0].units:,}", "number"), lambda s: s.runs[0].units > 1),
        _Column("parent MiB", lambda s: _mebibytes(s.most("parent_memory")), lambda s: s.most("parent_memory")),
        _Column("children MiB", lambda s: _mebibytes(s.most("children_memory")), lambda s: s.most("parent_memory")),
        _Column("left behind", lambda s: Cell(str(s.most("left")), "number"), lambda s: s.most("left")),
    ]


def _name(standing: Standing) -> Cell:
    return Cell(standing.entrant.name, "ours" if standing.entrant.ours else "", standing.entrant.idiom)


def _outcome(standing: Standing) -> Cell:
    missing = all(run.status == "missing" for run in standing.runs)
    return Cell(standing.outcome, "none" if missing else "good" if standing.correct else "bad")


def _range(standing: Standing, results: Results) -> Cell:
    if not standing.times:
        return Cell("-", "number")
    low, high = (_time(time, results).text for time in (standing.times[0], standing.times[-1]))
    return Cell(f"{low} - {high}", "number")


def _time(seconds: float, results: Results, there: bool = True) -> Cell:
    return Cell(significant(seconds / results.unit_seconds) if there else "-", "number")


def _mebibytes(amount: int | None) -> Cell:
    return Cell("-" if amount is None else f"{amount / 2**20:,.0f}", "number")


def significant(value: float) -> str:
    """Format a number with three digits, never in scientific notation.

    >>> significant(0.01234), significant(1.5), significant(12345.6)
    ('0.0123', '1.50', '12,346')
    """
    if value >= 100:
        return f"{value:,.0f}"
    digits = next((digits for digits, least in enumerate((10, 1, 0.1, 0.01), 1) if value >= least), 5)
    return f"{value:.{digits}f}"


# -- in words ----------------------------------------------------------------------------------------------------------


def grid(results: Results) -> list[Table]:
    """Return one table: a row for each contestant, a column for each case, and the outcome in each cell."""
    rows = [
        [
            Cell(entrant.name, "ours" if entrant.ours else "", entrant.idiom),
            *(_happened(results.of(case, entrant.name)) for case in results.cases),
        ]
        for entrant in results.entrants
    ]
    return [Table(results.question, ["", *results.cases], rows)]


def _happened(runs: list[Run]) -> Cell:
    """Return the outcome of most turns, and their number if not all."""
    if not runs:
        return Cell("-", "none")
    texts = [in_words(run) for run in runs]
    most = max(texts, key=texts.count)
    run = runs[texts.index(most)]
    often = "" if texts.count(most) == len(texts) else f" ({texts.count(most)} of {len(texts)})"
    return Cell(most + often, grade(run))


def in_words(run: Run) -> str:
    """Return the note of a run, or its status."""
    return {"hung": "hangs", "missing": "not installed", "failed": f"fails: {run.note}"}.get(run.status) or run.note


def grade(run: Run) -> str:
    """Return good, fair, poor, bad or none."""
    return {"hung": "bad", "missing": "none", "failed": "bad"}.get(run.status) or run.grade


# -- shown -------------------------------------------------------------------------------------------------------------


def as_text(table: Table) -> str:
    """Format a table for a terminal."""
    return "\n".join([table.title, "", *(_by_column(table) if table.wordy else _aligned(table)), ""])


def _aligned(table: Table) -> list[str]:
    rows = [table.head, *([cell.text for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = [any(row[place].kind == "number" for row in table.rows) for place in range(len(widths))]
    return ["  ".join(map(_justified, row, widths, numeric)).rstrip() for row in rows]


def _justified(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _by_column(table: Table) -> list[str]:
    """Format one block for each column, since cells in words make lines too long for a terminal."""
    lines = []
    for place, title in list(enumerate(table.head))[1:]:
        lines += [title, *(f"    {row[0].text:22}{row[place].text}" for row in table.rows), ""]
    return lines


def as_markdown(table: Table) -> str:
    """Format a table for a README: numbers to the right, ours in bold.

    >>> print(as_markdown(Table("", ["", "s"], [[Cell("poolagg", "ours"), Cell("1.0", "number")]])))
    | | s |
    |---|--:|
    | **poolagg** | 1.0 |
    """
    numeric = [any(row[place].kind == "number" for row in table.rows) for place in range(len(table.head))]
    lines = [table.head, ["--:" if right else "---" for right in numeric]]
    lines += [[f"**{cell.text}**" if cell.kind == "ours" else cell.text for cell in row] for row in table.rows]
    rows = [" | ".join(texts) for texts in lines]
    head, rule, *rest = (f"| {row} |" for row in rows)
    return "\n".join([head.replace("|  |", "| |"), rule.replace(" ", ""), *rest])


def as_html(table: Table) -> str:
    """Format a table for the page."""
    head = "".join(f"<th>{escape(text)}</th>" for text in table.head)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(cell: Cell) -> str:
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "<wbr>", escape(cell.text))  # names of exceptions are long
    return f'<td class="{cell.kind}"{hint}>{text}</td>'
