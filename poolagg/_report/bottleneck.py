"""What limited a run, in words: a function of a few numbers, and of nothing else.

A run has two kinds of hands: the workers, and the one parent. Who had the least leisure is the limit, and of what they
did that which took longest. What keeps workers from working comes first: the start of a short run, and, where the
parent had leisure, one item at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Bottleneck", "Diagnosis", "Shares", "diagnose"]

Bottleneck: TypeAlias = Literal[
    "map", "step", "reducer", "pickling", "items", "input", "orders", "skew", "keys", "start", "nothing"
]

BUSY = 0.5
"""The share of its time from which on somebody is busy enough to be the limit."""

TAIL = 0.25
"""The share of a run that is worth speaking of, in which a few workers had all the work there was."""

STARTED = 0.25
"""The share of a run from which on its start is worth speaking of, if it took longer than the work."""

SHORT = 0.02
"""Seconds in which nothing can be told."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time went: `elapsed` is in seconds, and so is `slowest`; the others are shares of 1.

    `starting` is the share of the run before the first item was begun, `tail` that at its end in which half of the
    workers or more had nothing left to do, `final_stage` that in which workers merged what was partitioned. Of the
    workers' time they spent `mapping`, `reducing` and `packing` (their states, to flush them), of the parent's it spent
    `pulling` the input, `pickling` its items, `receiving` what workers flushed (opening it included), `merging`, and on
    `orders` and the rest.
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
    orders: float = 0.0
    tail: float = 0.0
    final_stage: float = 0.0
    slowest: float = 0.0
    slowest_name: str = ""

    @property
    def busy(self) -> float:
        """The workers' share."""
        return min(1.0, self.mapping + self.reducing + self.packing)

    @property
    def parent(self) -> float:
        """The parent's."""
        return min(1.0, self.pulling + self.pickling + self.receiving + self.merging + self.orders)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The limit by name, and a few sentences: what it was, the numbers, what to do."""

    bottleneck: Bottleneck
    text: str


def diagnose(shares: Shares) -> Diagnosis:
    """What limited a run.

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
    return _workers(shares) if shares.busy >= BUSY else _nobody(shares)


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.0f} %"


def seconds(value: float) -> str:
    """A time as people read it.

    >>> seconds(0.00002), seconds(0.0012), seconds(0.25), seconds(12.5), seconds(4000)
    ('20 us', '1.2 ms', '250 ms', '12.5 s', '67 min')
    """
    if value < 0.0000995:
        return f"{1e6 * value:.0f} us"
    if value < 0.9995:
        return f"{1000 * value:.{1 if value < 0.00995 else 0}f} ms"
    return f"{value:.1f} s" if value < 600 else f"{value / 60:,.0f} min"


def _short(shares: Shares) -> Diagnosis:
    return Diagnosis("nothing", f"The run took {seconds(shares.elapsed)}, which is too short to tell what limited it.")


def _start(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "start",
        f"The start is the limit: of {seconds(shares.elapsed)}, {percent(shares.starting)} passed before the first "
        f"item was begun, which is more than the work took. For many short runs keep the workers: with ProcessPool() "
        f"as pool.",
    )


def _straggler(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "skew",
        f"Skew is the limit: at the end, for {percent(shares.tail)} of the time, at most half of the workers had "
        f"anything left to do. The last to end: {shares.slowest_name}, in "
        f"{seconds(shares.slowest)}. Put what takes long first in the input, or cut it into smaller items.",
    )


def _final_stage(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "keys",
        f"Merging keys is the limit: when all items were done, the workers' states had so many keys that merging them, "
        f"in the workers, took {percent(shares.final_stage)} of the time. Fewer keys would help: where(...) for what "
        f"is not wanted, of(...) for coarser keys.",
    )


def _nobody(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "nothing",
        f"Nothing stands out: the workers were busy {percent(shares.busy)} of the time, the parent "
        f"{percent(shares.parent)}. What is left they waited for each other, for the input, or for other programs on "
        f"this machine.",
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
            f"steps, its form in bulk, or let func return less.",
        )
    return Diagnosis(
        "map",
        f"The map is the limit: {busy}, {percent(shares.mapping)} in func. That is as it should be. More workers "
        f"would help, if there are CPUs for them; so would a quicker func.",
    )


def _pickling(shares: Shares) -> Diagnosis:
    return Diagnosis(
        "pickling",
        f"Pickling is the limit: the workers packed what they flush {percent(shares.packing)} of the time, and the "
        f"parent received and opened it {percent(shares.receiving)}. More workers won't help. Return less from func, "
        f"or numpy arrays, which travel in shared memory; or reduce in the workers, by a reducer with a merge.",
    )


def _parent(shares: Shares) -> Diagnosis:
    idle = f"the workers were idle {percent(1 - shares.busy)} of theirs. More workers won't help."
    largest = max(shares.pulling, shares.pickling, shares.receiving, shares.merging, shares.orders)
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
            f"Send less: a path, an index or a slice instead of the data, and have func load it; share(...) for what "
            f"every item needs.",
        )
    if largest == shares.pulling:
        return Diagnosis(
            "input",
            f"The input is the limit: the parent was pulling it {percent(shares.pulling)} of the time, and {idle} "
            f"Move work from the iterable into func; prefetch(iterable, n) pulls it on a thread of its own.",
        )
    return Diagnosis(
        "orders",
        f"The parent is the limit, but neither by merging nor by pulling: {percent(shares.orders)} of the time it gave "
        f"orders, or did what the program does between two results; {idle} "
        f"Leave chunksize out, so that chunks are long enough, and do less between two results.",
    )
