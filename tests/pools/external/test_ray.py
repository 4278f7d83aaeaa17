"""Ray's own faults: deaths of its workers and nodes, and its remains after its end; the rest of the contract is in
test_elsewhere.py.

Ray keeps threads and descriptors for as long as a program lives, so each of these programs has a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import extras
import psutil
import pytest
from example_output import PRIMES
from paths import EXAMPLES, SUPPORT

if importlib.util.find_spec("ray") is None:
    extras.missing("ray", whole_module=True)

pytestmark = [pytest.mark.orphans, pytest.mark.timeout(330)]

LIMIT = 300
"""Seconds that a program may take: on a busy machine Ray needs a minute to start."""

PRELUDE = """
import contextlib, itertools, os, random, shutil, signal, subprocess, sys, threading
import psutil
import ray
import tasks
from poolagg import *
from poolagg.pools import RayPool

answers = sys.argv[1]

def say(*words):  # not on stdout, where Ray says much
    with open(answers, "a") as file:
        print(*words, file=file)

def first(what):
    with contextlib.suppress(FileExistsError):
        open(f"{answers}.{what}", "x").close()
        return True

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

class Killer:
    # Kills a worker after every 40 chunks.
    def __init__(self):
        self.chunks = self.killed = 0

    def __call__(self, event):
        self.chunks += isinstance(event, events.ChunkDone)
        if self.chunks > 40 * (self.killed + 1) and (running := processes("ray::_run_task")):
            with contextlib.suppress(psutil.NoSuchProcess):
                random.choice(running).kill()
                self.killed += 1

@contextlib.contextmanager
def cluster():  # with a head that has two CPUs
    from ray.cluster_utils import Cluster
    os.environ["RAY_health_check_period_ms"] = "1000"  # so often Ray asks a node whether it is still there
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, include_dashboard=False))
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(os.environ["RAY_TMPDIR"] + "/ray")  # of a cluster that no pool has started

"""

LEFT = """
left = psutil.Process().children(recursive=True)
say("left:", [process for process in left if process.status() != psutil.STATUS_ZOMBIE])
"""


def told(folder: Path, body: str) -> list[str]:
    """Return the output of a program, which must end well and in time, and leave nothing behind."""
    script, answers = folder / "program.py", folder / "answers.txt"
    script.write_text(PRELUDE + textwrap.dedent(body) + LEFT)
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:  # a short name, for Ray has sockets in there
        here = str(SUPPORT)
        environment = {**os.environ, "TMPDIR": temporary, "RAY_TMPDIR": temporary, "PYTHONPATH": here}
        pipe, before = subprocess.PIPE, set(psutil.Process().children(recursive=True))
        program = psutil.Popen(
            [sys.executable, script, answers],
            stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            _, complaints = program.communicate(timeout=LIMIT)
        except BaseException:
            kill_family(program)
            raise
        assert program.returncode == 0, complaints
        # A worker that Ray has just started finds out only when it is up that its node is gone, and ends by itself.
        orphans = set(psutil.Process().children(recursive=True)) - before
        assert not psutil.wait_procs(orphans, timeout=60)[1]
        assert os.listdir(temporary) == []
    return answers.read_text().splitlines()


def kill_family(program: psutil.Popen) -> None:
    """Kill a program and all that it started, also in sessions of their own."""
    family = program.children(recursive=True)
    os.killpg(program.pid, signal.SIGKILL)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    program.communicate()
    psutil.wait_procs(family, timeout=10)


def test_a_program_that_hangs_is_ended_with_all_that_it_started() -> None:
    """A process in a session of its own and a frozen one go with it."""
    body = """
    import os, signal, subprocess, sys, time
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    frozen = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 19)"])
    os.waitpid(frozen.pid, os.WUNTRACED)
    print(own.pid, frozen.pid, flush=True)
    time.sleep(600)
    """
    command, pipe = [sys.executable, "-c", textwrap.dedent(body)], subprocess.PIPE
    program = psutil.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    family = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
    kill_family(program)
    assert len(family) == 2
    assert not any(process.is_running() for process in [program, *family])


def test_want_of_memory_is_told_and_a_lost_raylet_is_an_error(tmp_path: Path) -> None:
    """Ray kills the task that runs when its machine's memory is nearly full, which here it always is by its settings.

    It finds out that the raylet is dead by asking it; no run waits longer.
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
    has_idle_slot, lost, left = told(tmp_path, body)
    assert "for want of memory while it ran item 0, 7" in has_idle_slot
    assert "lost the raylet" in lost
    assert "checkpoint" in lost
    assert left == "left: []"


