"""A report as a self-contained page of HTML, as a part of a notebook, and as a trace in the format that Perfetto reads.

Rule: values in, text out. The page has no script and loads nothing; it is light or dark as its reader prefers, and
stays readable with many workers and chunks, because it draws no more than a screen can show.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from poolagg._report.bottleneck import seconds
from poolagg._report.timeline import KINDS, PARENT, Timeline, TimeSpan, most_joined

__all__ = ["Sheet", "fragment", "page", "trace"]

BARS = 6_000
"""Bars on a page at most, approximately: a megabyte of text."""

CELLS = 400
"""Bars in one row at most: each is a few pixels wide."""

LEFT, WIDTH = 84, 916
"""Pixels of a row: its label and its bars."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """The content of a report: sentences, a table, facts by name, and the timeline."""

    headline: str
    what: str
    diagnosis: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    facts: Sequence[tuple[str, str]]
    timeline: Timeline = field(default_factory=Timeline)
    began: float = 0.0
    elapsed: float = 0.0
    deaths: Sequence[tuple[int, float, str]] = ()
    """Worker, time, and cause."""
    stacks: Sequence[tuple[str, str]] = ()
    """The cause of a death, and the Python stack of the worker at that moment."""


# -- the page ----------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #667080; --line: #dfe3ea; --back: #fff; --mark: #f4f6f9;
  --a: #2f7ed8; --b: #e8912d; --c: #b04fc0; --d: #1c9a8c; --e: #d64545; --f: #8a8f98; --g: #c9a400; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --soft: #98a1b0; --line: #333a45; --back: #15181d;
  --mark: #1d2229; --a: #5aa0f2; --b: #f0a850; --c: #cf7fdc; --d: #3fc3b3; --e: #f07070; --f: #9aa0a8; --g: #e3c53a; } }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 16px; margin: 28px 0 8px; }
.what { color: var(--soft); margin: 2px 0 16px; overflow-wrap: anywhere; }
.diagnosis { background: var(--mark); border-left: 4px solid var(--a); padding: 10px 14px; margin: 0; }
.scroll { overflow: auto; max-height: 70vh; border-bottom: 1px solid var(--line); }
svg { display: block; min-width: 640px; width: 100%; height: auto; font: 10px system-ui, sans-serif; }
svg text { fill: var(--soft); } .grid { stroke: var(--line); }
.func { fill: var(--a); } .step { fill: var(--b); } .pickling { fill: var(--c); }
.receiving { fill: var(--g); } .merging { fill: var(--d); } .checkpoint { fill: var(--f); } .death { fill: var(--e); }
.row { fill: var(--mark); } .bar:hover { opacity: .6; }
.legend span { margin-right: 14px; white-space: nowrap; font-size: 13px; }
.legend svg { display: inline-block; width: 11px; min-width: 0; height: 11px; margin-right: 4px; }
.note { color: var(--soft); font-size: 13px; margin: 4px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
td, th { padding: 2px 14px 2px 0; text-align: right; border-bottom: 1px solid var(--line); font-weight: normal;
  white-space: nowrap; }
th { color: var(--soft); position: sticky; top: 0; background: var(--back); } tr > :first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
pre { background: var(--mark); padding: 10px 14px; overflow: auto; font-size: 13px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

COLOURS = {
    "func": "func",
    "step": "the reducer's step",
    "pickling": "pickling",
    "receiving": "the parent unpickles what it received",
    "merging": "the parent merges",
    "checkpoint": "the parent writes a checkpoint",
    "death": "a worker died",
}


def page(sheet: Sheet) -> str:
    """Return a page of HTML."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_escaped(sheet.headline)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            f'<h1>{_escaped(sheet.headline)}</h1>\n<p class="what">{_escaped(sheet.what)}</p>',
            f'<p class="diagnosis">{_escaped(sheet.diagnosis)}</p>',
            *_drawing(sheet),
            *_table(sheet),
            *_listed(sheet.facts),
            *_stacks(sheet.stacks),
            "</main>\n</body>\n</html>\n",
        ]
    )


