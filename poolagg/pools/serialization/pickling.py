"""Pickle for other processes: by plain pickle if possible, else by cloudpickle; `__main__` works in both directions.

A worker never imports the script again. Instead

- the parent pickles `func` and the reducer by value, once per run; functions of `__main__` share the worker's one
  `__main__` namespace, as they share the script's here;
- the parent sends a class of `__main__` by value once, as a *definition*, before the first item that refers to it; from
  then on plain pickle finds it by name in either direction.

An item that does not pickle becomes a pickle that raises when it is opened: the item fails, and not the run.
"""

from __future__ import annotations

import copy
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
from poolagg.pools.process.descriptors import descriptors

__all__ = [
    "Encoder",
    "define",
    "dumps",
    "dumps_by_value",
    "dumps_code",
    "encode_by_value",
    "in_main",
    "inherited_namespace",
    "main_namespace",
    "pickle_start",
    "plainly",
    "raise_if_inherited_only",
    "refuse_inherited_only",
]


CACHED: type = type(functools.cache(abs))
"""The type that `functools.cache` and `lru_cache` make: it pickles by name, as a function does."""


def main_namespace() -> dict[str, Any]:
    """Return the namespace of this process's `__main__`."""
    return sys.modules["__main__"].__dict__


def inherited_namespace() -> dict[str, Any]:
    """Return what the namespace of `__main__` holds now, for workers that are forked from now on."""
    with descriptors:  # no other thread forks in the middle of an import, which its child would wait for
        from poolagg.pools.serialization.own_objects import note_before_fork

    inherited = dict(main_namespace())
    note_before_fork(inherited.values())
    return inherited


