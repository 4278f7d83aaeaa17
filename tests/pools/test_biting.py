"""Items, results and exceptions that bite when pickled, opened or described cost themselves, and nothing else.

They exit, crash, hang, or raise what is no Exception. In the worker that is a failure of the item, which is named. In
the parent it never happens, unless the user asks there for an item that bites.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from biting import (
    BITES,
    DEADLY,
    DescribedByText,
    ErrorInWords,
    ErrorWhenOpened,
    ErrorWhenPickled,
    InTheParent,
    KeyThatBites,
    ListThatBites,
    LooksBad,
    WhenOpened,
    WhenPickled,
)
from tasks import DoesNotUnpickle, HoldsALock, identity

from poolagg import (
    Collect,
    Count,
    Fold,
    Frequencies,
    ProcessPool,
    Report,
    TaskError,
    Tee,
    Top,
    WorkerLost,
    aggregate,
    events,
)
from poolagg._input.batches import PackedItem
from poolagg._input.kept_items import UnreadableItem, unopened
from poolagg.pools import item_timeouts
from poolagg.strategies import Combine, Ordered, Partition, Stream, Tree

BAD = 13
STRATEGIES = [Stream(), Ordered(), Combine(), Tree()]
TIMEOUT = 0.3


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    """Two workers, which are replaced as they are bitten: afterwards the pool is as good as new."""
    with ProcessPool(2) as pool:
        yield pool
        assert aggregate(abs, range(50), Collect(), pool=pool) == list(range(50))


@pytest.fixture(autouse=True)
def short_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are packed in no time here."""
    monkeypatch.setattr(item_timeouts, "PACKING", TIMEOUT)


def skipped(func: Callable[[Any], Any], items: list[Any], pool: ProcessPool, how: str, **options: Any) -> list[Any]:
    """Run with `on_error`; the result is to be that of all items but the bad one, which is the one that fails."""
    failed: list[events.ItemFailed] = []
    timeout = TIMEOUT if how == "hang" else None
    got = aggregate(
        func, items, Collect(), pool=pool, on_error=failed.append, retries=0, item_timeout=timeout, **options
    )
    assert [one.index for one in failed] == [BAD]
    expected = {"hang": TimeoutError} | dict.fromkeys(DEADLY, WorkerLost)
    assert how not in expected or type(failed[0].error) is expected[how]
    assert "nothing" not in repr(failed)
    return got


def numbers(bad: Any, count: int = 30) -> list[Any]:
    return [bad if x == BAD else x for x in range(count)]


OTHERS = [x for x in range(30) if x != BAD]


# -- when it is opened -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", BITES)
def test_an_item_that_bites_where_it_is_opened_fails_and_the_parent_does_not_open_it(
    pool: ProcessPool, how: str
) -> None:
    watch = Report()
    assert skipped(identity, numbers(WhenOpened(how)), pool, how, watch=watch) == OTHERS
    assert "13" in str(watch)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("how", ["exit", "SystemExit"])
def test_it_bites_in_every_strategy(pool: ProcessPool, how: str, strategy: Any) -> None:
    assert skipped(identity, numbers(WhenOpened(how)), pool, how, strategy=strategy) == OTHERS


@pytest.mark.parametrize("how", ["exit", "SystemExit", "KeyboardInterrupt"])
def test_the_error_names_an_item_that_bites_and_does_not_open_it(pool: ProcessPool, how: str) -> None:
    with pytest.raises((TaskError, WorkerLost), match=f"item {BAD}, <a biting.bite, pickled in") as caught:
        aggregate(identity, numbers(WhenOpened(how)), Count(), pool=pool, retries=1, item_timeout=5)
    assert caught.value.index == BAD
    assert caught.value.item_repr.startswith("<a biting.bite")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.item_repr == caught.value.item_repr
    if how == "SystemExit":
        assert type(again.item) is UnreadableItem
        assert repr(again.item) == f"{again.item_repr[:-1]}, which does not unpickle here: SystemExit: as told>"
        assert again.item is again.item


def test_items_of_ones_own_are_described_by_their_worker_and_opened_when_asked_for(pool: ProcessPool) -> None:
    failed: list[events.ItemFailed] = []
    item = Path("a"), LooksGood(7)
    assert aggregate(refuse, [item], Collect(), pool=pool, on_error=failed.append) == []
    assert failed[0].item_repr == "(PosixPath('a'), LooksGood(7))"
    assert "LooksGood(7)" in repr(failed[0])
    assert type(unopened(failed[0])) is not tuple
    assert failed[0].item == item
    assert failed[0].item is failed[0].item
    assert pickle.loads(pickle.dumps(failed[0])) == failed[0]


