"""Progress draws what happened, where it is drawn: looked at as a terminal, a pipe and a notebook show it."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import threading

import pytest
from notebook import shown

from poolagg._report.progress import Progress, Rate
from poolagg.events import ChunkDone, ItemFailed, Progressed, RunEnded, RunStarted, WorkerDied

STARTED = {"workers": 2, "pool": "ProcessPool", "strategy": "Combine", "reducer": "Sum()"}


def run_events(total=100, done=0, error=None, trouble=()):
    yield RunStarted(total=total, done=done, **STARTED)
    yield ChunkDone(worker=0, start=0, stop=10, seconds=0.1, at=1.0)
    yield from trouble
    yield Progressed(done=50, failed=0, total=total)
    failed = 1 if trouble else 0
    yield Progressed(done=100 - failed, failed=failed, total=total)
    yield RunEnded(done=70 if error else 100 - failed, failed=failed, elapsed=1.0, error=error)


def lines_drawn(events, **arguments):
    file = io.StringIO()
    progress = Progress(file=file, **arguments)
    for event in events:
        progress(event)
    return file.getvalue().splitlines()


def last(*args, **kwargs):
    return lines_drawn(run_events(*args, **kwargs))[-1]


class Terminal(io.StringIO):
    """A file that says it is a terminal, and what each redraw drew."""

    def isatty(self):
        return True

    def redraws(self):
        return [part for part in re.split(r"[\r\n]", self.getvalue()) if part.strip()]


@pytest.fixture(autouse=True)
def no_thread_is_started():
    """A bar has no thread: tqdm's monitor least of all."""
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


def test_a_pipe_gets_a_line_at_the_start_and_one_at_the_end():
    """No carriage return, nothing per redraw, and the last line has the true count and the rate."""
    first, final = lines_drawn(run_events())
    assert re.fullmatch(r"0%\| *\| 0/100 \[00:00<\?, \?it/s\]", first)
    assert re.fullmatch(r"100%\|#+\| 100/100 \[00:00<00:00, .*it/s\]", final)


def test_a_pipe_gets_a_line_every_mininterval():
    """Once a minute is a default."""
    assert len(lines_drawn(run_events(), mininterval=0)) == 5


def test_an_unknown_total_is_a_count():
    """No percentage, no estimate of the time left; a total that becomes known in the end is shown."""
    assert re.fullmatch(r"100it \[00:00, .*it/s\]", last(total=None))
    learnt = [RunStarted(total=None, **STARTED), Progressed(9, 0, 9), RunEnded(9, 0, 1.0)]
    assert lines_drawn(learnt)[-1].startswith("100%")


def test_items_of_a_checkpoint_are_there_from_the_start_and_not_in_the_rate():
    """`initial` is what the checkpoint holds."""
    assert lines_drawn(run_events(done=40))[0].startswith("40%")


def test_trouble_is_shown_when_there_is_any():
    """Failures, retries and lost workers, in tqdm's own notation; nothing where nothing happened."""
    trouble = [
        ItemFailed(3, "x", ValueError(), attempt=1, will_retry=True),
        ItemFailed(3, "x", ValueError(), attempt=2, will_retry=False),
        WorkerDied(None, "SIGKILL", 5),
    ]
    assert last(trouble=trouble).endswith("it/s, failed=1, lost=1, retried=1]")
    assert last().endswith("it/s]")


def test_an_error_leaves_the_bar_at_its_true_count():
    """A run that broke off is not drawn as complete."""
    assert re.match(r"70%\|.*\| 70/100 ", last(error=ValueError("x")))


@pytest.mark.parametrize(("total", "start"), [(100, r"100%\|#+\| 70/70 "), (None, "70it ")])
def test_a_run_that_ended_early_is_drawn_as_complete(total, start):
    """Without the items that it did not need, and with a word that says so."""
    events = [RunStarted(total, **STARTED), Progressed(90, 0, total), RunEnded(70, 0, 1.0, early=True)]
    final = lines_drawn(events)[-1]
    assert re.match(start, final)
    assert final.endswith(", ended=early]")


def test_an_interrupted_bar_stays_where_it_was():
    """The run has merged less than it ran; the rate and the time left are those of what it ran."""
    broken = [RunStarted(10, **STARTED), Progressed(6, 1, 10), RunEnded(2, 1, 1.0, KeyboardInterrupt())]
    assert re.match(r"70%\|.*\| 7/10 .*failed=1", lines_drawn(broken)[-1])


