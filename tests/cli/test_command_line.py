"""`poolagg run` and `poolagg check`: what they print, how they exit, and that every mistake says what to type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np
import psutil
import pytest

from poolagg._cli.main import main
from poolagg._cli.tables import ranked, render

WORDS = """
import os, signal, sys, time
from collections import Counter
from pathlib import Path

import sibling
from poolagg import Reducer

def count(path):
    return Counter(sibling.split(path))

def words(path):
    return sibling.split(path)

def letters(line):
    return list(line)

def same(item):
    return item

def length(block):
    return len(block.read())

def sized(path):
    return path, len(Path(path).read_text())

def fails_on_two(path):
    if "two" in path:
        raise ValueError(f"cannot read\\n{path}")
    return 1

def dies(path):
    os.kill(os.getpid(), signal.SIGKILL)

def sleeps(path):
    Path(path + ".started").touch()
    time.sleep(60)

class Word:
    def __init__(self, text):
        self.text = text

def as_word(line):
    return Word(line)

def longest(a, b):
    return max(a, b, key=len)

not_a_function = [1, 2, 3]

class LastOne(Reducer):
    def init(self): return None
    def step(self, acc, prepared): return prepared
    def merge(self, acc, other): return acc if other is None else other
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with words.py, a sibling that it imports, and two texts; the interpreter forgets them afterwards."""
    (tmp_path / "words.py").write_text(WORDS)
    (tmp_path / "sibling.py").write_text("def split(path):\n    with open(path) as f: return f.read().split()\n")
    (tmp_path / "one.txt").write_text("a b a\nc a\n", newline="\n")
    (tmp_path / "two.txt").write_text("b d\n", newline="\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name in ("words", "sibling", "other", "my-words"):
            del sys.modules[name]


@pytest.fixture
def said(capsys):
    """Run a command in this process: what it printed, or for a failure its exit code and one line."""

    def run(*words):
        code = main(words)
        out, err = capsys.readouterr()
        if code == 0:
            assert err == ""
            return out
        assert out == ""
        assert err.startswith("poolagg: ")
        assert err.count("\n") == 1
        return code, err.removeprefix("poolagg: ").rstrip("\n")

    return run


def run_serially(said, *words):
    return said("run", *words, "--pool", "serial")


def in_shell(*words, stdin="", **kwargs):
    """Run a command in a process of its own, in a session of its own; nothing of that session may be left."""
    child = start(*words, **kwargs)
    out, err = child.communicate(stdin, timeout=40)
    assert_nothing_left(child)
    return child.returncode, out, err


def start(*words, cwd=None, ascii_only=False):
    command = [sys.executable, "-m", "poolagg", *words]
    # Unbuffered, Python itself loses the rest of a text that a pipe takes a part of.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    env |= {"PYTHONIOENCODING": "ascii" if ascii_only else "utf-8"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True, cwd=cwd, env=env
    )


def assert_nothing_left(leader):
    """No process of the leader's session outlives it."""
    until = time.monotonic() + 10
    while left := [pid for pid in processes() if session(pid) == leader.pid]:
        assert time.monotonic() < until, f"left behind: {left}"
        time.sleep(0.02)


def processes():
    return psutil.pids()


def session(pid):
    """The leader of a process's session; on Windows, its parent."""
    if sys.platform == "win32":
        return psutil.Process(pid).ppid() if psutil.pid_exists(pid) else None
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


# --- runs


def test_words_are_counted_largest_first_and_ties_by_key():
    """The example of the help, in worker processes: functions of a file, which imports its sibling."""
    code, out, err = in_shell("run", "words.py:count", "*.txt", "--reduce", "MergeCounts()", "--workers", "2")
    assert (code, err) == (0, "")
    assert out == "a  3\nb  2\nc  1\nd  1\n"


def test_a_file_is_found_from_anywhere(folder):
    """FILE is a path; its own folder is where its siblings are, and inputs are seen from here."""
    code, out, err = in_shell(
        "run", f"{folder}/words.py:words", str(folder / "one.txt"), "--reduce", "Frequencies().flat()", cwd="/"
    )
    assert (code, out, err) == (0, "a  3\nb  1\nc  1\n", "")


