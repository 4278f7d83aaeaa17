"""What is done otherwise on Windows: access control lists, locks next to files, the end of processes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from poolagg import Checkpoint, CheckpointError, Collect, SerialPool, aggregate
from poolagg._runtime.files import LockFile, OpenFile, ReplaceableFile, replace
from poolagg._runtime.system import this
from poolagg._runtime.system.ownership import exposure_of_file

EVERYONE_WRITES = "D:P(A;;FA;;;SY)(A;;FA;;;OW)(A;;0x12019f;;;WD)"
ONLY_OWNER = "D:P(A;;FA;;;SY)(A;;FA;;;OW)"


def allow(path: os.PathLike[str], rules: str) -> None:
    """Set the access control list of a file, in the language of security descriptors."""
    advapi32 = ctypes.WinDLL("advapi32")
    made = ctypes.c_void_p()
    assert advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW(rules, 1, ctypes.byref(made), None)
    assert advapi32.SetFileSecurityW(str(path), 4, made)
    ctypes.WinDLL("kernel32").LocalFree(made)


def test_a_checkpoint_that_everyone_may_write_is_refused(tmp_path):
    """With what to type against it; one that only its owner may write is continued."""
    path = tmp_path / "run.ckpt"
    aggregate(abs, range(3), Collect(), pool=SerialPool(), checkpoint=path)
    assert exposure_of_file(str(path)) is None
    allow(path, EVERYONE_WRITES)
    with pytest.raises(CheckpointError, match=r"others may write .*S-1-1-0.*icacls"):
        aggregate(abs, range(3), Collect(), pool=SerialPool(), checkpoint=path)
    allow(path, ONLY_OWNER)
    assert aggregate(abs, range(3), Collect(), pool=SerialPool(), checkpoint=path) == [0, 1, 2]


def test_a_checkpoint_in_a_folder_where_everyone_may_make_files_is_refused(tmp_path):
    """Another user could put a file in its place."""
    folder = tmp_path / "open"
    folder.mkdir()
    allow(folder, EVERYONE_WRITES)
    with pytest.raises(CheckpointError, match=r"where others may make files .*USERPROFILE"):
        aggregate(abs, range(3), Collect(), pool=SerialPool(), checkpoint=folder / "run.ckpt")


def test_a_lock_excludes_every_other_opening_and_hides_nothing(tmp_path):
    """In this process, too; and others can read all of a locked file."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    first, second = OpenFile(), OpenFile()
    first.open(str(path), os.O_RDWR)
    second.open(str(path), os.O_RDWR)
    try:
        assert first.lock()
        assert not second.lock()
        assert path.read_bytes() == b"content"
        first.close()
        assert second.lock()
    finally:
        first.close()
        second.close()


def test_a_lock_ends_with_its_process(tmp_path):
    """Ended as by the task manager; the file of the lock is left behind, and is free."""
    path = str(tmp_path / "name.lock")
    code = (
        "import sys; from poolagg._runtime.files import LockFile; "
        "print(LockFile(sys.argv[1]).acquire(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"True"
        assert not LockFile(path).acquire()
        other.kill()
        other.wait()
    lock = LockFile(path)
    assert lock.acquire()
    lock.release()
    assert not os.path.exists(path)


def test_a_file_is_replaced_as_soon_as_its_reader_closes_it(tmp_path):
    """Windows refuses to replace an open file; the run waits, and keeps its lock all the while."""
    path = str(tmp_path / "file")
    Path(path).write_bytes(b"old")
    file, reader = ReplaceableFile(path), OpenFile()
    file.open(path, os.O_RDWR)
    assert file.lock()
    reader.open(path, os.O_RDONLY)
    closing = threading.Timer(0.2, reader.close)
    closing.start()
    try:
        replace(path, [b"new"], file)
        assert Path(path).read_bytes() == b"new"
        assert file.has_name(path)
        assert not LockFile(f"{path}.lock").acquire()
    finally:
        closing.join()
        file.close()
    assert os.listdir(tmp_path) == ["file"]


SCRIPT = """
import sys, time
from poolagg import *
def work(x):
    time.sleep(0.001)
    return x / 7
kept = Checkpoint(sys.argv[1], every=0.02)
print(aggregate(work, range(400), Collect(), pool=SerialPool(), checkpoint=kept) == [x / 7 for x in range(400)])
"""


def test_a_run_that_is_ended_again_and_again_is_continued(tmp_path):
    """`TerminateProcess` at five moments: the result is that of one run."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "run.ckpt")]
    for number in range(5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            process.communicate(timeout=0.6 + 0.2 * number)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    assert subprocess.run(command, capture_output=True, text=True, timeout=50).stdout.strip() == "True"


def test_a_second_run_of_a_checkpoint_is_refused(tmp_path):
    """While the first one has it; its lock is a file, which goes with the run."""
    path = tmp_path / "run.ckpt"

    def work(x: int) -> int:
        if x == 3:
            assert sorted(os.listdir(tmp_path)) == ["run.ckpt", "run.ckpt.lock"]
            code = "import sys; from poolagg import *; aggregate(abs, [1], Sum(), pool=SerialPool(), checkpoint=sys.argv[1])"  # noqa: E501
            other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
            assert "is in use by another run" in other.stderr
        return x

    kept = Checkpoint(path, every=1e-9)
    assert aggregate(work, range(5), Collect(), pool=SerialPool(), checkpoint=kept) == [0, 1, 2, 3, 4]
    assert os.listdir(tmp_path) == ["run.ckpt"]


def test_the_peak_of_memory_is_known():
    """That of this process; Windows keeps none of children that have ended."""
    here, children = this.peak_memory()
    assert 1 << 20 < here < 1 << 40
    assert children == 0
