"""Runs a suite: every contestant on every case, turn by turn, each in a fresh process under a keeper.

Turns are interleaved (A B C A B C), so that a machine that slows down affects all contestants. The harness does not
retry a missing contestant.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.harness.results import Results, Run
from benchmarks.harness.suite import Case, Contestant, Scale, Suite

ROOT = Path(__file__).parent.parent.parent

Job = tuple[int, Case, Contestant]


def measure(
    suite: Suite,
    scale: Scale = "full",
    turns: int = 5,
    only: Callable[[Contestant], bool] = lambda _: True,
    tell: Callable[[str], None] = lambda _: None,
    command: str = "",
) -> Results:
    """Run a suite and return its results; `tell` gets a line for each run."""
    jobs = list(_jobs(suite, scale, turns, only))
    missing: set[tuple[str, str]] = set()
    described = machine.describe(_packages(suite))

    def perform(number: int, job: Job) -> Run | None:
        turn, case, contestant = job
        if (case.name, contestant.name) in missing:
            return None
        run = _run(suite, scale, job)
        if run.status == "missing":
            missing.add((case.name, contestant.name))
        tell(f"{number:4d}/{len(jobs)}  {case.name}, turn {turn + 1}: {contestant.name}: {_said(run)}")
        return run

    with ThreadPoolExecutor(suite.at_once) as threads:
        runs = [run for run in threads.map(perform, range(1, len(jobs) + 1), jobs) if run is not None]
    cases = list(dict.fromkeys(case.name for _, case, _ in jobs))
    entrants = [contestant.entrant() for contestant in suite.contestants if only(contestant)]
    return Results(
        suite.name, suite.question, suite.about, *suite.unit, suite.reference, command, turns, described, cases,
        entrants, runs,
    )  # fmt: skip


def _jobs(suite: Suite, scale: Scale, turns: int, only: Callable[[Contestant], bool]) -> Iterator[Job]:
    for case in suite.cases(scale):
        for turn in range(turns):
            for contestant in suite.contestants:
                if only(contestant) and contestant.takes_part(case):
                    yield turn, case, contestant


def _run(suite: Suite, scale: Scale, job: Job) -> Run:
    turn, case, contestant = job
    task = {
        "suite": suite.module, "contestant": contestant.name, "case": case.name, "scale": scale,
        "limit": case.limit + contestant.patience, "memory": suite.memory,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.harness.keeper", json.dumps(task)]
    # The keeper ends the run when its standard input does: when this process goes, whichever way.
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        report = json.loads(keeper.stdout.read())
    report.setdefault("note", "")
    if report["status"] == "hung":
        report["note"] = report["note"] or f"still running after {task['limit']:g} s"
    return Run(case.name, contestant.name, turn, **report)


def _said(run: Run) -> str:
    seconds = f"{run.seconds:.3f} s" if run.seconds is not None else run.status
    lost = f", lost {run.lost} of {run.units}" if run.lost else ""
    return f"{seconds}{lost}{', ' + run.note if run.note else ''}"


def _packages(suite: Suite) -> list[str]:
    needs = [module.partition(".")[0] for contestant in suite.contestants for module in contestant.needs]
    servers = [contestant.server.__name__.replace("_", "-") for contestant in suite.contestants if contestant.server]
    return [*needs, *servers, "numpy"]
