"""`kill -9` at any moment loses nothing and counts nothing twice."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys

import pytest
from workers import kill_at_any_moment

from poolagg._checkpoint.store import FileStore, look

SCRIPT = """
import random, sys, time
from poolagg import *
kind = sys.argv[2]
def work(x):
    time.sleep(0.001)
    return x % 13 if kind != "collect" else x / 7
kinds = {
    "counts": (Frequencies(), {}),
    "collect": (Collect(), {"reproducible": True}),
    "fold": (lambda a, b: (a * 31 + b) % 1_000_003, {}),
}
reducer, options = kinds[kind]
kept = Checkpoint(sys.argv[1], every=0.02)
result = aggregate(work, iter(range(1200)), reducer, workers=2, checkpoint=kept, **options)
print(repr(sorted(result.items()) if kind == "counts" else result))
"""


@pytest.mark.orphans
@pytest.mark.parametrize("kind", ["counts", "collect", "fold"])
def test_kill_9_of_all_processes_at_any_moment(kind, path, tmp_path):
    """Again and again; the result is that of a run that was never killed, to the bit."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), path, kind]
    for _ in kill_at_any_moment(command, 5, 0.7, random.Random(kind)):
        pass
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    values = [x / 7 if kind == "collect" else x % 13 for x in range(1200)]
    expected = {
        "counts": lambda: [(k, values.count(k)) for k in range(13)],
        "collect": lambda: values,
        "fold": lambda: functools.reduce(lambda a, b: (a * 31 + b) % 1_000_003, values),
    }[kind]()
    assert ended.stdout.strip() == repr(expected), ended.stderr
    assert look(path).facts["covered"] == [[0, 1200]]


DYING = """
import os, signal, sys
from poolagg import *
write, writes = os.write, []
def dying(descriptor, data):
    if len(data) < 1_000_000:
        return write(descriptor, data)
    writes.append(1)
    if len(writes) == 1:
        return write(descriptor, data)
    write(descriptor, data[:1_000_000])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = dying
kept = Checkpoint(sys.argv[1], every=1e-6)
aggregate(lambda x: bytes([x]) * 8_000_000, [1, 2, 3], Collect(), pool=SerialPool(), chunksize=1, checkpoint=kept)
"""


def test_kill_9_in_the_middle_of_a_commit(path):
    """When the file is half written: it has not its name yet, and the next run removes it."""
    died = subprocess.run([sys.executable, "-c", DYING, path], capture_output=True)
    assert died.returncode == -signal.SIGKILL
    assert os.path.getsize(f"{path}.new") > 1_000_000
    assert look(path).facts["covered"] == [[0, 1]]
    store = FileStore(path)
    store.open()
    store.close()
    assert not os.path.exists(f"{path}.new")
    assert look(path).facts["covered"] == [[0, 1]]
