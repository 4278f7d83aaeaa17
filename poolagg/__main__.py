"""The command line: `poolagg run` is one call of `aggregate`, `poolagg check` one of `check_reducer`.

Rule of the room: it turns what was typed into values, and values into text. What was typed wrongly is a
`CommandError`: one line that says what to type instead, and exit code 2. A run that fails is exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import glob
import importlib
import math
import operator
import os
import re
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import cloudpickle

import poolagg
from poolagg._rendering import FORMATS, ranked, render
from poolagg._store import look
from poolagg._texts import said
from poolagg.errors import PoolAggError, RemoteError, TaskError, short_repr
from poolagg.events import RunEvent
from poolagg.sources import Blocks, blocks
from poolagg.testing import LawBroken, check_reducer

RUN = """\
Run a function over many inputs, fold its results with a reducer, and print what comes of it.

example:
  poolagg run words.py:count 'books/*.txt' --reduce 'MergeCounts()'

with this in words.py:
  import collections, pathlib
  def count(path):
      return collections.Counter(pathlib.Path(path).read_text().split())
"""

CHECK = """\
Check that a reducer of your own keeps the laws of reducers, on samples of what a function returns.

example:
  poolagg check 'stats.py:Extremes()' 'stats.py:[3, 1, 2]'
"""


SHOW = """\
Print what a checkpoint holds: which run made it, how far it is, and which items failed. Nothing in it is run.

example:
  poolagg show words.ckpt
"""


class CommandError(Exception):
    """Something to type differently: the message says what."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says. Exit code: 0, or 1 for a run that failed, or 2 for a mistake in typing."""
    try:
        options = _parser().parse_args(argv)
        return _write(options.command(options))
    except CommandError as mistake:
        return _complain(mistake, 2)
    except LawBroken as broken:
        print(broken, file=sys.stderr)
        return 1
    except TaskError as error:
        return _complain(_task_line(error), 1)
    except PoolAggError as error:
        return _complain(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _complain(message: object, code: int) -> int:
    print("poolagg:", " ".join(str(message).split()), file=sys.stderr)
    return code


def _task_line(error: TaskError) -> str:
    cause = error.__cause__
    what = cause.kind if type(cause) is RemoteError else "" if cause is None else said(cause)
    return f"item {error.index}, {error.item_repr}, failed: {what}. To leave such items out: --on-error skip"


def _write(text: str) -> int:
    encoding = sys.stdout.encoding
    try:
        # What the terminal cannot show is escaped: hours of work must not end in an error of its output.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough (`| head`). Python would fail once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


# --- what can be typed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="poolagg", description="Run a function over many inputs in a pool of workers, and fold the results."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    _describe_run(_command(commands, "run", _run, RUN))
    check = _command(commands, "check", _check, CHECK)
    check.add_argument("reducer", metavar="FILE:REDUCER")
    check.add_argument("samples", metavar="FILE:SAMPLES")
    check.add_argument(
        "--equal", help="how results compare, such as math.isclose; by default, as == does, and nan is itself"
    )
    _command(commands, "show", _show, SHOW).add_argument("checkpoint", metavar="CHECKPOINT")
    return parser


def _command(commands: Any, name: str, command: Callable[[argparse.Namespace], str], text: str) -> Any:
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=text.split("\n")[0], description=text, formatter_class=raw)
    parser.set_defaults(command=command)
    return parser


def _describe_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("func", metavar="FUNC", help="the function, as FILE:FUNC or MODULE:FUNC")
    run.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="a path or a pattern; an item is a path; - is stdin, one path a line",
    )
    run.add_argument(
        "--reduce",
        metavar="REDUCER",
        required=True,
        help="FILE:OBJECT, or such as 'Frequencies().flat()' in the names of poolagg, operator, math and FUNC's file",
    )
    items = run.add_mutually_exclusive_group()
    items.add_argument("--lines", action="store_true", help="an item is a line of the inputs, without its end")
    items.add_argument("--blocks", metavar="SIZE", help="an item is a Block of whole lines, such as 16MiB")
    run.add_argument("--workers", type=int, metavar="N", help="default: the CPUs this process may use")
    run.add_argument(
        "--pool",
        type=_place,
        default=("process", ""),
        metavar="POOL",
        help="process, threads, serial, or a cluster: dask:ADDRESS, ray:ADDRESS; FUNC's file is sent there by value",
    )
    run.add_argument("--on-error", choices=["raise", "skip"], default="raise", help="what an item that fails does")
    run.add_argument("--retries", type=int, metavar="N", help="how often to run again what failed, hung or died")
    run.add_argument("--item-timeout", type=float, metavar="S", help="seconds after which an item has failed")
    run.add_argument("--reproducible", action="store_true", help="the same bits for any number of workers")
    run.add_argument("--chunksize", type=int, metavar="N", help="default: chosen from measured cost")
    run.add_argument("--checkpoint", metavar="FILE", help="keep the state there, and continue from it")
    run.add_argument("--retry-failed", action="store_true", help="with --checkpoint: run again what was skipped")
    run.add_argument("--report", metavar="FILE", help="where the time went: FILE.html, a page, or FILE.json, a trace")
    run.add_argument("--format", choices=list(FORMATS), default="table")


