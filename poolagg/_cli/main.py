"""The command line: `poolagg run` calls `aggregate`, `poolagg check` calls `check_reducer`.

This package turns arguments into values, and values into text. A mistake in the arguments is a `CommandError`, one line
that says what to type instead, and exit code 2. A run that fails is exit code 1.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from poolagg._checkpoint.store import look
from poolagg._cli.names import value
from poolagg._cli.output import CommandError, complain, write
from poolagg._cli.run import RUN, add_run_arguments, run
from poolagg._cli.tables import render
from poolagg._runtime.exception_text import said
from poolagg.errors import PoolAggError, RemoteError, TaskError, short_repr
from poolagg.testing import LawBroken, check_reducer

__all__ = ["main"]

CHECK = """\
Check that a reducer of your own keeps the laws of reducers, on samples of results of a function.

example:
  poolagg check 'stats.py:Extremes()' 'stats.py:[3, 1, 2]'
"""

SHOW = """\
Print the contents of a checkpoint: the run that made it, its progress, and the items that failed. No code in it runs.

example:
  poolagg show words.ckpt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, 1 if the run failed, 2 for a mistake in the arguments."""
    try:
        options = _parser().parse_args(argv)
        return write(options.command(options))
    except CommandError as mistake:
        return complain(mistake, 2)
    except LawBroken as broken:
        print(broken, file=sys.stderr)
        return 1
    except TaskError as error:
        return complain(_task_line(error), 1)
    except PoolAggError as error:
        return complain(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _task_line(error: TaskError) -> str:
    cause = error.__cause__
    what = cause.kind if type(cause) is RemoteError else "" if cause is None else said(cause)
    return f"item {error.index}, {error.item_repr}, failed: {what}. Pass --on-error skip to leave failing items out"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="poolagg", description="Run a function over many inputs in a pool of workers, and fold the results."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    add_run_arguments(_command(commands, "run", run, RUN))
    check = _command(commands, "check", _check, CHECK)
    check.add_argument("reducer", metavar="FILE:REDUCER", help="the reducer, an expression in the names of FILE")
    check.add_argument("samples", metavar="FILE:SAMPLES", help="results of func, an expression that gives a list")
    check.add_argument(
        "--equal", help="a function that compares results, such as math.isclose; default: ==, and nan equals itself"
    )
    _command(commands, "show", _show, SHOW).add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a file written by poolagg run --checkpoint"
    )
    return parser


def _command(commands: Any, name: str, command: Callable[[argparse.Namespace], str], text: str) -> Any:
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=text.split("\n")[0], description=text, formatter_class=raw)
    parser.set_defaults(command=command)
    return parser


def _check(options: argparse.Namespace) -> str:
    reducer, samples = (value(typed, {}) for typed in (options.reducer, options.samples))
    try:
        check_reducer(reducer, samples, **({} if options.equal is None else {"equal": value(options.equal, {})}))
    except (TypeError, ValueError) as error:
        raise CommandError(error) from error
    return f"{short_repr(reducer)} keeps all laws\n"


def _show(options: argparse.Namespace) -> str:
    held = look(options.checkpoint)
    if not held.facts:
        return "a run began, and has committed nothing yet\n"
    facts, failures, unlisted = held.facts, len(held.all_failed), held.unlisted
    rows = {
        "function": facts["func"],
        "reducer": facts["reducer"],
        "strategy": facts["parts"]["the strategy"],
        "key": facts["parts"].get("the key", "-"),
        "finished": "yes" if facts["finished"] else "no",
        "items in it": sum(stop - start for start, stop in facts["covered"]) - failures,
        "items failed": failures,
        "covered": _spans(facts["covered"]) or "-",
        "state": f"{len(held.state or b'')} bytes",
        "begun": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["begun"])),
        "saved": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["saved"])),
        "python": facts["python"],
    }
    lines = [
        f"failed item {item.number}  {item.item}  {item.trace.strip().rpartition(chr(10))[2]}"
        for item in held.failed.values()
    ]
    if unlisted:
        lines.append(f"and {len(unlisted)} more failed items, known by their index alone: {_spans(unlisted)}")
    return render(rows, "table") + "".join(f"{line}\n" for line in lines)


def _spans(intervals: Iterable[tuple[int, int]]) -> str:
    """Format the first few intervals, such as "0-9, 20-29"."""
    spans = [f"{start}-{stop - 1}" for start, stop in intervals]
    return ", ".join(spans[:5]) + (f" and {len(spans) - 5} more" if len(spans) > 5 else "")
