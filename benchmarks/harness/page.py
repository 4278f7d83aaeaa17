"""One self-contained HTML page with the results of all suites: it embeds its pictures and loads nothing."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from benchmarks.harness.results import Entrant, Results
from benchmarks.harness.tables import MEANINGS, Table, as_html

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #22272e; background: #f4f6f8; margin: 0; }
main { max-width: 1320px; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 0 0 .3rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
section { background: white; border: 1px solid #e0e4e8; border-radius: 10px; padding: 1.4rem 1.6rem;
          margin: 1.6rem 0; }
nav a, a { color: #0b6e4f; }
nav { margin: .8rem 0 0; } nav a { margin-right: 1.2rem; }
img { max-width: 100%; display: block; margin: .6rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th { text-align: left; font-weight: 600; color: #6b7480; border-bottom: 2px solid #d5dae0; padding: .35rem .6rem;
     vertical-align: bottom; }
td { padding: .3rem .6rem; border-bottom: 1px solid #edf0f2; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.ours { color: #0b6e4f; font-weight: 700; }
td.bad { color: #a8321c; } td.none { color: #8a929b; }
.grid table { table-layout: fixed; min-width: 1150px; }
.grid th { padding: .35rem .3rem; } .grid th:first-child { width: 8.2rem; }
.grid td { font-size: 11.5px; line-height: 1.35; padding: .4rem; overflow-wrap: anywhere; }
.grid td.good { background: #cfe8d8; } .grid td.fair { background: #f3ecc2; }
.grid td.poor { background: #f6d5b4; } .grid td.bad { background: #efb8ae; color: inherit; }
.grid td.none { background: #eee; } .grid td { border: 2px solid white; }
.grid table.legend { width: auto; min-width: 0; margin-top: .8rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: 13px; }
dt { color: #6b7480; } dd { margin: 0; }
code { background: #eef1f4; padding: .1rem .35rem; border-radius: 4px; }
details { margin-top: 1rem; } summary { cursor: pointer; color: #0b6e4f; }
.idioms dt { font-weight: 600; color: #22272e; }
"""


def page(found: list[tuple[Results, list[Table], dict[str, bytes]]]) -> str:
    """Return the page: a section for each suite, with its charts, its tables and the machine."""
    links = "".join(f'<a href="#{results.suite}">{escape(results.suite)}</a>' for results, _, _ in found)
    sections = "".join(_section(*one) for one in found)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>poolagg: benchmarks</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><main><h1>What sharing costs</h1>"
        "<p>poolagg against every shared object and every peer. Each contestant ran in a fresh process, in the idiom "
        "of its own documentation, turn by turn with the others; its result was checked.</p>"
        f"<nav>{links}</nav>{sections}</main></html>\n"
    )


def _section(results: Results, tables: list[Table], charts: dict[str, bytes]) -> str:
    wordy = all(table.wordy for table in tables)  # the tables replace the picture, in a readable size
    pictures = "" if wordy else "".join(_picture(name, data) for name, data in charts.items())
    shown = "".join(_table(table) for table in tables)
    return (
        f'<section id="{results.suite}"><h2>{escape(results.question)}</h2>{_paragraphs(results.about)}'
        f"<p>To reproduce: <code>{escape(results.command)}</code></p>"
        f"{pictures}{shown}{_idioms(results.entrants)}"
        f"<h3>Measured on</h3><dl>{_options(results.machine.items())}</dl></section>"
    )


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part)


def _picture(name: str, data: bytes) -> str:
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{b64encode(data).decode()}">'


def _table(table: Table) -> str:
    legend = "".join(f'<td class="{grade}">{text}</td>' for grade, text in MEANINGS.items())
    colours = f'<div class="grid"><table class="legend"><tr>{legend}</tr></table></div>' if table.wordy else ""
    scroll = f'<div class="scroll{" grid" if table.wordy else ""}">{as_html(table)}</div>'
    return f"<h3>{escape(table.title)}</h3>{scroll}{colours}"


def _idioms(entrants: list[Entrant]) -> str:
    terms = _options((entrant.name, entrant.idiom) for entrant in entrants)
    return f'<details><summary>How each is written</summary><dl class="idioms">{terms}</dl></details>'


def _options(pairs: object) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)  # type: ignore[attr-defined]
