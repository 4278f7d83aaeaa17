"""blocks: every line in exactly one block, whatever the file. prefetch: same items, bounded, no thread."""

from __future__ import annotations

import gc
import io
import os
import pickle
import random
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolagg._input.blocks import Block, _line_start, blocks
from poolagg._input.prefetch import prefetch

LINES = st.lists(
    st.text(st.sampled_from("ab é€😀\u2028\ufeff\x0b"), max_size=12).flatmap(
        lambda line: st.sampled_from(["\n", "\r\n", "\r", "\n\n"]).map(lambda end: line + end)
    ),
    max_size=12,
)
SIZES = st.integers(1, 40)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "UTF8", None])
over_files = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines_of_file(path, encoding):
    with open(path, "rb") if encoding is None else open(path, encoding=encoding) as file:
        return list(file)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"one\ntwo\nthree\n")
    return path


@over_files
@given(
    lines=LINES,
    last=st.text("aé", max_size=3),
    size=st.integers(1, 40),
    encoding=ENCODINGS,
    mark=st.booleans(),
)
def test_every_line_is_in_exactly_one_block(tmp_path, lines, last, size, encoding, mark):
    """The lines of the blocks are the lines of the file: for any lines, ends, size, encoding and mark."""
    path = tmp_path / "file.txt"
    path.write_bytes(("\ufeff" * mark + "".join(lines) + last).encode())
    found = [line for block in blocks(path, size=size, encoding=encoding) for line in block]
    assert found == lines_of_file(path, encoding)


@over_files
@given(lines=LINES, size=SIZES, encoding=ENCODINGS)
def test_reading_a_block_is_joining_its_lines(tmp_path, lines, size, encoding):
    """read() and iteration give the same."""
    path = tmp_path / "file.txt"
    path.write_bytes("".join(lines).encode())
    for block in blocks(path, size=size, encoding=encoding):
        assert block.read() == (b"" if encoding is None else "").join(block)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "gb18030", "big5", "euc_kr", "ascii"])
def test_every_encoding_in_which_newline_is_one_byte_can_be_cut(tmp_path, encoding):
    """Also those in which an ASCII byte may be the second half of a character."""
    path = tmp_path / "file.txt"
    path.write_bytes("一丁\n表ソ|能\nplain\n".encode(encoding, errors="ignore"))
    for size in range(1, 20):
        cut = blocks(path, size=size, encoding=encoding)
        assert [line for block in cut for line in block] == lines_of_file(path, encoding)


def test_a_line_longer_than_a_block_is_whole_in_the_block_it_starts_in(tmp_path):
    """The blocks it covers are empty, and the line after it is in the block that one starts in."""
    path = tmp_path / "long.txt"
    path.write_bytes(b"a\n" + b"x" * 1_000_000 + b"\nb\n")
    texts = [block.read() for block in blocks(path, size=100_000)]
    assert [len(text) for text in texts] == [1_000_003] + [0] * 9 + [2]


def test_a_long_line_costs_each_block_its_own_size_only(monkeypatch):
    """A block inside a long line looks little further than its own end: one long line is not quadratic."""
    monkeypatch.setattr("poolagg._input.blocks._SCAN", 1000)
    file = io.BytesIO(b"x" * 5_000_000)
    assert _line_start(file, 2_500_000, 2_510_000) == 2_510_000
    assert file.tell() < 2_512_000


def test_an_empty_file_has_no_blocks(tmp_path, file):
    """And takes no block from its neighbours."""
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert len(blocks(empty)) == 0
    assert [block.read() for block in blocks(empty, file, empty, file, empty)] == ["one\ntwo\nthree\n"] * 2


def test_blocks_are_a_sequence_made_when_asked_for(file):
    """Length, index from both ends, slices of slices, iteration and membership; a slice is no list."""
    cut = blocks(file, file, size=4)
    assert len(cut) == 8
    every = list(cut)
    assert [cut[i] for i in range(-8, 8)] == every * 2
    assert list(cut[1:7][::-2]) == every[6:0:-2]
    assert isinstance(cut[2:], type(cut))
    assert every[3] in cut
    assert repr(cut) == "<8 blocks of up to 4 bytes, of 2 files>"
    with pytest.raises(IndexError):
        cut[8]


