"""A plugin of pytest: a system that has no pidfds, or refuses them, as the variable POOLAGG_PIDFD says."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

HOW = os.environ.get("POOLAGG_PIDFD", "")


def _refuse(pid: int, flags: int = 0) -> NoReturn:
    raise OSError(getattr(errno, HOW), os.strerror(getattr(errno, HOW)))


if HOW == "missing":
    del os.pidfd_open
elif HOW:
    os.pidfd_open = _refuse
