"""The bottleneck of a run, named and explained from a few numbers.

The workers and the parent share the work of a run. The busier of them is the limit, and its longest kind of work is
the bottleneck. Causes of idle workers come first: the start of a short run and, unless the parent is busy, a straggler
at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Bottleneck", "Diagnosis", "Shares", "diagnose"]

Bottleneck: TypeAlias = Literal[
    "map", "step", "reducer", "pickling", "items", "input", "scheduling", "straggler", "keys", "start", "nothing"
]

BUSY = 0.5
"""From this share of their time on, the workers or the parent are busy enough to be the limit."""

NEAR = 0.5
"""From this share of the parent's time on, twice as many workers would make the parent the limit."""

TAIL = 0.25
"""From this share of a run on, a tail in which a few workers had all the work is the bottleneck."""

STARTED = 0.25
"""From this share of a run on, its start is the bottleneck, if it took longer than the work."""

SHORT = 0.02
"""Seconds: a shorter run has no diagnosis."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time went: `elapsed` and `slowest` are in seconds; the others are shares of 1.

    Shares of the run: `starting` until the first item started, `tail` at the end, while half of the workers or more
    were idle, `final_stage` while workers merged partitions. Shares of the workers' time: `mapping`, `reducing` and
    `packing` (pickling their states). Shares of the parent's time: `pulling` the input, `pickling` its items,
    `receiving` and unpickling states, `merging`, and `scheduling` with all the rest.
    """

    elapsed: float
    workers: int = 1
    starting: float = 0.0
    mapping: float = 0.0
    reducing: float = 0.0
    packing: float = 0.0
    pulling: float = 0.0
    pickling: float = 0.0
    receiving: float = 0.0
    merging: float = 0.0
    scheduling: float = 0.0
    tail: float = 0.0
    final_stage: float = 0.0
    slowest: float = 0.0
    slowest_name: str = ""

    @property
    def busy(self) -> float:
        """The share of their time in which the workers worked."""
        return min(1.0, self.mapping + self.reducing + self.packing)

    @property
    def parent(self) -> float:
        """The share of its time in which the parent worked."""
        return min(1.0, self.pulling + self.pickling + self.receiving + self.merging + self.scheduling)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The bottleneck by name, and a few sentences: what it was, the numbers, what to do."""

    bottleneck: Bottleneck
    text: str


def diagnose(shares: Shares) -> Diagnosis:
    """Name and explain the bottleneck of a run.

    >>> import textwrap
    >>> diagnosis = diagnose(Shares(10.0, workers=8, mapping=0.25, merging=0.93))
    >>> diagnosis.bottleneck
    'reducer'
    >>> print(textwrap.fill(diagnosis.text, 110))
    The reducer is the limit: the parent merged 93 % of the time, and the workers were idle 75 % of theirs. More
    workers won't help. Give the reducer a merge, so that workers combine partials before they flush them, or make
    what the parent does for each partial cheaper.
    """
    if shares.elapsed < SHORT:
        return _short(shares)
    if shares.starting >= max(STARTED, (1 - shares.starting) * max(shares.parent, shares.busy)):
        return _start(shares)
    if shares.parent >= BUSY and shares.parent > shares.busy:
        return _parent(shares)
    if shares.tail >= TAIL:
        return _straggler(shares)
    if shares.final_stage >= BUSY:
        return _final_stage(shares)
    return _workers(shares) if shares.busy >= BUSY else _nothing(shares)


def percent(share: float) -> str:
    """Format a share for people."""
    return f"{100 * share:.0f} %"


def seconds(value: float) -> str:
    """Format a time for people.

    >>> seconds(0.00002), seconds(0.0012), seconds(0.25), seconds(12.5), seconds(4000)
    ('20 us', '1.2 ms', '250 ms', '12.5 s', '67 min')
    """
    if value < 0.0000995:
        return f"{1e6 * value:.0f} us"
    if value < 0.9995:
        return f"{1000 * value:.{1 if value < 0.00995 else 0}f} ms"
    return f"{value:.1f} s" if value < 600 else f"{value / 60:,.0f} min"


def _short(shares: Shares) -> Diagnosis:
    return Diagnosis("nothing", f"The run took {seconds(shares.elapsed)}, too short to tell what limited it.")


def _start(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "start",
        f"The start is the limit: of {seconds(shares.elapsed)}, {percent(shares.starting)} passed before the first "
        f"item started, more than the work took. For many short runs, keep the workers: with ProcessPool() as pool.",
    )


def _straggler(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "straggler",
        f"A straggler is the limit: at the end, for {percent(shares.tail)} of the time, at most half of the workers "
        f"had work left. The last to end: {shares.slowest_name}, in {seconds(shares.slowest)}. Put long items first "
        f"in the input, or split them.",
    )


def _final_stage(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "keys",
        f"Merging keys is the limit: after the last item, the workers merged states with many keys for "
        f"{percent(shares.final_stage)} of the time. Fewer keys would help: drop some with where(...), or make them "
        f"coarser with of(...).",
    )


def _nothing(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "nothing",
        f"Nothing stands out: the workers were busy {percent(shares.busy)} of the time, the parent "
        f"{percent(shares.parent)}. The rest of the time they waited for each other, for the input, or for other "
        f"programs on this machine.",
    )


def _workers(shares: Shares) -> Diagnosis:
    busy = f"the workers were busy {percent(shares.busy)} of the time"
    largest = max(shares.mapping, shares.reducing, shares.packing)
    if largest == shares.packing:
        return _pickling(shares)
    if largest == shares.reducing:
        return Diagnosis(
            "step",
            f"The reducer's step is the limit: {busy}, {percent(shares.reducing)} in step and "
            f"{percent(shares.mapping)} in func. More workers would help, if there are CPUs for them. Give the reducer "
            f"steps, its bulk form, or let func return less.{_saturation(shares)}",
        )
    return Diagnosis(
        "map",
        f"The map is the limit: {busy}, {percent(shares.mapping)} in func, as it should be. More workers would help, "
        f"if there are CPUs for them; so would a faster func.{_saturation(shares)}",
    )


def _saturation(shares: Shares) -> str:
    """Say how many workers the parent can feed, if it is near that; otherwise nothing."""
    if shares.parent < NEAR:
        return ""
    remedies = {
        shares.scheduling: "leave chunksize out, so that chunks are long enough",
        shares.pulling: "move work from the iterable into func",
        shares.pickling: "send less for each item",
        shares.receiving: "return less from func, or reduce in the workers, by a reducer with a merge",
        shares.merging: "give the reducer a merge, or merge in the workers, as strategy=Tree() does",
    }
    most = round(shares.workers * shares.busy / shares.parent)
    return (
        f" But the parent was busy {percent(shares.parent)} of the time: from about {max(shares.workers, most)} "
        f"workers on, more won't help. To make room for more, {remedies[max(remedies)]}."
    )


def _pickling(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "pickling",
        f"Pickling is the limit: the workers pickled their states {percent(shares.packing)} of the time, and the "
        f"parent received and unpickled them {percent(shares.receiving)}. More workers won't help. Return less from "
        f"func, or numpy arrays, which are sent in shared memory; or reduce in the workers, by a reducer with a merge.",
    )


def _parent(shares: Shares) -> Diagnosis:
    idle = f"the workers were idle {percent(1 - shares.busy)} of theirs. More workers won't help."
    largest = max(shares.pulling, shares.pickling, shares.receiving, shares.merging, shares.scheduling)
    if largest == shares.merging:
        return Diagnosis(
            "reducer",
            f"The reducer is the limit: the parent merged {percent(shares.merging)} of the time, and {idle} "
            f"Give the reducer a merge, so that workers combine partials before they flush them, or make what the "
            f"parent does for each partial cheaper.",
        )
    if largest == shares.receiving:
        return _pickling(shares)
    if largest == shares.pickling:
        return Diagnosis(
            "items",
            f"Pickling the items is the limit: it took the parent {percent(shares.pickling)} of the time, and {idle} "
            f"Send less: a path, an index or a slice instead of the data, and let func load it; share(...) for data "
            f"that every item needs.",
        )
    if largest == shares.pulling:
        return Diagnosis(
            "input",
            f"The input is the limit: the parent was pulling it {percent(shares.pulling)} of the time, and {idle} "
            f"Move work from the iterable into func; prefetch(iterable, n) pulls it on a separate thread.",
        )
    return Diagnosis(
        "scheduling",
        f"Scheduling is the limit: the parent scheduled chunks, or ran the program's own code between two results, "
        f"{percent(shares.scheduling)} of the time, and {idle} "
        f"Leave chunksize out, so that chunks are long enough, and do less between two results.",
    )
