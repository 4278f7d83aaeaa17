"""The command line: `python -m benchmarks` lists the suites, `python -m benchmarks NAME` runs one."""

from __future__ import annotations

import argparse
import ast
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness.measuring import measure
from benchmarks.harness.page import page
from benchmarks.harness.results import Results
from benchmarks.harness.suite import Contestant, Scale, load
from benchmarks.harness.tables import as_markdown, as_text

HERE = Path(__file__).parent
TURNS = 5


def main() -> int:
    """Run the command line; return 1 if a contestant that should get it right did not."""
    arguments = _parsed()
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # the keepers see to it that all is ended
    if not arguments.suites:
        print("\n".join(["Suites (python -m benchmarks NAME):", "", *_listed()]))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = [_run(name, arguments) for name in arguments.suites]
    _write_page(arguments.out)
    return _complain(found)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Without a suite: lists them.")
    parser.add_argument("suites", nargs="*", metavar="SUITE")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few turns: under two minutes on two cores"
    )
    parser.add_argument("--only", metavar="NAME", help="contestants with NAME in their name (all of it, if one has)")
    parser.add_argument("--repeat", type=int, metavar="N", help=f"turns (default {TURNS}, with --quick 1)")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), metavar="DIR", help="%(default)s")
    parser.add_argument("--markdown", action="store_true", help="print the tables as a README wants them")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(suites()):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are: {', '.join(suites())}")
    if arguments.repeat is not None and arguments.repeat < (1 if arguments.quick else TURNS):
        parser.error(f"--repeat {arguments.repeat}: at least {TURNS} turns, or fewer with --quick")
    return arguments


def suites() -> list[str]:
    """Return the names of all suites: the files and folders in this folder."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    single = {path.stem: path for path in HERE.glob("*.py") if not path.stem.startswith("_")}
    return single | {path.parent.name: path for path in HERE.glob("*/__init__.py") if path.parent.name != "harness"}


def _listed() -> Iterator[str]:
    for name, path in sorted(_files().items()):
        about = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        yield f"  {name:10}  {about.partition(chr(10))[0]}"


def _run(name: str, arguments: argparse.Namespace) -> Results:
    suite = load(f"benchmarks.{name}")
    scale: Scale = "quick" if arguments.quick else "full"
    turns = arguments.repeat or (1 if arguments.quick else TURNS)
    only = _chosen(suite.contestants, arguments.only)
    results = measure(suite, scale, turns, lambda contestant: contestant.name in only, _tell, _command(name, arguments))
    results.save(arguments.out / f"{name}.json")
    for table in suite.tables(results):
        print("\n" + (as_markdown(table) if arguments.markdown else as_text(table)))
    for chart, data in suite.charts(results).items():
        (arguments.out / f"{chart}.png").write_bytes(data)
    return results


def _chosen(contestants: list[Contestant], only: str | None) -> list[str]:
    names = [contestant.name for contestant in contestants]
    if only is None or only in names:
        return names if only is None else [only]
    chosen = [name for name in names if only.lower() in name.lower()]
    if not chosen:
        sys.exit(f"no contestant has {only!r} in its name; there are: {', '.join(names)}")
    return chosen


def _command(name: str, arguments: argparse.Namespace) -> str:
    only = f' --only "{arguments.only}"' if arguments.only else ""
    repeat = f" --repeat {arguments.repeat}" if arguments.repeat else ""
    return f"python -m benchmarks {name}{' --quick' if arguments.quick else ''}{only}{repeat}"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write_page(folder: Path) -> None:
    """Write the page from all results in the folder, whenever they were measured."""
    found = [Results.load(folder / f"{name}.json") for name in suites() if (folder / f"{name}.json").exists()]
    shown = [
        (results, (suite := load(f"benchmarks.{results.suite}")).tables(results), suite.charts(results))
        for results in found
    ]
    (folder / "index.html").write_text(page(shown), "utf-8")
    print(f"{folder / 'index.html'}: {', '.join(results.suite for results in found)}")


def _complain(found: list[Results]) -> int:
    wrong = [
        f"{run.case}: {run.contestant}: {run.note or run.status}" for results in found for run in results.unsound()
    ]
    for line in dict.fromkeys(wrong):
        print(f"not as it should be: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