# -- one pool for faults that end no Ray, and one cluster --------------------------------------------------------------

ON_ONE_POOL = {
    "keeps": """
        aggregate(abs, range(2000), Sum(), pool=pool, chunksize=1)
        servers = [*processes("gcs_server"), *processes("raylet")]
        before = [server.memory_info().rss for server in servers]
        aggregate(abs, range(4000), Sum(), pool=pool, chunksize=1)
        say([(server.memory_info().rss - held) // 4000 < 1000 for server, held in zip(servers, before)])
    """,
    "holds": """
        from ray._private.worker import global_worker

        def references():
            return len(global_worker.core_worker.get_all_reference_counts())

        say("before:", references() < 16 or references())
        chunks, held = int(os.environ.get("POOLAGG_CHUNKS", "320")), []
        func, rows = lambda x: tasks.row(x % 10_000), tasks.SlowHere(0)
        watch = lambda event: held.append(references())
        result = aggregate(func, range(chunks), rows, pool=pool, chunksize=1, watch=watch)
        say(result.sum() == chunks, 16 <= max(held) <= 200 or max(held))
    """,
    "freezes": """
        def item(x):
            if x > 100 and first("frozen"):
                os.kill(os.getpid(), signal.SIGSTOP)
            return tasks.short(x)

        def kill_frozen():
            tasks.wait_for(lambda: processes("ray::_run_task", frozen=True))
            for process in processes("ray::_run_task", frozen=True):
                process.kill()

        threading.Thread(target=kill_frozen).start()
        killer = Killer()
        result = aggregate(item, range(800), Collect(), pool=pool, chunksize=4, watch=killer)
        say(result == list(range(800)), killer.killed >= 3)
    """,
    "large": """
        killer, rows = Killer(), tasks.SlowHere(os.getpid())
        result = aggregate(
            lambda x: tasks.row(tasks.short(x)), range(600), rows, pool=pool, chunksize=4, watch=killer
        )
        say((result.sum(), result.max()) == (600, 1), killer.killed >= 2)
    """,
    "kills": """
        try:
            aggregate(kills_its_worker, range(40), Sum(), pool=pool, retries=1, chunksize=1)
        except WorkerLost as lost:
            say("named:", lost.index, lost.item)
        for reproducible in (False, True):
            failed = []
            options = dict(on_error=failed.append, retries=0, reproducible=reproducible, chunksize=2)
            result = aggregate(kills_its_worker, range(40), Collect(), pool=pool, **options)
            say("skipped:", result == [x for x in range(40) if x != 17], [event.index for event in failed])
    """,
    "ctrl_c": """
        def interrupt(partial):
            if partial == 20:
                signal.raise_signal(signal.SIGINT)

        try:
            aggregate(tasks.short, itertools.count(), Into(interrupt), pool=pool)
        except KeyboardInterrupt:
            say("interrupted:", aggregate(abs, range(-10, 0), Sum(), pool=pool))
    """,
}
"""Parts of one program, in their order: the servers' memory is measured while it is still that of new ones."""

ON_ONE_CLUSTER = {
    "command": f"""
        lines = ["mine.py:twice", "lines.txt", "--lines", "--reduce", "Sum()", "--pool", "ray:" + cluster.address]
        for words in (["-m", "poolagg", "run", *lines], [{str(EXAMPLES / "on_ray.py")!r}, cluster.address]):
            command = [sys.executable, *words]
            ran = subprocess.run(command, cwd=os.path.dirname(answers), stdout=subprocess.PIPE, text=True)
            say(ran.stdout.splitlines()[-1], ran.returncode)
    """,
    "node": """
        second = cluster.add_node(num_cpus=1).all_processes["raylet"][0].process
        doomed = second.pid

        def item(x):
            if os.getppid() == doomed and first("raylet"):
                os.kill(doomed, signal.SIGKILL)
            if x > 150:  # else a busy machine is done before the second node has started a worker
                tasks.wait_for(lambda: os.path.exists(f"{answers}.raylet"))
            return tasks.short(x)

        ray.init(cluster.address, log_to_driver=False)
        with RayPool() as pool:
            killer = Killer()
            result = aggregate(item, range(800), Collect(), pool=pool, chunksize=4, watch=killer)
        say(result == list(range(800)), killer.killed >= 3, second.wait())
    """,
}
"""Parts of another, in their order: the last of them kills a node."""

