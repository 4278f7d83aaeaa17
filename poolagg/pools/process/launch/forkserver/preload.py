"""The installed packages that the forkserver imports before it forks, so that its workers need not.

They are packages of the standard library and of site-packages that a job's pickle names, as far as the parent has
imported them; never a file of the user's own, which may be edited between two runs. The forkserver forgets them all,
by starting itself again, as soon as one file of a module that it has imported is another. It leaves to the workers a
package whose import starts a thread that does not survive a fork, or opens a descriptor, which all would share.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterable
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TypeAlias

from poolagg.pools.process.launch.program import import_path

__all__ = ["Preload", "fork", "modules_named"]

LOOKED_AT = 1 << 16
"""Bytes of a pickle that are searched for names: they come before large data, or little is lost."""

SURVIVES = "jemalloc_bg_thd"
"""A thread that its library, part of pyarrow, starts again in a forked child."""

_TEXT = re.compile(rb"\x8c(.)([\w.]+)", re.DOTALL)
"""A short text in a pickle: its opcode, its length, and the text, if it looks like a name."""

_STANDARD = os.path.dirname(os.__file__)
_INSTALLED = {"site-packages", "dist-packages"}

_Mark: TypeAlias = tuple[int, int, int]


# -- in the parent -----------------------------------------------------------------------------------------------------


def modules_named(pickles: Iterable[bytes]) -> list[str]:
    """Return the installed modules that these pickles name, or to which the user's own modules that they name refer.

    Return none if a module of the user's own has the name of an installed one, which a package may import.
    """
    texts = {match[2][: match[1][0]].decode() for data in pickles for match in _TEXT.finditer(data[:LOOKED_AT])}
    found = {name: module for name in texts if isinstance(module := sys.modules.get(name), ModuleType)}
    for name, module in list(found.items()):
        if not is_installed(name):
            found |= {value.__name__: value for value in vars(module).values() if isinstance(value, ModuleType)}
    names = sorted(name for name in found if is_installed(name) and sys.modules.get(name) is found[name])
    return [] if names and _shadows() else names


def is_installed(name: str) -> bool:
    """Tell if a loaded module is of the standard library, of site-packages, or poolagg's own."""
    root = name.partition(".")[0]
    origin = getattr(getattr(sys.modules.get(root), "__spec__", None), "origin", None)
    if not isinstance(origin, str):
        return False
    return root == "poolagg" or origin in {"built-in", "frozen"} or _is_of_installation(origin)


def _is_of_installation(path: str) -> bool:
    return path.startswith(_STANDARD) or not _INSTALLED.isdisjoint(path.split(os.sep))


def installed_path() -> list[str]:
    """Return the entries of `sys.path` where installed packages are."""
    return list(filter(_is_of_installation, import_path()))


def _shadows() -> bool:
    path = tuple(installed_path())
    own = {name for name in list(sys.modules) if "." not in name and name != "__main__" and not is_installed(name)}
    return any(_is_found(name, path) for name in own)


@functools.cache
def _is_found(name: str, path: tuple[str, ...]) -> bool:
    return PathFinder.find_spec(name, path) is not None


# -- in the forkserver -------------------------------------------------------------------------------------------------


class Preload:
    """The modules of this process; `refused` are those that workers have to import."""

    def __init__(self, refused: Iterable[str] = ()) -> None:
        self.refused = set(refused)
        self._marks: dict[str, _Mark | None] = {}
        self._note()

    def is_current(self) -> bool:
        """Tell if each imported file is still the one that was imported."""
        return all(_mark(file) == mark for file, mark in self._marks.items())

    def load(self, names: Iterable[str]) -> bool:
        """Import these modules; return False if one left something behind that workers must not inherit.

        Import none where the system does not tell what one leaves behind.
        """
        for name in names if os.path.isdir("/proc/self/task") else ():
            if name not in self.refused and name not in sys.modules:
                before = _descriptors()
                self._import(name)
                if _descriptors() != before or not _has_one_thread():
                    self.refused.add(name)
                    return False
        self._note()
        return True

    def _import(self, name: str) -> None:
        path, sys.path[:] = sys.path[:], installed_path()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the parent, which has imported it, has been warned
                importlib.import_module(name)
        except BaseException:
            self.refused.add(name)  # the workers' import tells
        finally:
            sys.path[:] = path

    def _note(self) -> None:
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file not in self._marks:
                self._marks[file] = _mark(file)


def fork() -> int:
    """Fork without Python's warning about threads, which `Preload` has looked at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()


def _mark(file: str) -> _Mark | None:
    try:
        found = os.stat(file)
    except OSError:  # in an archive
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _has_one_thread() -> bool:
    """Tell if a fork loses no thread; a fork has those end that their library starts again, as OpenBLAS does."""
    if _threads() > 1:
        if (pid := fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return _threads() == 1


def _threads() -> int:
    count = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:  # it may just have ended
            count += file.read().strip() != SURVIVES
    return count