class LooksGood:
    def __init__(self, x: int) -> None:
        self.x = x

    def __repr__(self) -> str:
        return f"LooksGood({self.x})"

    def __eq__(self, other: object) -> bool:
        return type(other) is LooksGood and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


class Refused(Exception):
    def __eq__(self, other: object) -> bool:
        return type(other) is Refused

    __hash__ = None  # type: ignore[assignment]


def refuse(x: Any) -> None:
    raise Refused


def test_plain_items_are_sent_as_they_are() -> None:
    import decimal

    import numpy as np

    failed: list[events.ItemFailed] = []
    items = [1, "two", (3, [4.0]), {5: {6}}, Path("seven"), decimal.Decimal(8), np.arange(9), np.arange(100_000)]
    with ProcessPool(1) as pool:
        aggregate(refuse, items, Collect(), pool=pool, on_error=failed.append)
    for one, item in zip(failed, items, strict=True):
        assert type(unopened(one)) is type(item)
        assert np.array_equal(one.item, item) if isinstance(item, np.ndarray) else one.item == item


@pytest.mark.parametrize("how", ["raise", "SystemExit", "KeyboardInterrupt", "exit", "hang"])
def test_an_item_whose_repr_bites(pool: ProcessPool, how: str) -> None:
    """That is its worker's loss, if it is one."""
    failed: list[events.ItemFailed] = []
    aggregate(refuse, [LooksBad(how)], Collect(), pool=pool, on_error=failed.append, retries=0, item_timeout=TIMEOUT)
    (one,) = failed
    expected = {"exit": WorkerLost, "hang": TimeoutError}.get(how, Refused)
    assert type(one.error) is expected
    assert "LooksBad" in one.item_repr or one.item_repr
    assert str(one)


def test_an_item_that_does_not_pickle_is_told_so(pool: ProcessPool) -> None:
    with pytest.raises(TaskError, match=f"item {BAD}") as caught:
        aggregate(identity, numbers(WhenPickled("raise")), Count(), pool=pool)
    assert type(caught.value.item) is UnreadableItem
    assert "WhenPickled does not pickle: as told" in repr(caught.value.item)
    assert skipped(identity, numbers(WhenPickled("SystemExit")), pool, "SystemExit") == OTHERS


def test_an_item_in_a_buffer_is_kept_as_it_was_pulled() -> None:
    kept = unopened_item(PackedItem(pickle.dumps(LooksGood(1), 5), []))
    assert pickle.loads(pickle.dumps(kept)).open() == LooksGood(1)


def unopened_item(data: Any) -> Any:
    from poolagg._input.batches import InputBatch
    from poolagg._input.kept_items import item_of

    return item_of(InputBatch(0, 1, "packed", [data], 1), 0)


# -- when it is pickled ------------------------------------------------------------------------------------------------


def partial_that_bites(how: str) -> Callable[[int], Any]:
    return lambda x: WhenPickled(how) if x == BAD else x


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("how", BITES)
def test_a_result_that_bites_where_it_is_pickled_is_its_items_failure(
    pool: ProcessPool, how: str, strategy: Any
) -> None:
    func = partial_that_bites(how)
    assert skipped(func, list(range(30)), pool, how, strategy=strategy) == OTHERS


@pytest.mark.parametrize("how", ["raise", "SystemExit", "exit", "hang"])
def test_it_is_named_where_it_ends_the_run(pool: ProcessPool, how: str) -> None:
    for strategy in STRATEGIES:
        with pytest.raises((TaskError, WorkerLost), match=f"item {BAD}") as caught:
            aggregate(
                partial_that_bites(how), range(30), Collect(), pool=pool, retries=0, item_timeout=TIMEOUT,
                strategy=strategy,
            )  # fmt: skip
        assert caught.value.index == BAD


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
@pytest.mark.parametrize("how", BITES)
def test_a_result_that_bites_where_it_is_opened_is_its_items_failure(
    pool: ProcessPool, how: str, strategy: Any
) -> None:
    """As a partial, in a list of partials, or in a state: the worker opens it, and never the parent."""
    func = lambda x: WhenOpened(how) if x == BAD else x
    assert skipped(func, list(range(30)), pool, how, strategy=strategy) == OTHERS


def parity(x: Any) -> int:
    return 1 if type(x) is WhenOpened else x % 2


def append(acc: list[Any], x: Any) -> list[Any]:
    acc.append(x)
    return acc


def extend(acc: list[Any], other: list[Any]) -> list[Any]:
    acc.extend(other)
    return acc