AFTER_EACH_OTHER = """
import traceback

with {opened} as {name}:
    for part in parts:
        say("part", part.__name__)
        try:
            part({name})
        except BaseException:
            say(traceback.format_exc())
say("part left")
"""


def answers_of(parts: dict[str, str], opened: str, name: str, folder: Path) -> dict[str, list[str]]:
    """Return what each part tells of the one thing that they are given by this name, and what is left after all."""
    functions = [
        f"def {part}({name}):\n{textwrap.indent(textwrap.dedent(body), '    ')}" for part, body in parts.items()
    ]
    after = AFTER_EACH_OTHER.format(opened=opened, name=name)
    answers: dict[str, list[str]] = {}
    for line in told(folder, "\n".join([*functions, f"parts = [{', '.join(parts)}]", after])):
        word, _, part = line.partition(" ")
        if word == "part":
            answers[part] = []
        else:
            answers[list(answers)[-1]].append(line)
    return answers


@pytest.fixture(scope="module")
def on_pool(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what each part tells of a pool that has started Ray."""
    return answers_of(ON_ONE_POOL, "RayPool(workers=2)", "pool", tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def on_cluster(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what each part tells of a cluster, which has no file of the program's folder."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "mine.py").write_text("def twice(line): return 2 * len(line)")
    (folder / "lines.txt").write_text("ab\nabc\n")
    return answers_of(ON_ONE_CLUSTER, "cluster()", "cluster", folder)


def test_workers_die_and_one_freezes_and_each_chunk_counts_once(on_pool: dict[str, list[str]]) -> None:
    """Ray takes no notice of a frozen worker, so somebody has to kill it."""
    assert on_pool["freezes"] == ["True True"]


def test_large_states_that_die_with_their_workers_count_once(on_pool: dict[str, list[str]]) -> None:
    """The items of their states run again."""
    assert on_pool["large"] == ["True True"]


def test_the_driver_holds_no_more_the_more_chunks_there_were(on_pool: dict[str, list[str]]) -> None:
    """It lets go of a state that stays on the cluster when that has met others."""
    assert on_pool["holds"] == ["before: True", "True True"]


def test_an_item_that_kills_its_worker_is_named_or_skipped(on_pool: dict[str, list[str]]) -> None:
    """No other item is told to have failed."""
    assert on_pool["kills"] == ["named: 17 17", "skipped: True [17]", "skipped: True [17]"]


def test_ctrl_c_leaves_the_pool_usable(on_pool: dict[str, list[str]]) -> None:
    """Tasks in flight are cancelled."""
    assert on_pool["ctrl_c"] == ["interrupted: 55"]


def test_ray_keeps_nothing_of_chunks_that_are_done(on_pool: dict[str, list[str]]) -> None:
    """Its servers hold no more the more chunks there were: else it would be some 4 kB for each."""
    assert on_pool["keeps"] == ["[True, True]"]


def test_a_pool_leaves_nothing_behind_after_faults(on_pool: dict[str, list[str]]) -> None:
    """Deaths of workers, of items and of large states, and Ctrl-C, one after the other."""
    assert on_pool["left"] == ["left: []"]


def test_the_command_line_and_the_example_go_to_the_address_that_they_are_given(
    on_cluster: dict[str, list[str]],
) -> None:
    """The command line sends a file that the cluster does not have."""
    assert on_cluster["command"] == ["10 0", f"{PRIMES} 0"]


def test_a_node_dies_and_each_chunk_counts_once(on_cluster: dict[str, list[str]]) -> None:
    """Workers of both nodes die, too; nothing is left behind."""
    assert on_cluster["node"] == [f"True True {-signal.SIGKILL}"]
    assert on_cluster["left"] == ["left: []"]