def fragment(sheet: Sheet) -> str:
    """Return the sentences and tables for a notebook, which styles them; there is no timeline."""
    left = '<td style="text-align: left">'
    facts = [f"<tr>{left}{_escaped(name)}</td>{left}{_escaped(fact)}</td></tr>" for name, fact in sheet.facts]
    table = [_table_row("th", sheet.columns), *(_table_row("td", row) for row in sheet.rows)] if sheet.rows else []
    return "\n".join(
        [
            f"<div>\n<p><strong>{_escaped(sheet.headline)}</strong></p>\n<p>{_escaped(sheet.what)}</p>",
            f"<p>{_escaped(sheet.diagnosis)}</p>",
            *(f"<table>{''.join(rows)}</table>" for rows in (table, facts) if rows),
            "</div>",
        ]
    )


def _escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _table(sheet: Sheet) -> Iterator[str]:
    if sheet.rows:
        yield '<h2>Workers</h2>\n<div class="scroll"><table>'
        yield _table_row("th", sheet.columns)
        yield from (_table_row("td", row) for row in sheet.rows)
        yield "</table></div>"


def _table_row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_escaped(cell)}</{tag}>' for cell in cells)}</tr>"


def _listed(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    items = [f"<dt>{_escaped(name)}</dt><dd>{_escaped(fact)}</dd>" for name, fact in facts]
    if items:
        yield "<h2>Facts</h2>\n<dl>\n" + "\n".join(items) + "\n</dl>"


def _stacks(stacks: Iterable[tuple[str, str]]) -> Iterator[str]:
    for what, stack in stacks:
        yield f"<h2>{_escaped(what[:1].upper() + what[1:])}, at</h2>\n<pre>{_escaped(stack)}</pre>"


# -- the timeline ------------------------------------------------------------------------------------------------------


def _drawing(sheet: Sheet) -> Iterator[str]:
    workers = sheet.timeline.thinned(max(20, min(CELLS, BARS // max(1, len(sheet.timeline.workers)))))
    if not workers:
        return
    scale = WIDTH / max(sheet.elapsed, sheet.timeline.extent[1] - sheet.began, 1e-9)
    height = 20 if len(workers) <= 16 else 10
    order = sorted(workers, key=lambda worker: (worker != PARENT, worker))
    yield "<h2>Timeline</h2>"
    yield f'<p class="legend">{"".join(_legend(workers, sheet))}</p>'
    yield f'<div class="scroll"><svg viewBox="0 0 {LEFT + WIDTH} {height * len(order) + 20}" role="img">'
    yield f"<title>{_escaped('What each worker did when: one row for each')}</title>"
    yield from _axis(WIDTH / scale, scale, height * len(order))
    for number, worker in enumerate(order):
        yield from _row(worker, workers[worker], number * height, height, sheet.began, scale)
        for where, at, text in sheet.deaths:
            if where == worker:
                yield _death(LEFT + (at - sheet.began) * scale, number * height, height, text)
    yield "</svg></div>"
    if (joined := most_joined(workers)) > 1:
        yield (
            f'<p class="note">The timeline is thinned out to fit a page: a bar stands for up to {joined:,} chunks, and '
            f"its height for the share of the time that they took.</p>"
        )


def _legend(workers: dict[int, list[TimeSpan]], sheet: Sheet) -> Iterator[str]:
    drawn = [kind for worker, spans in workers.items() for kind, _ in _parts(worker, _sum(spans))]
    for kind, name in COLOURS.items():
        if kind in drawn or (kind == "death" and sheet.deaths):
            yield f'<span><svg viewBox="0 0 9 9"><rect class="{kind}" width="9" height="9"/></svg>{name}</span>'


def _sum(spans: Sequence[TimeSpan]) -> TimeSpan:
    a, b, c = (sum(parts) for parts in zip(*(span.parts for span in spans), strict=True))
    return spans[0]._replace(parts=(a, b, c))


def _parts(worker: int, span: TimeSpan) -> list[tuple[str, float]]:
    return [(kind, part) for kind, part in zip(KINDS[worker == PARENT], span.parts, strict=True) if part > 0]


def _axis(elapsed: float, scale: float, bottom: int) -> Iterator[str]:
    step = nice(elapsed / 6)
    for n in range(int(elapsed / step + 1e-9) + 1):
        x = LEFT + n * step * scale
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>'
        anchor = "end" if x > LEFT + WIDTH - 20 else "middle"
        yield f'<text x="{x:.1f}" y="{bottom + 13}" text-anchor="{anchor}">{seconds(n * step) if n else "0"}</text>'


def nice(step: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten.

    >>> [nice(step) for step in (0.03, 0.7, 2.1, 30)]
    [0.05, 1.0, 5.0, 50.0]
    """
    power: float = 10.0 ** math.floor(math.log10(step))
    return round(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9)), 12)


def _row(worker: int, spans: Sequence[TimeSpan], top: int, height: int, began: float, scale: float) -> Iterator[str]:
    inside = height - 2
    label = "parent" if worker == PARENT else f"worker {worker}"
    yield f'<text x="0" y="{top + height / 2 + 3:.1f}">{label}</text>'
    yield f'<rect class="row" x="{LEFT}" y="{top + 1}" width="{WIDTH}" height="{inside}"/>'
    for span in spans:
        x, width = LEFT + (span.began - began) * scale, max(0.7, (span.ended - span.began) * scale)
        whole = max(span.ended - span.began, sum(span.parts), 1e-12)
        bottom = top + 1.0 + inside
        bars = []
        for kind, part in _parts(worker, span):
            tall = inside * part / whole
            bottom -= tall
            bars.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{bottom:.1f}" width="{width:.1f}" height="{max(tall, 0.3):.1f}"/>'
            )
        if bars:
            yield f'<g class="bar"><title>{_told(worker, span, began)}</title>{"".join(bars)}</g>'


def _told(worker: int, span: TimeSpan, began: float) -> str:
    parts = ", ".join(f"{kind} {seconds(part)}" for kind, part in _parts(worker, span))
    at = f"at {seconds(span.began - began)} for {seconds(span.ended - span.began)}"
    if worker == PARENT:
        return f"{span.chunks:,} times, {at}: {parts}" if span.chunks > 1 else f"{at}: {parts}"
    items = f"items {span.start:,} to {span.stop - 1:,}, " if span.stop > span.start else ""
    return f"{items}{f'{span.chunks:,} chunks, ' if span.chunks > 1 else ''}{at}: {parts}"


def _death(x: float, top: int, height: int, text: str) -> str:
    middle, half = top + height / 2, min(5.0, height / 2)
    points = f"{x:.1f},{middle - half:.1f} {x + half:.1f},{middle + half:.1f} {x - half:.1f},{middle + half:.1f}"
    return f'<polygon class="death" points="{points}"><title>{_escaped(text)}</title></polygon>'


# -- the trace ---------------------------------------------------------------------------------------------------------


def trace(sheet: Sheet) -> str:
    """Return a trace in the Trace Event Format: times in microseconds from the start of the run."""
    events: list[dict[str, Any]] = [_named("process_name", 0, sheet.headline)]
    for worker, spans in sorted(sheet.timeline.workers.items()):
        events.append(_named("thread_name", worker + 1, "parent" if worker == PARENT else f"worker {worker}"))
        for span in spans:
            events += _traced(worker, span, sheet.began)
    for worker, at, text in sheet.deaths:
        ts = 1e6 * (at - sheet.began)
        events.append({"name": text, "cat": "death", "ph": "i", "ts": ts, "s": "t", "pid": 1, "tid": worker + 1})
    about = {"run": sheet.headline, "what": sheet.what, "diagnosis": sheet.diagnosis}
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about})


def _named(what: str, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": 1, "tid": tid, "args": {"name": name}}


def _traced(worker: int, span: TimeSpan, began: float) -> Iterator[dict[str, Any]]:
    """Yield the span and, within it, its parts one after another. Their real order is unknown."""
    place = {"ph": "X", "pid": 1, "tid": worker + 1}
    parts = _parts(worker, span)
    ts, dur = 1e6 * (span.began - began), 1e6 * (span.ended - span.began)
    about = dict(parts) | {"chunks": span.chunks}
    if worker != PARENT and span.stop > span.start:
        name = f"items {span.start} to {span.stop - 1}"
        about |= {"start": span.start, "stop": span.stop}
    else:
        name = " and ".join(kind for kind, _ in parts) or "nothing"
    yield {"name": name, "cat": "span", "ts": ts, "dur": dur, **place, "args": about}
    if len(parts) > 1:
        for kind, part in parts:
            share = min(1e6 * part, dur)
            yield {"name": kind, "cat": "part", "ts": ts, "dur": share, **place}
            ts, dur = ts + share, dur - share
