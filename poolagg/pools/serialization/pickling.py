"""Pickle for other processes: by plain pickle if possible, else by cloudpickle; `__main__` works in both directions.

A worker never imports the script again. Instead

- the parent pickles `func` and the reducer by value, once per run; functions of `__main__` share the worker's one
  `__main__` namespace, as they share the script's here;
- the parent sends a class of `__main__` by value once, as a *definition*, before the first item that refers to it; from
  then on plain pickle finds it by name in either direction.

An item that does not pickle becomes a pickle that raises when it is opened: the item fails, and not the run.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

from poolagg._input.batches import Encoded, PackedItem
from poolagg._runtime.exception_text import message_of, works
from poolagg._runtime.signals import raised_by_handler
from poolagg.pools.process.arena import LEAST_BUFFER, ArenaBuffers

__all__ = [
    "Encoder",
    "define",
    "dumps",
    "dumps_by_value",
    "encode_by_value",
    "in_main",
    "main_namespace",
    "only_inherited",
    "pickle_start",
    "plainly",
    "refuse_inherited_only",
]


CACHED: type = type(functools.cache(abs))
"""The type that `functools.cache` and `lru_cache` make: it pickles by name, as a function does."""


def main_namespace() -> dict[str, Any]:
    """Return the namespace of this process's `__main__`."""
    return sys.modules["__main__"].__dict__


class _Main:
    """Represents, in a pickle, the `__main__` namespace of the process that opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return main_namespace, ()


def dumps_by_value(value: Any, inherited: Mapping[str, Any] | None = None) -> bytes:
    """Pickle by cloudpickle; functions of `__main__` join the `__main__` of the process that opens the pickle.

    `inherited`: what a forked worker's `__main__` already holds, so that it need not be sent.
    """
    return plainly(value) or _by_cloudpickle(value, inherited or {})


def plainly(value: Any) -> bytes | None:
    """Pickle plainly if that suffices, else return None: importing cloudpickle takes as long as starting a worker."""
    if "cloudpickle" in sys.modules:  # the program may have registered modules to go by value
        return None
    try:
        data = pickle.dumps(value, 5)
    except Exception as error:
        if raised_by_handler(error):
            raise
        return None
    return None if b"__main__" in data else data


def _by_cloudpickle(value: Any, inherited: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    pickler_by_value(lambda reduced: in_main(reduced, inherited))(file, protocol=5).dump(value)
    return file.getvalue()


def pickler_by_value(rewrite: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    """Return a cloudpickle Pickler class that rewrites the reductions of `__main__`'s functions."""
    import cloudpickle

    # Workers seldom need these.
    from poolagg.pools.serialization.by_value import reduction
    from poolagg.pools.serialization.code_source import reduce_code

    namespace = main_namespace()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if (made_again := reduction(obj)) is not NotImplemented:
                return made_again
            if type(obj) is CodeType:
                return reduce_code(obj, cloudpickle.Pickler.dispatch_table[CodeType](obj))
            reduced = super().reducer_override(obj)
            if isinstance(obj, FunctionType) and obj.__globals__ is namespace and isinstance(reduced, tuple):
                return rewrite(reduced)
            return reduced

    return Pickler


def in_main(reduced: tuple[Any, ...], inherited: Mapping[str, Any]) -> tuple[Any, ...]:
    """Replace the namespace that cloudpickle gives a function, in its reduction, by the worker's `__main__`."""
    make, (code, _, *arguments), (attributes, slots), *rest = reduced
    # Functions and classes are sent even if inherited, since their contents may have changed since the fork.
    sent = {
        name: value
        for name, value in slots["__globals__"].items()
        if isinstance(value, (FunctionType, CACHED, type)) or inherited.get(name, _Main) is not value
    }
    slots = {**slots, "__globals__": sent}
    return (make, (code, _Main(), *arguments), (attributes, slots), *rest)


def only_inherited(what: str, error: BaseException) -> TypeError | None:
    """Return the error to raise if `what` holds a lock, value or queue that `multiprocessing` passes by fork only."""
    if not isinstance(error, RuntimeError) or "through inheritance" not in str(error):
        return None
    return TypeError(
        f"{what} can't be sent to a worker: {error}. Use a multiprocessing.Manager's, such as manager.Lock(), "
        f'manager.Value("i", 0) or manager.Queue(), which can be sent; or give it to workers that inherit it: '
        f'ProcessPool(start_method="fork", initializer=..., initargs=...)'
    )


