"""Wrappers of `func`: `star` unpacks its arguments, `with_item` keeps its item."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import Any, Generic, TypeVar

__all__ = ["name_of", "no_function_of_one_item", "star", "with_item"]

ASYNCHRONOUS = 0x80 | 0x200
"""The flags of the code of an `async def`, a coroutine or a generator (`inspect.CO_COROUTINE`, slow to import)."""

Item = TypeVar("Item")
T = TypeVar("T")


class star(Generic[T]):  # noqa: N801 - reads as the function it stands for
    """Call `func` with the elements of its one argument, a tuple: `star(f)((a, b)) == f(a, b)`.

    Use it for functions of several arguments, and for the `apply` of `Into`. A run never unpacks by itself: an item
    that is a tuple is one item.

    >>> list(map(star(pow), [(2, 5), (3, 2)]))
    [32, 9]
    """

    def __init__(self, func: Callable[..., T]) -> None:
        if not callable(func):
            raise TypeError(f"star() takes a function, not {func!r}")
        self.func = func

    def __call__(self, arguments: Iterable[Any]) -> T:
        return self.func(*arguments)

    def __repr__(self) -> str:
        return f"star({name_of(self.func)})"


class with_item(Generic[T]):  # noqa: N801
    """Return the item together with the result: `with_item(f)(x) == (x, f(x))`.

    Use it for a search that keeps the input of the best output: `aggregate(with_item(loss), grid,
    Min(key=itemgetter(1)))`.

    >>> with_item(abs)(-3)
    (-3, 3)
    """

    def __init__(self, func: Callable[[Any], T]) -> None:
        if not callable(func):
            raise TypeError(f"with_item() takes a function, not {func!r}")
        self.func = func

    def __call__(self, item: Item) -> tuple[Item, T]:
        return item, self.func(item)

    def __repr__(self) -> str:
        return f"with_item({name_of(self.func)})"


def no_function_of_one_item(func: Any) -> str | None:
    """Say why calling `func` with one item cannot give a partial, and what to write instead; None if it may.

    >>> no_function_of_one_item(lambda x, y: x * y)
    'func, <lambda>, requires 2 arguments and is called with one item: star(<lambda>) unpacks items that are tuples'
    """
    inner = func
    while hasattr(inner, "func"):  # star, with_item, functools.partial
        inner = inner.func
    own: Any = type(inner)
    code = getattr(inner, "__code__", None) or getattr(own.__call__, "__code__", None)
    if type(code) is not CodeType:
        return None
    name = name_of(func)
    if code.co_flags & ASYNCHRONOUS:
        return (
            f"func, {name}, is an async function, whose coroutine no worker awaits: "
            f"lambda item: asyncio.run({name}(item)) runs it in a worker"
        )
    if type(inner) is not FunctionType or inner is not func:
        return None  # a method, or a function of which some arguments are given
    required = code.co_argcount - len(inner.__defaults__ or ())
    if required > 1:
        return (
            f"func, {name}, requires {required} arguments and is called with one item: star({name}) unpacks items "
            f"that are tuples"
        )
    return None


def name_of(func: object) -> str:
    """Return the name to show for a function: its qualified name, or its repr.

    >>> name_of(name_of), name_of(star(abs))
    ('name_of', 'star(abs)')
    """
    return getattr(func, "__qualname__", None) or repr(func)
