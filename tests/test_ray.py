"""What is Ray's own: deaths of its workers and nodes, and what is left when it is gone; the rest of the contract is in
test_elsewhere.py.

Ray keeps threads and descriptors for as long as a program lives, so each of these programs has a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import extras
import pytest
from test_examples import EXAMPLES, PRIMES

if importlib.util.find_spec("ray") is None:
    extras.missing("ray", whole_module=True)

pytestmark = [pytest.mark.orphans, pytest.mark.timeout(180)]

PRELUDE = """
import contextlib, os, signal, random, itertools, sys, warnings
import psutil
import tasks
from poolagg import *
from poolagg.pools import RayPool

def say(*words):  # not on stdout, where Ray says much
    with open(sys.argv[1], "a") as file:
        print(*words, file=file)

def kills_its_worker(x):
    if x == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return x

def processes(name, frozen=False):  # they come and go while one looks
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name().startswith(name) and (not frozen or child.status() == psutil.STATUS_STOPPED):
                found.append(child)
    return found

def kill_one(processes):
    with contextlib.suppress(psutil.NoSuchProcess):
        random.choice(processes).kill()

"""

LEFT = """
left = psutil.Process().children(recursive=True)
say("left:", [process for process in left if process.status() != psutil.STATUS_ZOMBIE])
"""


def told(folder: Path, body: str) -> list[str]:
    """What a program says, which ends well and in time, and leaves nothing behind."""
    script, answers = folder / "program.py", folder / "answers.txt"
    script.write_text(PRELUDE + textwrap.dedent(body) + LEFT)
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:  # a short name, for Ray has sockets in there
        here = str(Path(__file__).parent)
        environment = {**os.environ, "TMPDIR": temporary, "RAY_TMPDIR": temporary, "PYTHONPATH": here}
        command = [sys.executable, script, answers]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
        assert ran.returncode == 0, ran.stderr
        assert os.listdir(temporary) == []
    return answers.read_text().splitlines()


def test_deaths_on_ray(tmp_path: Path) -> None:
    """Workers, one of them frozen, and a node are killed in a run, and each chunk counts once, also where large states
    are lost; a killer is named or skipped; Ctrl-C. The driver holds no more the more chunks there were."""
    body = """
    import ray, shutil, subprocess
    from ray._private.worker import global_worker
    from ray.cluster_utils import Cluster

    answers = sys.argv[1]

    def first(what):
        with contextlib.suppress(FileExistsError):
            open(f"{answers}.{what}", "x").close()
            return True

    def short(x):
        import time
        time.sleep(0.001)
        if os.getppid() == doomed and first("raylet"):
            os.kill(doomed, signal.SIGKILL)
        if x > 100 and first("frozen"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if x > 150:  # else a busy machine is done before the second node has started a worker
            tasks.wait_for(lambda: os.path.exists(f"{answers}.raylet"))
        return x

    def kill(event):
        global dead, done
        done += isinstance(event, events.ChunkDone)
        if done > 40 * (dead + 1) and (running := processes("ray::_run_lease")):
            kill_one(running)
            dead += 1
        elif done > 60 and (frozen := processes("ray::_run_lease", frozen=True)):  # of which Ray takes no notice
            kill_one(frozen)

    def count(event):
        held.append(len(global_worker.core_worker.get_all_reference_counts()))

    def interrupt(partial):
        if partial == 20:
            signal.raise_signal(signal.SIGINT)

    def programs(address):
        # The command line, with a file that the cluster does not have, and the example: both go to an address.
        folder = os.path.dirname(answers)
        for name, text in {"mine.py": "def twice(line): return 2 * len(line)", "lines.txt": "ab\\nabc\\n"}.items():
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        typed = ["-m", "poolagg", "run", "mine.py:twice", "lines.txt", "--lines", "--reduce", "Sum()"]
        commands = [[*typed, "--pool", f"ray:{address}"], [EXAMPLE, address]]
        pipe = subprocess.PIPE
        return [subprocess.Popen([sys.executable, *words], cwd=folder, stdout=pipe, text=True) for words in commands]

    os.environ["RAY_health_check_period_ms"] = "1000"  # so often Ray asks a node whether it is still there
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, include_dashboard=False))
    for program in programs(cluster.address):
        say(program.communicate()[0].splitlines()[-1], program.returncode)
    second = cluster.add_node(num_cpus=1).all_processes["raylet"][0].process
    doomed = second.pid
    ray.init(cluster.address, log_to_driver=False)
    with RayPool() as pool:
        dead = done = 0
        result = aggregate(short, range(800), Collect(), pool=pool, chunksize=4, watch=kill)
        say("each once:", result == list(range(800)), dead >= 3, second.wait())
        dead, done, rows = 0, 0, tasks.SlowHere(os.getpid())
        result = aggregate(lambda x: tasks.row(short(x)), range(600), rows, pool=pool, chunksize=4, watch=kill)
        say("large states, each once:", (result.sum(), result.max()) == (600, 1), dead >= 2)
        chunks, held = int(os.environ.get("POOLAGG_CHUNKS", "320")), []
        rows = tasks.SlowHere(0)
        result = aggregate(lambda x: tasks.row(x % 10_000), range(chunks), rows, pool=pool, chunksize=1, watch=count)
        say("references:", result.sum() == chunks, 16 <= max(held) <= 200 or max(held))
        try:
            aggregate(kills_its_worker, range(40), Sum(), pool=pool, retries=1, chunksize=1)
        except WorkerLost as lost:
            say("named:", lost.index, lost.item)
        for reproducible in (False, True):
            failed = []
            options = dict(on_error=failed.append, retries=0, reproducible=reproducible, chunksize=2)
            result = aggregate(kills_its_worker, range(40), Collect(), pool=pool, **options)
            say("skipped:", result == [x for x in range(40) if x != 17], [event.index for event in failed])
        try:
            aggregate(short, itertools.count(), Into(interrupt), pool=pool)
        except KeyboardInterrupt:
            say("interrupted:", aggregate(abs, range(-10, 0), Sum(), pool=pool))
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(os.environ["RAY_TMPDIR"] + "/ray")  # of a cluster that no pool has started
    """
    body = f"EXAMPLE = {str(EXAMPLES / 'on_ray.py')!r}\n" + textwrap.dedent(body)
    assert told(tmp_path, body) == [
        "10 0",
        f"{PRIMES} 0",
        f"each once: True True {-signal.SIGKILL}",
        "large states, each once: True True",
        "references: True True",
        "named: 17 17",
        "skipped: True [17]",
        "skipped: True [17]",
        "interrupted: 55",
        "left: []",
    ]


def test_ray_keeps_nothing_of_chunks_that_are_done(tmp_path: Path) -> None:
    """Its servers hold no more the more chunks there were: else it would be some 4 kB for each."""
    body = """
    with RayPool(workers=2) as pool:
        aggregate(abs, range(2000), Sum(), pool=pool, chunksize=1)
        servers = [*processes("gcs_server"), *processes("raylet")]
        before = [server.memory_info().rss for server in servers]
        aggregate(abs, range(4000), Sum(), pool=pool, chunksize=1)
        say([(server.memory_info().rss - held) // 4000 < 1000 for server, held in zip(servers, before)])
    """
    assert told(tmp_path, body) == ["[True, True]", "left: []"]


def test_want_of_memory_is_told_and_a_lost_raylet_is_an_error(tmp_path: Path) -> None:
    """Ray kills the task that runs when its machine's memory is nearly full, which here it always is by its settings.

    It finds out that the raylet is dead by asking it; nobody waits for longer.
    """
    body = """
    def waits(x):
        import time
        time.sleep(600)

    def ends_ray():
        (raylet,) = processes("raylet")
        raylet.kill()
        yield 1

    os.environ["RAY_memory_usage_threshold"] = "0.001"
    os.environ["RAY_health_check_period_ms"] = "1000"
    with RayPool(workers=1) as pool:
        for source in ([7], ends_ray()):
            try:
                aggregate(waits, source, Sum(), pool=pool, retries=0)
            except WorkerLost as lost:
                say(lost)
    """
    hungry, lost, left = told(tmp_path, body)
    assert "for want of memory while it ran item 0, 7" in hungry
    assert "lost the raylet" in lost
    assert "checkpoint" in lost
    assert left == "left: []"