def test_classes_of_a_file_pickle_both_ways():
    """A worker makes an instance of the same class that the reducer's function in the parent knows."""
    reducer = "Collect().of(lambda word: (type(word) is Word, word.text)).then(sorted)"
    code, out, err = in_shell("run", "words.py:as_word", "two.txt", "--lines", "--reduce", reducer)
    assert (code, out, err) == (0, "True  b d\n", "")


def test_standard_input_is_lines(said):
    """`-` with --lines: each line without its end, also a last one that has none, and empty ones."""
    code, out, err = in_shell("run", "words:same", "-", "--lines", "--reduce", "Collect()", stdin="x\n\n y \nz")
    assert (code, out, err) == (0, "x\n\n y\nz\n", "")


def test_standard_input_is_paths():
    """`-` alone: a path a line, as find and ls write them."""
    code, out, err = in_shell("run", "words:sized", "-", "--reduce", "Collect()", stdin="two.txt\none.txt\n")
    assert (code, out, err) == (0, "two.txt   4\none.txt  10\n", "")


@pytest.mark.parametrize("pool", ["process", "threads", "serial"])
def test_every_pool_gives_the_same(said, pool):
    """--pool chooses where, and nothing else."""
    out = said("run", "words.py:count", "*.txt", "--reduce", "MergeCounts()", "--pool", pool)
    assert out == "a  3\nb  2\nc  1\nd  1\n"


def test_patterns_expand_sorted_and_paths_stand_for_themselves(said, folder):
    """Also ** in a quoted pattern; a file that looks like a pattern is that file."""
    (folder / "deep").mkdir()
    (folder / "deep" / "three[1].txt").touch()
    collect = ("--reduce", "Collect()")
    assert run_serially(said, "words.py:same", "two.txt", "o*.txt", *collect) == "two.txt\none.txt\n"
    assert run_serially(said, "words.py:same", "deep/three[1].txt", *collect) == "deep/three[1].txt\n"
    assert run_serially(said, "words.py:same", "**/t*.txt", *collect) == f"deep{os.sep}three[1].txt\ntwo.txt\n"


def test_items_are_lines(said):
    """--lines: of all inputs, in order."""
    out = run_serially(said, "words.py:same", "one.txt", "two.txt", "--lines", "--reduce", "Collect()")
    assert out == "a b a\nc a\nb d\n"


def test_items_are_blocks(said):
    """--blocks: of the size that was typed."""
    out = run_serially(said, "words.py:length", "one.txt", "--blocks", "4B", "--reduce", "Collect()")
    assert out == "6\n4\n0\n"


def test_a_module_is_named_with_dots(said):
    """MODULE:FUNC, as `python -m` would find it."""
    assert run_serially(said, "os.path:getsize", "*.txt", "--reduce", "Sum()") == "14\n"


def test_a_reducer_is_an_expression_an_object_of_a_file_or_a_function(said):
    """In the names of poolagg, operator, math and FUNC's file; or in another file's names."""
    for reducer, out in [
        ("Max(key=len)", "one.txt"),
        ("longest", "one.txt"),
        ("words.py:longest", "one.txt"),
        ("words:LastOne()", "two.txt"),
        ("operator.add", "one.txttwo.txt"),
        ("Sum().of(len).then(math.sqrt)", "3.7416573867739413"),
        ("Sum().of(lambda path: os.path.getsize(path))", "14"),
    ]:
        assert run_serially(said, "words.py:same", "*.txt", "--reduce", reducer) == out + "\n"


def test_a_dict_of_reducers_prints_in_its_own_order(said):
    """Counts are ranked, and what the user has put in order is not."""
    reducer = '{"n": Count(), "bytes": Sum().of(lambda p: p[1]), "largest": Top(2, key=lambda p: p[1])}'
    out = run_serially(said, "words.py:sized", "*.txt", "--reduce", reducer)
    assert out == "n        2\nbytes    14\nlargest  one.txt  10\n         two.txt   4\n".replace(
        "n        2", "n        2"
    )


