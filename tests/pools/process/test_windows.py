"""Worker processes on Windows: a killed program takes them with it, and their deaths are noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from paths import ROOT

from poolagg import ProcessPool, Sum, WorkerLost, aggregate

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="these primitives are of Windows")


@pytest.mark.parametrize("item", ["time.sleep(60)", "pow(3, 10**9)"])
def test_a_killed_program_takes_its_workers_with_it(item: str, tmp_path: Path) -> None:
    """Also from within C code that holds the GIL."""
    program = f"""
        import os, time
        from pathlib import Path
        from poolagg import ProcessPool, Sum, aggregate

        def hang(x):
            Path({str(tmp_path)!r}, str(os.getpid())).touch()
            {item}

        aggregate(hang, range(2), Sum(), pool=ProcessPool(2), chunksize=1)
    """
    ran = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT)
    try:
        while len(found := os.listdir(tmp_path)) < 2:
            assert ran.poll() is None
            time.sleep(0.05)
        workers = [psutil.Process(int(pid)) for pid in found]
    finally:
        ran.kill()
        ran.wait()
    assert not psutil.wait_procs(workers, 20)[1]


def test_a_worker_that_ends_itself_is_lost_with_its_exit_code() -> None:
    with ProcessPool(2) as pool:
        with pytest.raises(WorkerLost, match="exit code 3, in the middle of its work while it ran item 7"):
            aggregate(lambda x: os._exit(3) if x == 7 else x, range(20), Sum(), pool=pool, retries=0)
        assert aggregate(abs, range(20), Sum(), pool=pool) == 190
