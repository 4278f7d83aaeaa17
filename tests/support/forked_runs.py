"""Runs of a benchmark's suite in processes that are forked from one that has loaded the suite: none starts Python.

As a program: listens on a socket, and forks a keeper and its run for each task that comes. What they do is the
harness's own code; only how they begin is not.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from paths import ROOT


@contextlib.contextmanager
def forked_runs(module: str) -> Iterator[Any]:
    """Yield what the harness may take for `subprocess`: its `Popen` has a task run by processes that are forked."""
    if sys.platform != "linux":  # elsewhere libraries may not survive a fork
        yield subprocess
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short name, for the path of a socket
        address, pipe = str(Path(folder, "socket")), subprocess.PIPE
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, __file__, module, address]
        with subprocess.Popen(command, cwd=ROOT, env=environ, stdin=pipe, stdout=pipe) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"listens\n"
            yield SimpleNamespace(Popen=lambda command, **_: _asked(address, command[-1]), PIPE=pipe)


@contextlib.contextmanager
def _asked(address: str, task: str) -> Iterator[Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(f"{task}\n".encode())
        with connection.makefile("rb") as stdout:
            yield SimpleNamespace(stdout=stdout)


# -- the program -------------------------------------------------------------------------------------------------------


def main(module: str, address: str) -> None:
    """Serve; a fork of this process returns from here, too, and ends as a program does."""
    importlib.import_module(module)
    for name in ("alone", "keeper"):
        importlib.import_module(f"benchmarks.harness.{name}")
    connection = serve(address)
    if connection is not None:
        task = json.loads(connection.makefile().readline())
        theirs, ours = os.pipe()
        if pid := os.fork():
            os.close(theirs)
            keep(task, connection, pid, ours)
        else:
            os.close(ours)
            connection.close()
            run(theirs)


def serve(address: str) -> socket.socket | None:
    """Return a connection in a fork that is made for it, and None when stdin ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(100)
        print("listens", flush=True)
        while sys.stdin not in (ready := select.select([sys.stdin, listener], [], [])[0]):
            assert ready == [listener]
            connection = listener.accept()[0]
            if not os.fork():
                return connection
            connection.close()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return None


def keep(task: dict[str, Any], connection: socket.socket, pid: int, pipe: int) -> None:
    """Keep the run that waits at the pipe."""
    keeper = importlib.import_module("benchmarks.harness.keeper")
    for number in (0, 1):
        os.dup2(connection.fileno(), number)
    connection.close()

    def begin(command: list[str], stdout: Any, **_: Any) -> Child:
        words = json.dumps({"task": command[-1], "output": stdout.name, "environ": dict(os.environ)})
        with open(pipe, "w") as file:
            file.write(words)
        return Child(pid)

    keeper.subprocess = SimpleNamespace(Popen=begin, DEVNULL=subprocess.DEVNULL)
    keeper.main(task)


class Child:
    """What the keeper asks of the process of a run."""

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def run(pipe: int) -> None:
    """Run what comes through the pipe, in a session of its own."""
    with open(pipe) as file:
        words = file.read()
    if not words:  # the keeper has gone
        return
    told = json.loads(words)
    os.setsid()
    stdin, output = os.open(os.devnull, os.O_RDONLY), os.open(told["output"], os.O_WRONLY | os.O_APPEND)
    for number, fd in enumerate((stdin, output, output)):
        os.dup2(fd, number)
    os.closerange(3, 256)
    os.environ.update(told["environ"])
    tempfile.tempdir = None
    alone = importlib.import_module("benchmarks.harness.alone")
    sys.modules["__main__"] = alone  # which workers import that are spawned
    alone.main(json.loads(told["task"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