def test_a_report_is_a_page_or_a_trace(said, folder, capsys):
    """--report: by the name's ending; of a run that fails, too; and what cannot be written does not cost the result."""
    words = ("words.py:length", "one.txt", "--blocks", "4B", "--reduce", "Sum()", "--report")
    assert run_serially(said, *words, "run.html") == run_serially(said, *words, "run.json") == "10\n"
    assert "<svg" in (folder / "run.html").read_text()
    assert json.loads((folder / "run.json").read_text())["traceEvents"]
    failing = run_serially(said, "words.py:fails_on_two", "*.txt", *SUM, "--report", "failed.html")
    assert failing[0] == 1
    assert "ValueError: cannot read two.txt" in (folder / "failed.html").read_text()
    (folder / "taken.html").mkdir()
    assert main(["run", *words, "taken.html", "--pool", "serial"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.count("cannot write the report")) == ("10\n", 1)


@pytest.mark.filterwarnings("default")
def test_skipped_items_are_one_line(capsys):
    """--on-error skip: the result without them, a line on stderr, and exit code 0."""
    words = ["run", "words.py:fails_on_two", "*.txt", "--reduce", "Sum()", "--pool", "serial", "--on-error", "skip"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == "1\n"
    assert err.count("\n") == 1
    assert "two.txt" in err


def test_what_the_output_cannot_encode_is_escaped(folder):
    """A file name of any bytes can be an item, and a result; the run does not end in an error of its output."""
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.txt")
    (folder / name).touch()
    code, out, err = in_shell("run", "words.py:same", "-", "--reduce", "Collect()", stdin="one.txt\n", ascii_only=True)
    assert (code, out, err) == (0, "one.txt\n", "")
    code, out, err = in_shell("run", "words.py:same", "caf*", "--reduce", "Collect()", ascii_only=True)
    assert (code, out, err) == (0, "'caf\\udce9 \\xe9.txt'\n", "")


# --- failures


def test_an_item_that_fails_is_one_line_and_exit_code_1(said):
    """The item, the cause, and what would leave it out."""
    code, line = run_serially(said, "words.py:fails_on_two", "*.txt", "--reduce", "Sum()")
    assert code == 1
    assert line.startswith("item 1, 'two.txt', failed: ValueError: cannot read two.txt.")
    assert line.endswith("Pass --on-error skip to leave failing items out")


def test_a_worker_that_dies_is_one_line_and_exit_code_1():
    """Never a hang."""
    code, out, err = in_shell("run", "words.py:dies", "one.txt", "--reduce", "Sum()", "--retries", "0")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "one.txt" in err
    assert "SIGKILL" in err


def test_an_item_that_hangs_times_out():
    """--item-timeout ends the item."""
    code, out, err = in_shell("run", "words.py:sleeps", "one.txt", "--reduce", "Sum()", "--item-timeout", "0.2")
    assert (code, out) == (1, "")
    assert "one.txt" in err


def test_ctrl_c_is_exit_code_130_without_a_traceback(folder):
    """And everything has ended within two seconds."""
    child = start("run", "words.py:sleeps", "*.txt", "--reduce", "Sum()", "--workers", "2")
    until = time.monotonic() + 20
    while not (folder / "one.txt.started").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=5)
    assert (child.returncode, out, err) == (130, "", "")
    assert_nothing_left(child)


def test_a_reader_that_stops_early_is_not_an_error(folder):
    """`poolagg run ... | head -1` is quiet."""
    (folder / "long.txt").write_text("".join(f"{n}\n" for n in range(60_000)))
    child = start("run", "words.py:same", "long.txt", "--lines", "--reduce", "Frequencies()", "--pool", "serial")
    assert child.stdout.readline() == "0      1\n"
    child.stdout.close()
    assert child.wait(20) == 128 + 13  # the number of SIGPIPE
    assert child.stderr.read() == ""
    child.stdin.close()
    child.stderr.close()


def test_errors_of_the_users_own_code_here_keep_their_traceback():
    """A reducer's function that fails in this process is the user's to debug."""
    words = (
        "run",
        "words.py:same",
        "one.txt",
        "--reduce",
        "Sum().of(len).then(lambda n: 1 // 0)",
        "--pool",
        "serial",
    )
    with pytest.raises(ZeroDivisionError):
        main(words)


# --- mistakes

SUM = ("--reduce", "Sum()")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("words.py", "one.txt", *SUM), "'words.py' names no function: write words.py:FUNC or MODULE:FUNC"),
        (("./words:count", "one.txt", *SUM), "'./words:count' names no function: write FILE.py:FUNC or MODULE:FUNC"),
        (("wrods.py:count", "one.txt", *SUM), "there is no file 'wrods.py': did you mean 'words.py'?"),
        (("wrods:count", "one.txt", *SUM), "there is no module 'wrods': for a file write wrods.py, with its suffix"),
        (("words.py:coutn", "one.txt", *SUM), "there is no 'coutn': did you mean count?"),
        (("words.py:not_a_function", "one.txt", *SUM), "'words.py:not_a_function' is [1, 2, 3], not a function: "),
        (("words.py:count", "oen.txt", *SUM), "there is no file 'oen.txt': did you mean 'one.txt'?"),
        (("words.py:count", "x/y.txt", *SUM), "there is no file 'x/y.txt' in "),
        (("words.py:count", "*.text", *SUM), "no file matches '*.text' in "),
        (("words.py:count", ".", "--lines", *SUM), "cannot read '.' as lines of UTF-8: "),
        (("words.py:count", ".", "--blocks", "1MB", *SUM), "blocks() cuts files, and '.' is a directory: write "),
        (("words.py:count", "-", "--blocks", "1MB", *SUM), "blocks() cannot cut '-' (standard input), only files: "),
        (("words.py:count", "one.txt", "--blocks", "1M", *SUM), "blocks() got size='1M': write a whole number of "),
        (("words.py:count", "one.txt", "--blocks", "1MB", "--lines", *SUM), "argument --lines: not allowed with "),
        (("words.py:count", "one.txt"), "the following arguments are required: --reduce; see poolagg run --help"),
        (("words.py:count", "one.txt", "--reduce", "Smu()"), "there is no 'Smu': did you mean Sum?"),
        (("words.py:count", "one.txt", "--reduce", "Sum().flatt()"), "Sum has no 'flatt': did you mean flat?"),
        (
            ("words.py:count", "one.txt", "--reduce", "Sum("),
            "'Sum(' cannot be evaluated: SyntaxError: '(' was never closed ",
        ),
        (("words.py:count", "one.txt", "--reduce", "Top()"), "'Top()' cannot be evaluated: TypeError: "),
        (("words.py:count", "one.txt", "--reduce", "Sum"), "Sum is a class: write Sum()"),
        (("words.py:count", "one.txt", "--reduce", "sum"), "sum is not a reducer: write Sum()"),
        (("words.py:count", "one.txt", "--report", "run.pdf", *SUM), "--report 'run.pdf' is neither a page "),
        (("words.py:count", "one.txt", "--report", "no/run.html", *SUM), "there is no folder 'no' for --report "),
        (("words.py:count", "one.txt", "--workers", "0", *SUM), ""),
        (
            ("words.py:count", "one.txt", "--workers", "two", *SUM),
            "argument --workers: invalid int value: 'two'; see ",
        ),
        (
            ("words.py:count", "one.txt", "--pool", "serial", "--workers", "2", *SUM),
            "--pool serial runs everything in",
        ),
        (("words.py:count", "one.txt", "--pool", "threads", "--item-timeout", "1", *SUM), ""),
        (
            ("words.py:count", "one.txt", "--pool", "dask", *SUM),
            "argument --pool: 'dask' is not a pool: write process, ",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(said, words, line):
    """And exit code 2, before anything runs."""
    code, printed = said("run", *words)
    assert (code, printed[: len(line)]) == (2, line)
    assert printed


def test_a_file_whose_name_is_taken_is_to_be_renamed(said, folder):
    """A module json of the user's would hide the one that everybody imports."""
    (folder / "json.py").write_text("def f(x): return x\n")
    code, line = run_serially(said, "json.py:f", "one.txt", *SUM)
    assert code == 2
    assert line == "'json.py' cannot be imported by the name 'json': rename the file, for example to my_json.py"


def test_a_file_whose_name_is_not_an_identifier_is_fine(said, folder):
    """Scripts have names with hyphens."""
    (folder / "my-words.py").write_text("def f(x): return len(x)\n")
    assert run_serially(said, "my-words.py:f", "one.txt", *SUM) == "7\n"


def test_an_unknown_command_is_a_mistake(said):
    """As is none at all."""
    assert said("rum")[0] == 2
    assert said()[0] == 2


def test_help_shows_an_example(capsys):
    """The example of the help is the first test above."""
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "poolagg run words.py:count 'books/*.txt' --reduce 'MergeCounts()'" in capsys.readouterr().out


# --- check


def test_check_says_that_a_reducer_keeps_all_laws(said):
    """On samples of a file, or typed."""
    assert said("check", "Sum()", "words.py:not_a_function") == "Sum() keeps all laws\n"
    assert said("check", "Mean()", "[0.1, 0.2, 0.3]", "--equal", "math.isclose") == "Mean() keeps all laws\n"


def test_check_names_the_law_that_is_broken(capsys):
    """With exit code 1 and the smallest example."""
    assert main(["check", "words.py:LastOne()", "words.py:not_a_function"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "law" in err
    assert "LastOne" in err


def test_check_without_samples_is_a_mistake(said):
    """Nothing would have been checked."""
    assert said("check", "Sum()", "[]")[0] == 2


# --- what results look like


@pytest.mark.parametrize(
    ("value", "table"),
    [
        (42, "42\n"),
        (0.1 + 0.2, "0.30000000000000004\n"),
        (np.float64(2.5), "2.5\n"),
        (Fraction(1, 3), "1/3\n"),
        ("two\nlines", "two\nlines\n"),
        (None, ""),
        ([], ""),
        ({}, ""),
        ([1, 22], " 1\n22\n"),
        ((1, "a"), "1  a\n"),
        ((1, [2, 3]), "1  2\n   3\n"),
        ([("a", 1), ("bcd", 22)], "a     1\nbcd  22\n"),
        (Counter(b=1, a=1, c=10), "c  10\na   1\nb   1\n"),
        ({"x": float("nan"), "y": 1.5, "z": 2}, "z    2\ny  1.5\nx  nan\n"),
        ({"b": [1, 2], "a": [3]}, "a  3\nb  1\n   2\n"),
        ({"b": {"n": 1, "mean": 2.0}, "a": {"n": 10, "mean": 0.5}}, "    n  mean\na  10   0.5\nb   1   2.0\n"),
        ({("a", 1): (2, 3), ("b", 2): (4, 5)}, "a  1  2  3\nb  2  4  5\n"),
        ({2: "x", "two": "y"}, "  2  x\ntwo  y\n"),
        ({3, 1, 2}, "1\n2\n3\n"),
        (np.array([1, 22]), " 1\n22\n"),
        (np.array([[1, 22], [333, 4]]), "  1  22\n333   4\n"),
        ({"a\tb": 1}, "'a\\tb'  1\n"),
        (True, "True\n"),
        (b"raw", "b'raw'\n"),
    ],
)
def test_tables(value, table):
    """Numbers to the right, texts to the left, tuples in columns, nested values in their place."""
    assert render(ranked(value), "table") == table


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (Counter(a=1, b=2), {"b": 2, "a": 1}),
        ({("a", 1): np.float64(0.5)}, {"('a', 1)": 0.5}),
        ([float("nan"), float("inf"), None, True], [None, None, None, True]),
        (np.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
        ({"worst": [(1, "é")], "seen": {2, 1}}, {"seen": [1, 2], "worst": [[1, "é"]]}),
        ([Decimal("0.1"), Fraction(1, 3), b"x"], ["0.1", "1/3", "b'x'"]),
        (None, None),
    ],
)
def test_json(value, parsed):
    """Strict JSON, in the order of the table, whatever the keys and values are."""
    text = render(ranked(value), "json")
    assert json.loads(text, parse_constant=pytest.fail) == parsed
    assert text.endswith("\n")
    if isinstance(parsed, dict):
        assert list(json.loads(text)) == list(parsed)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Counter({"a": 1, 'b,"': 2}), '"b,""",2\na,1\n'),
        ({"b": {"n": 1, "mean": 2.0}, "a": {"n": 10, "mean": 0.5}}, ",n,mean\na,10,0.5\nb,1,2.0\n"),
        ({"a": [1, {"b": 2}]}, 'a,"[1, {""b"": 2}]"\n'),
        (np.eye(2, dtype=int), "1,0\n0,1\n"),
        (7, "7\n"),
        (None, ""),
    ],
)
def test_csv(value, text):
    """The rows of the table; a nested value is JSON in its cell."""
    assert render(ranked(value), "csv") == text
