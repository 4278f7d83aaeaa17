"""The file: one run writes it, its owner alone may, and damage is an error and never a wrong result."""

from __future__ import annotations

import functools
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from checkpointed import BAD, ITEMS, SERIAL, Fragile, differs

from poolagg import Checkpoint, CheckpointError, Collect, Frequencies, SerialPool, Sum, aggregate
from poolagg.__main__ import main
from poolagg._checkpoint.checkpoint import FORMAT, HEAD, CheckpointData, FailedItem
from poolagg._checkpoint.store import FileStore, look
from poolagg.strategies import Stream

# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_is_one_persons(path):
    """Whatever the umask."""
    before = os.umask(0)
    try:
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(os.path.dirname(path)) == ["run.ckpt"]


def test_two_runs_at_once_are_refused(path):
    """The second, at once, in this process and in another; by another name too. When the first has ended it is free."""
    other = str(Path(path).with_name("link"))
    os.symlink(path, other)
    program = f"from poolagg import *; aggregate(abs, [1], Sum(), pool=SerialPool(), checkpoint={path!r})"

    def call():
        return aggregate(abs, iter([1, 2]), Sum(), pool=SerialPool(), checkpoint=path)

    def items():
        yield 1
        with pytest.raises(CheckpointError, match="in use by another run of this process"):
            call()
        for _ in range(2):
            ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
            assert "CheckpointError" in ran.stderr
            assert "in use by another run: wait" in ran.stderr
        yield 2

    assert aggregate(abs, items(), Sum(), pool=SerialPool(), checkpoint=other) == 3
    assert call() == 3


HOLDING = """
import os, sys
from poolagg._checkpoint.store import FileStore
store = FileStore(sys.argv[1])
store.open()
if os.fork() == 0:
    os.write(1, b"forked")
    os.read(0, 1)
    os._exit(0)
os.read(0, 1)
"""


@pytest.mark.orphans
def test_a_lock_ends_with_its_process(path):
    """A child that was forked meanwhile, and lives on, does not hold it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holding:
        assert holding.stdout.read(6) == b"forked"
        store = FileStore(path)
        with pytest.raises(CheckpointError, match="in use by another run: wait"):
            store.open()
        store.close()
        holding.kill()
        holding.wait()
        store.open()
        store.close()
        holding.stdin.close()  # which ends the child
        assert holding.stdout.read() == b""


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_is_replaced_during_a_run_stays(gone, path):
    """It is somebody's; one that was deleted is made again."""

    def items():
        yield 1
        os.unlink(path)
        if not gone:
            Path(path).write_text("mine")
        yield 2

    call = functools.partial(aggregate, abs, reducer=Sum(), pool=SERIAL, checkpoint=path)
    if gone:
        assert call(items()) == 3
        assert call(iter([1, 2])) == 3
    else:
        with pytest.raises(CheckpointError, match="was replaced by another file while a run used it"):
            call(items())
        assert Path(path).read_text() == "mine"


def test_what_a_run_keeps_is_shown_to_itself(path):
    """Without a lock, in the same process, whole at any moment."""
    shown = []

    def items():
        for i in range(40):
            if i > 20:
                shown.append(look(path).facts.get("covered"))
            yield i

    kept = Checkpoint(path, every=1e-9)
    run = functools.partial(aggregate, abs, reducer=Sum(), pool=SERIAL, strategy=Stream())
    assert run(items(), checkpoint=kept, chunksize=2) == 780
    assert len(shown) == 19
    assert shown[-1]
    assert run(iter(range(40)), checkpoint=path) == 780


def test_what_a_run_keeps_is_shown_while_it_goes_on(path):
    """From another process; the run goes on undisturbed."""
    shown = []

    def items():
        for i in range(40):
            if i % 10 == 9:
                time.sleep(0.002)
            if i == 35:
                show = [sys.executable, "-m", "poolagg", "show", path]
                shown.append(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
            yield i

    kept = Checkpoint(path, every=0.001)
    assert aggregate(abs, items(), Sum(), pool=SerialPool(), strategy=Stream(), checkpoint=kept) == 780
    assert ["finished", "no"] in [line.split() for line in shown[0].splitlines()]
    assert aggregate(abs, iter(range(40)), Sum(), pool=SerialPool(), strategy=Stream(), checkpoint=path) == 780


def test_damage_is_never_a_wrong_result(tmp_path, path):
    """Any bit, any length: the right result, or an error that names the file and leaves it as it is."""
    func = Fragile(tmp_path, bad=(3, BAD))
    call = functools.partial(aggregate, func, [*range(ITEMS)], Frequencies().of(str), pool=SERIAL, chunksize=10)
    with pytest.raises(ZeroDivisionError):
        call(checkpoint=path, on_error=lambda failed: failed.index == 3 or 1 / 0)
    whole = Path(path).read_bytes()
    expected = {str(i): 1 for i in range(ITEMS) if i not in (3, BAD)}
    chance = random.Random(1)
    outcomes = []
    for number in range(160):
        damaged = bytearray(whole)
        if number % 4:
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        Path(path).write_bytes(damaged)
        try:
            result = call(checkpoint=path, on_error=str)
        except CheckpointError as error:
            outcomes.append((str(error), Path(path).read_bytes() == damaged))
        else:
            assert result == expected
    assert all("run.ckpt" in said and untouched for said, untouched in outcomes)
    assert len(outcomes) == 160


def test_what_is_no_checkpoint_is_left_alone(path):
    """Text, nothing at all, somebody's database, a folder."""
    database = str(Path(path).with_name("mine.db"))
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    for content in (b"", b"hello\n" * 100, Path(database).read_bytes()):
        Path(path).write_bytes(content)
        os.chmod(path, 0o600)
        with pytest.raises(CheckpointError, match="no checkpoint"):
            aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
        assert Path(path).read_bytes() == content
    with pytest.raises(CheckpointError, match="is not a regular file"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=os.path.dirname(path))
    with pytest.raises(CheckpointError, match="cannot be read or written"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path + "/deeper/still")


def test_a_file_of_a_newer_format_is_left_alone(path):
    """The error says to update."""
    aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    content = Path(path).read_bytes()
    Path(path).write_bytes(HEAD.replace(b"%d" % FORMAT, b"99") + content[len(HEAD) :])
    with pytest.raises(CheckpointError, match=r"newer poolagg \(format 99"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)


def test_a_file_that_others_may_write_is_not_opened(path):
    """The error names it."""
    aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    os.chmod(path, 0o602)
    with pytest.raises(CheckpointError, match="others may write"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_file_of_another_user_is_not_opened(path):
    """Not even by root."""
    aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)
    os.chown(path, 12345, -1)
    with pytest.raises(CheckpointError, match="belongs to another user"):
        aggregate(abs, range(3), Sum(), pool=SERIAL, checkpoint=path)


@pytest.mark.skipif(os.geteuid() != 0, reason="a test as another user takes root")
def test_a_folder_that_is_not_ones_own_to_write(path):
    """A file cannot be made there, nor one that is there be changed: the error names it."""
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "run.ckpt")
        call = functools.partial(aggregate, abs, range(3), Sum(), pool=SERIAL)
        call(checkpoint=made)
        before = Path(made).read_bytes()
        os.chown(made, 65534, -1)
        os.chmod(made, 0o400)
        os.chmod(folder, 0o555)
        os.seteuid(65534)
        try:
            for path in (made, made + "2"):
                with pytest.raises(CheckpointError, match=f"'{path}' cannot be read or written"):
                    call(checkpoint=path)
        finally:
            os.seteuid(0)
        assert Path(made).read_bytes() == before
        assert os.listdir(folder) == ["run.ckpt"]