INTERRUPTED = """
import os, signal, sys, time
from poolagg import *
from poolagg.events import Progressed
def interrupt(event):
    if isinstance(event, Progressed) and event.done >= 3:
        os.kill(os.getpid(), signal.SIGINT)
def func(x):
    time.sleep(0.3)
    return x
bar = Progress(bar_format="{n_fmt} of {total_fmt}", mininterval=0)
try:
    aggregate(func, range(50), Frequencies(), workers=2, watch=[bar, interrupt])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_does_not_step_the_bar_back():
    """Although workers hold states that go with them."""
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=50)
    assert ran.stdout == "interrupted\n"
    counts = [int(line.split()[0]) for line in ran.stderr.splitlines()]
    assert counts == sorted(counts)
    assert counts[-1] >= 3


def test_the_rate_of_slow_items_is_that_of_the_items(monkeypatch):
    """Whatever the redraws between them: eight workers with items of five seconds, which end one shortly after the
    other."""
    clock = [0.0]
    monkeypatch.setattr("poolagg._report.progress.monotonic", lambda: clock[0])
    file = Terminal()
    bar = Progress(file=file, bar_format="{rate_noinv_fmt} {remaining_s}", mininterval=0)
    bar(RunStarted(1000, **STARTED))
    for tenth in range(1, 1001):
        clock[0] = tenth / 10
        bar(Progressed(sum((tenth - start) // 50 for start in range(8) if tenth > start), 0, 1000))
        if tenth >= 60:
            rate, remaining = file.redraws()[-1].split()
            within = 1.3 if tenth > 300 else 2.5
            assert 1.6 / within < float(rate.removesuffix("it/s")) < 1.6 * within
            assert 1 / within < float(remaining) / ((1000 - bar._bar.n) / 1.6) < within
    bar(RunEnded(160, 0, 100.0, KeyboardInterrupt()))


@pytest.mark.parametrize(("before", "after"), [(10.0, 1.0), (1.0, 10.0)])
def test_the_rate_follows_a_run_that_becomes_faster_or_slower(before, after):
    """After it has gone on for as long again, the later half counts three times as much."""
    rate, done = Rate(0, 0.0), 0.0
    for second in range(1, 201):
        done += before if second <= 100 else after
        rate.reach(int(done), float(second))
    assert rate.per_second == pytest.approx(before / 4 + after * 3 / 4, rel=0.02)


def test_one_progress_watches_one_run_after_another():
    """Each run has its own bar and its own trouble; a run that never ended is closed by the next."""
    file = io.StringIO()
    progress = Progress(file=file)
    for events in [[RunStarted(5, **STARTED)], run_events(trouble=[WorkerDied(1, None, None)]), run_events()]:
        for event in events:
            progress(event)
    drawn = file.getvalue().splitlines()
    assert [line.split("|")[0] for line in drawn] == ["0%", "0%", "0%", "100%", "0%", "100%"]
    assert "lost=1" in drawn[3]
    assert "lost" not in drawn[5]


def test_events_outside_a_run_are_nothing():
    """A watcher that joins late draws nothing, and breaks nothing."""
    assert lines_drawn(list(run_events())[1:]) == []


def test_done_may_go_back():
    """A lost worker takes with it what it held: the bar follows."""
    events = [RunStarted(10, **STARTED), Progressed(8, 0, 10), Progressed(3, 0, 10), RunEnded(3, 0, 1.0)]
    assert lines_drawn(events)[-1].startswith("30%")


def test_a_terminal_is_redrawn_at_most_ten_times_a_second():
    """However many events come; and the final state is drawn."""
    file = Terminal()
    progress = Progress(file=file)
    progress(RunStarted(total=10_000, **STARTED))
    for done in range(10_000):
        progress(Progressed(done, 0, 10_000))
    progress(RunEnded(10_000, 0, 1.0))
    assert len(file.redraws()) <= 6
    assert "10000/10000" in file.redraws()[-1]
    assert file.getvalue().endswith("\n")


def test_tqdms_arguments_are_tqdms():
    """They reach the bar; an unknown one is refused when the Progress is made, with the names there are."""
    assert lines_drawn(run_events(), desc="words", unit="file")[-1].startswith("words: 100%")
    assert lines_drawn(run_events(), disable=True) == []
    with pytest.raises(TypeError, match=r"not 'descr': write any of .*desc"):
        Progress(descr="words")


def test_without_a_stderr_nothing_is_drawn(monkeypatch):
    """A daemon has none."""
    monkeypatch.setattr(sys, "stderr", None)
    progress = Progress()
    for event in run_events():
        progress(event)


@pytest.mark.orphans  # from 3.15 on the resource tracker of the user's own bar ends after its program
def test_other_bars_are_left_as_they_are():
    """The user's bars keep tqdm's monitor, and no lock of tqdm's fixes the processes' start method."""
    script = """
        import multiprocessing, threading, tqdm
        from poolagg._report.progress import Progress, Rate
        from poolagg.events import RunStarted, RunEnded
        progress = Progress()
        progress(RunStarted(1, 1, "", "", ""))
        assert threading.active_count() == 1
        assert tqdm.tqdm.monitor_interval == 10
        assert multiprocessing.get_start_method(allow_none=True) is None
        with tqdm.tqdm(total=1) as bar:
            assert threading.active_count() == 2
            progress(RunEnded(1, 0, 1.0))
    """
    run_script(script)


def run_script(script, **kwargs):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20, **kwargs)


def test_importing_the_module_does_not_import_tqdm():
    """Only who makes a bar pays for it."""
    run_script("import sys, poolagg._report.progress; assert 'tqdm' not in sys.modules")


def test_a_notebook_without_widgets_gets_the_text_bar_and_no_warning():
    """A kernel's stderr says that it is no terminal, and is drawn on in place all the same."""
    pytest.importorskip("jupyter_client", reason="pip install jupyter-client ipykernel")
    pytest.importorskip("ipykernel", reason="pip install jupyter-client ipykernel")
    text = shown("""
import warnings; warnings.simplefilter("error")
from poolagg._report.progress import Progress, Rate
from poolagg.events import *
progress = Progress()
for event in [RunStarted(9, 1, "", "", ""), Progressed(4, 0, 9), RunEnded(9, 0, 1.0)]: progress(event)
""")
    assert "9/9" in text
    assert text.count("\n") == 1
    assert "IProgress" not in text