REDUCERS = {
    "Tee": Tee({"n": Count(), "all": Collect()}),
    "by": Collect().by(parity),
    "Top": Top(30, key=str),
    "Fold": Fold(append, ListThatBites, extend),
}


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("how", ["raise", "SystemExit", "exit", "hang"])
def test_a_state_that_bites_where_it_is_opened_costs_the_one_item(pool: ProcessPool, how: str, name: str) -> None:
    func = lambda x: WhenOpened(how) if x == BAD else x
    failed: list[events.ItemFailed] = []
    got = aggregate(
        func, range(30), REDUCERS[name], pool=pool, on_error=failed.append, retries=0, item_timeout=TIMEOUT,
        strategy=Combine(),
    )  # fmt: skip
    assert [one.index for one in failed] == [BAD]
    assert sorted({"Tee": lambda: got["all"], "by": lambda: got[0] + got[1]}.get(name, lambda: got)()) == OTHERS


@pytest.mark.parametrize("strategy", [Combine(), Partition(4)], ids=repr)
@pytest.mark.parametrize("how", ["raise", "SystemExit", "exit", "hang"])
def test_a_key_that_bites_where_it_is_opened_costs_the_one_item(pool: ProcessPool, how: str, strategy: Any) -> None:
    """Also in dicts that are sent in parts, each of which is a separate pickle if its keys are plain."""
    func = lambda x: KeyThatBites(x, how if x == BAD else "fine")
    failed: list[events.ItemFailed] = []
    got = aggregate(
        func, range(30), Frequencies(), pool=pool, on_error=failed.append, retries=0, item_timeout=TIMEOUT,
        strategy=strategy,
    )  # fmt: skip
    assert [one.index for one in failed] == [BAD]
    assert got == {KeyThatBites(x): 1 for x in OTHERS}


@pytest.mark.parametrize("how", ["raise", "SystemExit", "exit", "hang"])
def test_what_bites_where_it_is_opened_is_named_where_it_ends_the_run(pool: ProcessPool, how: str) -> None:
    func = lambda x: [x, WhenOpened(how)] if x == BAD else x
    for strategy in STRATEGIES:
        with pytest.raises((TaskError, WorkerLost), match=f"item {BAD}") as caught:
            aggregate(func, range(30), Collect(), pool=pool, retries=0, item_timeout=TIMEOUT, strategy=strategy)
        assert caught.value.index == BAD


@pytest.mark.parametrize("how", ["SystemExit", "exit"])
def test_what_bites_where_it_is_opened_is_found_in_an_executor(how: str) -> None:
    failed: list[events.ItemFailed] = []
    func = lambda x: WhenOpened(how) if x == BAD else x
    with ProcessPoolExecutor(2) as executor:
        got = aggregate(func, range(30), Collect(), pool=executor, on_error=failed.append, retries=0)
    assert [one.index for one in failed] == [BAD]
    assert got == OTHERS


def test_a_repr_that_is_not_plain_text_does_not_bite(pool: ProcessPool) -> None:
    failed: list[events.ItemFailed] = []
    aggregate(refuse, [DescribedByText()], Collect(), pool=pool, on_error=failed.append)
    assert failed[0].item_repr == "described"


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_a_result_that_opens_everywhere_but_in_the_parent(pool: ProcessPool, strategy: Any) -> None:
    pid = os.getpid()
    func = lambda x: InTheParent(pid) if x == BAD else x
    assert skipped(func, list(range(30)), pool, "raise", strategy=strategy) == OTHERS


def test_several_results_of_a_batch_that_do_not_pickle_cost_only_themselves(pool: ProcessPool) -> None:
    failed: list[events.ItemFailed] = []
    func = lambda x: HoldsALock("x") if x % 7 == 3 else DoesNotUnpickle() if x % 7 == 5 else x
    got = aggregate(func, range(300), Collect(), pool=pool, strategy=Stream(), on_error=failed.append)
    assert got == [x for x in range(300) if x % 7 not in (3, 5)]
    assert sorted(one.index for one in failed) == [x for x in range(300) if x % 7 in (3, 5)]


# -- exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ErrorWhenPickled, ErrorWhenOpened])
@pytest.mark.parametrize("how", BITES)
def test_an_exception_that_bites_is_its_items_failure(pool: ProcessPool, how: str, kind: type[Exception]) -> None:
    def func(x: int) -> int:
        if x == BAD:
            raise kind(how)
        return x

    assert skipped(func, list(range(30)), pool, how) == OTHERS
    with pytest.raises((TaskError, WorkerLost), match=f"item {BAD}"):
        aggregate(func, range(30), Collect(), pool=pool, retries=0, item_timeout=TIMEOUT)


@pytest.mark.parametrize("how", ["raise", "SystemExit"])
def test_an_exception_whose_text_bites(pool: ProcessPool, how: str) -> None:
    def func(x: int) -> int:
        if x == BAD:
            raise ErrorInWords(how)
        return x

    assert skipped(func, list(range(30)), pool, "str") == OTHERS
    with pytest.raises(TaskError, match="<ErrorInWords whose str raises>"):
        aggregate(func, range(30), Collect(), pool=pool)