# --- the commands


def _run(options: argparse.Namespace) -> str:
    func, names = _function(options.func)
    reducer = _value(options.reduce, names)
    result = _aggregated(func, _items(options), reducer, options)
    # A dict of reducers has the order it was typed in.
    return render(result if isinstance(reducer, dict) else ranked(result), options.format)


def _aggregated(func: Any, items: Iterable[Any], reducer: Any, options: argparse.Namespace) -> Any:
    started: deque[RunEvent] = deque(maxlen=1)
    reports = _reports(options.report)
    try:
        with warnings.catch_warnings(), _pool(options) as pool:
            warnings.showwarning = _show_warning
            return poolagg.aggregate(
                func,
                items,
                reducer,
                **pool,
                on_error=options.on_error,
                retries=options.retries,
                item_timeout=options.item_timeout,
                reproducible=options.reproducible,
                chunksize=options.chunksize,
                checkpoint=_checkpoint(options),
                progress=sys.stderr.isatty(),
                watch=[started.append, *reports],
            )
    except (TypeError, ValueError) as error:
        if started:
            raise  # an error of the user's own code, which needs its traceback
        raise CommandError(error) from error
    finally:
        if started:
            _write_reports(reports, options.report)


def _place(typed: str) -> tuple[str, str]:
    """The kind of a pool, and the address of a cluster."""
    kind, _, address = typed.partition(":")
    if typed in ("process", "threads", "serial") or (kind in ("dask", "ray") and address):
        return kind, address
    raise argparse.ArgumentTypeError(
        f"{typed!r} is no pool: write process, threads, serial, dask:ADDRESS (such as dask:tcp://head:8786) or "
        "ray:ADDRESS (such as ray:auto)"
    )


@contextlib.contextmanager
def _pool(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    kind, address = options.pool
    if kind == "serial" and options.workers not in (None, 1):
        raise CommandError("--pool serial runs everything in this process: leave --workers out")
    if address:
        with _cluster(kind, address, options) as cluster:
            yield {"pool": cluster}
    elif kind == "process":
        yield {"workers": options.workers}
    else:
        yield {"pool": poolagg.SerialPool() if kind == "serial" else poolagg.ThreadPool(options.workers)}


@contextlib.contextmanager
def _cluster(kind: str, address: str, options: argparse.Namespace) -> Iterator[Any]:
    """A pool on the cluster there, which is sent the functions of files that were typed, for it may not have those."""
    for typed in (options.func, options.reduce):
        if (found := _place_and_expression(typed)) is not None and found[0].endswith(".py"):
            cloudpickle.register_pickle_by_value(_module(found[0]))
    with contextlib.ExitStack() as stack:
        try:
            if kind == "ray":
                pool: Any = stack.enter_context(poolagg.pools.RayPool(address, workers=options.workers))
            else:
                client = stack.enter_context(importlib.import_module("distributed").Client(address))
                pool = poolagg.pools.DaskPool(client, options.workers)
        except ModuleNotFoundError as error:
            raise CommandError(f"{error}: --pool {kind}:{address} takes pip install 'poolagg[{kind}]'") from error
        except (OSError, ValueError) as error:
            raise CommandError(f"cannot reach --pool {kind}:{address}: {error}") from error
        yield pool


def _checkpoint(options: argparse.Namespace) -> poolagg.Checkpoint | None:
    if options.checkpoint is None and options.retry_failed:
        raise CommandError("--retry-failed goes with --checkpoint FILE, which knows what failed")
    return options.checkpoint and poolagg.Checkpoint(options.checkpoint, retry_failed=options.retry_failed)


def _reports(typed: str | None) -> list[poolagg.Report]:
    if typed is None:
        return []
    if Path(typed).suffix not in (".html", ".json"):
        raise CommandError(f"--report {typed!r} is neither a page nor a trace: write FILE.html or FILE.json")
    if not Path(typed).parent.is_dir():
        raise CommandError(f"there is no folder {str(Path(typed).parent)!r} for --report {typed!r}")
    return [poolagg.Report()]


def _write_reports(reports: Iterable[poolagg.Report], path: str) -> None:
    for report in reports:
        try:
            (report.save if Path(path).suffix == ".html" else report.trace)(path)
        except OSError as error:  # hours of work must not end in an error of their report
            _complain(f"cannot write the report: {error}", 0)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _complain(message, 0)


def _check(options: argparse.Namespace) -> str:
    reducer, samples = (_value(typed, {}) for typed in (options.reducer, options.samples))
    try:
        check_reducer(reducer, samples, **({} if options.equal is None else {"equal": _value(options.equal, {})}))
    except (TypeError, ValueError) as error:
        raise CommandError(error) from error
    return f"{short_repr(reducer)} keeps all laws\n"


def _show(options: argparse.Namespace) -> str:
    held = look(options.checkpoint)
    if not held.facts:
        return "a run began, and nothing was committed yet\n"
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
        lines.append(f"and {len(unlisted)} more failed items, kept by their index alone: {_spans(unlisted)}")
    return render(rows, "table") + "".join(f"{line}\n" for line in lines)


def _spans(intervals: Iterable[tuple[int, int]]) -> str:
    """The first few intervals, as people write them."""
    spans = [f"{start}-{stop - 1}" for start, stop in intervals]
    return ", ".join(spans[:5]) + (f" and {len(spans) - 5} more" if len(spans) > 5 else "")


# --- items


def _items(options: argparse.Namespace) -> Iterable[Any]:
    paths = [path for typed in options.inputs for path in _paths(typed)]
    if options.lines:
        return _lines(paths)
    if options.blocks:
        return _blocks(paths, options.blocks)
    return _with_stdin(paths) if "-" in paths else paths


def _paths(typed: str) -> list[str]:
    """The paths that a word stands for: itself, or what the pattern matches, sorted."""
    if typed == "-" or os.path.exists(typed):
        return [typed]
    found = sorted(glob.glob(typed, recursive=True))
    if not found and glob.has_magic(typed):
        raise CommandError(f"no file matches {typed!r} in {os.getcwd()}")
    if not found:
        raise CommandError(f"there is no file {typed!r}{_neighbour(typed)}")
    return found


def _neighbour(path: str) -> str:
    folder = Path(path).parent
    names = os.listdir(folder) if folder.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, names, 1)
    return f": did you mean {os.path.join(os.path.dirname(path), close[0])!r}?" if close else f" in {os.getcwd()}"


