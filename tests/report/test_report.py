"""A report says where the time went and what limited a run: on made-up numbers, made-up events, and small real runs."""

from __future__ import annotations

import html.parser
import itertools
import json
import operator
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import get_args

import pytest
from tasks import KILL

from poolagg import (
    Collect,
    Count,
    First,
    Fold,
    Into,
    ProcessPool,
    Reducer,
    Report,
    SerialPool,
    Sum,
    TaskError,
    ThreadPool,
    aggregate,
    per_worker,
)
from poolagg._report.bottleneck import Bottleneck, Shares, diagnose
from poolagg._report.timeline import MOST, PARENT, Timeline, TimeSpan
from poolagg.events import (
    Checkpointed,
    ChunkDone,
    FinalMergeStarted,
    ItemFailed,
    ParentMeasured,
    Progressed,
    RunEnded,
    RunStarted,
    StateFlushed,
    StateMerged,
    WorkerDied,
)
from poolagg.strategies import Ordered, Tree

# -- the diagnosis, on made-up numbers ---------------------------------------------------------------------------------

DIAGNOSES = [
    ({"mapping": 0.96, "reducing": 0.01}, "map", "busy 97 % of the time, 96 % in func"),
    ({"mapping": 0.1, "reducing": 0.8, "merging": 0.2}, "step", "80 % in step and 10 % in func"),
    ({"mapping": 0.3, "merging": 0.93}, "reducer", "merged 93 % of the time, and the workers were idle 70 % of theirs"),
    ({"mapping": 0.1, "packing": 0.6, "receiving": 0.3}, "pickling", "pickled their states 60 % of the time"),
    ({"mapping": 0.3, "packing": 0.3, "receiving": 0.8}, "pickling", "received and unpickled them 80 %"),
    ({"mapping": 0.3, "pickling": 0.5, "pulling": 0.3}, "items", "it took the parent 50 % of the time"),
    ({"mapping": 0.3, "pulling": 0.7}, "input", "pulling it 70 % of the time"),
    ({"mapping": 0.1, "scheduling": 0.8}, "scheduling", "between two results, 80 % of the time"),
    ({"mapping": 0.6, "tail": 0.4, "slowest": 4.0, "slowest_name": "item 7"}, "straggler", "item 7, in 4.0 s"),
    ({"mapping": 0.6, "tail": 0.4, "merging": 0.9}, "reducer", "merged 90 % of the time"),
    ({"mapping": 0.4, "final_stage": 0.6}, "keys", "for 60 % of the time"),
    ({"mapping": 0.9, "starting": 0.6}, "start", "60 % passed before the first item started"),
    ({"mapping": 0.9, "starting": 0.3}, "map", "90 %"),
    ({"mapping": 0.4, "merging": 0.2}, "nothing", "workers were busy 40 % of the time, the parent 20 %"),
    ({"elapsed": 0.004, "mapping": 0.9}, "nothing", "4.0 ms, too short"),
]


@pytest.mark.parametrize(("shares", "bottleneck", "told"), DIAGNOSES)
def test_the_diagnosis_is_a_function_of_shares_and_has_the_numbers_in_it(shares, bottleneck, told):
    """The busier of the workers and the parent is the limit."""
    diagnosis = diagnose(Shares(**{"elapsed": 10.0, "workers": 2} | shares))
    assert diagnosis.bottleneck == bottleneck
    assert told in diagnosis.text


def test_every_limit_has_a_made_up_run_and_is_documented():
    """By its name in the docstring."""
    assert {bottleneck for _, bottleneck, _ in DIAGNOSES} == set(get_args(Bottleneck))
    for bottleneck in get_args(Bottleneck):
        assert f'"{bottleneck}"' in Report.__doc__


# -- the diagnosis, on real runs that are made to be limited by something ----------------------------------------------


def nap(x):
    time.sleep(0.004)
    return x


def slow_at_the_end(x):
    time.sleep(0.3 if x == 39 else 0.002)
    return x


def slow_at_five(x):
    time.sleep(0.25 if x == 5 else 0.002)
    return x


def slow_input():
    for i in range(50):
        time.sleep(0.006)
        yield i


