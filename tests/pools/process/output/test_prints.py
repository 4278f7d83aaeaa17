"""What workers print comes out on the program's own streams."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest

from poolagg import Into, ProcessPool, Sum, ThreadPool, WorkerLost, aggregate, per_worker

MILLION = 1_000_000


def pool_of(kind: str) -> Any:
    return ThreadPool(2) if kind == "threads" else ProcessPool(2, start_method=kind)


@pytest.fixture(params=["forkserver", "spawn", "fork", "threads"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every start method, and threads."""
    return str(request.param)


def says(x: int) -> int:
    print("item", x)
    print("oh", x, file=sys.stderr)
    return x


def lines_of(text: str) -> list[str]:
    return sorted(text.splitlines())


def test_each_line_comes_out_once_on_its_own_stream(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert aggregate(says, range(20), Sum(), pool=pool_of(kind)) == 190
    out, err = capsys.readouterr()
    assert lines_of(out) == sorted(f"item {x}" for x in range(20))
    assert lines_of(err) == sorted(f"oh {x}" for x in range(20))


def test_a_redirected_stream_gets_the_lines(kind: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        aggregate(says, range(5), Sum(), pool=pool_of(kind))
    assert (len(lines_of(out.getvalue())), len(lines_of(err.getvalue()))) == (5, 5)


def test_a_worker_s_lines_keep_their_order(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = per_worker(itertools.count)

    def counts(x: int) -> None:
        for _ in range(1000):
            print(os.getpid(), next(numbers()))

    with ProcessPool(2, start_method=method) as pool:
        aggregate(counts, range(10), Into(lambda _: None), pool=pool)
    seen: dict[str, list[int]] = {}
    for line in capsys.readouterr().out.splitlines():
        pid, number = line.split()
        seen.setdefault(pid, []).append(int(number))
    assert all(said == list(range(len(said))) for said in seen.values())
    assert sum(map(len, seen.values())) == 10_000


def test_what_an_item_printed_is_there_before_its_result(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also a line that it has not ended."""
    missing: list[int] = []
    seen = ""

    def apply(x: int) -> None:
        nonlocal seen
        seen += capsys.readouterr().out
        if f"<{x}>" not in seen:
            missing.append(x)

    def unended(x: int) -> int:
        print(f"<{x}>", end="")
        return x

    aggregate(unended, range(50), Into(apply), pool=ProcessPool(2, start_method=method), chunksize=1)
    assert missing == []


def test_what_c_code_and_children_write_comes_out(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    def writes(x: int) -> None:
        os.write(1, b"raw\n")
        os.write(2, b"raw error\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)

    aggregate(writes, [1], Into(lambda _: None), pool=ProcessPool(1, start_method=method))
    out, err = capsys.readouterr()
    assert lines_of(out) == ["child", "raw"]
    assert err == "raw error\n"


@pytest.mark.parametrize("death", ["exit", "kill"])
def test_the_last_line_before_a_death_is_not_lost(method: str, death: str, capsys: pytest.CaptureFixture[str]) -> None:
    def dies(x: int) -> None:
        print("last words")
        if death == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerLost):
        aggregate(dies, [1], Sum(), pool=ProcessPool(1, start_method=method), retries=0)
    assert capsys.readouterr().out == "last words\n"


def test_a_million_lines_while_the_parent_is_busy_come_out_whole_in_bounded_memory(tmp_path: Path) -> None:
    """The worker waits while its pipe is full; the parent's memory does not grow with the lines."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import resource, time
        from poolagg import Into, ProcessPool, aggregate

        def talks(x):
            if x:
                print("\\n".join(map(str, range({MILLION} * x, {MILLION} * (x + 1)))))
            return x

        def merge(x):
            if x == 0:
                time.sleep(0.3)

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        aggregate(talks, range(2), Into(merge), pool=ProcessPool(2), chunksize=1)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 8_000, grown
        """)
    )
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=50)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "".join(f"{n}\n" for n in range(MILLION, 2 * MILLION))


def test_bytes_that_are_no_text_come_out_escaped(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    def garbage(x: int) -> None:
        os.write(1, "é\n".encode() + bytes([0xFF, 0, 0x80]) + b"\n")
        os.write(2, b"\xa6poola\n\xa6poolag\x99")

    aggregate(garbage, [1], Into(lambda _: None), pool=ProcessPool(1, start_method=method))
    out, err = capsys.readouterr()
    assert out == "é\n\\xff\0\\x80\n"
    assert err.startswith("\\xa6poola\n")


def test_long_lines_of_two_workers_do_not_mix(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    def long(x: int) -> None:
        print(str(x) * 200_000)

    aggregate(long, range(8), Into(lambda _: None), pool=ProcessPool(2, start_method=method), chunksize=1)
    assert lines_of(capsys.readouterr().out) == [str(x) * 200_000 for x in range(8)]


def test_a_closed_stream_of_the_parent_costs_one_warning(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    with pytest.warns(RuntimeWarning, match=r"sys.stdout can't be written \(ValueError: I/O") as caught:
        assert aggregate(says, range(20), Sum(), pool=ProcessPool(2, start_method=method), chunksize=1) == 190
    assert len([one for one in caught if issubclass(one.category, RuntimeWarning)]) == 1, (
        "and forks may warn of threads"
    )


def test_without_a_stream_in_the_parent_the_lines_are_dropped(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `print` does there."""
    monkeypatch.setattr(sys, "stdout", None)
    assert aggregate(says, range(20), Sum(), pool=ProcessPool(2, start_method=method)) == 190


def test_characters_that_the_parent_s_stream_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", out)
    aggregate(print, ["é"], Into(lambda _: None), pool=ProcessPool(1))
    assert out.buffer.getvalue() == b"\\xe9\n"  # type: ignore[attr-defined]


def test_discarded_output_is_nowhere(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    def speaks(x: int) -> int:
        warnings.warn("unheard", UserWarning, stacklevel=1)
        os.write(1, b"raw\n")
        return says(x)

    assert aggregate(speaks, range(5), Sum(), pool=ProcessPool(2, start_method=method, output="discard")) == 10
    assert capfd.readouterr() == ("", "")


def test_inherited_output_goes_to_the_descriptors_of_the_parent(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    def writes(x: int) -> None:
        os.write(1, b"raw\n")

    with contextlib.redirect_stdout(io.StringIO()) as out:
        pool = ProcessPool(2, start_method=method, output="inherit")
        aggregate(writes, range(5), Into(lambda _: None), pool=pool)
    assert out.getvalue() == ""
    assert capfd.readouterr().out == "raw\n" * 5


def test_another_output_is_refused() -> None:
    with pytest.raises(ValueError, match="output must be one of 'forward', 'inherit', 'discard', not 'loud'"):
        ProcessPool(1, output="loud")


def test_what_the_initializer_and_the_exit_print_comes_out(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    def begins() -> None:
        import atexit

        print("begins")
        atexit.register(print, "ends")

    with ProcessPool(1, start_method=method, initializer=begins) as pool:
        aggregate(abs, [1], Sum(), pool=pool)
    assert capsys.readouterr().out == "begins\nends\n"


def test_breakpoint_says_where_to_debug(method: str) -> None:
    def stops(x: int) -> None:
        breakpoint()

    with pytest.raises(Exception, match=r"run with pool=SerialPool\(\)"):
        aggregate(stops, [1], Sum(), pool=ProcessPool(1, start_method=method))


@pytest.mark.orphans  # the kernel is killed, and its forkserver ends after it
def test_a_notebook_cell_shows_what_workers_print(method: str) -> None:
    import notebook

    cell = f"""
    from poolagg import Count, ProcessPool, aggregate
    def says(x):
        print("item", x)
    aggregate(says, range(3), Count(), pool=ProcessPool(2, start_method={method!r}))
    """
    shown = notebook.shown(textwrap.dedent(cell))
    assert all(f"item {x}" in shown for x in range(3))
