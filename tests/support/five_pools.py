"""The pools of this machine that a claim about all of them is tried on, by name."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from poolagg import ProcessPool, SerialPool, ThreadPool

POOLS: dict[str, Callable[[], Any]] = {
    "serial": SerialPool,
    "threads": lambda: ThreadPool(2),
    "processes": lambda: ProcessPool(2),
    "an executor of threads": lambda: ThreadPoolExecutor(2),
    "an executor of processes": lambda: ProcessPoolExecutor(2),
}