class Retry:
    """An input that can be gone through more than once, and has no length."""

    def __init__(self, generate):
        self.generate = generate

    def __iter__(self):
        return self.generate()


def texts(start=0):
    return [str(start + n) for n in range(40_000)]


made = per_worker(texts)


def heavy_result(x):
    return made()


def heavy_items():
    item = texts()
    for _ in range(30):
        yield item


class SlowStep(Reducer):
    """A sum that takes its time in the workers."""

    def init(self):
        return 0

    def step(self, acc, x):
        time.sleep(0.004)
        return acc + x

    def merge(self, acc, other):
        return acc + other


def watched(*arguments, **more):
    """A report of a run on a pool that has started."""
    report = Report()
    with ProcessPool(2) as pool:
        aggregate(nap, range(4), Sum(), pool=pool)  # workers have started, and imported this file
        aggregate(*arguments, pool=pool, watch=report, **more)
    return report


@pytest.mark.parametrize(
    ("bottleneck", "arguments"),
    [
        ("map", (nap, range(150), Sum())),
        ("step", (abs, range(150), SlowStep())),
        ("reducer", (abs, range(100), Into(nap))),
        ("pickling", (heavy_result, range(30), Into(len))),
        ("items", (len, Retry(heavy_items), Sum())),
        ("input", (abs, Retry(slow_input), Sum())),
        ("straggler", (slow_at_the_end, range(40), Sum())),
    ],
)
def test_a_run_that_is_made_to_be_limited_by_it_is_found_out(bottleneck, arguments):
    """In a real pool of two workers. Where other programs have the machine, that may be the limit: not five times."""
    for _ in range(5):
        if (report := watched(*arguments)).bottleneck == bottleneck:
            return
    raise AssertionError(str(report))


def test_a_run_of_many_tiny_chunks_is_limited_by_scheduling():
    """`chunksize=1` is too small for tiny items."""
    assert watched(abs, range(2000), Sum(), chunksize=1).bottleneck == "scheduling"


def test_a_run_that_is_all_start_says_so():
    """Four items for two fresh workers."""
    report = Report()
    aggregate(abs, range(4), Sum(), workers=2, watch=report)
    assert report.bottleneck == "start", str(report)


def test_an_ordered_run_tells_the_item_that_held_it_up():
    """And for how long, by its index and by name."""
    text = str(watched(slow_at_five, range(60), Collect(), strategy=Ordered()))
    assert re.search(r"held up\s+item 5 \(5\) held up finished chunks behind it for \d\d\d ms", text), text


@pytest.mark.parametrize(
    "make",
    [SerialPool, partial(ThreadPool, 2), partial(ProcessPool, 2)],
    ids=["SerialPool", "ThreadPool", "ProcessPool"],
)
def test_the_numbers_of_every_pool_add_up(make):
    """Chunks have begun when they say, the slowest batch is one of theirs, and no time is counted twice."""
    seen = []
    report = Report()
    began = time.monotonic()
    with make() as pool:
        aggregate(nap, range(50), Count(), pool=pool, watch=[seen.append, report])
    elapsed = time.monotonic() - began
    chunks = [event for event in seen if isinstance(event, ChunkDone)]
    assert sum(chunk.stop - chunk.start for chunk in chunks) == 50
    for chunk in chunks:
        assert began <= chunk.began <= chunk.began + chunk.seconds <= chunk.at + 1e-3
        assert chunk.start <= chunk.slowest[0] < chunk.slowest[1] <= chunk.stop
        assert 0.004 <= chunk.slowest[2] <= chunk.seconds + 1e-3
    (parent,) = [event for event in seen if isinstance(event, ParentMeasured)]
    assert seen.index(parent) == len(seen) - 2
    assert parent.memory > 1 << 20
    parts = parent.pulling, parent.pickling, parent.waiting, parent.receiving
    assert min(parts) >= 0
    assert sum(parts) <= elapsed
    flushed = [event for event in seen if isinstance(event, StateFlushed)]
    if isinstance(pool, ProcessPool):
        sent = sum(chunk.sent for chunk in chunks) + sum(event.nbytes for event in flushed)
        assert sent == sum(event.nbytes for event in seen if isinstance(event, StateMerged)) > 0
    assert report.bottleneck in ("map", "start")


