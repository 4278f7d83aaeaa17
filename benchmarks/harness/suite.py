"""The parts of a suite: a question, cases, contestants, and a check. A suite's file imports only this module.

    suite = Suite(
        __name__, "How fast are sums?",
        cases=lambda scale: [Case("a million", units={"full": 10**6, "quick": 10**5, "tiny": 100}[scale])],
        check=lambda case, result: Diagnosis(result == case.units * (case.units - 1) // 2),
        reference="poolagg",
    )

    @suite.contestant("builtin")
    def builtin(case):
        \"\"\"`sum`, as in the Python tutorial.\"\"\"
        return sum(range(case.units))

`python -m benchmarks NAME` finds it in `benchmarks/NAME.py`, which must define `suite`. Names that begin with
"poolagg" are highlighted. A contestant declares its requirements, which the harness provides before the clock starts:
modules in `needs` (imported first; one that fails to import is reported as missing), and a server as `server`, a
context manager whose value is the second argument and whose name is the program's (`redis_server`: the results
include its version).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.harness import charts, tables
from benchmarks.harness.results import Entrant, Results
from benchmarks.harness.tables import Table

Scale = Literal["full", "quick", "tiny"]
"""full: numbers to publish. quick: the suite in under two minutes on two cores. tiny: for the tests."""

LEAST = 40
"""The least number of units for a contestant, however small its part."""


class Missing(Exception):
    """A contestant cannot run; the text says what to install."""


@dataclass(frozen=True)
class Case:
    """The task of each contestant. Subclass it for what a suite's contestants need to know."""

    name: str
    units: int = 1
    """The amount of work; times are shown per unit."""
    limit: float = 60.0
    """Seconds after which a run counts as a hang."""


@dataclass(frozen=True)
class Diagnosis:
    """Whether a result is right, and a note on it."""

    correct: bool
    note: str = ""
    lost: int = 0
    """Lost updates, of `case.units`."""
    grade: str = ""
    """good, fair, poor or bad: the colour of the cell, where the suite shows a grid."""


@dataclass(frozen=True)
class Timed:
    """A result and the seconds that count, from a contestant that takes the time itself."""

    result: Any
    seconds: float


@dataclass(frozen=True)
class Contestant:
    """A function of a case, and its requirements."""

    name: str
    run: Callable[..., Any]
    needs: tuple[str, ...]
    server: Callable[[], contextlib.AbstractContextManager[Any]] | None
    cases: tuple[str, ...]
    part: float
    sound: bool
    patience: float
    given: tuple[Any, ...]

    def takes_part(self, case: Case) -> bool:
        """Tell whether it runs on this case: on all, unless it names some."""
        return not self.cases or case.name in self.cases

    def share(self, case: Case) -> Case:
        """Return the contestant's part of the case: a very slow one does not do all of it."""
        return case if self.part == 1 else replace(case, units=min(case.units, max(LEAST, int(case.units * self.part))))

    @contextlib.contextmanager
    def ready(self) -> Iterator[tuple[Any, ...]]:
        """Provide everything that the contestant needs, and yield the arguments after the case."""
        for module in self.needs:
            _import(module)
        with self.server() if self.server else contextlib.nullcontext() as server:
            yield () if self.server is None else (server,)

    def entrant(self) -> Entrant:
        """Return its description for the results."""
        return Entrant(self.name, inspect.getdoc(self.run) or "", lines_of_code(self.run, self.given), self.sound)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise Missing(f"not installed: pip install {package} ({error})") from None


class Suite:
    """One question and its contestants.

    cases       returns the cases for a scale
    check       returns the Diagnosis on a result
    reference   the prefix of the name of the contestant that ratios are taken to
    unit        the name of a unit of work, and the seconds in which its time is shown: ("µs per update", 1e-6)
    given       functions and classes of the suite's file that users do not write: their lines don't count
    memory      whether to measure the peak memory of the parent and of its children
    at_once     how many contestants may run at the same time: more than one only if the suite does not compare times
    tables      results as a list of Table;  charts   results as {name: PNG}
    """

    def __init__(
        self,
        module: str,
        question: str,
        *,
        cases: Callable[[Scale], Sequence[Case]],
        check: Callable[[Any, Any], Diagnosis],
        reference: str = "poolagg",
        unit: tuple[str, float] = ("s", 1.0),
        about: str = "",
        given: Sequence[Any] = (),
        memory: bool = False,
        at_once: int = 1,
        tables: Callable[[Results], list[Table]] = tables.times,
        charts: Callable[[Results], dict[str, bytes]] = charts.bars,
    ) -> None:
        self.module, self.name = module, module.rpartition(".")[2]
        self.question, self.about, self.reference = question, inspect.cleandoc(about), reference
        self.cases, self.check, self.unit, self.given = cases, check, unit, tuple(given)
        self.memory, self.at_once, self.tables, self.charts = memory, at_once, tables, charts
        self.contestants: list[Contestant] = []

    def contestant(
        self,
        name: str,
        *,
        needs: Sequence[str] = (),
        server: Callable[[], contextlib.AbstractContextManager[Any]] | None = None,
        cases: Sequence[str] = (),
        part: float = 1,
        sound: bool = True,
        patience: float = 0,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add the decorated function as a contestant under `name`.

        `part`: its part of the units, if it is very slow. `sound=False`: it is known to lose updates or to fail, and
        the suite shows it. `patience`: seconds beyond the case's limit, if it takes long to start.
        """

        def enter(run: Callable[..., Any]) -> Callable[..., Any]:
            entry = Contestant(name, run, tuple(needs), server, tuple(cases), part, sound, patience, self.given)
            self.contestants.append(entry)
            return run

        return enter

    def named(self, name: str) -> Contestant:
        """Return the contestant of that name."""
        return next(contestant for contestant in self.contestants if contestant.name == name)

    def case(self, name: str, scale: Scale) -> Case:
        """Return the case of that name."""
        return next(case for case in self.cases(scale) if case.name == name)


def load(module: str) -> Suite:
    """Return the suite that a module defines."""
    suite: Suite = importlib.import_module(module).suite
    return suite


# -- lines of user code ------------------------------------------------------------------------------------------------


def lines_of_code(function: Callable[..., Any], given: Sequence[Any] = ()) -> int:
    """Count the lines of a function and of its helpers, without blank lines, comments and docstrings."""
    return sum(_lines(thing) for thing in _used([inspect.unwrap(function)], given))


def _used(things: list[Any], given: Sequence[Any]) -> list[Any]:
    module = inspect.getmodule(things[0])
    for thing in things:  # which grows meanwhile
        for node in ast.walk(_tree(thing)):
            found = getattr(module, node.id, None) if isinstance(node, ast.Name) else None
            if inspect.getmodule(found) is module and hasattr(found, "__qualname__") and found not in (*things, *given):
                things.append(found)
    return things


def _tree(thing: Any) -> ast.AST:
    return ast.parse(_source(thing))


@functools.cache
def _source(thing: Any) -> str:
    return textwrap.dedent(inspect.getsource(thing))


def _lines(thing: Any) -> int:
    """Count statements as lines: unparsing drops comments, blank lines and the author's line breaks."""
    tree = _tree(thing)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return sum(1 for line in ast.unparse(tree).splitlines() if line.strip())