def test_in_a_terminal_the_bar_is_one_line_and_the_cursor_is_below_it(tmp_path):
    """In a real terminal the line is redrawn in place, fits the width, and what is printed next is below."""
    script = tmp_path / "draw.py"
    script.write_text(
        "from poolagg._report.progress import Progress\n"
        "from poolagg.events import *\n"
        "progress = Progress()\n"
        "for event in RunStarted(9, 1, '', '', ''), Progressed(4, 0, 9), RunEnded(9, 0, 1.0):\n"
        "    progress(event)\n"
        "print('after')\n"
    )
    written = in_terminal([sys.executable, script], columns=60)
    bar, after = screen(written)
    assert re.fullmatch(r"100%\|█+\| 9/9 \[00:00<00:00, .*it/s\]", bar)
    assert len(bar) <= 60
    assert after == "after"
    assert "\x1b" not in written.replace("\x1b[A", "")


def test_a_terminal_that_does_not_know_its_size_has_80_columns(tmp_path):
    """Some say 0 columns and 0 rows: containers, remote commands."""
    script = tmp_path / "draw.py"
    script.write_text(
        "from poolagg._report.progress import Progress\n"
        "from poolagg.events import *\n"
        "progress = Progress()\n"
        "progress(RunStarted(9, 1, '', '', ''))\n"
        "progress(RunEnded(9, 0, 1.0))\n"
    )
    *_, bar = screen(in_terminal([sys.executable, script], columns=0, rows=0))
    assert bar.startswith("100%|")
    assert len(bar) == 80


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_workers_print_stands_above_the_bar(tmp_path, stream):
    """Each line is whole, and the bar is drawn once, below them."""
    script = tmp_path / "prints.py"
    script.write_text(
        "import sys, time\n"
        "from poolagg import Count, ProcessPool, aggregate\n"
        "def prints(x):\n"
        "    time.sleep(0.02)\n"
        f"    print('line', x, file=sys.{stream})\n"
        "aggregate(prints, range(20), Count(), pool=ProcessPool(2), progress=True, chunksize=1)\n"
    )
    *lines, bar = screen(in_terminal([sys.executable, script], columns=60))
    assert sorted(lines) == sorted(f"line {x}" for x in range(20))
    assert bar.startswith("100%|")


def in_terminal(command, columns, rows=24):
    """Return the output of `command` on a terminal of that size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True) as child:
        os.close(theirs)
        written = b"".join(iter(lambda: read_terminal(ours), b""))
        assert child.wait(20) == 0
    os.close(ours)
    return written.decode()


def read_terminal(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says so when the last process of the terminal has ended
        return b""


def screen(written):
    """Return the visible text, in which a carriage return goes back to the start of the line."""
    rows = []
    for line in written.replace("\r\n", "\n").split("\n"):
        row = ""
        for part in line.split("\r"):
            row = part + row[len(part) :]
        rows.append(row.rstrip())
    return [row for row in rows if row]


def test_in_a_pipe_of_the_shell_no_carriage_return_is_written(tmp_path):
    """`2> log` has lines to read."""
    script = """
        from poolagg._report.progress import Progress, Rate
        from poolagg.events import *
        progress = Progress()
        for event in [RunStarted(9, 1, "", "", ""), Progressed(4, 0, 9), RunEnded(9, 0, 1.0)]:
            progress(event)
    """
    log = run_script(script, env={**os.environ, "PYTHONIOENCODING": "utf-8"}).stderr
    assert "\r" not in log
    assert len(log.splitlines()) == 2
