"""One run of one contestant on one case, in a new process: `python -m benchmarks.harness.alone '{"suite": ...}'`.

The clock covers only the contestant's call: imports and the start of its server come before. The report goes to a
file, because processes that the contestant starts may hold a pipe open for ever.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.harness.suite import Missing, Timed, load


def main(task: dict[str, Any]) -> None:
    """Run what `task` says, and write the report to the file that it names."""
    report = _report(task)
    path = Path(task["report"])
    path.with_suffix(".new").write_text(json.dumps(report), "utf-8")
    path.with_suffix(".new").rename(path)


def _report(task: dict[str, Any]) -> dict[str, Any]:
    suite = load(task["suite"])
    contestant = suite.named(task["contestant"])
    case = contestant.share(suite.case(task["case"], task["scale"]))
    try:
        with contestant.ready() as more:
            result, seconds = _timed(contestant.run, case, *more)
            diagnosis = suite.check(case, result)
        return {"status": "done", "units": case.units, "seconds": seconds, **vars(diagnosis)}
    except Missing as missing:
        return {"status": "missing", "note": str(missing)}
    except Exception as error:
        return {"status": "failed", "units": case.units, "note": f"{type(error).__name__}: {error}"}


def _timed(run: Any, *arguments: Any) -> tuple[Any, float]:
    began = perf_counter()
    result = run(*arguments)
    seconds = perf_counter() - began
    return (result.result, result.seconds) if isinstance(result, Timed) else (result, seconds)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
