"""A report as a watcher: run events in, and out comes where the time went, in words, as a table, a page, a trace.

Rule of the room: it only puts into words. What the events add up to is in `_tally.py`, what follows from it in
`_limit.py`, how it looks on a page in `_report_page.py`. `save` and `trace` write the one file they are told to.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from poolagg._limit import Limit, percent, seconds, verdict_on
from poolagg._report_page import Sheet, page, trace
from poolagg._sizes import size
from poolagg._tally import Hand, Tally
from poolagg.events import Accounted, RunEvent, RunStarted

__all__ = ["Report"]

WIDTH = 80
"""Columns of a terminal that everybody has."""

SHOWN = 8
"""Workers that are printed; of more, the busiest and the idlest. A page has them all."""

LINES = 4
"""Lines at most of what the pool and the reducer are called: a dict of reducers has a long name."""

SLOWEST = 5
"""Slowest items that are told."""

SLOW = 0.002
"""Seconds from which on items are worth telling: batches take a millisecond anyway."""

NOTHING = "no run was watched yet: pass it in watch, as in aggregate(..., watch=report)"

COLUMNS = ("", "busy", "func", "step", "pickling", "idle", "chunks", "items", "sent")


class Report:
    """Where the time of a run went, and what limited it: a watcher to print, to save as a page, or as a trace.

    `print(report)` fits a terminal. `report.limit` is one word: "map", "step" (the reducer's, in the workers),
    "reducer" (in the parent), "pickling" (of results), "items" (pickling them), "input", "orders", "skew", "keys"
    (merging many), "start", or "nothing" (that stands out). `report.verdict` says it in sentences, with the numbers and
    what to do. It costs what an event for each chunk costs, and bounded memory. If it watches several runs, one after
    another, it tells of the last; it can be looked at while a run goes on.

    >>> from poolagg import SerialPool, Sum, aggregate
    >>> import time
    >>> report = Report()
    >>> aggregate(lambda x: time.sleep(0.01) or x, range(20), Sum(), pool=SerialPool(), watch=report)
    190
    >>> report.limit
    'map'
    >>> print(report.verdict)                                             # doctest: +ELLIPSIS
    The map is the limit: ...
    """

    def __init__(self) -> None:
        self._tally: Tally | None = None

    def __call__(self, event: RunEvent) -> None:
        """Take in an event."""
        if isinstance(event, RunStarted):
            self._tally = Tally(event)
        elif self._tally is not None:
            self._tally.take(event)

    @property
    def limit(self) -> Limit:
        """What limited the run, in a word."""
        return "nothing" if self._tally is None else verdict_on(self._tally.shares()).limit

    @property
    def verdict(self) -> str:
        """What limited the run, the numbers that show it, and what to do about it."""
        if self._tally is None:
            return NOTHING
        return verdict_on(self._tally.shares()).text if self._tally.hands else "Nothing ran."

    def save(self, path: str | PathLike[str]) -> None:
        """Write a page of HTML, which needs nothing else: with a timeline of each worker."""
        Path(path).write_text(page(self._sheet()), "utf-8")

    def trace(self, path: str | PathLike[str]) -> None:
        """Write a trace in JSON, for https://ui.perfetto.dev or chrome://tracing."""
        Path(path).write_text(trace(self._sheet()), "utf-8")

    def __repr__(self) -> str:
        return "Report()" if self._tally is None else f"<Report of {_headline(self._tally)}>"

    def __str__(self) -> str:
        if self._tally is None:
            return f"Report(): {NOTHING}"
        sheet = self._sheet()
        rows = _few(sheet.rows)
        text = [*_wrapped(sheet.headline), *_wrapped(sheet.what)[:LINES], "", *_wrapped(sheet.verdict), ""]
        text += [*_aligned([sheet.columns, *rows]), ""] if rows else []
        label = max((len(name) for name, _ in sheet.facts), default=0) + 2
        for name, fact in sheet.facts:
            text += _wrapped(name.ljust(label) + fact, " " * label)
        return "\n".join(text).rstrip()

    def _sheet(self) -> Sheet:
        tally = self._tally
        if tally is None:
            return Sheet("no run", "", NOTHING, (), [], [])
        started = tally.started
        return Sheet(
            _headline(tally),
            ", ".join((started.pool, started.strategy, started.reducer)),
            self.verdict,
            COLUMNS,
            [_row(lane, tally.hands.get(lane, Hand()), tally.window) for lane in sorted(_lanes(tally))],
            list(_facts(tally)),
            tally.timeline,
            started.at,
            tally.elapsed,
            [(death.lane, death.at, death.text) for death in tally.deaths],
        )


# -- in words ----------------------------------------------------------------------------------------------------------


def _headline(tally: Tally) -> str:
    total = tally.started.total
    of = f" of {total:,}" if total not in (None, tally.done) else ""
    workers = _count(tally.started.workers // tally.started.lanes_per_worker, "worker")
    before = f" ({tally.started.done:,} before)" if tally.started.done else ""
    text = f"{_count(tally.done, 'item')}{of}{before} in {seconds(tally.elapsed)}, {workers}"
    if tally.ended is None:
        return f"{text}, so far"
    return f"{text}; it ended with {tally.error}" if tally.error else text


def _facts(tally: Tally) -> Iterable[tuple[str, str]]:
    shares, account = tally.shares(), tally.account
    if tally.hands and tally.ended:
        yield (
            "parent",
            ", ".join(
                f"{what} {percent(share)}"
                for what, share in [
                    ("pulling", shares.pulling),
                    ("pickling items", shares.pickling),
                    ("receiving", shares.receiving),
                    ("merging", shares.merging),
                    ("orders and the rest", shares.orders),
                ]
            ),
        )
    if tally.started.why:
        yield "strategy", f"{tally.started.strategy}: {tally.started.why}"
    if tally.merged:
        yield "merged", f"{_count(tally.merged, 'state')}, {size(tally.merged_bytes)}, in {seconds(tally.merging)}"
    if tally.partitioned is not None:
        yield "partition", f"workers merged {_count(tally.partitioned.parts, 'part')}, for {tally.partitioned.why}"
    if slowest := sorted((slow for slow in tally.slowest if slow.seconds > SLOW), reverse=True)[:SLOWEST]:
        yield "slowest", "; ".join(f"{slow}: {seconds(slow.seconds)}" for slow in slowest)
    if tally.queue.held_up > 0.01 * tally.elapsed:
        yield "held up", f"{tally.queue.slow} held up what was done behind it for {seconds(tally.queue.held_up)}"
    if account.memory:
        yield "memory", f"at most {size(account.memory)} in this process{_elsewhere(account)}"
    if tally.checkpoints:
        share = percent(tally.checkpointing / max(tally.elapsed, 1e-9))
        took = f"in {seconds(tally.checkpointing)} ({share} of the time)"
        yield "checkpoint", f"written {tally.checkpoints:,} times {took}, {size(tally.checkpoint_bytes)}"
    yield from _troubles(tally)


def _elsewhere(account: Accounted) -> str:
    """An ended child had this process's peak from the start, as the system sees it; its own, if smaller, is unknown."""
    if account.workers_memory:
        return f", {size(account.workers_memory)} in the largest worker"
    if account.children_memory > account.memory:
        return f", {size(account.children_memory)} in the largest of its children that have ended"
    return ", and no more in any child of it that has ended" if account.children_memory else ""


def _troubles(tally: Tally) -> Iterable[tuple[str, str]]:
    if tally.retries:
        yield "retries", f"{_count(tally.retries, 'attempt')} failed and ran again"
    for death in tally.deaths:
        yield "lost", death.text
    if tally.lost:
        again = max(0, tally.ran - (tally.done - tally.started.done) - tally.skipped)
        yield "again", f"{_count(tally.lost, 'worker')} died; what they had not shipped, {again:,} items, ran again"
    if tally.retired:
        yield "replaced", f"{_count(tally.retired, 'worker')} after a chunk, the last because {tally.retirement}"
    for failure in tally.failures:
        yield "failed", failure
    if tally.skipped > len(tally.failures):
        yield "failed", f"and {tally.skipped - len(tally.failures):,} more"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# -- as a table --------------------------------------------------------------------------------------------------------


def _lanes(tally: Tally) -> set[int]:
    return {*range(tally.started.workers), *tally.hands}


def _row(lane: int, hand: Hand, window: float) -> tuple[str, ...]:
    busy, *parts = (min(1.0, part / window) for part in (hand.busy, hand.mapping, hand.reducing, hand.packing))
    shares = [percent(share) for share in (busy, *parts, 1 - busy)]
    return (f"worker {lane}", *shares, f"{hand.chunks:,}", f"{hand.items:,}", size(hand.nbytes))


def _few(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """All of few workers; of many the busiest and the idlest."""
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
