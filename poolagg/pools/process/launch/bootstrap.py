"""A worker as other libraries see it: a process of `multiprocessing`, with random numbers and an exit of its own.

    arriving   it takes its name, its parent and the parent's authkey, as a child of `multiprocessing` does: proxies of
               a Manager connect, and what keeps itself apart by `current_process()` does so. Random generators that it
               inherited start anew
    leaving    it does what an interpreter does at its end: finalizers, `atexit`, files that are open and not flushed.
               A worker that was killed does none of this

Rule: `multiprocessing` takes longer to import than a worker to fork. So it is imported only if the parent
has it; a worker whose job imports it later takes its name then.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import itertools
import os
import sys
import threading
from typing import Any, TypeAlias, cast

__all__ = ["Identity", "forget_exits", "identity_of_worker", "introduce", "new_random_numbers", "run_exits"]

_MODULE = "multiprocessing.process"

_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)

_numbers = itertools.count(1)
"""For workers of a parent that does not know `multiprocessing`, which counts processes itself."""


Identity: TypeAlias = tuple[tuple[int, ...], int, str, bytes | None]
"""The numbers of a worker, as `multiprocessing` counts; the parent's process number, name and authkey.

The authkey is the parent's secret for connections to its managers; None: the parent does not know `multiprocessing`
yet.
"""


# -- in the parent -----------------------------------------------------------------------------------------------------


def identity_of_worker(before: Identity | None = None) -> Identity:
    """Who a new worker is; `before`: who it was told to be, which may have become out of date."""
    process = sys.modules.get(_MODULE)
    if process is None:
        return before or ((next(_numbers),), os.getpid(), "MainProcess", None)
    me = process.current_process()
    numbers = before[0] if before else (*me._identity, next(process._process_counter))
    return numbers, os.getpid(), me.name, bytes(me.authkey)


# -- in the worker: arriving -------------------------------------------------------------------------------------------


def forget_exits() -> None:
    """Leave to the parent what is to be done when it ends; for a process that it has forked.

    Objects of the parent are frozen: its files are its own to flush. Nor does the garbage collector touch, and so copy,
    the pages that they lie in.
    """
    gc.freeze()
    atexit._clear()
    if (weakref := sys.modules.get("weakref")) is not None:
        weakref.finalize._registry.clear()
        weakref.finalize._registered_with_atexit = False


def new_random_numbers() -> None:
    """Seed numpy's global generator, which a forked process has in the state of its parent; Python's seeds itself."""
    if (random := sys.modules.get("numpy.random")) is not None and "numpy.random.mtrand" in sys.modules:
        try:
            random.seed()
        except TypeError:  # somebody has put another generator in the place of the first
            random.set_bit_generator(type(random.get_bit_generator())())


def introduce(identity: Identity, sentinel: int) -> None:
    """Be that process, for `multiprocessing`; `sentinel` is readable when the parent has ended."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Import)]
    *_, authkey = identity
    if _MODULE in sys.modules or authkey is not None:
        _become(identity, sentinel)
    else:
        sys.meta_path.insert(0, _Import(identity, sentinel))


def _become(identity: Identity, sentinel: int) -> None:
    """As `BaseProcess._bootstrap` begins."""
    numbers, parent, parent_name, authkey = identity
    process: Any = importlib.import_module(_MODULE)
    if process.current_process()._identity != numbers:
        me = process.BaseProcess(name=f"PoolWorker-{':'.join(map(str, numbers))}")
        me._identity, me._parent_pid, me._parent_name = numbers, parent, parent_name
        me._config.pop("daemon", None)  # workers may have children
        process._process_counter, process._children = itertools.count(1), set()
        process._current_process = me
        process._parent_process = process._ParentProcess(parent_name, parent, sentinel)
        if (util := sys.modules.get("multiprocessing.util")) is not None:
            util._finalizer_registry.clear()
            util._run_after_forkers()
    if authkey is not None:
        process.current_process().authkey = authkey


class _Import:
    """A finder that waits for `multiprocessing` to be imported."""

    def __init__(self, identity: Identity, sentinel: int) -> None:
        self._then = identity, sentinel

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Leave it to others to find; what they find, load and then be that process."""
        if name != _MODULE:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Any, _Loader(spec.loader, self._then))
        return spec


class _Loader:
    def __init__(self, loader: Any, then: tuple[Identity, int]) -> None:
        self._loader, self._then = loader, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        _become(*self._then)


# -- in the worker: leaving --------------------------------------------------------------------------------------------


def run_exits() -> None:
    """Do what an interpreter does at its end, for a forked process, which leaves without it."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util._exit_function()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for thing in gc.get_objects():  # which are its own: the inherited are frozen
        if issubclass(type(thing), _FILES):
            try:
                thing.flush()
            except (OSError, ValueError):
                pass  # it is closed, or its disk is full
