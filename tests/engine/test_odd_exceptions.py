"""Exceptions that are not what one expects of an exception are the failures of their items, as all others are.

One table: what is odd about it, in every pool, with everything that may follow from a failure.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from poolagg import (
    Collect,
    Into,
    ProcessPool,
    Report,
    SerialPool,
    SkippedItems,
    TaskError,
    ThreadPool,
    aggregate,
    events,
    prefetch,
)

BAD = 3


# -- what is odd -------------------------------------------------------------------------------------------------------


class IsFalse(Exception):
    def __bool__(self) -> bool:
        return False


class HasNoLength(Exception):
    def __len__(self) -> int:
        return 0


class IsNeither(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("neither")


@dataclass(frozen=True)
class Frozen(Exception):
    code: int = 3


class Sealed(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class ExitsWhenAsked(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class SaysNoText(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]

    __repr__ = __str__


class OddNotes(Exception):
    __notes__ = "a text"  # type: ignore[assignment]


class OddOwnNotes(Exception):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.__notes__ = ("a", 3)  # type: ignore[assignment]


class NotesOfNoText(Exception):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.__notes__ = [3, None]  # type: ignore[list-item]


class Nameless(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class HoldsALock(Exception):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lock = threading.Lock()


class BecomesAnother(Exception):
    def __reduce__(self) -> Any:
        return dict, ()


class ByKeyword(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(code)
        self.code = code


class Root(BaseException):
    pass


class EqualToAll(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None  # type: ignore[assignment]


def with_causes(count: int) -> Exception:
    error = Exception("the first")
    for number in range(count):
        another = ValueError(number)
        another.__cause__ = error
        error = another
    return error


def with_contexts(count: int) -> Exception:
    error = Exception("the first")
    for number in range(count):
        another = ValueError(number)
        another.__context__ = error
        error = another
    return error


def in_a_circle() -> Exception:
    first, second = ValueError(1), KeyError(2)
    first.__cause__, second.__context__ = second, first
    first.__context__, second.__cause__ = first, first
    return first


def nested_groups(depth: int) -> Exception:
    error: Exception = ValueError("the innermost")
    for number in range(depth):
        error = ExceptionGroup(str(number), [error, OSError(number)])
    return error


ODD: dict[str, Callable[[], BaseException]] = {
    "false": IsFalse,
    "empty": HasNoLength,
    "neither true nor false": IsNeither,
    "frozen": Frozen,
    "sealed": Sealed,
    "speechless": Speechless,
    "exits when asked": ExitsWhenAsked,
    "says no text": SaysNoText,
    "odd notes": OddOwnNotes,
    "odd notes of its class": OddNotes,
    "notes of no text": NotesOfNoText,
    "nameless": Nameless,
    "holds a lock": HoldsALock,
    "becomes another": BecomesAnother,
    "by keyword": lambda: ByKeyword(code=3),
    "root": Root,
    "equal to all": EqualToAll,
    "1,500 causes": lambda: with_causes(1500),
    "1,500 contexts": lambda: with_contexts(1500),
    "a circle": in_a_circle,
    "a group": lambda: ExceptionGroup("all", [IsFalse(), Frozen(), Speechless()]),
    "a group of root": lambda: BaseExceptionGroup("all", [Root(), KeyboardInterrupt()]),
    "groups in groups": lambda: nested_groups(50),
    "a system exit": lambda: SystemExit(3),
    "a generator exit": GeneratorExit,
    "a stop": lambda: StopAsyncIteration(3),
}


class Odd:
    """Raises what is odd on one item, the first `times` times in each process."""

    def __init__(self, name: str, times: int = 10**9) -> None:
        self.name, self.left = name, times

    def __call__(self, x: int) -> int:
        if x == BAD and self.left > 0:
            self.left -= 1
            raise ODD[self.name]()
        return x


# -- in every pool -----------------------------------------------------------------------------------------------------

POOLS: dict[str, Callable[[], Any]] = {
    "processes": lambda: ProcessPool(1),
    "threads": lambda: ThreadPool(2),
    "serial": SerialPool,
    "executor of processes": lambda: ProcessPoolExecutor(1),
    "executor of threads": lambda: ThreadPoolExecutor(2),
}


@pytest.mark.parametrize("make", POOLS.values(), ids=POOLS)
def test_an_odd_exception_is_its_items_failure(make: Callable[[], Any]) -> None:
    pool = make()
    with pool:
        for name in ODD:
            try:
                fails_as_any_other(name, pool)
            except BaseException as error:
                error.add_note(f"of an exception that is odd: {name}")
                raise


def plainly_pickled(error: BaseException) -> bytes:
    """The pickle, also where a library that was imported meanwhile has all exceptions pickle with their causes."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file)
    pickler.dispatch_table = {}
    pickler.dump(error)
    return file.getvalue()


def fails_as_any_other(name: str, pool: Any) -> None:
    with pytest.raises(TaskError, match=f"failed on item {BAD}, {BAD}, which ran once") as caught:
        aggregate(Odd(name), range(9), Collect(), pool=pool)
    assert (caught.value.index, caught.value.item, caught.value.attempts) == (BAD, BAD, 1)
    assert caught.value.__cause__ is not None
    assert type(ODD[name]()).__name__ in str(caught.value)
    assert "StopIteration" not in str(caught.value)
    assert pickle.loads(plainly_pickled(caught.value)).index == BAD

    with pytest.warns(SkippedItems, match=f"1 of 9 items failed .* item {BAD}"):
        assert aggregate(Odd(name), range(9), Collect(), pool=pool, on_error="skip") == [0, 1, 2, 4, 5, 6, 7, 8]

    seen: list[Any] = []
    failed: list[events.ItemFailed] = []
    report = Report()
    got = aggregate(
        Odd(name), range(9), Collect(), pool=pool, on_error=failed.append, retries=1, watch=[seen.append, report]
    )
    assert got == [0, 1, 2, 4, 5, 6, 7, 8]
    assert [(one.index, one.attempt, one.will_retry) for one in failed] == [(BAD, 2, False)]
    assert [one.attempt for one in seen if isinstance(one, events.ItemFailed)] == [1, 2]
    assert all(map(repr, seen))
    assert "failed" in str(report)


@pytest.mark.parametrize("name", ODD)
def test_it_is_kept_in_a_checkpoint(name: str, tmp_path: Any) -> None:
    for _ in range(2):
        with pytest.warns(SkippedItems, match=f"1 of 9 items failed .* item {BAD}"):
            aggregate(
                Odd(name), range(9), Collect(), pool=SerialPool(), on_error="skip", checkpoint=tmp_path / "run.ckpt"
            )


@pytest.mark.parametrize("name", sorted(set(ODD) - {"a generator exit", "nameless"}))
def test_what_the_input_or_a_fold_raises_propagates_as_it_is(name: str) -> None:
    def items(error: BaseException) -> Iterator[int]:
        yield 1
        raise error

    def apply(x: int) -> None:
        raise error

    for number in range(3):
        error = ODD[name]()
        with pytest.raises(BaseException) as caught:
            if number == 0:
                aggregate(abs, items(error), Collect(), pool=SerialPool())
            elif number == 1:
                aggregate(abs, prefetch(items(error), 1), Collect(), pool=SerialPool())
            else:
                aggregate(abs, [1], Into(apply), pool=SerialPool())
        assert caught.value is error
