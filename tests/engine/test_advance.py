"""`advance()` moves the progress bar from inside an item; each attempt that ends well counts once."""

from __future__ import annotations

import io
import os
import signal
from typing import Any

import pytest
from tasks import Attempts

from poolagg import Collect, Count, ProcessPool, Progress, SerialPool, Sum, ThreadPool, advance, aggregate, rng
from poolagg.events import Progressed, RunEvent
from poolagg.strategies import Combine, Stream, Tree


@pytest.fixture(params=["forkserver", "spawn", "fork", "threads", "serial"])
def pool(request: pytest.FixtureRequest) -> Any:
    """Every start method, threads, and the caller's thread."""
    if request.param == "serial":
        yield SerialPool()
        return
    with ThreadPool(2) if request.param == "threads" else ProcessPool(2, start_method=request.param) as pool:
        yield pool


class Units:
    """A watcher that keeps the units of each `Progressed`."""

    def __init__(self) -> None:
        self.seen: list[int | None] = []

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, Progressed):
            self.seen.append(event.units)


def three(x: int) -> int:
    advance()
    advance(2)
    return x


def test_the_units_of_all_items_are_counted_once(pool: Any) -> None:
    units = Units()
    aggregate(three, range(1000), Sum(), pool=pool, watch=[units])
    assert units.seen[-1] == 3000


def test_without_advance_there_are_no_units(pool: Any) -> None:
    units = Units()
    aggregate(abs, range(10), Sum(), pool=pool, watch=[units])
    assert units.seen[-1] is None


def test_units_are_seen_while_the_item_runs(method: str, tmp_path: Any) -> None:
    """The item ends only when the parent has seen its units."""
    seen = str(tmp_path / "seen")

    def waits(x: int) -> None:
        advance(5)
        while not os.path.exists(seen):
            pass

    def watch(event: RunEvent) -> None:
        if isinstance(event, Progressed) and event.units == 5:
            open(seen, "w").close()

    aggregate(waits, [1], Count(), pool=ProcessPool(1, start_method=method), watch=[watch])
    assert os.path.exists(seen)


@pytest.mark.parametrize("strategy", [Stream(), Combine(), Tree()], ids=repr)
def test_of_an_attempt_that_died_nothing_stays_counted(strategy: Any, tmp_path: Any) -> None:
    """Nor of other items that run again because their worker died."""
    attempts = Attempts(tmp_path)

    def dies(x: int) -> int:
        three(x)
        if x % 10 == 7 and attempts.another(x) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    units = Units()
    aggregate(dies, range(40), Sum(), pool=ProcessPool(2), strategy=strategy, watch=[units])
    assert units.seen[-1] == 120


def test_of_an_attempt_that_raised_nothing_stays_counted(pool: Any, tmp_path: Any) -> None:
    attempts = Attempts(tmp_path)

    def raises(x: int) -> int:
        three(x)
        if x % 10 == 7 and attempts.another(x) == 1:
            raise ValueError(x)
        return x

    units = Units()
    aggregate(raises, range(40), Sum(), pool=pool, retries=1, watch=[units])
    assert units.seen[-1] == 120


def test_items_that_the_worker_maps_twice_count_once() -> None:
    """A function that reuses a buffer is called again, item by item."""
    buffer: list[int] = []

    def reuses(x: int) -> list[int]:
        three(x)
        buffer[:] = [x]
        return buffer

    units = Units()
    result = aggregate(reuses, range(200), Collect(), pool=ProcessPool(1), watch=[units])
    assert result == [[x] for x in range(200)]
    assert units.seen[-1] == 600


def test_a_nested_run_counts_apart(method: str) -> None:
    def nested(x: int) -> int:
        advance()
        return aggregate(three, range(5), Sum(), pool=SerialPool())

    units = Units()
    aggregate(nested, range(4), Sum(), pool=ProcessPool(2, start_method=method), watch=[units])
    assert units.seen[-1] == 4


def test_a_bar_counts_units() -> None:
    out = io.StringIO()
    bar = Progress(unit="docs", total=30, file=out, bar_format="{n_fmt} of {total_fmt} {unit}")
    aggregate(three, range(10), Sum(), pool=ProcessPool(2), watch=[bar])
    assert out.getvalue().split("\r")[-1].splitlines()[-1] == "30 of 30 docs"


def test_outside_of_func_and_with_parts_it_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"advance\(\) needs an item that is running"):
        advance()
    with pytest.raises(RuntimeError, match=r"rng\(\) needs an item that is running"):
        rng()
    with pytest.raises(Exception, match="float"):
        aggregate(lambda x: advance(0.5), [1], Count(), pool=SerialPool())  # type: ignore[arg-type]
