"""A program that forks in one thread, while others open and close pools: the child has what is its own, and no more.

`POOLAGG_FORKS=1000` forks so often, with each start method.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FORKS = int(os.environ.get("POOLAGG_FORKS", "15"))

PROGRAM = """
    import os, signal, sys, threading, time
    from poolagg import *
    from poolagg.pools.process.launch.forkserver import kept

    METHOD, FORKS = {method!r}, {forks}
    over = threading.Event()
    troubles = []

    def open_and_close():
        while not over.is_set():
            try:
                with ProcessPool(2, start_method=METHOD) as pool:
                    assert aggregate(abs, range(10), Sum(), pool=pool) == 45
            except BaseException as error:
                troubles.append(f"a pool of the parent: {{type(error).__name__}}: {{error}}")
                return

    def of_kept_forkserver():
        forkserver = kept.kept()
        things = (forkserver.process, forkserver._control, forkserver._death) if forkserver else ()
        return {{thing.sentinel if thing is forkserver.process else thing.fileno() for thing in things}}

    def descriptors():
        found = {{}}
        for fd in set(map(int, os.listdir("/proc/self/fd"))) - of_kept_forkserver():
            try:
                found[fd] = os.readlink(f"/proc/self/fd/{{fd}}")
            except OSError:  # the one that lists them
                pass
        return found

    def child(files, own, method):
        "Be the child: what is it that is wrong?"
        troubles.clear()
        for file, is_ in files.items():
            if not os.path.samestat(os.fstat(file), is_):
                return f"{{file}} is another file"
        kinds = ("pipe:", "socket:", "/memfd:poolagg", "anon_inode:")
        extra = {{fd: name for fd, name in descriptors().items() if fd not in own and name.startswith(kinds)}}
        if extra:
            return f"has what is its parent's: {{extra}}"
        before = descriptors()
        with ProcessPool(1, start_method=method) as pool:
            if aggregate(abs, range(5), Sum(), pool=pool) != 10:
                return "a pool of its own gives a wrong result"
        if aggregate(abs, range(5), Sum(), pool=threads_of_parent) != 10:
            return "a pool of its parent's threads gives a wrong result"
        left = {{fd: name for fd, name in descriptors().items() if before.get(fd) != name}}
        return f"leaves {{left}}" if left else ""

    own = set(descriptors())  # and nothing else before there are pools
    threads_of_parent = ThreadPool(2).__enter__()
    assert aggregate(abs, range(5), Sum(), pool=threads_of_parent) == 10
    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(FORKS):
        files = {{fd: os.fstat(fd) for fd in (os.open(sys.executable, os.O_RDONLY) for _ in range(10))}}
        reader, writer = os.pipe()
        mine = own | {{reader, writer}}
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)  # a deadlock is its end
            try:
                trouble = child(files, mine, "fork" if number % 8 else METHOD)
            except BaseException as error:
                trouble = f"{{type(error).__name__}}: {{error}}"
            os.write(writer, trouble.encode())
            os._exit(0)
        os.close(writer)
        said = os.read(reader, 10_000).decode()
        os.close(reader)
        status = os.waitpid(pid, 0)[1]
        if said or status:
            troubles.append(f"child {{number}}: {{said}} (status {{status}})")
        for file in files:
            os.close(file)
        if troubles:
            break
    over.set()
    for thread in threads:
        thread.join()
    threads_of_parent.close()
    left = set(descriptors()) - own
    print(*troubles, *([f"the parent leaves {{left}}"] if left else []), f"{{number + 1}} forks", sep="\\n")
"""


@pytest.mark.orphans
@pytest.mark.parametrize(("method", "forks"), [("fork", FORKS), ("forkserver", -(-FORKS // 3))])
@pytest.mark.timeout(60 + 4 * FORKS)
def test_a_child_closes_what_is_its_parents_and_nothing_else(method: str, forks: int, tmp_path: Path) -> None:
    """It has no deadlock and no leak, and a pool of its own works."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).format(method=method, forks=forks))
    python = [sys.executable, "-W", "ignore:This process:DeprecationWarning"]  # of forks beside threads, from 3.12 on
    ran = subprocess.run([*python, str(program)], capture_output=True, text=True, timeout=50 + 4 * FORKS)
    assert (ran.stdout.split("\n")[:-1], ran.stderr) == ([f"{forks} forks"], "")
