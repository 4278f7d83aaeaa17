"""Measurements, as values that go to JSON and come back, and statistics over them.

Tables, charts and the page are functions of `Results` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

Status = Literal["done", "failed", "hung", "missing"]


@dataclass(frozen=True)
class Run:
    """One run of one contestant on one case."""

    case: str
    contestant: str
    turn: int
    status: Status
    units: int = 1
    """The amount of work; times are shown per unit."""
    seconds: float | None = None
    correct: bool = False
    lost: int = 0
    note: str = ""
    grade: str = ""
    """The suite's grade of the outcome, for the colour of its cell: good, fair, poor or bad."""
    parent_memory: int | None = None
    children_memory: int | None = None
    left: int = 0
    """Processes that were still alive a second after the contestant ended."""


@dataclass(frozen=True)
class Entrant:
    """A contestant: its name, the idiom of its code, and the number of lines a user writes."""

    name: str
    idiom: str
    lines: int
    sound: bool = True
    """False: this idiom is known to lose updates or to fail, and the suite shows it."""

    @property
    def ours(self) -> bool:
        """Whether it is poolagg, which is highlighted."""
        return self.name.startswith("poolagg")


@dataclass(frozen=True)
class Results:
    """All results of one session of one suite."""

    suite: str
    question: str
    about: str
    unit: str
    unit_seconds: float
    reference: str
    command: str
    turns: int
    machine: dict[str, str]
    cases: list[str]
    entrants: list[Entrant]
    runs: list[Run] = field(repr=False)

    def save(self, path: Path) -> None:
        """Write the results as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read the results that `save` wrote."""
        data = json.loads(path.read_text("utf-8"))
        entrants = [Entrant(**entrant) for entrant in data.pop("entrants")]
        runs = [Run(**run) for run in data.pop("runs")]
        return cls(**data, entrants=entrants, runs=runs)

    def of(self, case: str, contestant: str) -> list[Run]:
        """Return the turns of one contestant on one case."""
        return [run for run in self.runs if (run.case, run.contestant) == (case, contestant)]

    def unsound(self) -> list[Run]:
        """Return the runs that went wrong although their contestant should get it right."""
        sound = {entrant.name for entrant in self.entrants if entrant.sound}
        return [run for run in self.runs if run.contestant in sound and run.status != "missing" and not run.correct]


@dataclass(frozen=True)
class Standing:
    """One contestant on one case, over all turns. Times are seconds per unit, over the turns that ended."""

    entrant: Entrant
    runs: list[Run] = field(repr=False)
    ratio: float | None
    """The median, over the turns, of its time divided by the reference's in the same turn."""

    @property
    def times(self) -> list[float]:
        """Seconds per unit, least first."""
        return sorted(run.seconds / run.units for run in self.runs if run.seconds is not None)

    @property
    def median(self) -> float:
        """Seconds per unit; infinite if no turn ended."""
        return median(self.times) if self.times else float("inf")

    @property
    def correct(self) -> bool:
        """Whether every turn gave the right result."""
        return all(run.correct for run in self.runs)

    @property
    def outcome(self) -> str:
        """The outcome in a few words: correct, or how many updates were lost, or what went wrong."""
        bad = [run for run in self.runs if not run.correct]
        return _in_words(bad, len(self.runs)) if bad else next((r.note for r in self.runs if r.note), "correct")

    def most(self, what: str) -> Any:
        """Return the maximum of a memory field over the turns, or None."""
        return max((value for run in self.runs if (value := getattr(run, what)) is not None), default=None)


def _in_words(bad: list[Run], turns: int) -> str:
    lost = [run.lost / run.units for run in bad if run.lost]
    some = f" in {len(bad)} of {turns} turns" if len(bad) < turns else ""
    if len(lost) == len(bad):
        return f"loses {_percent(median(lost))}{some}{_because(bad)}"
    worst = next(run for run in bad if not run.lost)
    word = {"hung": "hangs", "missing": "missing", "failed": "fails", "done": "wrong"}[worst.status]
    return f"{word}{some}: {worst.note}" if worst.note else word + some


def _because(bad: list[Run]) -> str:
    note = next((run.note for run in bad if run.note), "")
    return f" ({note})" if note else ""


def _percent(share: float) -> str:
    return "all" if share == 1 else f"{100 * share:.{0 if share >= 0.1 else 2}f} %"


def standings(results: Results, case: str) -> list[Standing]:
    """Return the participants of a case, fastest first; those without a time come last."""
    reference = {run.turn: run.seconds / run.units for run in _reference(results, case) if run.seconds}
    found = (
        Standing(entrant, runs, _ratio(runs, reference))
        for entrant in results.entrants
        if (runs := results.of(case, entrant.name))
    )
    return sorted(found, key=lambda standing: standing.median)


def _reference(results: Results, case: str) -> list[Run]:
    """Return the runs that ratios are taken to: of the first participant whose name begins as the reference's."""
    names = (entrant.name for entrant in results.entrants if entrant.name.startswith(results.reference))
    return next((runs for name in names if (runs := results.of(case, name))), [])


def _ratio(runs: Iterable[Run], reference: dict[int, float]) -> float | None:
    ratios = [run.seconds / run.units / reference[run.turn] for run in runs if run.seconds and run.turn in reference]
    return median(ratios) if ratios else None