def _with_stdin(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            yield from filter(None, (os.fsdecode(line.removesuffix(b"\n")) for line in sys.stdin.buffer))
        else:
            yield path


def _lines(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        try:
            with open(sys.stdin.fileno() if path == "-" else path, encoding="utf-8", closefd=path != "-") as file:
                yield from (line.removesuffix("\n") for line in file)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"cannot read {path!r} as lines of UTF-8: {error}") from error


def _blocks(paths: Sequence[str], size: str) -> Blocks:
    try:
        return blocks(*paths, size=size)
    except (OSError, ValueError) as error:
        raise CommandError(error) from error


# --- functions and reducers


def _function(typed: str) -> tuple[Any, dict[str, Any]]:
    if (found := _place_and_expression(typed)) is None:
        place = typed if typed.endswith(".py") else "FILE.py"
        raise CommandError(f"{typed!r} names no function: write {place}:FUNC or MODULE:FUNC")
    place, name = found
    names = vars(_module(place))
    func = _evaluated(name, names)
    if not callable(func):
        raise CommandError(f"{typed!r} is {short_repr(func)}, and not a function")
    return func, names


def _value(typed: str, names: dict[str, Any]) -> Any:
    """The value of an expression, or of one in a file's or module's names, written FILE:EXPRESSION."""
    public = {name: getattr(poolagg, name) for name in dir(poolagg) if not name.startswith("_")}
    place, expression = _place_and_expression(typed) or ("", typed)
    names = vars(_module(place)) if place else names
    return _evaluated(expression, {**public, "math": math, "operator": operator, **names})


def _place_and_expression(typed: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"(.+?\.py|[\w.]+):(.+)", typed)
    return (found[1], found[2]) if found else None


def _evaluated(expression: str, names: dict[str, Any]) -> Any:
    try:
        # What is evaluated was typed by the user, on the command line of a program that runs their code anyway.
        return eval(expression, dict(names))
    except NameError as error:
        raise CommandError(f"there is no {error.name!r}{_meant(error.name, names)}") from error
    except AttributeError as error:
        kind = type(error.obj).__name__
        raise CommandError(f"{kind} has no {error.name!r}{_meant(error.name, dir(error.obj))}") from error
    except Exception as error:
        raise CommandError(f"{expression!r} is no value: {type(error).__name__}: {error}") from error


def _meant(name: str | None, names: Iterable[str]) -> str:
    public = [known for known in names if not known.startswith("_")]
    close = difflib.get_close_matches(name or "", public, 3)
    return f": did you mean {' or '.join(close)}?" if close else f": there are {', '.join(sorted(public))}"


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return _imported(place, os.getcwd())
    path = Path(os.path.abspath(place))
    if not path.is_file():
        raise CommandError(f"there is no file {place!r}{_neighbour(place)}")
    loaded = getattr(sys.modules.get(path.stem), "__file__", str(path))
    if path.stem in sys.stdlib_module_names or "." in path.stem or loaded != str(path):
        raise CommandError(
            f"{place!r} cannot be imported by the name {path.stem!r}: rename the file, to my_{path.name} say"
        )
    return _imported(path.stem, str(path.parent))


def _imported(name: str, folder: str) -> ModuleType:
    """Import a module as its neighbours in `folder` would, and as workers can.

    Its folder goes to the front of sys.path, as `python FILE` does it. So the file's siblings can be imported, and
    its functions and classes travel by name, both ways, whatever the start method: shipped by value instead, a class
    would be another one in each worker.
    """
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise CommandError(f"there is no module {name!r}; a file is written with its ending, {name}.py") from error
        raise


if __name__ == "__main__":
    sys.exit(main())