def test_a_petabyte_is_cut_at_once(file, monkeypatch):
    """Nothing is made before it is asked for: the cost of blocks() does not depend on a file's size."""
    real = os.stat(file)
    monkeypatch.setattr(os, "stat", lambda path: os.stat_result((*real[:6], 10**15, *real[7:])))
    cut = blocks(file)
    assert len(cut) == 59_604_645
    assert cut[-1].stop == 10**15


def test_a_block_pickles_small(file):
    """A block is a path and a few numbers, on its way to a worker too."""
    block = blocks(file)[0]
    assert pickle.loads(pickle.dumps(block)) == block
    assert len(pickle.dumps(block)) < 200 + len(block.path)


def test_a_block_is_found_from_another_directory(file, tmp_path, monkeypatch):
    """Paths are made absolute at the call: workers may stand elsewhere."""
    monkeypatch.chdir(tmp_path)
    block = blocks(file.name)[0]
    monkeypatch.chdir("/")
    assert block.read() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("change", [lambda p: p.write_bytes(b"one\n"), lambda p: os.utime(p, ns=(1, 1))])
def test_a_file_that_changed_is_refused(file, change):
    """Shorter, or written to since: the error says so when the block is read."""
    block = blocks(file)[0]
    change(file)
    with pytest.raises(ValueError, match=r"lines.txt' changed since blocks\(\).*: 14 bytes then.*again"):
        block.read()
    with pytest.raises(ValueError, match="changed since"):
        list(block)


def test_a_file_that_went_away_is_the_systems_error(file):
    """Reading a block of a removed file raises FileNotFoundError with the path."""
    block = blocks(file)[0]
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"lines\.txt"):
        block.read()


@pytest.mark.parametrize("read", [Block.read, list])
def test_bytes_that_do_not_decode_are_located(tmp_path, read):
    """The error names the file and the place, and says what to write."""
    path = tmp_path / "latin.txt"
    path.write_bytes(b"ok\n\xe9t\xe9\n")
    with pytest.raises(UnicodeDecodeError) as caught:
        read(blocks(path)[0])
    assert "latin.txt" in caught.value.__notes__[0]
    assert "encoding='latin-1'" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (7, 7),
        ("7", 7),
        ("7B", 7),
        ("64kB", 64_000),
        ("64 KB", 64_000),
        ("2KiB", 2048),
        ("16MiB", 1 << 24),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(file, size, expected):
    """A size is bytes, or a number with a unit of 1000s or of 1024s."""
    assert blocks(file, size=size)._size == expected


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "", "MiB", "16M", "0kB", "-1", "1.5MiB", "many", None])
def test_a_bad_size_says_what_to_write(file, size):
    """Zero, fractions, unknown and ambiguous units are refused at the call."""
    with pytest.raises(ValueError, match=r"size=.*: write a whole number of bytes.*'16MiB'"):
        blocks(file, size=size)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037"])
def test_an_encoding_with_another_newline_is_refused(file, encoding):
    """There a newline is not the byte 10, so lines cannot be found: the message says what to do."""
    with pytest.raises(ValueError, match=f"cannot cut '{encoding}' at newlines.*UTF-8"):
        blocks(file, encoding=encoding)


def test_an_unknown_encoding_is_refused_at_the_call(file):
    """Python's own error, before any worker meets it."""
    with pytest.raises(LookupError, match="utf-9"):
        blocks(file, encoding="utf-9")


