"""An error of a signal handler is neither an item's failure nor the reducer's, and ranges may be longer than `len`.

`signal.alarm` with a handler that raises is how people put a limit on a call.
"""

from __future__ import annotations

import functools
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from five_pools import POOLS

from poolagg import Fold, ProcessPool, SerialPool, Sum, TaskError, WorkerLost, aggregate
from poolagg._runtime.signals import handlers, raised_by_handler
from poolagg.errors import ReducerError
from poolagg.pools.process import channel


class Interrupted(Exception):
    """The error of a user's handler."""


def interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def over(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("over")


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    with POOLS[request.param]() as made:
        aggregate(abs, [1], Sum(), pool=made)
        yield made


@pytest.fixture
def alarm() -> Iterator[Callable[..., None]]:
    """Has a handler called in a moment; the one before is there again after the test."""

    def begin(handler: Callable[..., Any] = interrupt, seconds: float = 0.05) -> None:
        signal.signal(signal.SIGUSR1, handler)
        signal.signal(signal.SIGPROF, handler)
        signal.setitimer(signal.ITIMER_PROF, seconds)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGPROF)}
    yield begin
    signal.setitimer(signal.ITIMER_PROF, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


def busy(acc: int, x: int) -> int:
    until = time.thread_time() + 0.002
    while time.thread_time() < until:
        pass
    return acc + x


# -- the caller's handlers ---------------------------------------------------------------------------------------------


def test_a_handler_in_the_middle_of_a_fold_ends_the_run_as_itself(pool: Any, alarm: Callable[..., None]) -> None:
    """The parent folds; the pool can be used afterwards."""
    alarm()
    with pytest.raises(Interrupted):
        aggregate(abs, range(1000), Fold(busy, init=int), pool=pool)
    assert aggregate(abs, range(10), Sum(), pool=pool) == 45


@pytest.mark.parametrize("where", ["func", "step", "watcher"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_on_the_callers_thread_a_handler_ends_the_run_as_itself(
    where: str, on_error: Any, alarm: Callable[..., None]
) -> None:
    def waste(x: int) -> int:
        return busy(0, x) if where == "func" else x

    def watch(event: Any) -> None:
        if where == "watcher":
            busy(0, 0)

    reducer = Fold(busy if where == "step" else lambda acc, x: acc + x, init=int, merge=lambda a, b: a + b)
    alarm()
    with pytest.raises(Interrupted):
        for _ in range(1000):
            aggregate(waste, range(1000), reducer, pool=SerialPool(), on_error=on_error, watch=watch)


def test_a_limit_that_func_puts_on_itself_is_the_items_failure() -> None:
    """In a SerialPool as in a worker: its handler was not there before."""

    def limited(x: int) -> int:
        before = signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            while x == 3:
                pass
            return x
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    before = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        for pool in (SerialPool(), ProcessPool(1)):
            with pytest.raises(TaskError) as raised:
                aggregate(limited, range(5), Sum(), pool=pool)
            assert raised.value.index == 3
            assert isinstance(raised.value.__cause__, TimeoutError)
    finally:  # pytest limits the time of tests in the same way
        signal.signal(signal.SIGALRM, before[0])
        signal.setitimer(signal.ITIMER_REAL, *before[1])


# -- alarms that items leave behind ------------------------------------------------------------------------------------


def leaves_an_alarm(x: int) -> int:
    if x == 3:
        signal.signal(signal.SIGPROF, over)
        signal.setitimer(signal.ITIMER_PROF, 0.02)
    return x


@pytest.mark.parametrize("kind", ["processes", "an executor of processes"])
def test_an_alarm_that_an_item_left_in_a_worker_is_told_as_that(kind: str) -> None:
    """It goes off while the reducer steps, whose failure it is not."""
    with (
        POOLS[kind]() as pool,
        pytest.raises(WorkerLost, match=r"raised TimeoutError: over in a worker, outside of func"),
    ):
        aggregate(leaves_an_alarm, range(1000), Fold(busy, init=int, merge=lambda a, b: a + b), pool=pool)


# -- a TimeoutError without a signal -----------------------------------------------------------------------------------


def raises_timeout(x: int) -> int:
    if x == 7:
        raise TimeoutError("mine")
    return x


def step_raises_timeout(acc: int, x: int) -> int:
    return acc + raises_timeout(x)


def test_a_timeout_error_of_funcs_is_the_items(pool: Any) -> None:
    with pytest.raises(TaskError, match=r"item 7, 7, .*TimeoutError: mine") as raised:
        aggregate(raises_timeout, range(20), Sum(), pool=pool)
    assert isinstance(raised.value.__cause__, TimeoutError)


def test_a_timeout_error_of_the_reducers_is_the_reducers(pool: Any) -> None:
    with pytest.raises(ReducerError, match=r"failed in a worker.*TimeoutError: mine"):
        aggregate(abs, range(20), Fold(step_raises_timeout, init=int, merge=lambda a, b: a + b), pool=pool)
    with pytest.raises(TimeoutError, match="mine"):
        aggregate(abs, range(20), Fold(step_raises_timeout, init=int), pool=pool)


# -- which exceptions are a handler's ----------------------------------------------------------------------------------


class Handlers:
    def method(self, number: int, frame: FrameType | None) -> None:
        raise Interrupted

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise Interrupted

    def below(self, *arguments: Any) -> None:
        self.method(*arguments)


def last_of_three(_: Any, number: int, frame: FrameType | None) -> None:
    raise Interrupted


@pytest.mark.parametrize(
    "handler",
    [
        interrupt,
        Handlers().method,
        Handlers(),
        Handlers().below,
        functools.partial(last_of_three, None),
        lambda *a: interrupt(*a),
    ],
    ids=["function", "method", "object", "varargs", "partial", "lambda"],
)
def test_every_kind_of_handler_is_known(handler: Callable[..., Any], alarm: Callable[..., None]) -> None:
    alarm(handler, 0)
    with pytest.raises(Interrupted) as raised:
        signal.raise_signal(signal.SIGUSR1)
    assert raised_by_handler(raised.value)
    assert raised_by_handler(raised.value, handlers())
    assert not raised_by_handler(raised.value, [])


def test_an_error_of_a_function_is_not_taken_for_a_handlers() -> None:
    def inner(number: int, frame: Any) -> None:
        raise Interrupted

    with pytest.raises(Interrupted) as raised:
        inner(1, None)
    assert not raised_by_handler(raised.value)
    with pytest.raises(RecursionError) as deep:
        endless()
    assert not raised_by_handler(deep.value)


def endless() -> None:
    endless()


rung: list[int] = []


def ring_once() -> str:
    """Raise a signal when it is unpickled for the first time."""
    if not rung:
        rung.append(1)
        signal.raise_signal(signal.SIGALRM)
    return "opened"


class Alarm:
    def __reduce__(self) -> Any:
        return ring_once, ()


def test_a_handler_that_raises_while_the_parent_opens_a_message_is_not_a_broken_message() -> None:
    """Its exception propagates, and no worker is lost for it."""
    writer, reader = socket.socketpair()
    rung.clear()
    before = signal.signal(signal.SIGALRM, over)
    try:
        with writer, reader:
            writer.sendall(b"".join(map(bytes, channel._pack(1, 1, (Alarm(),), ()))))
            incoming = channel._Reader()
            with pytest.raises(TimeoutError, match="over"):
                while incoming.take() is None:
                    incoming.receive(reader)
    finally:
        signal.signal(signal.SIGALRM, before)
