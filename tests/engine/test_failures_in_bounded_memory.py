"""A run in which items fail takes no more memory for each of them: counts are exact, and the first few are told."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_reducers import Listing

from poolagg import Checkpoint, Report, SerialPool, SkippedItems, Sum, aggregate
from poolagg.__main__ import main
from poolagg._checkpoint.store import look
from poolagg._engine.checkpointer import LISTED
from poolagg._engine.failures import error_of_run
from poolagg._scheduler.messages import (
    ChunkResult,
    Failure,
    LeaveOut,
    Lost,
    PartialState,
    Pulled,
    RunChunk,
    SourceEnded,
)
from poolagg._scheduler.ranges import LeafGrid, RangeSet
from poolagg._scheduler.scheduler import Scheduler, SchedulerOptions
from poolagg.errors import WorkerLost, clipped
from poolagg.strategies import Tree

# -- memory ------------------------------------------------------------------------------------------------------------

MEASURED = """
import json, sys, tempfile, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import poolagg
warnings.simplefilter("ignore")
POOLS = {
    "serial": poolagg.SerialPool,
    "threads": lambda: poolagg.ThreadPool(2),
    "processes": lambda: poolagg.ProcessPool(2),
    "an executor of threads": lambda: ThreadPoolExecutor(2),
    "an executor of processes": lambda: ProcessPoolExecutor(2),
}
MODES = {
    "skip": lambda: {"on_error": "skip"},
    "a function": lambda: {"on_error": lambda failed: None},
    "reproducible": lambda: {"on_error": "skip", "reproducible": True},
    "told": lambda: {"on_error": "skip", "watch": poolagg.Report()},
    "checkpoint": lambda: {"on_error": "skip", "checkpoint": tempfile.mkdtemp() + "/checkpoint"},
}

def fails(item):
    if item[0] % every == 0:
        raise ValueError(item)
    return 1

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1000

def run(pool, mode, count, size):
    before = peak()
    items = (bytes([index % 250]) * size for index in range(count))
    result = poolagg.aggregate(fails, items, poolagg.Sum(), pool=pool, **MODES[mode]())
    assert result == sum(index % 250 % every != 0 for index in range(count)), result
    return peak() - before

if __name__ == "__main__":
    kind, modes, every, sizes = json.loads(sys.argv[1])
    with POOLS[kind]() as pool:
        run(pool, "skip", 10, 10)
        print(json.dumps({mode: [run(pool, mode, *size) for size in sizes] for mode in modes}))
"""


def megabytes(tmp_path: Path, *arguments: Any) -> dict[str, list[float]]:
    """By how much the peak of a program's memory grew in each of its runs."""
    script = tmp_path / "measured.py"
    script.write_text(MEASURED)
    done = subprocess.run(
        [sys.executable, script, json.dumps(arguments)], capture_output=True, text=True, timeout=50, check=False
    )
    assert not done.returncode, done.stderr
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")

KINDS = ["serial", "threads", "processes", "an executor of threads", "an executor of processes"]


@needs_proc
@pytest.mark.orphans  # from Python 3.14 on, the forkserver of an executor outlives its program by a moment
@pytest.mark.parametrize("kind", KINDS)
def test_large_items_that_fail_are_not_kept(kind: str, tmp_path: Path) -> None:
    """Items of 1 MB, each in its exception too, fail in the same few megabytes; kept, they would be 100 or more."""
    count = 40 if "processes" in kind else 100
    grown = megabytes(tmp_path, kind, ["skip", "a function", "reproducible"], 1, [(count, 10**6)])
    assert all(most < 60 for most, *_ in grown.values()), grown


@needs_proc
@pytest.mark.parametrize("kind", ["serial", "threads", "an executor of threads"])
def test_a_run_of_failing_items_may_be_endless(kind: str, tmp_path: Path) -> None:
    """After 2,000 items, of which every second fails, memory is about what it is after 20,000."""
    grown = megabytes(tmp_path, kind, ["skip"], 2, [(2_000, 2_000), (20_000, 2_000)])
    assert all(later < 25 for _, later in grown.values()), grown


@needs_proc
def test_a_run_of_failing_items_may_be_endless_in_processes(tmp_path: Path) -> None:
    grown = megabytes(tmp_path, "processes", ["skip"], 2, [(2_000, 2_000), (8_000, 2_000)])
    assert all(later < 25 for _, later in grown.values()), grown


# -- what is told ------------------------------------------------------------------------------------------------------


