"""Old kernels and closed containers: system calls that are refused, folders that are missing, few descriptors, PID 1.

Each program runs in a process of its own, and in namespaces of its own where it takes those.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import PROGRAMS

pytestmark = pytest.mark.orphans  # which a killed forkserver leaves

PROGRAM = """
import os, resource, signal, sys
import numpy as np
from poolagg import *

METHOD, MARK = sys.argv[1:]
STEP = 3
X = share(np.arange(100_000.0))

def kills_its_worker_once(x):
    if x == 17 and not os.path.exists(MARK):
        open(MARK, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return x

with ProcessPool(2, start_method=METHOD) as pool:
    print(aggregate(lambda x: x + STEP, range(100), Sum(), pool=pool))
    print(aggregate(kills_its_worker_once, range(40), Sum(), pool=pool))
    print(aggregate(lambda x: np.full(50_000, x + X.value[x]), range(10), ArraySum(), pool=pool)[7])
    if METHOD == "forkserver":
        (forkserver,) = aggregate(lambda x: os.getppid(), range(4), Unique(), pool=pool)
        os.kill(forkserver, signal.SIGKILL)
        print(aggregate(lambda x: x + STEP, range(1000), Sum(), pool=pool))
print(aggregate(abs, range(10), Sum(), workers=2, item_timeout=20))
"""

PRINTED = "5250\n780\n90.0\n{}45\n"

NO_PROC = "mount -t tmpfs none /proc"
FULL_SHM = "mount -t tmpfs -o size=4096 none /dev/shm && head -c 4096 /dev/zero >/dev/shm/full"
NO_SHM = (
    'mount -t tmpfs none "$FOLDER" && for name in null zero random urandom tty; do '
    'touch "$FOLDER/$name" && mount --bind "/dev/$name" "$FOLDER/$name" || exit; done; mount --rbind "$FOLDER" /dev'
)


def run(folder: Path, *before: object, method: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the program by a command that ends with `before`."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    command = [*before, program, method, folder / "mark"]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=50, cwd=folder, check=False, **options
    )


def works(ran: subprocess.CompletedProcess[str]) -> None:
    """The program printed each result, whatever was killed meanwhile."""
    printed = PRINTED.format("502500\n" if "forkserver" in ran.args else "")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, printed, "")


def namespaces(*options: str) -> list[str]:
    """Return a command that runs another in namespaces of its own, or skip the test where that is not allowed."""
    command = ["unshare", "--mount", *options]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        why = f"namespaces take root, and a system that allows them: {tried.stderr.strip()}"
        pytest.fail(why) if os.environ.get("POOLAGG_CI") else pytest.skip(why)
    return command


def changed(mounts: str, folder: Path) -> list[object]:
    """Return a command that runs Python where the file system is changed so."""
    (folder / "dev").mkdir()
    script = f'FOLDER={folder / "dev"}; {mounts} && exec "$@"'
    return [*namespaces(), "sh", "-c", script, "sh", sys.executable]


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        ("ENOSYS", "pidfd_open"),
        ("EPERM", "pidfd_open"),
        ("EPERM", "pidfd_send_signal"),
        ("EPERM", "memfd_create"),
    ],
)
def test_a_kernel_or_a_filter_that_refuses_a_system_call(error: str, calls: str, tmp_path: Path) -> None:
    """Kernels before 5.3 have no pidfd, and some containers refuse what they do not know."""
    works(run(tmp_path, sys.executable, PROGRAMS / "refused_calls.py", error, calls, method="forkserver"))


def test_a_kernel_that_has_none_of_them(method: str, tmp_path: Path) -> None:
    """As RHEL 7 is; with each start method."""
    calls = "pidfd_open,pidfd_send_signal,memfd_create"
    works(run(tmp_path, sys.executable, PROGRAMS / "refused_calls.py", "ENOSYS", calls, method=method))


def test_a_container_without_proc(method: str, tmp_path: Path) -> None:
    works(run(tmp_path, *changed(NO_PROC, tmp_path), method=method))


def test_a_container_with_neither_proc_nor_pidfds(tmp_path: Path) -> None:
    """Then only a signal tells if a worker lives on after its forkserver."""
    before = [*changed(NO_PROC, tmp_path), PROGRAMS / "refused_calls.py", "ENOSYS", "pidfd_open"]
    works(run(tmp_path, *before, method="forkserver"))


@pytest.mark.parametrize("mounts", [FULL_SHM, NO_SHM], ids=["full", "missing"])
def test_shared_memory_by_name_is_full_or_missing(mounts: str, tmp_path: Path) -> None:
    """No pool uses it."""
    works(run(tmp_path, *changed(mounts, tmp_path), method="forkserver"))


def test_two_workers_take_fewer_than_64_descriptors(method: str, tmp_path: Path) -> None:
    limited = ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh", sys.executable]
    works(run(tmp_path, *limited, method=method))


@pytest.mark.parametrize("workers", [8, 100])
def test_more_workers_than_descriptors_are_refused_before_any_starts(method: str, workers: int, tmp_path: Path) -> None:
    """In one sentence, which says how many can be had; and so many work."""
    program = f"""if True:
        import re, psutil
        from poolagg import *
        try:
            with ProcessPool({workers}, start_method={method!r}):
                pass
        except OSError as error:
            assert not psutil.Process().children()
            print(error)
            fits = int(re.search(r"workers=(\\d+)$", str(error))[1])
        print(aggregate(abs, range(30), Sum(), pool=ProcessPool(fits, start_method={method!r}), chunksize=1))
    """
    command = ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh", sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False)
    refused, *rest = ran.stdout.splitlines()
    assert f"Too many open files: {workers} workers need up to" in refused
    assert "of 64 that it may open: raise the limit (ulimit -n), or pass workers=" in refused
    assert (rest, ran.stderr) == (["435"], "")


def test_a_program_that_is_process_1_of_its_container(method: str, tmp_path: Path) -> None:
    """It is nobody's child, and the kernel gives it all orphans."""
    before = [*namespaces("--pid", "--fork", "--mount-proc", "--kill-child"), sys.executable]
    works(run(tmp_path, *before, method=method))
