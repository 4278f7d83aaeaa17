"""Decide what becomes of the items that a dead worker had: a decision table, and the code that carries it out.

The worker had chunks, of which only the oldest can have begun, and it held items whose partials were in its state. The
pool reports how the worker died and names the *suspects* it knows. A *silent* death happened outside of any item.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple, TypeAlias

from poolagg._scheduler.items import ItemTracker
from poolagg._scheduler.messages import Cause, Fail, Failure, Instructions, Lost
from poolagg._scheduler.ranges import Interval, overlap
from poolagg._scheduler.slots import Slot
from poolagg._scheduler.suspects import SuspectTracker

__all__ = ["TABLE", "Case", "Decision", "Losses", "decide", "deciding_row"]


class Decision(Enum):
    """The treatment of the items of one chunk, or of items that the worker held."""

    REPEAT = "they run again as before: suspects alone, others with others"
    REMEMBER = "they run again; at the second silent death they are suspects"
    ISOLATE = "the suspects among them run alone, the others just run"
    CHARGE = "the attempt counts for the one suspect, the others just run"
    HALVE = "the halves run alone, for one of several is at fault"


class Case(NamedTuple):
    """The facts about the items of one chunk, or about items that the worker held."""

    held: bool = False
    """They had run, and their partials were in the worker's state."""
    oldest: bool = False
    """They are the chunk that the worker may have begun."""
    alone: bool = False
    """They ran as suspects: in batches of one, on a worker that held nothing."""
    named: bool = False
    """The pool suspects some of them."""
    one: bool = False
    """It suspects only one of them."""
    shared: bool = False
    """One death is the death of all workers, so that any chunk in flight may have caused it."""
    silent: bool = False
    """The worker died outside of any item."""
    packing: bool = False
    """The worker died while it pickled its state, so that all partials in it are suspect."""


Row: TypeAlias = tuple[dict[str, bool], Decision]

TABLE: tuple[Row, ...] = (
    ({"held": True, "silent": True}, Decision.REMEMBER),
    ({"held": True, "packing": True}, Decision.ISOLATE),
    ({"held": True}, Decision.REPEAT),
    ({"oldest": False, "silent": True}, Decision.REPEAT),
    ({"alone": False, "silent": True}, Decision.REMEMBER),
    ({"named": False}, Decision.REPEAT),
    ({"alone": True, "one": True}, Decision.CHARGE),
    ({"alone": True}, Decision.HALVE),
    ({"packing": True}, Decision.ISOLATE),
    ({"one": True, "shared": False}, Decision.CHARGE),
    ({}, Decision.ISOLATE),
)
"""The first row whose conditions all hold decides."""


def deciding_row(case: Case) -> int:
    """Return the number of the row that decides a case."""
    facts = case._asdict()
    return next(n for n, (conditions, _) in enumerate(TABLE) if conditions.items() <= facts.items())


def decide(case: Case) -> Decision:
    """Look a case up in the table.

    >>> decide(Case(oldest=True, named=True, one=True)).name, decide(Case(held=True)).name
    ('CHARGE', 'REPEAT')
    """
    return TABLE[deciding_row(case)][1]


class Losses:
    """Carries out the decisions, and ends the run after too many deaths that nothing explains."""

    def __init__(
        self, items: ItemTracker, suspects: SuspectTracker, instructions: Instructions, one_failure_domain: bool
    ) -> None:
        self._items = items
        self._suspects = suspects
        self._instructions = instructions
        self._one_failure_domain = one_failure_domain

    def lost(self, event: Lost, slot: Slot) -> None:
        """Run a dead worker's items again; charge an attempt only to a single suspect."""
        shared = self._one_failure_domain and not (slot.alone or event.certain)
        explained = shared
        for whole, suspect, case in list(_cases(event, slot, shared, self._items)):
            decision = decide(case)
            explained = explained or decision is not Decision.REPEAT
            match decision:
                case Decision.REPEAT if case.alone:
                    self._suspects.suspects.append(whole)
                case Decision.REPEAT:
                    self._items.wait(whole)
                case Decision.REMEMBER:
                    self._suspects.present_at_silent_death(whole)
                case _:
                    self._accuse(decision, whole, suspect, event.cause, event.error)
                    if self._items.is_probe(*whole):
                        self._suspects.probed(whole[0])
        if not explained and (deaths := self._suspects.unexplained(slot.chunks[0].start if slot.chunks else None)):
            self._instructions.fail(Fail(None, event.error, deaths, event.cause))

    def unreadable(self, whole: Interval, error: BaseException) -> None:
        """Search for the item at fault among items whose partials could not be pickled or unpickled together."""
        suspect = self._items.trimmed(*whole) or whole
        decision = Decision.CHARGE if _is_one(suspect) else Decision.HALVE
        self._accuse(decision, whole, suspect, "raised", error)

    def _accuse(
        self, decision: Decision, whole: Interval, suspect: Interval, cause: Cause, error: BaseException
    ) -> None:
        """Carry out the decision about the suspects; the other items of `whole` just run."""
        again = decision is Decision.CHARGE and self._suspects.charge(Failure(suspect[0], cause, error))
        if self._items.is_probe(*whole):  # its whole leaf runs again when all its probes are over
            if decision is Decision.HALVE:
                self._look_closer(whole, cause, error)
            return
        start, stop = self._items.whole_leaves(suspect)
        self._items.wait((whole[0], start), (stop, whole[1]))
        if decision is Decision.HALVE:
            self._look_closer((start, stop), cause, error)
        elif again or decision is Decision.ISOLATE:
            self._suspects.suspects.append((start, stop))
        else:
            self._items.wait((start, stop))

    def _look_closer(self, interval: Interval, cause: Cause, error: BaseException) -> None:
        if not self._suspects.look_closer(*interval):
            self._instructions.fail(Fail(None, error, 0, cause))


def _cases(event: Lost, slot: Slot, shared: bool, items: ItemTracker) -> Iterator[tuple[Interval, Interval, Case]]:
    """Yield each chunk and each held interval of a lost worker: its items, the suspects among them, and the case."""
    suspect, silent, packing = event.suspect, event.silent, event.packing and bool(slot.held)
    for interval in slot.held:
        yield interval, interval, Case(held=True, silent=silent, packing=packing)
    if suspect is None and shared and slot.chunks:
        suspect = slot.chunks[0].start, slot.chunks[0].stop
    for number, run in enumerate(slot.chunks):
        whole = run.start, run.stop
        part = None if suspect is None else items.trimmed(*overlap(suspect, whole))
        one = part is not None and _is_one(part)
        yield whole, part or whole, Case(False, not number, run.alone, part is not None, one, shared, silent, packing)


def _is_one(interval: Interval) -> bool:
    return interval[1] - interval[0] == 1