def test_what_cannot_be_cut_is_refused_at_the_call(file, tmp_path):
    """Nothing, lists, stdin, missing files, patterns, directories, pipes: each says what to write."""
    os.mkfifo(tmp_path / "pipe")
    for paths, kind, message in [
        ((), ValueError, r"blocks\('corpus.txt'\)"),
        (([file, file],), TypeError, r"write blocks\(\*paths\)"),
        (("-",), ValueError, "sys.stdin"),
        ((file, "nowhere.txt"), FileNotFoundError, "seen from .*nowhere.txt"),
        (("*.nowhere",), FileNotFoundError, r"glob\.glob"),
        ((tmp_path,), IsADirectoryError, "is a directory.*rglob"),
        ((tmp_path / "pipe",), ValueError, "regular files.*pipe"),
    ]:
        with pytest.raises(kind, match=message):
            blocks(*paths)


# --- prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "poolagg-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """After every test of this file the threads of prefetch have ended."""
    yield
    gc.collect()
    for thread in threads():
        thread.join(5)
    assert not threads()


@pytest.mark.parametrize("n", [1, 2, 100])
def test_prefetch_gives_the_same_items(n):
    """In the same order, once, and then stops for good."""
    numbers = prefetch(iter(range(50)), n)
    assert list(numbers) == list(range(50))
    assert list(numbers) == []


@pytest.mark.parametrize("n", [1, 3])
def test_prefetch_pulls_at_most_n_ahead(n):
    """Without a consumer, exactly n items are pulled; each item taken lets one more be pulled."""
    pulled = threading.Semaphore(0)
    count = []

    def source():
        for i in range(100):
            count.append(i)
            pulled.release()
            yield i

    with prefetch(source(), n) as items:
        for taken in range(5):
            for _ in range(n if taken == 0 else 1):
                assert pulled.acquire(timeout=5)
            assert not pulled.acquire(timeout=0.02)
            assert len(count) == taken + n
            assert next(items) == taken


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_of_the_source_comes_at_its_place(error):
    """After the items before it, the same exception object, and then the iterator has ended."""

    def source():
        yield 1
        yield 2
        raise error

    items = prefetch(source(), 10)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(type(error)) as caught:
        next(items)
    assert caught.value is error
    assert list(items) == []


def forever():
    while True:
        yield 0


def test_closing_ends_the_thread():
    """close() twice, or leaving `with`: no item comes any more and the thread ends."""
    items = prefetch(forever(), 3)
    next(items)
    items.close()
    items.close()
    assert list(items) == []
    with prefetch(forever(), 3) as others:
        next(others)
    assert list(others) == []


def test_abandoning_ends_the_thread():
    """An iterator without a reference is collected, and its thread with it."""
    next(prefetch(forever(), 3))
    for item in prefetch(forever(), 1):
        assert item == 0
        break


def test_closing_wakes_a_reader_in_another_thread():
    """A thread that waits for an item of a blocked source sees the end."""
    unblock = threading.Event()
    items = prefetch(iter(unblock.wait, True), 1)
    reader = threading.Thread(target=list, args=(items,))
    reader.start()
    items.close()
    reader.join(5)
    assert not reader.is_alive()
    unblock.set()


def test_the_source_is_released_when_closed():
    """A generator's `finally` runs soon after close: files and cursors in it are given back."""
    released = threading.Event()

    def source():
        try:
            yield from forever()
        finally:
            released.set()

    prefetch(source(), 1).close()
    assert released.wait(5)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3"])
def test_prefetch_checks_n_at_the_call(n):
    """A bad n is refused before a thread starts."""
    with pytest.raises(ValueError, match="at least 1"):
        prefetch([], n)


def test_prefetch_of_no_iterable_is_refused_at_the_call():
    """Python's own TypeError, on the caller's thread."""
    with pytest.raises(TypeError, match="not iterable"):
        prefetch(3, 1)


def test_blocks_of_random_sizes_partition_a_real_file():
    """This very file, in blocks of random sizes, is itself."""
    whole = Path(__file__).read_text("utf-8")
    for size in random.Random(1).sample(range(1, 5000), 20):
        assert "".join(block.read() for block in blocks(__file__, size=size)) == whole