def odd(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


def test_the_warning_counts_all_and_names_the_first() -> None:
    with pytest.warns(SkippedItems) as told:
        aggregate(odd, range(10_000), Sum(), pool=SerialPool(), on_error="skip")
    assert str(told[0].message) == (
        "5000 of 10000 items failed and are not in the result: item 1, 1: ValueError: 1 is odd; "
        "item 3, 3: ValueError: 3 is odd; item 5, 5: ValueError: 5 is odd; and 4997 more"
    )


def test_the_warning_is_short_where_messages_are_long() -> None:
    def fails(x: int) -> int:
        raise ValueError("x" * 10**6)

    with pytest.warns(SkippedItems) as told:
        aggregate(fails, range(5), Sum(), pool=SerialPool(), on_error="skip")
    assert len(str(told[0].message)) < 5_000


def test_a_report_counts_all() -> None:
    report = Report()
    with pytest.warns(SkippedItems):
        aggregate(odd, range(3_000), Sum(), pool=SerialPool(), on_error="skip", watch=report)
    assert "and 1,490 more" in str(report)


def test_a_checkpoint_lists_the_first_and_counts_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And it knows which failed: they are run again when they are asked for, each once."""
    path, count = tmp_path / "checkpoint", 4 * LISTED
    kept = Checkpoint(path, key="odd")
    with pytest.warns(SkippedItems, match=f"^{count // 2} of {count} "):
        total = aggregate(odd, range(count), Sum(), pool=SerialPool(), on_error="skip", checkpoint=kept)
    held = look(path)
    assert (len(held.failed), len(held.all_failed)) == (LISTED, count // 2)
    main(["show", str(path)])
    shown = capsys.readouterr().out
    assert ["items", "failed", str(count // 2)] in [line.split() for line in shown.splitlines()]
    assert f"and {LISTED} more failed items" in shown

    with pytest.warns(SkippedItems, match=f"^{count // 2} of {count} "):  # continued, it says it again
        assert aggregate(odd, range(count), Sum(), pool=SerialPool(), on_error="skip", checkpoint=kept) == total

    again: list[int] = []
    retry = Checkpoint(path, key="odd", retry_failed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedItems)
        result = aggregate(noting(again), range(count), Sum(), pool=SerialPool(), on_error="skip", checkpoint=retry)
    assert result == sum(range(count))
    assert again == list(range(1, count, 2))


def noting(again: list[int]) -> Any:
    """Notes what runs; nothing fails."""

    def func(x: int) -> int:
        again.append(x)
        return x

    return func


@given(st.text(), st.integers(4, 100))
def test_clipped_text_is_as_long_as_was_asked(text: str, most: int) -> None:
    assert clipped(text, most) == text if len(text) <= most else len(clipped(text, most)) <= most + 40


# -- leaves that were left out -----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["there", "failed"]), min_size=1, max_size=80), st.randoms())
def test_a_tree_keeps_few_states_and_its_shape_whichever_leaves_fail(fates: list[str], random: Any) -> None:
    """The result is that of a tree that is not told; at the end of each 2^n leaves there is one state."""
    told, untold = Tree().parent_fold(Listing()), Tree().parent_fold(Listing())
    instruction = list(enumerate(fates))
    random.shuffle(instruction)
    for leaf, fate in instruction:
        if fate == "there":
            told.commit((0, leaf, [leaf]))
            untold.commit((0, leaf, [leaf]))
        else:
            told.leave_out(leaf)
    assert told.value() == untold.value() == [leaf for leaf, fate in enumerate(fates) if fate == "there"]
    assert len(told.state()) == bin(len(fates)).count("1")


def test_a_leaf_whose_items_all_failed_is_told_once() -> None:
    scheduler = Scheduler(SchedulerOptions(1, grid=LeafGrid(3), skip=True, chunksize=6))
    (run,) = [instruction for instruction in scheduler.handle(Pulled(0, 6, 6)) if isinstance(instruction, RunChunk)]
    failures = tuple(Failure(index, "raised", ValueError()) for index in (0, 1, 2, 4))
    instructions = scheduler.handle(ChunkResult(0, run.chunk, 6, 0.1, failures, ()))
    assert [instruction for instruction in instructions if isinstance(instruction, LeaveOut)] == [LeaveOut(0)]


@given(st.sets(st.integers(0, 60)), st.integers(0, 60))
def test_intervals_forget_what_ends_before(indices: set[int], index: int) -> None:
    intervals = RangeSet((i, i + 1) for i in sorted(indices))
    kept = [(start, stop) for start, stop in intervals if stop > index]
    intervals.forget(index)
    assert list(intervals) == kept
    assert len(intervals) == sum(stop - start for start, stop in kept)


def test_the_scheduler_forgets_which_items_failed_and_not_how_many() -> None:
    scheduler = Scheduler(SchedulerOptions(1, skip=True, chunksize=100))
    for start in range(0, 20_000, 100):
        (run,) = [
            instruction
            for instruction in scheduler.handle(Pulled(start, start + 100, 1))
            if isinstance(instruction, RunChunk)
        ]
        failures = tuple(Failure(index, "raised", ValueError()) for index in range(start, start + 100, 2))
        states = tuple(covering(index) for index in range(start + 1, start + 100, 2))
        scheduler.handle(ChunkResult(0, run.chunk, run.stop, 0.1, failures, states))
        scheduler.check()
    assert scheduler.counts().failed == 10_000
    assert scheduler._items.failed.gaps <= 2_100
    assert len(scheduler._suspects._attempts) <= 2_100


def covering(index: int) -> PartialState:
    return PartialState(((index, index + 1),), index, 1)


# -- a time that is over -----------------------------------------------------------------------------------------------


def test_workers_that_are_killed_for_their_time_and_name_no_item_are_told_as_that() -> None:
    """And not as a state that does not pickle."""
    scheduler = Scheduler(SchedulerOptions(1))
    scheduler.handle(Pulled(0, 4, 4))
    scheduler.handle(SourceEnded())
    late = TimeoutError("it ran longer than item_timeout=1 s")
    instructions: list[Any] = []
    while not scheduler.finished:
        instructions = scheduler.handle(Lost(0, None, "timeout", late))
    error = error_of_run(instructions[-1], "Sum()")
    assert isinstance(error, WorkerLost)
    assert "longer than item_timeout=1 s" in str(error)
    assert error.__cause__ is late
