"""How Python is started where others' pools run, each in a process of its own; and what has to be there for it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import extras
import pytest
from paths import PROGRAMS, SUPPORT, TESTS

PACKAGES = {"dask": "distributed", "mpi4py.futures": "mpi4py", "ray.util.multiprocessing.Pool": "ray"}
"""The module to import, where it differs from the pool's name."""

CONTRACT = TESTS / "pools/contract"
"""The tests that all pools pass."""

ENVIRON = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT, PROGRAMS, CONTRACT))),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}
"""Workers import what the tests share, and the tests of the contract; `mpiexec` may have come with a package."""

MPIEXEC = shutil.which("mpiexec", path=ENVIRON["PATH"])


def python(pool: str) -> list[str]:
    """Python, for a program of that pool: under `mpiexec` there are a parent and two workers."""
    if pool != "mpi4py.futures":
        return [sys.executable]
    return [str(MPIEXEC), "-n", "3", sys.executable, "-m", "mpi4py.futures"]


def is_there(pool: str) -> bool:
    """Tell whether it is installed."""
    package = PACKAGES.get(pool, pool)
    known = pool in ("ProcessPool", "ProcessPoolExecutor", "multiprocessing.Pool", "interpreters")
    return known or (importlib.util.find_spec(package) is not None and (package != "mpi4py" or MPIEXEC is not None))


def run(pool: str, *words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of that pool to its end."""
    command = [*python(pool), *map(str, words)]
    environment = {**ENVIRON, **options.pop("env", {})}
    before = memory_of_mpi()
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, **options)
    finally:
        if pool == "mpi4py.futures":  # MPI leaves it there when its job is ended by a fault
            for name in memory_of_mpi() - before:
                name.unlink()


def memory_of_mpi() -> set[Path]:
    """Return the shared memory of MPI's processes."""
    return set(Path("/dev/shm").glob("mpich_shm_*"))


def side_by_side(pools: Iterable[str], func: Callable[[str], Any]) -> dict[str, Any]:
    """`func` of each pool that is installed, three at once, for most of it is waiting."""
    there = [pool for pool in pools if is_there(pool)]
    with ThreadPoolExecutor(3) as threads:
        return dict(zip(there, threads.map(func, there), strict=True))


def skip_if_some_are_missing(pools: Iterable[str]) -> None:
    """At the end of a test of those that are there; in CI it is a failure."""
    missing = [pool for pool in pools if not is_there(pool)]
    amiss = [pool for pool in missing if extras.demanded(PACKAGES.get(pool, pool))]
    assert not (amiss and os.environ.get("POOLAGG_CI")), f"not installed: {amiss}"
    if missing:
        pytest.skip(f"all but {', '.join(missing)}: pip install 'poolagg[test]'")
