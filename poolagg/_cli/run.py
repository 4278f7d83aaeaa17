"""`poolagg run`: parse its arguments, and call `aggregate` with them."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle

import poolagg
from poolagg._cli.inputs import items
from poolagg._cli.names import function, module, place_and_expression, value
from poolagg._cli.output import CommandError, complain, show_warning
from poolagg._cli.tables import FORMATS, ranked, render
from poolagg.events import RunEvent

__all__ = ["RUN", "add_run_arguments", "run"]

RUN = """\
Run a function over many inputs in a pool of workers, fold its results with a reducer, and print the result.

example:
  poolagg run words.py:count 'books/*.txt' --reduce 'MergeCounts()'

with this in words.py:
  import collections, pathlib
  def count(path):
      return collections.Counter(pathlib.Path(path).read_text().split())
"""


def add_run_arguments(run: argparse.ArgumentParser) -> None:
    """Add the arguments of `poolagg run` to the parser."""
    run.add_argument("func", metavar="FUNC", help="the function, as FILE:FUNC or MODULE:FUNC")
    run.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="a path or a pattern; each matching path is an item; - reads paths from stdin, one a line",
    )
    run.add_argument(
        "--reduce",
        metavar="REDUCER",
        required=True,
        help="FILE:OBJECT, or an expression such as 'Frequencies().flat()', which may use the names of poolagg and of "
        "FUNC's file, and the modules math and operator",
    )
    kind = run.add_mutually_exclusive_group()
    kind.add_argument("--lines", action="store_true", help="each line of the inputs is an item, without its end")
    kind.add_argument("--blocks", metavar="SIZE", help="each Block of whole lines, of about SIZE, is an item")
    run.add_argument("--workers", type=int, metavar="N", help="how many workers; default: the usable CPUs")
    run.add_argument(
        "--pool",
        type=_place,
        default=("process", ""),
        metavar="POOL",
        help="process (the default), threads, serial, or a cluster, dask:ADDRESS or ray:ADDRESS, to which FUNC's file "
        "is sent by value",
    )
    run.add_argument(
        "--on-error", choices=["raise", "skip"], default="raise", help="a failed item ends the run, or is left out"
    )
    run.add_argument("--retries", type=int, metavar="N", help="how often an item runs again that failed, hung or died")
    run.add_argument("--item-timeout", type=float, metavar="S", help="seconds that one item may take")
    run.add_argument("--reproducible", action="store_true", help="give the same bits for any number of workers")
    run.add_argument("--chunksize", type=int, metavar="N", help="items per chunk; default: adapted to measured cost")
    _add_checkpoint_arguments(run)
    run.add_argument(
        "--report", metavar="FILE", help="show where the time went: FILE.html, a page, or FILE.json, a trace"
    )
    run.add_argument("--format", choices=list(FORMATS), default="table", help="how to print the result; default: table")


def _add_checkpoint_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("--checkpoint", metavar="FILE", help="keep the state in FILE, and continue from it")
    run.add_argument("--retry-failed", action="store_true", help="with --checkpoint: run skipped items again")
    run.add_argument(
        "--accept-changes",
        action="store_true",
        help="with --checkpoint: continue with a changed FUNC, after a warning that names what differs",
    )


def run(options: argparse.Namespace) -> str:
    """Run the function over the inputs, and return the result as text."""
    func, names = function(options.func)
    reducer = value(options.reduce, names)
    result = _aggregated(func, items(options), reducer, options)
    # Keep the order in which a dict of reducers was typed.
    return render(result if isinstance(reducer, dict) else ranked(result), options.format)


def _aggregated(func: Any, items: Iterable[Any], reducer: Any, options: argparse.Namespace) -> Any:
    started: deque[RunEvent] = deque(maxlen=1)
    reports = _reports(options.report)
    try:
        with warnings.catch_warnings(), _pool(options) as pool:
            warnings.showwarning = show_warning
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
            raise  # the user's code raised it, and needs the traceback
        raise CommandError(error) from error
    finally:
        if started:
            _write_reports(reports, options.report)


def _place(typed: str) -> tuple[str, str]:
    """Split --pool into the kind of pool and the address of a cluster."""
    kind, _, address = typed.partition(":")
    if typed in ("process", "threads", "serial") or (kind in ("dask", "ray") and address):
        return kind, address
    raise argparse.ArgumentTypeError(
        f"{typed!r} is not a pool: write process, threads, serial, dask:ADDRESS (such as dask:tcp://head:8786) or "
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
        with poolagg.SerialPool() if kind == "serial" else poolagg.ThreadPool(options.workers) as pool:
            yield {"pool": pool}


@contextlib.contextmanager
def _cluster(kind: str, address: str, options: argparse.Namespace) -> Iterator[Any]:
    """Connect to a cluster; pickle functions of the typed files by value, since the cluster may not have the files."""
    for typed in (options.func, options.reduce):
        if (found := place_and_expression(typed)) is not None and found[0].endswith(".py"):
            cloudpickle.register_pickle_by_value(module(found[0]))
    with contextlib.ExitStack() as stack:
        try:
            if kind == "ray":
                pool: Any = stack.enter_context(poolagg.pools.RayPool(address, workers=options.workers))
            else:
                client = stack.enter_context(importlib.import_module("distributed").Client(address))
                pool = poolagg.pools.DaskPool(client, options.workers)
        except ModuleNotFoundError as error:
            raise CommandError(f"{error}: --pool {kind}:{address} needs pip install 'poolagg[{kind}]'") from error
        except (OSError, ValueError) as error:
            raise CommandError(f"cannot reach --pool {kind}:{address}: {error}") from error
        yield pool


def _checkpoint(options: argparse.Namespace) -> poolagg.Checkpoint | None:
    if options.checkpoint is None and options.retry_failed:
        raise CommandError("--retry-failed needs --checkpoint FILE, which lists the items that failed")
    if options.checkpoint is None and options.accept_changes:
        raise CommandError("--accept-changes needs --checkpoint FILE, which an earlier FUNC has begun")
    return options.checkpoint and poolagg.Checkpoint(
        options.checkpoint, retry_failed=options.retry_failed, accept_changes=options.accept_changes
    )


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
        except OSError as error:  # hours of work must not end in an error of the report
            complain(f"cannot write the report: {error}", 0)