def test_slots_of_external_pools_are_not_workers():
    """Each worker of an external pool has two slots, of which one works."""
    report = Report()
    with ProcessPoolExecutor(2) as executor:
        aggregate(nap, range(200), Sum(), pool=executor, watch=report)
    assert "2 workers" in str(report)
    assert "worker 3" in str(report)
    assert report.bottleneck in ("map", "start"), str(report)


def test_a_run_in_trouble_tells_all_of_it(tmp_path):
    """Deaths, items that ran again, items that were skipped and why."""

    def troubled(x):
        if x == 7 and not os.path.exists(f"{tmp_path}/killed"):
            open(f"{tmp_path}/killed", "x").close()
            os.kill(os.getpid(), KILL)
        if x == 20:
            raise ValueError("twenty\nis bad")
        return x

    report = watched(troubled, range(30), Sum(), on_error=lambda failed: None)
    text = str(report)
    how = "SIGKILL" if os.name == "posix" else f"exit code {int(KILL)}"
    assert re.search(rf"lost +worker \d died \({how}\)", text)
    assert re.search(r"again +1 worker died; \d+ items that they had not flushed ran again\n", text)
    assert text.endswith("item 20, 20: ValueError: twenty is bad")


def test_a_run_that_fails_is_told_too():
    """With the error's type in the first line."""
    report = Report()
    with pytest.raises(TaskError):
        aggregate(abs, ["x"], Sum(), pool=SerialPool(), watch=report)
    assert re.match(r"0 items of 1 in [\d.]+ ms, 1 worker; it ended with TaskError\n", str(report))
    assert "item 0, 'x': TypeError" in str(report)


