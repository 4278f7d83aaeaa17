"""How long do the wrong and the right program of each pattern take?

A page of the manual's patterns begins with two programs that print the same. This suite takes them from there, and runs
each as a user would: the time includes the start of Python and of all workers.
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Case, Diagnosis, Suite

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/patterns"
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Pattern(Case):
    """A page: its two programs, and what both print."""

    programs: tuple[str, ...] = ()
    shown: str = ""


def cases(scale):
    """Return each page, in the manual's order; the first two, for the tests."""
    listed = re.search(r"\{toctree\}\n(.*?)```", (PAGES / "index.md").read_text("utf-8"), re.S)[1]
    names = re.findall(r"^[a-z-]+$", listed, re.M)
    return [pattern(name) for name in (names[:2] if scale == "tiny" else names)]


def pattern(name):
    """Read a page."""
    (wrong, shown), (right, again) = PROGRAM.findall((PAGES / f"{name}.md").read_text("utf-8"))[:2]
    if shown != again:
        raise ValueError(f"the programs of {name}.md print different things: {shown!r} and {again!r}")
    return Pattern(name, programs=(wrong, right), shown=shown)


def check(case, result):
    """Compare what was printed with the page."""
    return Diagnosis(result == case.shown, "" if result == case.shown else f"it printed {result!r}")


suite = Suite(
    __name__,
    "How long do the wrong and the right program of each pattern take?",
    about=__doc__.partition("\n")[2],
    cases=cases,
    check=check,
    reference="poolagg",
)


@suite.contestant("the wrong or slow way")
def wrong(case):
    """Run the first program of the page."""
    return printed(case.programs[0])


@suite.contestant("poolagg, the right way")
def right(case):
    """Run the second program of the page."""
    return printed(case.programs[1])


def printed(text):
    """Run a program as a user does, and return what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program.py")
        program.write_text(text, "utf-8")
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, program], env=environ, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
