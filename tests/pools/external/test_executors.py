"""Executors whose workers die; the rest is in test_elsewhere.py.

Each program has a process of its own: these libraries keep trackers and pipes for as long as a program lives.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from poolagg import Sum, aggregate

pytestmark = pytest.mark.orphans  # loky's tracker outlives its program by a moment

PRELUDE = """
import multiprocessing, os, warnings
from concurrent.futures import ProcessPoolExecutor
from poolagg import *

def kills_its_worker(x):
    if x == 17:
        os._exit(3)
    return x

if __name__ == "__main__":
"""

EXECUTORS = {"standard library": "ProcessPoolExecutor(2)", "loky": "__import__('loky').ProcessPoolExecutor(2)"}


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    """How to make an executor."""
    if request.param == "loky":
        pytest.importorskip("loky", reason="pip install loky")
    return EXECUTORS[request.param]


def printed(folder: Path, body: str) -> str:
    """Return the output of a program, which must print nothing on stderr."""
    script = folder / "program.py"
    script.write_text(PRELUDE + textwrap.indent(textwrap.dedent(body), "    "))
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_an_item_that_kills_its_worker_can_be_skipped(executor: str, tmp_path: Path) -> None:
    """Its neighbours are in the result, each once, also where leaves must be folded whole."""
    body = f"""
    for reproducible in (False, True):
        with {executor} as executor, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SkippedItems)
            options = dict(on_error="skip", reproducible=reproducible)
            result = aggregate(kills_its_worker, range(40), Collect(), pool=executor, **options)
        print(result == [x for x in range(40) if x != 17], "item 17" in str(caught[-1].message))
    """
    assert printed(tmp_path, body).split() == ["True"] * 4


def test_a_multiprocessing_pool_that_lost_a_worker_is_not_waited_for(tmp_path: Path) -> None:
    """By itself it would wait for ever: it does not report that a worker is gone, and its task with it."""
    body = """
    with multiprocessing.Pool(2) as pool:
        try:
            aggregate(kills_its_worker, range(40), Sum(), pool=pool)
        except WorkerLost as lost:
            print(lost.exitcode)
    """
    assert printed(tmp_path, body) == "3"


class Unordered:
    """All that some pools have: `imap_unordered`."""

    def imap_unordered(self, func: Any, iterable: Iterable[Any]) -> Iterator[Any]:
        with ThreadPoolExecutor(1) as executor:
            yield from executor.map(func, iterable)


def test_imap_unordered_is_enough() -> None:
    """A pool of which nothing else is known runs the chunks."""
    assert aggregate(abs, range(-40, 0), Sum(), pool=Unordered()) == sum(range(41))


def test_an_object_that_is_not_a_pool_is_refused_with_the_names_of_pools() -> None:
    """A class in the pool's place is the usual slip."""
    with pytest.raises(TypeError, match=r"did you mean ProcessPoolExecutor\(\)"):
        aggregate(abs, [1], Sum(), pool=ProcessPoolExecutor)
    with pytest.raises(TypeError, match="pool must be"):
        aggregate(abs, [1], Sum(), pool=3)


def test_item_timeout_is_refused() -> None:
    """No executor can end one item."""
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="item_timeout"):
        aggregate(abs, [1], Sum(), pool=executor, item_timeout=1)
