"""Make a worker look to other libraries like a process of `multiprocessing`.

    start      the worker takes its name, its parent and the parent's authkey, as a child of `multiprocessing` does, so
               that proxies of a Manager connect and libraries tell processes apart by `current_process()`. It reseeds
               random generators that it inherited
    exit       the worker does what an interpreter does at exit: it runs finalizers and `atexit` functions, and flushes
               open files. A killed worker does none of this

Rule: importing `multiprocessing` takes longer than forking a worker. So a worker imports it only if the parent has it;
if a job imports it later, the worker takes its name then.
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
from functools import partial
from typing import Any, TypeAlias

from poolagg.pools.process.launch.imports import when_imported

__all__ = ["Identity", "forget_exits", "identity_of_worker", "introduce", "new_random_numbers", "run_exits"]

_MODULE = "multiprocessing.process"

_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)

_numbers = itertools.count(1)
"""Numbers the workers of a parent that has not imported `multiprocessing`, which numbers processes itself."""


Identity: TypeAlias = tuple[tuple[int, ...], int, str, bytes | None]
"""The numbers of a worker, as `multiprocessing` counts; the parent's pid, name and authkey.

The authkey is the parent's secret for connections to its managers; None: the parent has not imported
`multiprocessing` yet.
"""


# -- in the parent -----------------------------------------------------------------------------------------------------


def identity_of_worker(before: Identity | None = None) -> Identity:
    """Return the identity of a new worker; with `before`, its identity so far, return the current one."""
    process = sys.modules.get(_MODULE)
    if process is None:
        return before or ((next(_numbers),), os.getpid(), "MainProcess", None)
    me = process.current_process()
    numbers = before[0] if before else (*me._identity, next(process._process_counter))
    return numbers, os.getpid(), me.name, bytes(me.authkey)


# -- in the worker: start ----------------------------------------------------------------------------------------------


def forget_exits() -> None:
    """Drop the exit functions that a forked process inherited, since the parent runs them.

    Freeze the parent's objects: only the parent flushes its files, and the garbage collector does not touch, and so
    copy, their pages.
    """
    gc.freeze()
    atexit._clear()
    if (weakref := sys.modules.get("weakref")) is not None:
        weakref.finalize._registry.clear()
        weakref.finalize._registered_with_atexit = False


def new_random_numbers() -> None:
    """Reseed numpy's global generator, which a fork copies with its state; Python's reseeds itself."""
    if (random := sys.modules.get("numpy.random")) is not None and "numpy.random.mtrand" in sys.modules:
        try:
            random.seed()
        except TypeError:  # the program has replaced the generator
            random.set_bit_generator(type(random.get_bit_generator())())


def introduce(identity: Identity, sentinel: int) -> None:
    """Take this identity in `multiprocessing`; `sentinel` is readable when the parent has ended."""
    *_, authkey = identity
    if authkey is not None:
        importlib.import_module(_MODULE)
    when_imported(_MODULE, partial(_become, identity, sentinel))


def _become(identity: Identity, sentinel: int) -> None:
    """Do what `BaseProcess._bootstrap` does first."""
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


# -- in the worker: exit -----------------------------------------------------------------------------------------------


def run_exits() -> None:
    """Do what an interpreter does at exit, for a forked process, which ends by `os._exit`."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util._exit_function()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for thing in gc.get_objects():  # only this process's own: inherited objects are frozen
        if issubclass(type(thing), _FILES):
            try:
                thing.flush()
            except (OSError, ValueError):
                pass  # the file is closed, or its disk is full
