"""A worker that crashes, or is killed for an item that takes too long, says where in the code it was."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from poolagg import Count, ProcessPool, Report, Sum, TaskError, WorkerLost, aggregate, star


def segfaults(x: int) -> None:
    ctypes.string_at(0)


def aborts(x: int) -> None:
    os.abort()


def hangs(x: int) -> None:
    signal.pause()


def hangs_in_c(x: int) -> None:
    """Without giving up the GIL."""
    ctypes.PyDLL(None).pause()


def caller(x: int, deep: object) -> None:
    deep(x)  # type: ignore[operator]


@pytest.mark.parametrize("crash", [segfaults, aborts])
def test_a_crash_shows_the_stack(method: str, crash: object, capfd: pytest.CaptureFixture[str]) -> None:
    """Most recent call first, down to `func`; in the error alone, and after pickling."""
    with pytest.raises(WorkerLost) as caught:
        aggregate(star(caller), [(1, crash)], Sum(), pool=ProcessPool(1, start_method=method), retries=0)
    stack = caught.value.stack
    assert stack is not None
    head, *_, above, func = stack.splitlines()
    assert head.startswith("Current thread 0x")
    assert above.startswith(f'  File "{__file__}", line ')
    assert above.endswith(f"in {crash.__name__}")  # type: ignore[attr-defined]
    assert func.startswith(f'  File "{__file__}", line ')
    assert func.endswith("in caller")
    assert str(caught.value).endswith(f"\nIts worker was at\n{stack}")
    assert pickle.loads(pickle.dumps(caught.value)).stack == stack
    assert "Fatal Python error" not in capfd.readouterr().err


@pytest.mark.parametrize("hang", [hangs, hangs_in_c])
@pytest.mark.parametrize("output", ["forward", "inherit", "discard"])
def test_a_timeout_shows_the_stack(method: str, hang: object, output: str) -> None:
    with pytest.raises(TaskError) as caught:
        pool = ProcessPool(1, start_method=method, output=output)
        aggregate(star(caller), [(1, hang)], Sum(), pool=pool, item_timeout=0.1)
    stack = caught.value.stack
    assert stack is not None
    assert f"in {hang.__name__}" in stack  # type: ignore[attr-defined]
    assert stack.splitlines()[-1].endswith("in caller")
    assert str(caught.value).endswith(stack)


def test_a_worker_that_cannot_answer_is_killed_all_the_same(method: str) -> None:
    def stops(x: int) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    with pytest.raises(TaskError, match="ran longer than") as caught:
        aggregate(stops, [1], Sum(), pool=ProcessPool(1, start_method=method), item_timeout=0.1)
    assert caught.value.stack is None


def test_other_errors_have_no_stack(method: str) -> None:
    def dies(x: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost) as lost:
        aggregate(dies, [1], Sum(), pool=ProcessPool(1, start_method=method), retries=0)
    with pytest.raises(TaskError) as failed:
        aggregate(abs, [None], Sum(), pool=ProcessPool(1, start_method=method))
    assert lost.value.stack is failed.value.stack is None


def test_the_crash_of_a_child_is_not_the_workers(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It stays on standard error."""

    def crashes_elsewhere(x: int) -> None:
        subprocess.run([sys.executable, "-X", "faulthandler", "-c", "import os; os.abort()"], check=False)
        os._exit(1)

    with pytest.raises(WorkerLost) as caught:
        aggregate(crashes_elsewhere, [1], Sum(), pool=ProcessPool(1, start_method=method), retries=0)
    assert caught.value.stack is None
    assert "Fatal Python error: Aborted" in capsys.readouterr().err


def test_a_function_may_use_faulthandler_itself(method: str, tmp_path: Path) -> None:
    def dumps(x: int) -> None:
        with open(tmp_path / "own", "w") as file:
            faulthandler.dump_traceback(file)

    assert aggregate(dumps, [1], Count(), pool=ProcessPool(1, start_method=method)) == 1
    assert "in dumps" in (tmp_path / "own").read_text()


def test_the_page_of_a_report_shows_the_stacks(tmp_path: Path) -> None:
    report = Report()
    with pytest.raises(WorkerLost):
        aggregate(segfaults, [1], Sum(), pool=ProcessPool(1), retries=0, watch=[report])
    report.save(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "died (SIGSEGV), running item 0, at</h2>" in page
    assert "in segfaults" in page
