"""Do something when a module is imported, if it ever is: importing it ahead would take longer than forking a worker."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

__all__ = ["when_imported"]


def when_imported(name: str, then: Callable[[], None]) -> None:
    """Call `then` as soon as the module is loaded, now if it is. A later call for this module replaces an earlier one.

    `then` runs before the importer goes on.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not (isinstance(finder, _Import) and finder.name == name)]
    if name in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Import(name, then))


class _Import:
    """A finder that waits for the import of a module."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self._then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Let the other finders find the module, and call `then` once it is loaded."""
        if name != self.name:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Any, _Loader(spec.loader, self._then))
        return spec


class _Loader:
    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader, self._then = loader, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        self._then()
