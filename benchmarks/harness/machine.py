"""The machine and the versions of a measurement."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


def describe(packages: Iterable[str]) -> dict[str, str]:
    """Describe the machine, the interpreter and the versions of `packages`, each in a few words."""
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": f"{os.cpu_count()} ({_usable()} usable)",
        "memory": _memory(),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "poolagg": f"{version('poolagg')}{_commit()}",
        **{package: version(package) for package in sorted(set(packages))},
    }


def version(package: str) -> str:
    """Return the installed version of a package, or the version that a server reports."""
    if package.endswith("-server"):
        return _first_line(package, "--version") or "not installed"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _commit() -> str:
    commit = _first_line("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    return f" ({commit})" if commit else ""


def _first_line(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip().partition("\n")[0]
