"""A program that has set the usual default action for SIGPIPE outlives the deaths of its workers."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import os, random, signal
    from poolagg import *

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as `head` would have it
    PARENT, KILLS = os.getpid(), {kills}

    def dies(x):
        if x % {every} == 0 and not os.path.exists(f"{folder}/{{x}}"):
            open(f"{folder}/{{x}}", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    def killing(event):
        "Kill a worker, or the forkserver, between two steps of the parent: at a moment that it has not chosen."
        if isinstance(event, events.ChunkDone) and len(killed) < until and choose.random() < 0.5:
            pids = [handle.child.pid for handle in pool._handles.values()]
            forkserver = getattr(pool._workers.launcher, "forkserver", None)
            if forkserver is not None and choose.random() < 0.2:
                pids = [forkserver.process.pid]
            if pids:
                os.kill(choose.choice(pids), signal.SIGKILL)
                killed.append(1)

    choose, killed = random.Random(4), []
    with ProcessPool(2, start_method={method!r}) as pool:
        while len(killed) < KILLS:
            until = len(killed) + 3  # in one run: more at one place would be taken for the item's fault
            got = aggregate(dies, range(1, 30), Sum(), pool=pool, retries=50, chunksize=2, watch=killing)
            assert got == sum(range(1, 30)), got
    print("outlived", len(killed) >= KILLS)
"""


@pytest.mark.orphans
@pytest.mark.timeout(150)
def test_the_death_of_a_worker_is_not_the_death_of_the_program(method: str, tmp_path) -> None:
    """Workers and the forkserver are killed at random moments, 15 times and more, and some kill themselves."""
    kills = 15
    source = textwrap.dedent(PROGRAM).format(method=method, kills=kills, every=17, folder=tmp_path)
    program = tmp_path / "program.py"
    program.write_text(source)
    ran = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=140)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "outlived True", "")
