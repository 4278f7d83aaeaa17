"""The keeper of one run: `python -m benchmarks.harness.keeper '{"suite": ..., "limit": 60, "memory": false}'`.

It starts `alone`, waits for its end, for the time limit or for the end of the harness, whichever comes first, and then
ends all its descendants. Every process that a contestant starts is a descendant of its keeper. The keeper prints one
line of JSON: the report of the run.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.harness.processes import adopt_orphans, descendants, end_all, own_memory, peak_memory, wait_until_gone

SAMPLING = 0.05
"""Seconds between two samples of the memory, if the suite measures it; else between two checks for the end."""

SHARED_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""joblib's default folder; the keeper removes files that a run leaves there, like its other temporary files."""

GRACE = 1.0
"""Seconds after a contestant's end within which its helpers must end; later ones count as left behind."""


def main(task: dict[str, Any]) -> None:
    """Run the task, and print the report."""
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C ends the harness, and its end this process
    adopt_orphans()
    with _folder() as folder, _folder(SHARED_MEMORY) as shared:
        task["report"] = str(Path(folder, "report.json"))
        os.environ.update(TMPDIR=folder, RAY_TMPDIR=folder, JOBLIB_TEMP_FOLDER=shared)
        report = _kept(task, Path(folder, "log"))
        end_all()
    print(json.dumps(report), flush=True)


def _folder(place: str | None = None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True)


def _kept(task: dict[str, Any], log: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.harness.alone", json.dumps(task)]
    with log.open("w") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    memory = _Memory(child.pid) if task["memory"] else None
    ended = _wait(child, task["limit"], memory)
    report = _read(Path(task["report"])) or _without_report(ended, child.returncode, log)
    if report["status"] == "done" and not ended:
        report |= {"status": "hung", "correct": False, "note": "the result is there, but the process does not end"}
    elif report["status"] == "done" and not report["correct"]:
        report["note"] = report["note"] or _last_error(log)
    left = len(wait_until_gone(GRACE)) if ended else 0
    return {**report, "left": left, **(memory.peaks() if memory else {})}


def _wait(child: subprocess.Popen[bytes], limit: float, memory: _Memory | None) -> bool:
    """Return True if the child ends by itself."""
    until = monotonic() + limit
    ending = [os.pidfd_open(child.pid)] if hasattr(os, "pidfd_open") else []
    while child.poll() is None:
        patience = SAMPLING if memory or not ending else until - monotonic()
        if monotonic() > until or sys.stdin in select.select([sys.stdin, *ending], [], [], max(0.0, patience))[0]:
            return False
        if memory:
            memory.sample()
    return True


class _Memory:
    """The peak memory, over a run, of the contestant's own process, and of all its descendants together."""

    def __init__(self, pid: int) -> None:
        self._pid, self._parent, self._children = pid, 0, 0

    def sample(self) -> None:
        """Take one sample."""
        self._parent = max(self._parent, peak_memory(self._pid) or 0)
        self._children = max(self._children, sum(own_memory(pid) for pid in descendants() if pid != self._pid))

    def peaks(self) -> dict[str, int | None]:
        """Return the peaks in bytes; None where the system does not tell them."""
        return {"parent_memory": self._parent or None, "children_memory": self._children if self._parent else None}


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _without_report(ended: bool, exitcode: int | None, log: Path) -> dict[str, Any]:
    said = _last_error(log)
    if not ended:
        return {"status": "hung", "note": said}
    return {
        "status": "failed",
        "note": f"the process ended with exit code {exitcode}" + (f": {said}" if said else ""),
    }


def _last_error(log: Path) -> str:
    """Return the last exception that the run and its workers printed."""
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Expired|Broken\w*)\b.*$", log.read_text("utf-8", "replace"), re.M)
    return errors[-1][:200] if errors else ""


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
