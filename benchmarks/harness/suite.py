"""What a suite is made of: a question, cases, contestants, and a check. This is all that a suite's file imports.

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
"poolagg" are highlighted. What has to be there before the clock starts is declared: modules in `needs` (imported
first; one that can't be is reported as missing), a server as `server`, a context manager whose value is the second
argument and whose name is that of the program (`redis_server`: its version is written down).
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
"""Units that a contestant is given at least, however small its part."""


class Missing(Exception):
    """A contestant can't take part; the text says what to install."""


@dataclass(frozen=True)
class Case:
    """What each contestant is asked to do. Subclass it for what a suite's contestants must know."""

    name: str
    units: int = 1
    """How much work it is; times are shown per unit."""
    limit: float = 60.0
    """Seconds after which a contestant is held to hang."""


@dataclass(frozen=True)
class Diagnosis:
    """Whether a result is right, and what is to be said of it."""

    correct: bool
    note: str = ""
    lost: int = 0
    """Of `case.units`."""
    grade: str = ""
    """good, fair, poor or bad: the colour of the cell, where the suite shows a grid."""


@dataclass(frozen=True)
class Timed:
    """A result and the seconds that count, from a contestant that holds the clock itself."""

    result: Any
    seconds: float


@dataclass(frozen=True)
class Contestant:
    """A function of a case, and what it needs."""

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
        """Whether it runs on this case: on all, unless it names some."""
        return not self.cases or case.name in self.cases

    def share(self, case: Case) -> Case:
        """The part of the case that it is given: one that is very slow need not do all of it."""
        return case if self.part == 1 else replace(case, units=min(case.units, max(LEAST, int(case.units * self.part))))

    @contextlib.contextmanager
    def ready(self) -> Iterator[tuple[Any, ...]]:
        """Everything it needs is there: gives the arguments that come after the case."""
        for module in self.needs:
            _import(module)
        with self.server() if self.server else contextlib.nullcontext() as server:
            yield () if self.server is None else (server,)

    def entrant(self) -> Entrant:
        """What is told of it."""
        return Entrant(self.name, inspect.getdoc(self.run) or "", lines_of_code(self.run, self.given), self.sound)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise Missing(f"not installed: pip install {package} ({error})") from None


class Suite:
    """One question, and those who answer it.

    cases       gives the cases for a scale
    check       gives the Diagnosis on a result
    reference   how the name of the contestant begins that ratios are taken to
    unit        what a unit of work is called, and in how many seconds its time is shown: ("µs per update", 1e-6)
    given       functions and classes of the suite's file that are not the user's to write: their lines don't count
    memory      whether to measure the peak memory of the parent and of its children
    at_once     how many contestants may run at the same time: more than one only where time is not the question
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
        """Enter the function below under `name`.

        `part` of the units, if it is very slow; not `sound`, if it is known to lose updates, or to fail, and here to
        show it; `patience`: seconds beyond the case's limit, if it takes long to start.
        """

        def enter(run: Callable[..., Any]) -> Callable[..., Any]:
            entry = Contestant(name, run, tuple(needs), server, tuple(cases), part, sound, patience, self.given)
            self.contestants.append(entry)
            return run

        return enter

    def named(self, name: str) -> Contestant:
        """The contestant of that name."""
        return next(contestant for contestant in self.contestants if contestant.name == name)

    def case(self, name: str, scale: Scale) -> Case:
        """The case of that name."""
        return next(case for case in self.cases(scale) if case.name == name)


def load(module: str) -> Suite:
    """The suite that a module defines."""
    suite: Suite = importlib.import_module(module).suite
    return suite


# -- lines of user code ------------------------------------------------------------------------------------------------


def lines_of_code(function: Callable[..., Any], given: Sequence[Any] = ()) -> int:
    """The lines of a function and of what it uses of its own file, without blank lines, comments and docstrings."""
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
    """Unparsing drops comments, blank lines and the author's line breaks: one statement, one line."""
    tree = _tree(thing)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
    return sum(1 for line in ast.unparse(tree).splitlines() if line.strip())
