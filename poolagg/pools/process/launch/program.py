"""The parts of the program that a worker has beside functions and classes: command line, import path, file, package.

So `sys.argv` and `__main__.__file__` in `func` are the program's, and its relative imports work, also if the program
was started by `python -m package.module`.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import NamedTuple

__all__ = ["Program", "import_path"]


class Program(NamedTuple):
    """Plain values, which the parent sends to each worker."""

    argv: list[str]
    path: list[str]
    file: str | None
    package: str | None

    @classmethod
    def here(cls) -> Program:
        """Return what this process's `__main__` is."""
        names = vars(sys.modules["__main__"])
        spec = names.get("__spec__")
        package = names.get("__package__") if spec is None else spec.parent
        file = names.get("__file__")
        argv = [text for text in getattr(sys, "argv", ()) if isinstance(text, str)]
        return cls(argv, import_path(), file if isinstance(file, str) else None, package or None)

    def become(self, forked: bool) -> None:
        """Make this process look like that program; a forked process has that `__main__` already."""
        sys.path[:] = self.path
        if forked:
            return
        sys.argv = self.argv
        names = vars(sys.modules["__main__"])
        if self.file is not None:
            names["__file__"] = self.file
        # By this name `multiprocessing`, in a process that a worker starts, imports no main module: it would run the
        # program again.
        names["__spec__"] = ModuleSpec(f"{self.package}.__main__" if self.package else "__main__", None)
        names["__package__"] = self.package


def import_path() -> list[str]:
    """Return the import path of this process, without entries of sys.path that are no text, which Python ignores."""
    return [str(path) for path in sys.path if isinstance(path, str)]
