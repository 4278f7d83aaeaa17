"""Files: torn, damaged, full, and where they lie."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from checkpointed import SERIAL, Idle
from places import outcome
from runs_into import Countdown, in_a_fork, into, kept, kill, pair, pairs, raised_by

from poolagg import ResourceError, aggregate
from poolagg._runtime.files import LockFile
from poolagg.resources import IntoFile


def test_a_file_that_was_torn_is_cut_to_what_was_committed(lines):
    """Half a line, and more; what was committed stays."""
    into(pair, range(30), lines)
    with open(lines.path("found.jsonl"), "a") as file:
        file.write('[30, "30"]\n[31, "3')
    into(pair, range(60), lines)
    assert outcome(lines) == pairs(range(60))


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:-3] + b"x\n\n", lambda data: b""])
def test_a_file_that_is_not_what_was_committed_is_refused(damage, lines):
    """And left as it is."""
    into(pair, range(30), lines)
    path = Path(lines.path("found.jsonl"))
    path.write_bytes(damaged := damage(path.read_bytes()))
    with pytest.raises(ResourceError, match=r"found\.jsonl.*committed.*begin anew, delete it and"):
        into(pair, range(60), lines)
    assert path.read_bytes() == damaged


def test_a_ledger_beside_a_file_with_any_bit_wrong_is_refused(lines):
    """Or the outcome is right."""
    into(pair, range(30), lines)
    path = Path(lines.path("found.jsonl.ledger"))
    whole, chance = path.read_bytes(), random.Random(1)
    refused = 0
    for number in range(60):
        damaged = bytearray(whole)
        if number % 3:
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        path.write_bytes(damaged)
        if (error := raised_by(lambda: into(pair, range(30), lines))) is not None:
            assert "found.jsonl" in str(error)
            assert path.read_bytes() == damaged
            refused += 1
        assert outcome(lines) == pairs(range(30))
    assert refused > 50


def test_a_ledger_beside_a_file_is_one_persons(lines):
    """It may hold a state, which is a pickle: one that others may write is not opened."""
    before = os.umask(0)
    try:
        into(pair, range(30), lines)
    finally:
        os.umask(before)
    ledger = lines.path("found.jsonl.ledger")
    assert os.stat(ledger).st_mode & 0o777 == 0o600
    assert sorted(os.listdir(lines.folder)) == ["found.jsonl", "found.jsonl.ledger"]
    os.chmod(ledger, 0o602)
    with pytest.raises(ResourceError, match="others may write"):
        into(pair, range(60), lines)


def test_what_is_in_a_file_before_the_first_run_stays(lines):
    """The head of a table, say; also when the first run is killed before its first commit."""
    path = Path(lines.path("found.jsonl"))
    path.write_text('[-1, "head"]\n')

    def run():
        Countdown(2, kill, False).wrap(os, "replace")
        into(pair, range(30), lines, checkpoint=kept(every=1e-9))

    assert in_a_fork(run) == -signal.SIGKILL
    into(pair, range(30), lines)
    assert lines.found() == [(-1, "head"), *pairs(range(30))]


def test_a_file_whose_last_line_has_no_end_is_refused(lines):
    """The first line would be glued to it."""
    Path(lines.path("found.jsonl")).write_text("head")
    with pytest.raises(ResourceError, match="does not end with a line end"):
        into(pair, range(30), lines)


@pytest.mark.parametrize(
    ("partial", "said"), [(b"a", r"\.of\(json\.dumps\)"), (3, r"\.of\(str\)"), ("a\nb", r"\.flat\(\)")]
)
def test_a_partial_that_is_no_line_is_refused(partial, said, tmp_path):
    """With how to make one."""
    with pytest.raises((TypeError, ValueError), match=said):
        aggregate(lambda item: partial, range(3), IntoFile(tmp_path / "lines"), pool=SERIAL)


def test_a_full_disk_is_told_with_the_name_of_the_file(lines):
    """A limit on file sizes is a disk that is full."""
    import resource as limits

    into(pair, range(30), lines)
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (60_000, hard))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(ResourceError, match=r"found\.jsonl.*File too large"):
            into(pair, range(60_000), lines)
    finally:
        signal.signal(signal.SIGXFSZ, before)
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    assert outcome(lines) == pairs(range(30))
    into(pair, range(60), lines)
    assert outcome(lines) == pairs(range(60))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ResourceError, match="No such file or directory"):
        aggregate(str, range(3), IntoFile(tmp_path / "missing" / "lines"), pool=Idle())


@pytest.mark.parametrize("wrong", [3, b"path", "", "a\0"])
def test_a_path_is_a_path(wrong):
    with pytest.raises((TypeError, ValueError), match=r"path|names no file"):
        IntoFile(wrong)


def test_a_lock_file_goes_with_its_lock(tmp_path):
    """One that was left behind by `kill -9` is taken over."""
    path = str(tmp_path / "lock")
    first, second = LockFile(path), LockFile(path)
    assert in_a_fork(lambda: (first.acquire(), kill())) == -signal.SIGKILL
    assert os.path.exists(path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert not os.path.exists(path)
    assert second.acquire()
    second.release()
