"""Programs that are their own interpreter: frozen by PyInstaller and its like, or with Python embedded in them.

`sys.executable` is then the program itself. To start that with `-c` is to run the program once more, which would start
workers in its turn, without end. So a frozen program starts workers as `multiprocessing` does: with a command line that
`multiprocessing.freeze_support()` knows, which the program calls first of all, and which then becomes the worker.

    refuse_frozen           before anything is started, in a program that never mentions freeze_support
    refuse_second_run       whatever the program is: in a process that should have become a worker, and has not
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
"""The environment variable that a process is started with, and that it deletes as soon as it is what it should be."""

ADVICE = (
    "call multiprocessing.freeze_support() as the first statement of its main script, under "
    'if __name__ == "__main__"; or use ProcessPool(start_method="fork"), which starts no program'
)


def is_frozen() -> bool:
    """Whether this program is its own interpreter."""
    return bool(getattr(sys, "frozen", False))


def refuse_frozen() -> None:
    """Raise RuntimeError in a frozen program whose main script does not mention `freeze_support`."""
    if is_frozen() and not any(map(_mentions, _main_codes())):
        raise RuntimeError(
            f"this frozen program, {sys.executable!r}, would run again in the place of each worker: {ADVICE}"
        )


def refuse_second_run() -> None:
    """Raise RuntimeError in a process that was started to be a worker and runs a program instead."""
    if (parent := os.environ.get(STARTED_BY)) is not None:
        raise RuntimeError(
            f"process {parent} started {sys.executable!r} for a worker, and it runs the program again: {ADVICE}"
        )


def advice() -> str:
    """What to add to an error about a worker that has not started."""
    return f". Frozen programs: {ADVICE}" if is_frozen() else ""


def _main_codes() -> Iterator[CodeType]:
    """The code of the main script, and of what has called us."""
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
    """What `multiprocessing.spawn.spawn_main` unpickles and runs, in the place of its own process object."""

    def __init__(self, module: str, arguments: Sequence[object]) -> None:
        self._module, self._arguments = module, list(arguments)

    def _bootstrap(self, sentinel: int) -> int:
        os.close(sentinel)  # there is a pipe of our own for that
        importlib.import_module(self._module).main(*self._arguments)
        return 0


def command(module: str, arguments: Sequence[object], path: list[str]) -> tuple[list[str], int]:
    """The command line that calls `main(*arguments)` of a module of ours, and the descriptor that it takes with it."""
    reader, writer = os.pipe()
    with open(writer, "wb") as file:  # it fits into the pipe
        file.write(pickle.dumps({"sys_path": path}) + pickle.dumps(_Started(module, arguments)))
    return [sys.executable, "--multiprocessing-fork", f"pipe_handle={reader}"], reader
