"""Programs that are their own interpreter: frozen by PyInstaller and its like, or with Python embedded in them.

There `sys.executable` is the program itself. To start it with `-c` would run the program once more, which would start
workers in turn, without end. So a frozen program starts workers as `multiprocessing` does: with a command line that
`multiprocessing.freeze_support()` knows; the program calls this first of all, and so becomes the worker.

    refuse_frozen           in a program that never mentions freeze_support, before it starts a process
    refuse_second_run       in any program, in a process that should have become a worker and has not
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FrameType, FunctionType

__all__ = ["STARTED_BY", "advice", "command", "is_frozen", "refuse_frozen", "refuse_second_run"]

STARTED_BY = "POOLAGG_STARTED_BY"
"""The environment variable that the parent sets for a new process, which deletes it once it has become a worker."""

ADVICE = (
    "call multiprocessing.freeze_support() as the first statement of its main script, under "
    'if __name__ == "__main__"; or use ProcessPool(start_method="fork"), which starts no program'
)


def is_frozen() -> bool:
    """Tell if this program is its own interpreter."""
    return bool(getattr(sys, "frozen", False))


def refuse_frozen() -> None:
    """Raise RuntimeError in a frozen program whose main script does not mention `freeze_support`."""
    if is_frozen() and not any(map(_mentions, _main_codes())):
        raise RuntimeError(
            f"this frozen program, {sys.executable!r}, would run again in the place of each worker: {ADVICE}"
        )


def refuse_second_run() -> None:
    """Raise RuntimeError in a process that should be a worker and runs a program instead."""
    if (parent := os.environ.get(STARTED_BY)) is not None:
        raise RuntimeError(
            f"process {parent} started {sys.executable!r} for a worker, and it runs the program again: {ADVICE}"
        )


def advice() -> str:
    """Return what an error about a worker that has not started should add."""
    return f". Frozen programs: {ADVICE}" if is_frozen() else ""


def _main_codes() -> Iterator[CodeType]:
    """Yield the code of the main script, and of the callers."""
    for frame in (sys._getframe(), sys._current_frames().get(threading.main_thread().ident or 0)):
        yield from _codes_of(frame)
    for thing in list(vars(sys.modules["__main__"]).values()):
        if isinstance(thing, FunctionType):
            yield thing.__code__


def _codes_of(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        if frame.f_globals.get("__name__") != __name__:
            yield frame.f_code
        frame = frame.f_back


def _mentions(code: CodeType) -> bool:
    parts: Iterable[object] = code.co_consts
    return "freeze_support" in code.co_names or any(_mentions(part) for part in parts if isinstance(part, CodeType))


# -- how a worker is started -------------------------------------------------------------------------------------------


class _Started:
    """Takes the place of the process object that `multiprocessing.spawn.spawn_main` unpickles and runs."""

    def __init__(self, module: str, arguments: Sequence[object]) -> None:
        self._module, self._arguments = module, list(arguments)

    def _bootstrap(self, sentinel: int) -> int:
        os.close(sentinel)  # the parent-death pipe serves that purpose
        importlib.import_module(self._module).main(*self._arguments)
        return 0


def command(module: str, arguments: Sequence[object], path: list[str]) -> tuple[list[str], int]:
    """Return a command line that calls `main(*arguments)` of a poolagg module, and the descriptor to pass with it."""
    reader, writer = os.pipe()
    with open(writer, "wb") as file:  # it fits into the pipe
        file.write(pickle.dumps({"sys_path": path}) + pickle.dumps(_Started(module, arguments)))
    return [sys.executable, "--multiprocessing-fork", f"pipe_handle={reader}"], reader
