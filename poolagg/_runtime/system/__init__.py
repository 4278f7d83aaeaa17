"""The differences between systems in files, owners and memory: one module for each system, with the same names."""

import sys

if sys.platform == "win32":
    from poolagg._runtime.system import windows as this
else:
    from poolagg._runtime.system import posix as this

__all__ = ["this"]