def test_a_report_can_be_looked_at_while_the_run_goes_on():
    """By another watcher, or between two snapshots: it tells what there is so far."""
    report, texts = Report(), []
    aggregate(nap, range(30), Sum(), pool=SerialPool(), watch=[report, lambda event: texts.append(str(report))])
    assert "so far" in texts[len(texts) // 2]
    assert "so far" not in texts[-1]


# -- what is told, on made-up events -----------------------------------------------------------------------------------

STARTED = RunStarted(1000, 2, "ProcessPool(workers=2)", "Combine()", "Sum()", at=100.0, start_seconds=0.1)


def made_up(started=STARTED, error=None):
    """Two workers; the parent merges most of the time."""
    yield started
    yield ChunkDone(0, 0, 100, 0.3, 101.1, 0.1, 0.05, 0.05, 5000, 100.5, (7, 8, 0.2), "x.txt")
    yield ChunkDone(1, 100, 400, 0.5, 101.2, began=100.6, slowest=(100, 140, 0.001))
    yield StateMerged(100, 5000, 2.0, 103.2)
    yield StateFlushed(1, 70_000, 0.1, 0.2, 103.5)
    yield StateMerged(300, 70_000, 6.0, 109.5)
    yield Progressed(400, 0, 1000)
    yield ParentMeasured(0.5, 0.1, 0.2, 0.3, 50_000_000, 0, 40_000_000)
    yield RunEnded(400, 0, 10.0, error)


def told(events):
    report = Report()
    for event in events:
        report(event)
    return report


def test_what_is_printed():
    """The run, the diagnosis, a line for each worker, the parent, and the facts."""
    assert str(told(made_up())) == (
        "400 items of 1,000 in 10.0 s, 2 workers\n"
        "ProcessPool(workers=2), Combine(), Sum()\n"
        "\n"
        "The reducer is the limit: the parent merged 89 % of the time, and the workers\n"
        "were idle 95 % of theirs. More workers won't help. Give the reducer a merge, so\n"
        "that workers combine partials before they flush them, or make what the parent\n"
        "does for each partial cheaper.\n"
        "\n"
        "          busy  func  step  pickling  idle  chunks  items     sent\n"
        "worker 0   4 %   2 %   1 %       1 %  96 %       1    100   5.0 kB\n"
        "worker 1   7 %   6 %   0 %       1 %  93 %       1    300  70.0 kB\n"
        "\n"
        "parent   pulling 6 %, pickling items 1 %, receiving 3 %, merging 89 %,\n"
        "         scheduling and the rest 1 %\n"
        "merged   2 states, 75.0 kB, in 8.0 s\n"
        "slowest  item 7 ('x.txt'): 200 ms\n"
        "memory   at most 50.0 MB in this process, and no more in any of its ended\n"
        "         children"
    )


def test_a_run_that_ended_early_says_so():
    """In its first line; and of items that ran without need it does not say that they ran again."""
    died = WorkerDied(None, "SIGKILL", None, 0, 102.0)
    report = told([*list(made_up())[:-1], died, RunEnded(250, 0, 10.0, early=True)])
    text = " ".join(str(report).split())
    assert "250 items of 1,000 in 10.0 s, 2 workers; it ended early, when the result was known" in text
    assert "1 worker died; at most 150 items that they had not flushed ran again" in text


def test_before_any_run_it_says_so(tmp_path):
    """As text, as a page and as a trace; and its repr is short."""
    report = Report()
    assert str(report) == "Report(): no run was watched yet: pass it in watch, as in aggregate(..., watch=report)"
    assert (repr(report), report.bottleneck) == ("Report()", "nothing")
    report(RunEnded(1, 0, 1.0))
    assert repr(report) == "Report()"
    report.save(tmp_path / "run.html")
    report.trace(tmp_path / "run.json")
    assert "no run was watched yet" in (tmp_path / "run.html").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["traceEvents"]


def test_of_several_runs_it_tells_the_last():
    """And nothing of those before."""
    report = told([*made_up(), STARTED, RunEnded(0, 0, 1.0)])
    assert repr(report) == "<Report of 0 items of 1,000 in 1.0 s, 2 workers>"
    assert report.diagnosis == "Nothing ran."


def test_the_rest_is_told_where_there_is_any():
    """Checkpoints and what they cost, parts that were merged in the workers, children's memory, endless failures."""
    more = [
        Checkpointed(0.1, 2000, 105.0),
        Checkpointed(0.3, 3000, 106.0),
        FinalMergeStarted(128, "the workers' states hold many keys", 106.0),
        ItemFailed(3, "x", ValueError(), 1, True),
        WorkerDied(3, None, 17, 1, 106.5),
        *(ItemFailed(n, "<b>", ValueError(n), 1, False) for n in range(12)),
        ParentMeasured(0.5, 0.1, 0.2, 0.3, 50_000_000, 0, 60_000_000),
    ]
    report = told([*list(made_up())[:-2], *more, RunEnded(400, 12, 10.0)])
    text = " ".join(str(report).split())
    assert "checkpoint written 2 times in 400 ms (4 % of the time), 3.0 kB" in text
    assert "retries 1 attempt failed and ran again lost worker 1 died (exit code 3), running item 17" in text
    assert "partition workers merged 128 parts, for the workers' states hold many keys" in text
    assert "60.0 MB in the largest of its ended children" in text
    assert "failed item 9, '<b>': ValueError: 9 failed and 2 more" in text


def test_a_worker_with_another_clock_is_placed_by_the_arrival_of_its_events(tmp_path):
    """A worker on another machine has another clock."""
    report = told([STARTED, ChunkDone(0, 0, 10, 2.0, 104.0, 0.5, 0.5, 0.5), RunEnded(10, 0, 4.0)])
    events = traced(report, tmp_path)
    (chunk,) = [event for event in events if event.get("cat") == "span" and event["tid"] == 1]
    assert (chunk["ts"], chunk["dur"]) == (pytest.approx(1e6), pytest.approx(2.5e6))


def test_text_fits_a_terminal_with_any_number_of_workers():
    """Of many, the busiest and the idlest are shown."""
    text = str(told(large(64, 2_000)))
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 30
    assert "... 56 more" in text


def large(workers, chunks):
    """Many workers and many chunks, one of which is slow; a worker dies."""
    yield RunStarted(None, workers, "P" * 300, "Stream()", "Into(<function>)", at=1.0, in_order=True)
    for n in range(chunks):
        worker, at = n % workers, 1.0 + (n // workers + 1) * 0.05
        yield ChunkDone(
            worker, 10 * n, 10 * n + 10, 0.04, at, 0.01, 0.002, 0.001, 100, at - 0.045, (10 * n, 10 * n + 1, 0.03)
        )
        yield StateMerged(10, 100, 0.0005, at + 0.001)
    yield WorkerDied(None, "SIGKILL", 5, 3, 2.0)
    yield RunEnded(10 * chunks, 0, (chunks // workers + 1) * 0.05)


# -- the page ----------------------------------------------------------------------------------------------------------

VOID = {"meta", "rect", "line"}


class Page(html.parser.HTMLParser):
    """Reads a page, and asserts that it is well-formed and needs nothing else."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "href", "onclick", "onload"} & set(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
        assert "url(" not in text
        assert "@import" not in text

    def count(self, tag):
        return sum(tag == name for name, _ in self.tags)


def page_of(report, tmp_path):
    report.save(tmp_path / "run.html")
    return Page((tmp_path / "run.html").read_text("utf-8"))


def test_the_page_has_all_that_is_printed(tmp_path):
    """The diagnosis, each worker, each fact; a bar for each chunk; light and dark; no script, and nothing to load."""
    report = told(made_up())
    page = page_of(report, tmp_path)
    shown = "\n".join(page.texts)
    for text in [report.diagnosis, "worker 1", "70.0 kB", "item 7 ('x.txt'): 200 ms", "prefers-color-scheme: dark"]:
        assert text in shown
    bars = [text for text in page.texts if re.match(r"items \d+ to \d+, at ", text)]
    assert bars == [
        "items 0 to 99, at 500 ms for 350 ms: func 200 ms, step 100 ms, pickling 50 ms",
        "items 100 to 399, at 600 ms for 500 ms: func 500 ms",
    ]


def test_what_users_named_is_escaped(tmp_path):
    """Also what no encoding has."""
    started = RunStarted(1, 1, "<script>alert(1)</script>", "&amp;", "\udce9 é", at=100.0)
    page = page_of(told(made_up(started)), tmp_path)
    assert "<script>alert(1)</script>, &amp;, \\udce9 é" in page.texts


def test_a_notebook_shows_all_that_is_printed():
    """As well-formed HTML without a script, a style sheet or an id, so that nothing else in the notebook changes."""
    report = told(made_up())
    shown = Page(report._repr_html_())
    texts = "\n".join(shown.texts)
    for text in [report.diagnosis, "worker 1", "70.0 kB", "item 7 ('x.txt'): 200 ms"]:
        assert text in texts
    assert {tag for tag, _ in shown.tags} == {"div", "p", "strong", "table", "tr", "th", "td"}
    assert {name for _, attributes in shown.tags for name in attributes} == {"style"}


def test_what_users_named_is_escaped_in_a_notebook():
    """As on the page."""
    started = RunStarted(1, 1, "<script>alert(1)</script>", "&amp;", "\udce9 é", at=100.0)
    assert "<script>alert(1)</script>, &amp;, \\udce9 é" in Page(told(made_up(started))._repr_html_()).texts


def test_a_notebook_shows_little_of_many_workers_and_says_so_before_a_run():
    """A few kilobytes at most."""
    shown = told(large(500, 2_000))._repr_html_()
    assert "... 492 more" in shown
    assert len(shown) < 8_000
    assert "no run was watched yet" in "".join(Page(Report()._repr_html_()).texts)


@pytest.mark.parametrize(("workers", "chunks"), [(64, 100_000), (1, 30_000), (500, 2_000)])
def test_a_page_of_many_workers_and_chunks_is_thinned_out_and_says_so(tmp_path, workers, chunks):
    """It stays small enough to be opened; and so does what the report keeps."""
    report = told(large(workers, chunks))
    page = page_of(report, tmp_path)
    assert page.count("g") <= 12_000
    assert os.path.getsize(tmp_path / "run.html") < 6_000_000
    assert page.count("polygon") == (workers > 3)
    if chunks > workers * 100:
        assert any("thinned out" in text for text in page.texts)
    assert sum(len(spans) for spans in report._statistics.timeline.workers.values()) <= MOST


def test_thinning_loses_no_time_and_no_chunk():
    """However often it was done."""
    timeline = Timeline(most=50)
    for n in range(10_000):
        timeline.add(n % 3, TimeSpan(n, n + 1, (0.5, 0.25, 0.0), n, n + 1))
        timeline.add(PARENT, TimeSpan(n, n + 0.1, (0.0, 0.1, 0.0)))
    for workers in (timeline.workers, timeline.thinned(5)):
        assert sum(map(len, workers.values())) <= 51
        for worker in range(3):
            assert sum(span.parts[0] for span in workers[worker]) == sum(span.chunks for span in workers[worker]) / 2
        assert sum(span.chunks for spans in workers.values() for span in spans) == 20_000
        for spans in workers.values():
            assert all(a.began <= a.ended <= b.began + 1e-9 for a, b in itertools.pairwise(spans))


# -- the trace ---------------------------------------------------------------------------------------------------------


def traced(report, folder):
    """The events of its trace."""
    report.trace(folder / "run.json")
    return json.loads((folder / "run.json").read_text())["traceEvents"]


@pytest.mark.parametrize("events", [list(made_up()), list(large(8, 200))], ids=["made up", "large"])
def test_the_trace_is_in_the_trace_event_format(tmp_path, events):
    """Complete events with a name, a start, a duration and a place; names of threads; instants with a scope."""
    found = traced(told(events), tmp_path)
    for event in found:
        assert event["ph"] in "XMi"
        assert isinstance(event["name"], str)
        assert event["pid"] == 1
        assert event["tid"] in range(100)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
        elif event["ph"] == "i":
            assert event["s"] == "t"
        else:
            assert event["name"] in ("process_name", "thread_name")
            assert event["args"]["name"]
    names = {event["args"]["name"] for event in found if event["name"] == "thread_name"}
    assert {"parent", "worker 0", "worker 1"} <= names


def test_in_a_trace_parts_nest_in_their_span(tmp_path):
    """Perfetto stacks what lies within, and complains of what overlaps."""
    found = traced(told(made_up()), tmp_path)
    spans = [event for event in found if event.get("cat") == "span"]
    for part in [event for event in found if event.get("cat") == "part"]:
        assert any(
            span["tid"] == part["tid"]
            and span["ts"] - 1e-3 <= part["ts"]
            and part["ts"] + part["dur"] <= span["ts"] + span["dur"] + 1e-3
            for span in spans
        )


@pytest.mark.parametrize(
    ("reducer", "options", "strategy", "why"),
    [
        (Sum(), {}, "Combine()", "Sum() merges in any order, so partials meet in the workers"),
        (Sum(), {"reproducible": True}, "Tree()", "in a fixed shape, in input order, because of reproducible=True"),
        (First(), {"reproducible": False, "strategy": Tree()}, "Tree()", "as it was asked for"),
        (Into(bool), {}, "Stream()", "Into(bool) has no merge, so the parent folds partials as they come"),
        (Fold(operator.add), {}, "Ordered()", "has no merge, so the parent folds partials in input order, because it"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_run_says_which_strategy_it_took_and_why(reducer, options, strategy, why):
    seen = []
    report = Report()
    aggregate(abs, range(3), reducer, pool=SerialPool(), watch=[seen.append, report], **options)
    assert seen[0].strategy == strategy
    assert why in seen[0].why
    assert f"strategy  {strategy}: {seen[0].why}" in re.sub(r"\n {10}(?=\S)", " ", str(report))


def test_the_memory_of_workers_is_told_though_they_are_kept():
    """The most that one of them has ever had."""

    def grow(x):
        taken = bytearray(150 << 20)
        return len(taken) * x

    seen = []
    with ProcessPool(1) as pool:
        report = Report()
        aggregate(grow, [1], Sum(), pool=pool, watch=[seen.append, report])
    (parent,) = [event for event in seen if isinstance(event, ParentMeasured)]
    assert 150 << 20 < parent.workers_memory < 600 << 20
    assert "MB in the largest worker" in " ".join(str(report).split())
