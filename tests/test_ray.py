"""What is Ray's own: deaths of its workers, and what is left when it is gone; and the contract of all pools, on Ray.

Ray keeps threads and descriptors for as long as a program lives, so each of these programs has a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from dask_cluster import in_a_process_of_its_own

if importlib.util.find_spec("ray") is None and not os.environ.get("POOLAGG_CI"):
    pytest.skip("pip install 'poolagg[ray]'", allow_module_level=True)

pytestmark = [pytest.mark.orphans, pytest.mark.timeout(180)]

PRELUDE = """
import os, signal, random, itertools, warnings
import psutil
from poolagg import *
from poolagg.pools import RayPool

def kills_its_worker(x):
    if x == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return x

def workers():
    return [child for child in psutil.Process().children(recursive=True) if child.name().startswith("ray::_run_lease")]

"""


def printed(folder: Path, body: str) -> list[str]:
    """What a program prints, which ends well and in time."""
    script = folder / "program.py"
    script.write_text(PRELUDE + textwrap.dedent(body))
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stderr
    return [line for line in ran.stdout.splitlines() if "(raylet)" not in line]


def test_ray_keeps_the_contract_of_all_pools() -> None:
    """The suite of test_pools.py, on Ray."""
    # Of Ray's own processes, which it collects.
    in_a_process_of_its_own("ray", "-W", "ignore::pytest.PytestUnraisableExceptionWarning")


def test_deaths_on_ray(tmp_path: Path) -> None:
    """Workers are killed at random, and each chunk counts once; a killer is named or skipped; Ctrl-C; Ray's end."""
    body = """
    def short(x):
        import time
        time.sleep(0.001)
        return x

    with RayPool(workers=2) as pool:
        dead = done = 0

        def kill(event):
            global dead, done
            done += isinstance(event, events.ChunkDone)
            if done > 40 * (dead + 1) and (running := workers()):
                random.choice(running).kill()
                dead += 1

        result = aggregate(short, range(1200), Collect(), pool=pool, chunksize=4, watch=kill)
        print("each once:", result == list(range(1200)), dead >= 3)
        try:
            aggregate(kills_its_worker, range(40), Sum(), pool=pool, retries=1)
        except WorkerLost as lost:
            print("named:", lost.index, lost.item)
        for reproducible in (False, True):
            failed = []
            options = dict(on_error=failed.append, retries=0, reproducible=reproducible)
            result = aggregate(kills_its_worker, range(40), Collect(), pool=pool, **options)
            print("skipped:", result == [x for x in range(40) if x != 17], [event.index for event in failed])

        def interrupt(partial):
            if partial == 20:
                signal.raise_signal(signal.SIGINT)

        try:
            aggregate(short, itertools.count(), Into(interrupt), pool=pool)
        except KeyboardInterrupt:
            print("interrupted:", aggregate(abs, range(-10, 0), Sum(), pool=pool))
    left = psutil.Process().children(recursive=True)
    print("left:", [process for process in left if process.status() != psutil.STATUS_ZOMBIE])
    """
    assert printed(tmp_path, body) == [
        "each once: True True",
        "named: 17 17",
        "skipped: True [17]",
        "skipped: True [17]",
        "interrupted: 55",
        "left: []",
    ]