def pickle_start(initializer: Any, initargs: tuple[Any, ...]) -> bytes:
    """Pickle an initializer and its arguments by value; raise the TypeError of `only_inherited` where it applies."""
    try:
        return dumps_by_value((initializer, initargs))
    except RuntimeError as error:
        if (refusal := only_inherited("initializer or initargs", error)) is not None:
            raise refusal from error
        raise


def refuse_inherited_only(what: str, value: Any) -> None:
    """Raise the TypeError of `only_inherited` if plain pickle finds such an object in `value`."""
    if "multiprocessing.context" not in sys.modules:
        return
    try:
        pickle.Pickler(_Nowhere(), 5, buffer_callback=lambda _: None).dump(value)
    except RuntimeError as error:
        if (refusal := only_inherited(what, error)) is not None:
            raise refusal from error
    except Exception as error:  # it does not pickle plainly, or not at all: sending it will tell
        if raised_by_handler(error):
            raise


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def dumps(value: Any, out_of_band: ArenaBuffers | None = None) -> bytes:
    """Pickle, plainly if possible; raise what cloudpickle raises if it fails too.

    `out_of_band`, if given, takes the large buffers out of a plain pickle.
    """
    try:
        return pickle.dumps(value, 5, buffer_callback=out_of_band)
    except Exception:
        if works(pickle.dumps, value):
            raise
        if out_of_band is not None:
            out_of_band.clear()
        return dumps_by_value(value)


def define(name: str, cls: type) -> None:
    """Add a class of another process's `__main__` to this one's."""
    main_namespace()[name] = cls


class _Scan(pickle.Pickler):
    """Finds the classes and functions of `__main__` that a value refers to by name."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), 5)
        self.found: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType, CACHED)) and getattr(obj, "__module__", "") == "__main__":
            self.found.append(obj)
        return NotImplemented


class Encoder:
    """Pickles items one by one, and collects the definitions that workers need to open them."""

    def __init__(self) -> None:
        self.definitions: list[bytes] = []
        self._defined: dict[str, type] = {}
        self._out_of_band = ArenaBuffers(LEAST_BUFFER)

    def __call__(self, item: Any) -> Encoded:
        """Pickle one item. An error becomes a pickle that raises in the worker, and so fails the item."""
        try:
            data = dumps(item, self._out_of_band)
            if b"__main__" in data:
                data = self._refer_to_main(item, data)
            if self._out_of_band:
                return PackedItem(data, [bytes(buffer.raw()) for buffer in self._out_of_band])
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or works(dumps, item):
                raise
            data = _unpicklable(item, error)
        finally:
            self._out_of_band.clear()
        return data

    def _refer_to_main(self, item: Any, data: bytes) -> bytes:
        scan = _Scan()
        try:
            scan.dump(item)
        except Exception as error:
            if raised_by_handler(error):
                raise
            return data  # it does not pickle plainly, so it was pickled by value
        if any(not isinstance(found, type) for found in scan.found):
            self._out_of_band.clear()
            return dumps_by_value(item)
        for cls in scan.found:
            self._define(cls.__qualname__.partition(".")[0])
        return data

    def _define(self, name: str) -> None:
        cls = main_namespace()[name]
        if self._defined.get(name) is not cls:
            self.definitions.append(dumps_by_value((name, cls)))
            self._defined[name] = cls


def encode_by_value(item: Any) -> bytes:
    """Pickle one item for an external worker, which has no definitions; errors as in `Encoder`."""
    try:
        data = dumps(item)
        return dumps_by_value(item) if b"__main__" in data else data
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or works(dumps_by_value, item):
            raise
        return _unpicklable(item, error)


def _unpicklable(item: Any, error: BaseException) -> bytes:
    return pickle.dumps(_Unpicklable(f"item of type {type(item).__name__} does not pickle: {message_of(error)}"), 5)


class _Unpicklable:
    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_unpicklable, (self._text,)


def _raise_unpicklable(text: str) -> None:
    raise pickle.PicklingError(text)
