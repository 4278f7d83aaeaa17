"""Report: a watcher that says where the time of a run went, in sentences, as a table, a page or a trace.

Rule: this module only words it. `statistics.py` adds up the events, `bottleneck.py` draws the conclusion,
`html_page.py` draws the page. `save` and `trace` write one file each.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from poolagg._report.bottleneck import Bottleneck, diagnose, percent, seconds
from poolagg._report.html_page import Sheet, fragment, page, trace
from poolagg._report.statistics import RunStatistics, WorkerStatistics
from poolagg._runtime.sizes import size
from poolagg.events import ParentMeasured, RunEvent, RunStarted

__all__ = ["Report"]

WIDTH = 80
"""Columns: every terminal has them."""

SHOWN = 8
"""Printed workers at most: of more, the busiest and the idlest. A page shows all."""

LINES = 4
"""Printed lines at most for the names of pool and reducer: the name of a dict of reducers is long."""

SLOWEST = 5
"""Slowest items that the report lists."""

SLOW = 0.004
"""Seconds: the report lists slower items only, since a batch takes two milliseconds anyway."""

NOTHING = "no run was watched yet: pass it in watch, as in aggregate(..., watch=report)"

COLUMNS = ("", "busy", "func", "step", "pickling", "idle", "chunks", "items", "sent")


class Report:
    """Where the time of a run went, and what limited it: a watcher to print, or to save as a page or a trace.

    `print(report)` fits a terminal, and a notebook shows `report` as tables. `report.bottleneck` is one word: "map",
    "step" (the reducer's, in the workers), "reducer" (in the parent), "pickling" (of results), "items" (pickling them),
    "input", "scheduling", "straggler" (a slow item at the end), "keys" (merging many), "start", or "nothing" (stands
    out). `report.diagnosis` explains it in sentences, with the numbers and what to do. A report costs one event for
    each chunk, and bounded memory. After several runs, it describes the last; you can print it during a run.

    >>> from poolagg import SerialPool, Sum, aggregate
    >>> import time
    >>> report = Report()
    >>> aggregate(lambda x: time.sleep(0.01) or x, range(20), Sum(), pool=SerialPool(), watch=report)
    190
    >>> report.bottleneck
    'map'
    >>> print(report.diagnosis)                                             # doctest: +ELLIPSIS
    The map is the limit: ...
    """

    def __init__(self) -> None:
        self._statistics: RunStatistics | None = None

    def __call__(self, event: RunEvent) -> None:
        """Add an event."""
        if isinstance(event, RunStarted):
            self._statistics = RunStatistics(event)
        elif self._statistics is not None:
            self._statistics.take(event)

    @property
    def bottleneck(self) -> Bottleneck:
        """The bottleneck of the run, in a word."""
        return "nothing" if self._statistics is None else diagnose(self._statistics.shares()).bottleneck

    @property
    def diagnosis(self) -> str:
        """The bottleneck in sentences: the numbers that show it, and what to do about it."""
        if self._statistics is None:
            return NOTHING
        return diagnose(self._statistics.shares()).text if self._statistics.workers else "Nothing ran."

    def save(self, path: str | PathLike[str]) -> None:
        """Write a self-contained page of HTML, with a timeline of each worker."""
        Path(path).write_text(page(self._sheet()), "utf-8")

    def trace(self, path: str | PathLike[str]) -> None:
        """Write a trace in JSON, for https://ui.perfetto.dev or chrome://tracing."""
        Path(path).write_text(trace(self._sheet()), "utf-8")

    def __repr__(self) -> str:
        return "Report()" if self._statistics is None else f"<Report of {_headline(self._statistics)}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the sentences and the tables, as `print` does."""
        sheet = self._sheet()
        return fragment(replace(sheet, rows=_few(sheet.rows)))

    def __str__(self) -> str:
        if self._statistics is None:
            return f"Report(): {NOTHING}"
        sheet = self._sheet()
        rows = _few(sheet.rows)
        text = [*_wrapped(sheet.headline), *_wrapped(sheet.what)[:LINES], "", *_wrapped(sheet.diagnosis), ""]
        text += [*_aligned([sheet.columns, *rows]), ""] if rows else []
        label = max((len(name) for name, _ in sheet.facts), default=0) + 2
        for name, fact in sheet.facts:
            text += _wrapped(name.ljust(label) + fact, " " * label)
        return "\n".join(text).rstrip()

    def _sheet(self) -> Sheet:
        stats = self._statistics
        if stats is None:
            return Sheet("no run", "", NOTHING, (), [], [])
        started = stats.started
        return Sheet(
            _headline(stats),
            ", ".join((started.pool, started.strategy, started.reducer)),
            self.diagnosis,
            COLUMNS,
            [
                _row(worker, stats.workers.get(worker, WorkerStatistics()), stats.window)
                for worker in sorted(_worker_numbers(stats))
            ],
            list(_facts(stats)),
            stats.timeline,
            started.at,
            stats.elapsed,
            [(death.worker, death.at, death.text) for death in stats.deaths],
            [(death.text, death.stack) for death in stats.deaths if death.stack is not None],
        )


# -- as text -----------------------------------------------------------------------------------------------------------


def _headline(stats: RunStatistics) -> str:
    total = stats.started.total
    of = f" of {total:,}" if total not in (None, stats.done) else ""
    workers = _count(stats.started.workers // stats.started.slots_per_worker, "worker")
    before = f" ({stats.started.done:,} before)" if stats.started.done else ""
    text = f"{_count(stats.done, 'item')}{of}{before} in {seconds(stats.elapsed)}, {workers}"
    if stats.ended is None:
        return f"{text}, so far"
    if stats.error:
        return f"{text}; it ended with {stats.error}"
    return f"{text}; it ended early, when the result was known" if stats.ended.early else text


def _facts(stats: RunStatistics) -> Iterable[tuple[str, str]]:
    shares, parent = stats.shares(), stats.parent
    if stats.workers and stats.ended:
        yield (
            "parent",
            ", ".join(
                f"{what} {percent(share)}"
                for what, share in [
                    ("pulling", shares.pulling),
                    ("pickling items", shares.pickling),
                    ("receiving", shares.receiving),
                    ("merging", shares.merging),
                    ("scheduling and the rest", shares.scheduling),
                ]
            ),
        )
    if stats.started.why:
        yield "strategy", f"{stats.started.strategy}: {stats.started.why}"
    if stats.merged:
        yield "merged", f"{_count(stats.merged, 'state')}, {size(stats.merged_bytes)}, in {seconds(stats.merging)}"
    if stats.final_merge is not None:
        yield "partition", f"workers merged {_count(stats.final_merge.parts, 'part')}, for {stats.final_merge.why}"
    if slowest := sorted((slow for slow in stats.slowest if slow.seconds > SLOW), reverse=True)[:SLOWEST]:
        yield "slowest", "; ".join(f"{slow}: {seconds(slow.seconds)}" for slow in slowest)
    if stats.queue.held_up > 0.01 * stats.elapsed:
        yield "held up", f"{stats.queue.slow} held up finished chunks behind it for {seconds(stats.queue.held_up)}"
    if parent.memory:
        yield "memory", f"at most {size(parent.memory)} in this process{_elsewhere(parent)}"
    if stats.checkpoints:
        share = percent(stats.checkpointing / max(stats.elapsed, 1e-9))
        took = f"in {seconds(stats.checkpointing)} ({share} of the time)"
        yield "checkpoint", f"written {stats.checkpoints:,} times {took}, {size(stats.checkpoint_bytes)}"
    yield from _troubles(stats)


def _elsewhere(parent: ParentMeasured) -> str:
    """Describe the memory of workers or, of an ended child, its peak.

    The system counts a forked child's peak from its parent's, so a smaller peak of its own is unknown.
    """
    if parent.workers_memory:
        return f", {size(parent.workers_memory)} in the largest worker"
    if parent.children_memory > parent.memory:
        return f", {size(parent.children_memory)} in the largest of its ended children"
    return ", and no more in any of its ended children" if parent.children_memory else ""


def _troubles(stats: RunStatistics) -> Iterable[tuple[str, str]]:
    if stats.retries:
        yield "retries", f"{_count(stats.retries, 'attempt')} failed and ran again"
    for death in stats.deaths:
        yield "lost", death.text
    if stats.lost:
        again = max(0, stats.ran - (stats.done - stats.started.done) - stats.skipped)
        most = "at most " if stats.ended and stats.ended.early else ""  # some ran, and were not needed any more
        yield (
            "again",
            f"{_count(stats.lost, 'worker')} died; {most}{again:,} items that they had not flushed ran again",
        )
    if stats.retired:
        yield "replaced", f"{_count(stats.retired, 'worker')} after a chunk, the last because {stats.retirement}"
    for failure in stats.failures:
        yield "failed", failure
    if stats.skipped > len(stats.failures):
        yield "failed", f"and {stats.skipped - len(stats.failures):,} more"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# -- as a table --------------------------------------------------------------------------------------------------------


def _worker_numbers(stats: RunStatistics) -> set[int]:
    return {*range(stats.started.workers), *stats.workers}


def _row(worker: int, stats: WorkerStatistics, window: float) -> tuple[str, ...]:
    busy, *parts = (min(1.0, part / window) for part in (stats.busy, stats.mapping, stats.reducing, stats.packing))
    shares = [percent(share) for share in (busy, *parts, 1 - busy)]
    return (f"worker {worker}", *shares, f"{stats.chunks:,}", f"{stats.items:,}", size(stats.nbytes))


def _few(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the rows of up to `SHOWN` workers; of more, those of the busiest and the idlest."""
    if len(rows) <= SHOWN:
        return list(rows)
    ranked = sorted(rows, key=lambda row: -int(row[1].split()[0]))
    half = SHOWN // 2
    return [*ranked[:half], (f"... {len(rows) - 2 * half} more",) + ("",) * (len(COLUMNS) - 1), *ranked[-half:]]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
