"""Whatever runs the chunks, an item that fails is named, retried and skipped alike."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import tasks
from contract import Kind, kinds, ours
from tasks import Failing, Flaky, identity, inverse, square

from poolagg import Collect, Fold, Into, ReducerError, RemoteError, SkippedItems, Sum, TaskError, aggregate, events
from poolagg.strategies import Ordered, Stream, Tree


def test_by_default_an_item_that_raises_runs_once_and_ends_the_run(pool: Any, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {7: "raise"})
    with pytest.raises(TaskError) as caught:
        aggregate(func, range(20), Sum(), pool=pool)
    assert func.attempts.at(7) == 1
    error = caught.value
    assert (error.index, error.item, error.attempts) == (7, 7, 1)
    assert isinstance(error.__cause__, ValueError)
    assert "as told" in str(error)
    assert 'on_error="skip"' in str(error)


@kinds(pickles=True)
def test_the_cause_carries_the_workers_traceback(pool: Any) -> None:
    with pytest.raises(TaskError) as caught:
        aggregate(inverse, [1, 0], Sum(), pool=pool)
    (note,) = caught.value.__cause__.__notes__
    assert "In the worker" in note
    assert "in inverse" in note
    assert "return 1 / x" in note


def test_retries_is_the_number_of_reruns(pool: Any, tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    twice = Flaky(tmp_path / "a", {3: "raise", 11: "raise"}, times=2)
    assert aggregate(twice, range(20), Collect(), pool=pool, retries=2) == list(range(20))
    assert twice.attempts.at(3) == twice.attempts.at(11) == 3
    always = Flaky(tmp_path / "b", {3: "raise"})
    with pytest.raises(TaskError, match="3 times") as caught:
        aggregate(always, range(20), Sum(), pool=pool, retries=2)
    assert caught.value.attempts == always.attempts.at(3) == 3


def test_skip_leaves_out_what_failed_and_warns_once(pool: Any, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {3: "raise", 4: "raise", 90: "raise", 99: "raise"})
    for number, strategy in enumerate([None, Stream(), Ordered(), Tree()], 1):
        with pytest.warns(SkippedItems) as warned:
            result = aggregate(func, range(100), Collect(), pool=pool, on_error="skip", strategy=strategy)
        assert result == [x for x in range(100) if x not in func.faults]
        (told,) = ours(warned)
        assert told.category is SkippedItems
        assert "4 of 100 items failed" in str(told.message)
        assert told.filename == __file__
        if strategy is None:
            assert func.attempts.at(3) == number


def test_skip_after_retries(pool: Any, tmp_path: Any) -> None:
    func = Flaky(tmp_path, {5: "raise"})
    with pytest.warns(SkippedItems):
        assert aggregate(func, range(10), Sum(), pool=pool, on_error="skip", retries=1) == 40
    assert func.attempts.at(5) == 2


def test_a_callable_gets_each_failed_item_instead_of_a_warning(pool: Any) -> None:
    failed: list[events.ItemFailed] = []
    result = aggregate(inverse, [1, 0, 2, 0], Sum(), pool=pool, on_error=failed.append)
    assert result == 1.5
    assert sorted(event.index for event in failed) == [1, 3]
    assert all(isinstance(event.error, ZeroDivisionError) and event.item == 0 for event in failed)
    assert not any(event.will_retry for event in failed)


def test_all_items_skipped_is_the_result_of_nothing(pool: Any) -> None:
    with pytest.warns(SkippedItems):
        assert aggregate(inverse, [0] * 30, Sum(), pool=pool, on_error="skip") == 0


def test_exceptions_that_do_not_travel_are_told_by_name_and_traceback(kind: Kind, pool: Any) -> None:
    def two_arguments(x: int) -> None:
        raise tasks.TwoArguments(4, "two")

    def holds_a_lock(x: int) -> None:
        raise tasks.HoldsALock("locked")

    for func, name in [(two_arguments, "TwoArguments"), (holds_a_lock, "HoldsALock")]:
        with pytest.raises(TaskError, match=name) as caught:
            aggregate(func, [1], Sum(), pool=pool)
        cause = caught.value.__cause__
        if kind.pickles:
            assert isinstance(cause, RemoteError)
            assert cause.kind == name
            assert f"in {func.__name__}" in cause.trace
        else:
            assert type(cause).__name__ == name


@pytest.mark.parametrize(
    "error", [StopIteration, SystemExit, MemoryError, GeneratorExit, KeyboardInterrupt, tasks.Root, RecursionError]
)
def test_whatever_func_raises_is_the_items_failure_and_no_more(kind: Kind, pool: Any, error: Any) -> None:
    def func(x: int) -> int:
        if x == 2:
            raise error("in the task")
        return x

    if error is KeyboardInterrupt and kind.name == "serial":  # there it is the user's Ctrl-C
        with pytest.raises(KeyboardInterrupt):
            aggregate(func, range(5), Sum(), pool=pool)
        return
    with pytest.raises(TaskError) as caught:
        aggregate(func, range(5), Sum(), pool=pool)
    assert caught.value.index == 2
    if error is StopIteration:
        assert "StopIteration" in str(caught.value.__cause__)
    else:
        assert isinstance(caught.value.__cause__, error)
    with pytest.warns(SkippedItems):
        assert aggregate(func, range(5), Collect(), pool=pool, on_error="skip") == [0, 1, 3, 4]


@kinds(pickles=True)
@pytest.mark.parametrize("strategy", [None, Stream(), Ordered(), Tree()], ids=repr)
def test_a_payload_that_does_not_travel_costs_one_item(pool: Any, strategy: Any) -> None:
    others = [x for x in range(60) if x not in (13, 14, 59)]
    items = [threading.Lock() if x in (13, 14, 59) else x for x in range(60)]
    unopenable = [tasks.DoesNotUnpickle() if x in (13, 14, 59) else x for x in range(60)]
    for func, source in [
        (identity, items),
        (identity, unopenable),
        (tasks.unpicklable_at(13, 14, 59), range(60)),
        (tasks.unopenable_at(13, 14, 59), range(60)),
    ]:
        failed: list[events.ItemFailed] = []
        result = aggregate(func, source, Collect(), pool=pool, strategy=strategy, on_error=failed.append)
        assert result == others
        assert sorted(event.index for event in failed) == [13, 14, 59]
    with pytest.raises(TaskError, match="does not pickle") as caught:
        aggregate(identity, items[:20], Collect(), pool=pool, strategy=strategy)
    assert caught.value.index in (13, 14), "whichever comes first, if they are in two chunks"
    with pytest.raises(TaskError) as caught:
        aggregate(tasks.unpicklable_at(3), range(20), Collect(), pool=pool, strategy=strategy)
    assert caught.value.index == 3


@kinds(pickles=True)
def test_a_func_or_reducer_that_does_not_pickle_is_refused_in_words(pool: Any) -> None:
    generator = (x for x in [1])
    with pytest.raises(TypeError, match=r"func.*can't be sent"):
        aggregate(lambda x: next(generator), [1], Sum(), pool=pool)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


@kinds(pickles=True)
def test_an_accumulator_that_never_pickles_is_the_reducers_fault(pool: Any) -> None:
    locks = Fold(lambda acc, x: acc, init=threading.Lock, merge=lambda a, b: a)
    with pytest.raises(ReducerError, match="does not pickle"):
        aggregate(identity, range(10), locks, pool=pool)


@pytest.mark.parametrize("error", [ValueError, SystemExit, tasks.Root])
def test_a_reducer_that_raises_in_step_ends_the_run(kind: Kind, pool: Any, error: Any) -> None:
    if kind.name != "serial":
        with pytest.raises(ReducerError, match="in step"):
            aggregate(identity, range(10), Failing("step", error), pool=pool)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_what_a_fold_in_the_parent_raises_propagates_with_a_note(pool: Any) -> None:
    def apply(partial: int) -> None:
        if partial == 16:
            raise LookupError("no row 16")

    with pytest.raises(LookupError, match="no row 16") as caught:
        aggregate(square, range(10), Into(apply), pool=pool)
    assert any("item 4" in note for note in caught.value.__notes__)
    with pytest.raises(ValueError, match="in finish"):
        aggregate(square, range(10), Failing("finish"), pool=pool)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_stop_iteration_in_apply_is_an_error_like_any_other(pool: Any) -> None:
    """It does not end the run early, as if it were done."""

    def apply(partial: int) -> None:
        if partial == 4:
            next(iter(()))

    with pytest.raises(StopIteration) as caught:
        aggregate(square, range(10), Into(apply), pool=pool)
    assert any("item 2" in note for note in caught.value.__notes__)


def test_an_error_in_on_error_ends_the_run(pool: Any) -> None:
    def strict(failed: events.ItemFailed) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        aggregate(inverse, [0, 1], Sum(), pool=pool, on_error=strict)
    assert aggregate(square, [3], Sum(), pool=pool) == 9


def test_a_failing_prepare_is_the_items_failure(pool: Any) -> None:
    with pytest.raises(TaskError) as caught:
        aggregate(identity, [1, 2, "x"], Sum().of(math.sqrt), pool=pool)
    assert caught.value.index == 2