def test_a_full_disk_ends_the_run_and_the_last_commit_stands(path):
    """A limit on file sizes is a disk that is full."""
    small, large = (functools.partial(aggregate, str, range(n), Collect(), pool=SERIAL) for n in (100, 60_000))
    small(checkpoint=path)
    before = look(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"run\.ckpt"):
            large(checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert look(path) == before
    assert os.listdir(os.path.dirname(path)) == ["run.ckpt"]
    assert large(checkpoint=path) == [str(i) for i in range(60_000)]


def test_what_is_committed_is_there(path, monkeypatch):
    """Also where the system writes and reads a few bytes at a time."""
    monkeypatch.setattr(os, "write", lambda descriptor, data, write=os.write: write(descriptor, data[:1000]))
    monkeypatch.setattr(os, "pread", lambda file, count, at, pread=os.pread: pread(file, min(count, 1000), at))
    aggregate(str, range(2000), Collect(), pool=SERIAL, checkpoint=path)
    store = FileStore(path)
    store.open()
    state = store.held.state
    failed = {1: FailedItem(1, "'x'", 1, "ValueError", "ValueError: x")}
    store.commit(CheckpointData(store.held.facts, state * 3, b"12345678", failed))
    store.close()
    held = look(path)
    assert held.state == state * 3
    assert held.failed[1].item == "'x'"
    assert held.pages == b"12345678"


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_continues_and_shows(tmp_path, monkeypatch, capsys):
    """`--checkpoint`, `--retry-failed` and `show`; nothing is unpickled to be shown."""
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("a b\nc\n")
    words = ["run", "builtins:len", "lines.txt", "--lines", "--reduce", "Sum()", "--pool", "serial"]
    for _ in range(2):
        assert main([*words, "--checkpoint", "c.ckpt"]) == 0
        assert capsys.readouterr().out == "4\n"
    monkeypatch.setattr("pickle.loads", differs)
    assert main(["show", "c.ckpt"]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (shown["function"], shown["reducer"], shown["finished"], shown["covered"]) == ("len", "Sum()", "yes", "0-1")
    for option in ("--retry-failed", "--accept-changes"):
        assert main([*words, option]) == 2
        assert f"{option} needs --checkpoint" in capsys.readouterr().err
    assert main(["show", "lines.txt"]) == 1
    assert "no checkpoint" in capsys.readouterr().err


@pytest.mark.filterwarnings("default::poolagg.errors.AcceptedChanges")
def test_the_command_line_accepts_a_mended_function(tmp_path, monkeypatch, capsys):
    """`--accept-changes`, which the refusal leads to; the warning is one line on stderr."""
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("1\n20\n")
    words = ["run", "lines.txt", "--lines", "--reduce", "Sum()", "--pool", "serial", "--checkpoint", "c.ckpt"]
    assert main([*words[:1], "builtins:len", *words[1:]]) == 0
    other = [*words[:1], "builtins:int", *words[1:]]
    capsys.readouterr()
    assert main(other) == 1
    assert "(poolagg run: --accept-changes)" in capsys.readouterr().err
    with open("lines.txt", "a") as file:
        file.write("300\n")
    for option in (["--accept-changes"], []):
        assert main([*other, *option]) == 0
        out, err = capsys.readouterr()
        assert out == "303\n"
        assert err.startswith("poolagg: the checkpoint 'c.ckpt' continues with another func: func") is bool(option)
    assert err == ""


def test_a_checkpoint_that_only_began_is_shown(path, capsys):
    """Nothing was committed yet."""
    store = FileStore(path)
    store.open()
    store.close()
    assert main(["show", path]) == 0
    assert "has committed nothing yet" in capsys.readouterr().out
