"""Pools of other people's: all keep the contract of all pools, and what they cannot promise is in the manual.

Each has a process of its own: their libraries keep threads, trackers and pipes for as long as a program lives.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import elsewhere
import faults_elsewhere
import pytest
from paths import PROGRAMS, ROOT

pytestmark = [pytest.mark.orphans, pytest.mark.timeout(300)]

CONTRACT = ["dask", "ray", "loky", "executorlib", "mpi4py.futures", "ray.util.multiprocessing.Pool"]
"""The standard library's are among the kinds that the contract runs on by itself."""

if sys.version_info >= (3, 14):
    CONTRACT.append("interpreters")

NUMPY = "numpy does not load in an interpreter beside the first"
PSUTIL = "its module imports psutil, which does not load there either"
LEFT_OUT = {
    "interpreters": {
        "test_a_generator_may_reuse_its_buffer": NUMPY,
        "test_rng_depends_on_the_item_alone": NUMPY,
        "test_every_reducer_by_every_strategy_gives_the_result_of_a_plain_loop": NUMPY,
        "test_sliced_sources_arrive_whole": NUMPY,
        "test_pools_within_pools": "such an interpreter starts no process, as the pool within is to do",
        "test_an_error_of_a_pool_within_a_pool_is_the_items_own": "the same",
        "test_process_pools_within_pools": "the same",
        "test_every_reducer_that_may_end_does_so_by_every_strategy": PSUTIL,
        "test_an_item_that_is_left_out_does_not_keep_the_run_from_its_end": PSUTIL,
    }
}
"""Tests of the contract that a pool cannot pass, and why."""


def test_all_of_them_keep_the_contract_of_all_pools() -> None:
    """The tests of the contract pass on each."""

    def suite(pool: str) -> str:
        """The text of pytest for a failure."""
        names = " and not ".join([pool, *LEFT_OUT.get(pool, ())])
        options = ["-q", "-x", "--capture=sys", "-p", "no:cacheprovider", "-k", names]
        # Of Ray's own processes, which it collects.
        options += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning"] if "ray" in pool else []
        words = ["-m", "pytest", *options, elsewhere.CONTRACT]
        ran = elsewhere.run(pool, *words, cwd=ROOT, env={"POOLAGG_ONLY": pool})
        return "" if ran.returncode == 0 else f"exit {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[:2000]}"

    failed = {pool: said for pool, said in elsewhere.side_by_side(CONTRACT, suite).items() if said}
    assert not failed, "\n".join(f"{pool}: {said}" for pool, said in failed.items())
    elsewhere.skip_if_some_are_missing(CONTRACT)


def table() -> dict[str, dict[str, str]]:
    """Return the manual's table: what becomes of each fault, by pool."""
    page = (ROOT / "docs/explanation/cannot-hang.md").read_text("utf-8")
    header, _, *lines = re.search(r"^\| a fault(?:.*\n)(?:\|.*\n)+", page, re.M)[0].splitlines()
    faults, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines)]
    return {name.strip("`"): dict(zip(faults[1:], cells, strict=True)) for name, *cells in rows}


def test_the_table_of_faults_in_other_peoples_pools_is_true(tmp_path: Path) -> None:
    """Each cell is what becomes of that fault in that pool."""

    def tried(pool: str) -> dict[str, str]:
        """Return the outputs of as many programs as needed: some faults end the program."""
        folder = tmp_path / pool
        folder.mkdir()
        answers = folder / "answers.txt"
        answers.touch()
        faults = list(faults_elsewhere.FAULTS)
        found: list[str] = []
        while left := faults[len(found) :]:
            ran = elsewhere.run(pool, PROGRAMS / "faults_elsewhere.py", pool, folder, *left)
            found = answers.read_text().splitlines()
            if ran.returncode != 0:
                assert "Traceback" not in ran.stderr, ran.stderr
                answers.write_text("\n".join([*found, "the program ends", ""]))
                found = answers.read_text().splitlines()
        return dict(zip(faults, found, strict=True))

    promised = table()
    assert set(promised) == set(faults_elsewhere.POOLS)
    for pool, found in elsewhere.side_by_side(promised, tried).items():
        assert found == promised[pool], pool
    elsewhere.skip_if_some_are_missing(promised)