class _Main:
    """Represents, in a pickle, the `__main__` namespace of the process that opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return main_namespace, ()


def dumps_by_value(value: Any) -> bytes:
    """Pickle by cloudpickle; functions of `__main__` join the `__main__` of the process that opens the pickle."""
    return plainly(value) or _by_cloudpickle(value, {}, is_code=False)


def dumps_code(value: Any, inherited: Mapping[str, Any] | None = None) -> bytes:
    """Pickle functions or classes as `dumps_by_value` does, with the locks and their kin that they refer to.

    `inherited`: what a forked worker's `__main__` already holds, so that it need not be sent.
    """
    return plainly(value) or _by_cloudpickle(value, inherited or {}, is_code=True)


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


def _by_cloudpickle(value: Any, inherited: Mapping[str, Any], is_code: bool) -> bytes:
    file = io.BytesIO()
    pickler_by_value(lambda reduced: in_main(reduced, inherited), is_code)(file, protocol=5).dump(value)
    return file.getvalue()


def pickler_by_value(rewrite: Callable[[tuple[Any, ...]], tuple[Any, ...]], is_code: bool = False) -> Any:
    """Return a cloudpickle Pickler class that rewrites the reductions of `__main__`'s functions.

    `is_code`: locks and their kin become the worker's own; otherwise they do not pickle.
    """
    with descriptors:
        import cloudpickle

        # Workers seldom need these.
        from poolagg.pools.serialization.by_value import reduction
        from poolagg.pools.serialization.code_source import reduce_code
        from poolagg.pools.serialization.own_objects import own_object

    namespace = main_namespace()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if is_code and (own := own_object(obj)) is not NotImplemented:
                return own
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
    from poolagg.pools.serialization.own_objects import sent_after_fork

    make, (code, _, *arguments), (attributes, slots), *rest = reduced
    # Functions and classes are sent even if inherited, since their contents may have changed since the fork.
    sent = {
        name: value
        for name, value in slots["__globals__"].items()
        if isinstance(value, (FunctionType, CACHED, type))
        or inherited.get(name, _Main) is not value
        or sent_after_fork(value)
    }
    slots = {**slots, "__globals__": sent}
    return (make, (code, _Main(), *arguments), (attributes, slots), *rest)


def raise_if_inherited_only(what: str, error: BaseException) -> None:
    """Raise a TypeError if `what` holds a lock, value or queue that `multiprocessing` passes by fork only.

    It is in no variable, whose frame would keep it, and with it the pool.
    """
    if not isinstance(error, RuntimeError) or "through inheritance" not in str(error):
        return
    raise TypeError(
        f"{what} can't be sent to a worker: {error}. Use a multiprocessing.Manager's, such as manager.Lock(), "
        f'manager.Value("i", 0) or manager.Queue(), which can be sent; or give it to workers that inherit it: '
        f'ProcessPool(start_method="fork", initializer=..., initargs=...)'
    ) from error


def pickle_start(initializer: Any, initargs: tuple[Any, ...]) -> bytes:
    """Pickle an initializer and its arguments by value, or raise the TypeError of `raise_if_inherited_only`."""
    try:
        return dumps_code((initializer, initargs))
    except RuntimeError as error:
        raise_if_inherited_only("initializer or initargs", error)
        raise


def refuse_inherited_only(what: str, value: Any) -> None:
    """Raise the TypeError of `raise_if_inherited_only` if plain pickle finds such an object in `value`."""
    if "multiprocessing.context" not in sys.modules:
        return
    try:
        pickle.Pickler(_Nowhere(), 5, buffer_callback=lambda _: None).dump(value)
    except RuntimeError as error:
        raise_if_inherited_only(what, error)
    except Exception as error:  # it does not pickle plainly, or not at all: sending it will tell
        if raised_by_handler(error):
            raise


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def dumps(
    value: Any, out_of_band: ArenaBuffers | None = None, by_value: Callable[[Any], bytes] = dumps_by_value
) -> bytes:
    """Pickle, plainly if possible, else by `by_value`; raise what that raises if it fails too.

    `out_of_band`, if given, takes the large buffers out of a plain pickle.
    """
    try:
        return pickle.dumps(value, 5, buffer_callback=out_of_band)
    except Exception:
        if works(pickle.dumps, value):
            raise
        if out_of_band is not None:
            out_of_band.clear()
        return by_value(value)


def _item_by_value(item: Any) -> bytes:
    """Pickle an item by value; one that can be called is code."""
    return dumps_code(item) if callable(item) else dumps_by_value(item)


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

    _refuses = False

    def __init__(self) -> None:
        self.definitions: list[bytes] = []
        self._defined: dict[str, type] = {}
        self._out_of_band = ArenaBuffers(LEAST_BUFFER)

    def refusing(self) -> Encoder:
        """Return an encoder that raises what pickling an item raises; both collect the same definitions."""
        encoder = copy.copy(self)
        encoder._refuses = True
        return encoder

    def __call__(self, item: Any) -> Encoded:
        """Pickle one item. An error becomes a pickle that raises in the worker, and so fails the item."""
        try:
            data = dumps(item, self._out_of_band, _item_by_value)
            if b"__main__" in data:
                data = self._refer_to_main(item, data)
            if self._out_of_band:
                return PackedItem(data, [bytes(buffer.raw()) for buffer in self._out_of_band])
        except BaseException as error:
            if self._refuses or isinstance(error, KeyboardInterrupt) or works(_with_definitions, item):
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
            return dumps_code(item)
        for cls in scan.found:
            self._define(cls.__qualname__.partition(".")[0])
        return data

    def _define(self, name: str) -> None:
        cls = main_namespace()[name]
        if self._defined.get(name) is not cls:
            self.definitions.append(dumps_code((name, cls)))
            self._defined[name] = cls


def encode_by_value(item: Any, refuse: bool = False) -> bytes:
    """Pickle one item for an external worker, which has no definitions; errors as in `Encoder`."""
    try:
        return _with_definitions(item)
    except BaseException as error:
        if refuse or isinstance(error, KeyboardInterrupt) or works(_with_definitions, item):
            raise
        return _unpicklable(item, error)


def _with_definitions(item: Any) -> bytes:
    data = dumps(item, None, _item_by_value)
    return dumps_code(item) if b"__main__" in data else data


def _unpicklable(item: Any, error: BaseException) -> bytes:
    return pickle.dumps(_Unpicklable(f"item of type {type(item).__name__} does not pickle: {message_of(error)}"), 5)


class _Unpicklable:
    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_unpicklable, (self._text,)


def _raise_unpicklable(text: str) -> None:
    raise pickle.PicklingError(text)
