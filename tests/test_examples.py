"""Every example runs as it stands, says what it promises to say, and leaves no process behind."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import extras
import numpy as np
import pytest
from example_output import PRIMES
from gallery import assert_shown
from paths import EXAMPLES

psutil = pytest.importorskip("psutil")

SECONDS = 50


def run_example(name):
    """Return the lines it prints, which the gallery shows. It has a session and a temporary folder of its own: whatever
    it leaves behind is found.
    """
    command = [sys.executable, "-W", "error", EXAMPLES / name]
    pipe = subprocess.PIPE
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short name, for Ray has sockets in there
        environ = {**os.environ, "TMPDIR": folder, "RAY_TMPDIR": folder}
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=environ)
        out, err = child.communicate(timeout=SECONDS)
        assert child.returncode == 0, err
        assert_nothing_left(child.pid)
        assert os.listdir(folder) == []
    assert_shown(name, out)
    return out.splitlines()


def assert_nothing_left(session):
    until = time.monotonic() + 10
    while left := [pid for pid in psutil.pids() if session_of(pid) == session]:
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.02)


def session_of(pid):
    """None if it has ended: an orphan's parent is the test, and reaps it in the end."""
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None


def test_every_example_has_a_test_and_fits_on_a_page():
    """No example is more than 60 lines, and none is forgotten here."""
    tests = Path(__file__).read_text("utf-8")
    for example in EXAMPLES.glob("*.py"):
        assert f'"{example.name}"' in tests
        assert len(example.read_text("utf-8").splitlines()) <= 60


def test_word_count():
    """The word that Python is written in most is self, by far."""
    lines = run_example("word_count.py")
    assert re.fullmatch(r"[\d,]+ words, [\d,]+ different ones, in the [\d,]+ files of .+", lines[0])
    assert len(lines) == 22
    assert re.fullmatch(r" 1  self +[\d,]+  █{40}", lines[2])
    counts = [int(line.split()[2].replace(",", "")) for line in lines[2:]]
    assert counts == sorted(counts, reverse=True)


def test_shared_attribute():
    """The balance that many processes booked is the one a loop would have booked."""
    balance, serially, by = run_example("shared_attribute.py")
    assert serially.endswith(": the same")
    assert balance.split()[1] == serially.split()[1] == "7,443,441,586"
    assert re.fullmatch(r"computed by \d+ processes, this one not", by)


def test_nested_object():
    """Pistons of an engine of a car count their strokes, and are the objects they were."""
    *pistons, same = run_example("nested_object.py")
    assert len(pistons) == 4
    assert all(" 2000 strokes" in piston for piston in pistons)
    assert same == "still the same objects: True"


def test_matrix():
    """A hundred cells in disorder are the multiplication table."""
    *rows, summary = run_example("matrix.py")
    table = [[int(cell) for cell in re.findall(r"\d+", row)] for row in rows]
    assert table == [[row * column for column in range(1, 11)] for row in range(1, 11)]
    assert summary == "cells left empty: 0, sum: 3025"


def test_unpicklable():
    """Objects that pickle refuses need no pickling; lines are written in input order."""
    refused, written, _, *latest = run_example("unpicklable.py")
    assert "cannot pickle" in refused
    assert written == "300 lines in the file, of which prime: 16"
    assert [line.split()[0] for line in latest] == ["1000000297", "1000000298", "1000000299"]


def test_monte_carlo_pi():
    """Snapshots come while it runs; the last is final, near pi, and the same in every run."""
    *_, last = run_example("monte_carlo_pi.py")
    assert last.split()[0] == "60,000,000"
    assert last.split()[3] == "final"
    assert abs(float(last.split()[2])) < 0.001


def test_k_means():
    """It converges to the centres that the points were drawn around."""
    *iterations, centres = run_example("k_means.py")
    assert len(iterations) > 3
    found = sorted(tuple(map(float, pair)) for pair in re.findall(r"\(([-\d.]+), ([-\d.]+)\)", centres))
    assert np.abs(np.subtract(found, [(0, 0), (2, 7), (6, 1), (9, 8)])).max() < 0.05


def test_parameter_search():
    """The best pair is the one that the data was made with."""
    tried, best, *_ = run_example("parameter_search.py")
    assert tried.startswith("tried 8,000 pairs")
    assert best.startswith("best: 2.5 * exp(-0.7 t)")


def test_into_sqlite():
    """Each row once, in both turns."""
    *turns, longest = run_example("into_sqlite.py")
    rows = [
        re.fullmatch(r"(filled|again): ([\d,]+) functions of \d+ files, of which different: ([\d,]+)", turn)
        for turn in turns
    ]
    assert [row[1] for row in rows] == ["filled", "again"]
    assert len({row[number] for row in rows for number in (2, 3)}) == 1
    assert re.fullmatch(r"the longest: \d+ lines, \w+ in \S+\.py", longest)


def test_in_asyncio():
    """The event loop goes on during a run; cancelling its task ends a run of items that take a day."""
    assert run_example("in_asyncio.py") == [
        f"{sum(len(str(2**number)) for number in range(100))} digits, and the event loop went on meanwhile: True",
        "cancelled: True, within two seconds: True",
    ]


def test_billion_rows():
    """In the official format, and of every row."""
    summary, rows = run_example("billion_rows.py")
    assert re.fullmatch(r"\{(\S+=-?\d+\.\d/-?\d+\.\d/-?\d+\.\d(, )?){7}\}", summary)
    assert summary.startswith("{Abha=-24.7/18.0/54.8, ")
    assert rows == "200,000 rows"


@pytest.mark.orphans
def test_on_dask():
    """A cluster for the laptop is started, and gone afterwards."""
    pytest.importorskip("distributed", reason="pip install 'poolagg[dask]'")
    assert run_example("on_dask.py") == [PRIMES]


@pytest.mark.orphans
def test_on_ray():
    """Ray is started, and gone afterwards."""
    if importlib.util.find_spec("ray") is None:
        extras.missing("ray")
    assert run_example("on_ray.py") == [PRIMES]
