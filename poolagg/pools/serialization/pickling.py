"""What travels between processes: by plain pickle where it will do, by cloudpickle where it must; `__main__` both ways.

The script is never imported again in a worker. Instead

- `func` and the reducer travel by value, once per run; functions of `__main__` share the worker's one `__main__`
  namespace, as they share the script's here;
- a class of `__main__` travels by value once, as a *definition*, the first time an item refers to it; from then on
  plain pickle finds it by name in either direction.

Whatever does not pickle becomes a pickle that raises when it is opened: it costs the item it belongs to, not the run.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from poolagg._input.batches import Encoded, PackedItem
from poolagg._runtime.exception_text import message_of, works
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
    "plainly",
    "refuse_inherited_only",
]


CACHED: type = type(functools.cache(abs))
"""What `functools.cache` and `lru_cache` make: it goes by name as a function does, and is none."""


def main_namespace() -> dict[str, Any]:
    """The namespace of this process's `__main__`."""
    return sys.modules["__main__"].__dict__


class _Main:
    """Stands in a pickle for the `__main__` namespace of the process that opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return main_namespace, ()


def dumps_by_value(value: Any, inherited: Mapping[str, Any] | None = None) -> bytes:
    """Pickle by cloudpickle; functions of `__main__` arrive in the `__main__` of the process that opens the pickle.

    `inherited`: what a forked worker's `__main__` holds already, and need not be sent.
    """
    return plainly(value) or _by_cloudpickle(value, inherited or {})


def plainly(value: Any) -> bytes | None:
    """By plain pickle, if cloudpickle would do no more: importing that takes as long as starting a worker."""
    if "cloudpickle" in sys.modules:  # where people may have told it to send modules by value
        return None
    try:
        data = pickle.dumps(value, 5)
    except Exception:
        return None
    return None if b"__main__" in data else data


def _by_cloudpickle(value: Any, inherited: Mapping[str, Any]) -> bytes:
    import cloudpickle

    from poolagg.pools.serialization.by_value import reduction  # workers seldom need it

    namespace = main_namespace()

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if (made_again := reduction(obj)) is not NotImplemented:
                return made_again
            reduced = super().reducer_override(obj)
            if isinstance(obj, FunctionType) and obj.__globals__ is namespace and isinstance(reduced, tuple):
                return in_main(reduced, inherited)
            return reduced

    file = io.BytesIO()
    Pickler(file, protocol=5).dump(value)
    return file.getvalue()


def in_main(reduced: tuple[Any, ...], inherited: Mapping[str, Any]) -> tuple[Any, ...]:
    """cloudpickle's reduction of a function, with the namespace it gives each function replaced by the worker's own."""
    make, (code, _, *arguments), (attributes, slots), *rest = reduced
    # Functions and classes are sent all the same: what they refer to may have changed since the worker was forked.
    flushed = {
        name: value
        for name, value in slots["__globals__"].items()
        if isinstance(value, (FunctionType, CACHED, type)) or inherited.get(name, _Main) is not value
    }
    slots = {**slots, "__globals__": flushed}
    return (make, (code, _Main(), *arguments), (attributes, slots), *rest)


def only_inherited(what: str, error: BaseException) -> TypeError | None:
    """What to raise if `error` says that `what` holds a lock, value or queue that `multiprocessing` only inherits."""
    if not isinstance(error, RuntimeError) or "through inheritance" not in str(error):
        return None
    return TypeError(
        f"{what} can't be sent to a worker: {error}. Use a multiprocessing.Manager's, such as manager.Lock(), "
        f'manager.Value("i", 0) or manager.Queue(), which travel; or give it to workers that inherit it: '
        f'ProcessPool(start_method="fork", initializer=..., initargs=...)'
    )


def refuse_inherited_only(what: str, value: Any) -> None:
    """Raise the TypeError of `only_inherited` where plain pickle comes across such a thing in `value`."""
    if "multiprocessing.context" not in sys.modules:
        return
    try:
        pickle.Pickler(_Nowhere(), 5, buffer_callback=lambda _: None).dump(value)
    except RuntimeError as error:
        if (refusal := only_inherited(what, error)) is not None:
            raise refusal from error
    except Exception:
        pass  # it does not pickle plainly, or not at all: that is told when it is to be sent


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def dumps(value: Any, out_of_band: ArenaBuffers | None = None) -> bytes:
    """Pickle, plainly if possible. Raises what cloudpickle raises if it is not possible at all.

    `out_of_band` takes the large buffers out, if it is given and the pickle is a plain one.
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
    """Give this process's `__main__` a class that was defined in another's."""
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
    """Pickles items one by one, and gathers the definitions that workers need to open them."""

    def __init__(self) -> None:
        self.definitions: list[bytes] = []
        self._defined: dict[str, type] = {}
        self._apart = ArenaBuffers(LEAST_BUFFER)

    def __call__(self, item: Any) -> Encoded:
        """Pickle one item; never raises. What it raises itself is for its worker to tell."""
        try:
            data = dumps(item, self._apart)
            if b"__main__" in data:
                data = self._refer_to_main(item, data)
            if self._apart:
                return PackedItem(data, [bytes(buffer.raw()) for buffer in self._apart])
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or works(dumps, item):
                raise
            data = _unpicklable(item, error)
        finally:
            self._apart.clear()
        return data

    def _refer_to_main(self, item: Any, data: bytes) -> bytes:
        scan = _Scan()
        try:
            scan.dump(item)
        except Exception:
            return data  # it was pickled by value in the first place
        if any(not isinstance(found, type) for found in scan.found):
            self._apart.clear()
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
    """Pickle one item for a worker that is not ours, and has no definitions; never raises."""
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
